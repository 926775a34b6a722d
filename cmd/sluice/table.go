package main

import (
	"bufio"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// table writes rows in columns as wide as their widest cell. Numbers stand to
// the right. The last column is never padded.
type table struct {
	out     io.Writer
	indent  string
	columns []column
	rows    [][]string
}

type column struct {
	title  string
	right  bool
	hidden bool
}

func left(title string) column  { return column{title: title} }
func right(title string) column { return column{title: title, right: true} }

func newTable(out io.Writer, columns ...column) *table {
	return &table{out: out, columns: slices.Clone(columns)}
}

// hide leaves column i out.
func (t *table) hide(i int) { t.columns[i].hidden = true }

// row adds a row; it has a cell for every column, the hidden ones too.
func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// flush writes the table.
func (t *table) flush() error {
	titles := make([]string, len(t.columns))
	width := make([]int, len(t.columns))
	last := 0
	for i, c := range t.columns {
		titles[i] = c.title
		width[i] = utf8.RuneCountInString(c.title)
		for _, r := range t.rows {
			width[i] = max(width[i], utf8.RuneCountInString(r[i]))
		}
		if !c.hidden {
			last = i
		}
	}
	w := bufio.NewWriter(t.out)
	for _, r := range append([][]string{titles}, t.rows...) {
		var line strings.Builder
		line.WriteString(t.indent)
		for i, c := range t.columns {
			if c.hidden {
				continue
			}
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(r[i]))
			switch {
			case c.right:
				line.WriteString(pad + r[i])
			case i == last:
				line.WriteString(r[i])
			default:
				line.WriteString(r[i] + pad)
			}
			if i != last {
				line.WriteString("  ")
			}
		}
		w.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	return w.Flush()
}
