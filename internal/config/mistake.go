package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Mistake is one thing that is wrong in a file, or, as a Warning, legal but
// surely not meant.
type Mistake struct {
	File    string
	Line    int    // from 1; 0 where the file as a whole could not be read
	Key     string // masquerade.sources[2]; "" where the file as a whole is meant
	Text    string // what is wrong and what to do, one line
	Warning bool
}

// String returns FILE:LINE: key: text.
func (m Mistake) String() string {
	var b strings.Builder
	b.WriteString(m.File)
	if m.Line > 0 {
		fmt.Fprintf(&b, ":%d", m.Line)
	}
	b.WriteString(": ")
	if m.Key != "" {
		b.WriteString(m.Key + ": ")
	}
	if m.Warning {
		b.WriteString("warning: ")
	}
	b.WriteString(m.Text)
	return b.String()
}

// Refused reports whether any of the mistakes is more than a warning.
func Refused(mistakes []Mistake) bool {
	return slices.ContainsFunc(mistakes, func(m Mistake) bool { return !m.Warning })
}

// quote shows text of the file in a message: on one line, and not at any length.
func quote(s string) string {
	const most = 64
	if len(s) > most {
		cut := most
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	return strconv.Quote(s)
}

// plain shows a key of the file: as it is where it looks like a key.
func plain(s string) string {
	odd := func(r rune) bool {
		return r != '-' && r != '_' && r != '.' && r != '/' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}
	if s == "" || len(s) > 64 || strings.ContainsFunc(s, odd) {
		return quote(s)
	}
	return s
}
