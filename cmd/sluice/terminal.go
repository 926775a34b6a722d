package main

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// The terminal is asked through stty(1), which is there wherever a terminal is.
// Where it is not, the screen has 24 lines of 80 columns, and q needs Return.

// isTerminal reports whether f is a terminal.
func isTerminal(f *os.File) bool {
	st, err := f.Stat()
	if err != nil || st.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	// /dev/null is a character device, too.
	null, err := os.Stat(os.DevNull)
	return err == nil && !os.SameFile(st, null) && os.Getenv("TERM") != "dumb"
}

// terminalSize is the size of a terminal in characters.
func terminalSize(f *os.File) (rows, columns int) {
	size, err := stty(f, "size")
	r, c, _ := strings.Cut(strings.TrimSpace(size), " ")
	rows, err1 := strconv.Atoi(r)
	columns, err2 := strconv.Atoi(c)
	if err != nil || err1 != nil || err2 != nil || rows < 1 || columns < 1 {
		return 24, 80
	}
	return rows, columns
}

// rawKeys has a terminal hand over each key as it is pressed, unseen, until
// restore.
func rawKeys(f *os.File) (restore func(), err error) {
	before, err := stty(f, "-g")
	if err != nil {
		return nil, err
	}
	if _, err := stty(f, "-icanon", "-echo", "min", "1", "time", "0"); err != nil {
		return nil, err
	}
	return func() { _, _ = stty(f, strings.TrimSpace(before)) }, nil
}

func stty(f *os.File, args ...string) (string, error) {
	c := exec.Command("stty", args...)
	c.Stdin = f
	out, err := c.Output()
	return string(out), err
}
