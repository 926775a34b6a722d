package main

import (
	"bytes"
	"strconv"

	"sluice/internal/control"
)

// writeLooks lists the traces and captures that are on: they cost the workers
// time, and whoever finds no room for another one asks whose they are.
func writeLooks(w *bytes.Buffer, list []control.Look) {
	if len(list) == 0 {
		return
	}
	section(w, "Traces and captures")
	t := newTable(w, left("KIND"), left("SINCE"), right("PID"), right("UID"), left("FILTER"))
	t.indent = "  "
	for _, l := range list {
		pid, filter := "-", "everything"
		if l.PID > 0 {
			pid = strconv.Itoa(l.PID)
		}
		if l.Filter != "" {
			filter = l.Filter
		}
		t.row(l.Kind, clock(l.Since), pid, strconv.Itoa(int(l.UID)), filter)
	}
	flush(t)
}
