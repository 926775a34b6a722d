package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// maxFile is the largest configuration file that is read.
const maxFile = 1 << 20

// maxMistakes is how many mistakes are reported of one file.
const maxMistakes = 1000

// Load reads the configuration file at path. The configuration is nil where a
// mistake is more than a warning. Mistakes come in the order of their lines.
func Load(path string) (*Config, []Mistake) {
	text, err := readBounded(path, maxFile)
	if err != nil {
		return nil, []Mistake{{File: path, Text: err.Error()}}
	}
	return Parse(path, text)
}

// Parse reads a configuration from text; file is the name that mistakes carry.
// The configuration is nil where a mistake is more than a warning.
func Parse(file string, text []byte) (*Config, []Mistake) {
	d := &decoder{file: file, lines: map[string]int{}}
	c := Default()
	c.Path, c.Lines = file, d.lines
	if root := d.document(text); root != nil {
		d.value(root, reflect.ValueOf(c).Elem(), "")
	}
	if !d.failed("") || len(d.lines) > 0 {
		d.unsupported(reflect.ValueOf(c).Elem(), reflect.ValueOf(Default()).Elem(), "", "")
		d.check(c)
	}
	mistakes := d.sorted()
	if Refused(mistakes) {
		return nil, mistakes
	}
	return c, mistakes
}

// sorted returns the mistakes in the order of their lines.
func (d *decoder) sorted() []Mistake {
	slices.SortStableFunc(d.mistakes, func(a, b Mistake) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return strings.Compare(a.Key, b.Key)
	})
	if len(d.mistakes) > maxMistakes {
		d.cut()
	}
	return d.mistakes
}

// cut leaves out what is too much to read, warnings first.
func (d *decoder) cut() {
	all := len(d.mistakes)
	if Refused(d.mistakes) {
		d.mistakes = slices.DeleteFunc(d.mistakes, func(m Mistake) bool { return m.Warning })
	}
	d.mistakes = d.mistakes[:min(len(d.mistakes), maxMistakes)]
	last := d.mistakes[len(d.mistakes)-1]
	last.Text = fmt.Sprintf("and %d more mistakes and warnings; correct these first", all-len(d.mistakes))
	d.mistakes = append(d.mistakes, last)
}

// document parses text into the one YAML document that it must be. It returns
// nil where there is none, and where text is not YAML.
func (d *decoder) document(text []byte) *yaml.Node {
	if len(text) > maxFile {
		d.mistake(1, "", "is larger than %d bytes, which no configuration is", maxFile)
		return nil
	}
	if i := invalidUTF8(text); i >= 0 {
		d.mistake(1+bytes.Count(text[:i], []byte("\n")), "", "is not UTF-8 (byte %#02x); save the file as UTF-8", text[i])
		return nil
	}
	loader, err := yaml.NewLoader(bytes.NewReader(text), yaml.WithUniqueKeys(false))
	if err != nil {
		d.syntax(err)
		return nil
	}
	var root, next yaml.Node
	switch err := loader.Load(&root); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		d.syntax(err)
		return nil
	}
	switch err := loader.Load(&next); {
	case err == nil:
		d.mistake(next.Line, "", "a second document begins here; one file is one document, remove the ---")
	case !errors.Is(err, io.EOF):
		d.syntax(err)
	}
	if root.Kind == yaml.DocumentNode {
		return root.Content[0]
	}
	return &root
}

// syntax reports text that is not YAML.
func (d *decoder) syntax(err error) {
	line, text := 1, err.Error()
	if le, ok := errors.AsType[*yaml.LoadError](err); ok {
		line, text = le.Mark.Line, le.Message
		if le.ContextMsg != "" {
			text = le.ContextMsg + ": " + text
		}
	}
	text = strings.Join(strings.Fields(text), " ")
	if strings.Contains(text, "cannot start any token") {
		text += " (indent with spaces, not tabs; quote text that begins with a special character)"
	}
	d.mistake(line, "", "is not YAML: %s", text)
}

func invalidUTF8(text []byte) int {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n <= 1 {
			return i
		}
		i += n
	}
	return -1
}

// readBounded reads the regular file, pipe or device at path, which must not
// have more than most bytes.
func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, errors.New("no such file; name one with --config, or begin with `sluice config example`")
		}
		return nil, fmt.Errorf("cannot be read: %w", errors.Unwrap(err))
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", errors.Unwrap(err))
	}
	if int64(len(text)) > most {
		return nil, fmt.Errorf("is larger than %d bytes, which no configuration is", most)
	}
	return text, nil
}
