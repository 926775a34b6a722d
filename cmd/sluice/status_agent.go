package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"sluice/internal/control"
)

// writeBackend is the status of a node that is a DSR agent and no gateway.
func writeBackend(w *bytes.Buffer, s *control.Status) {
	state := "answering clients for services"
	if n := len(s.Degraded); n > 0 {
		state = fmt.Sprintf("DEGRADED for %s, see the end", plural(n, "reason"))
	}
	fmt.Fprintf(w, "%-15s%s\n", "DSR agent:", state)
	fmt.Fprintf(w, "%-15s%s, pid %d, up %s\n", "Version:", describeVersion(s.Version), s.PID, span(s.UptimeSeconds))
	fmt.Fprintf(w, "%-15s%s, read %s\n", "Configuration:", s.Config.Path, clock(s.Config.Loaded))
	if r := s.Config.LastReload; r != nil && r.Error != "" {
		fmt.Fprintf(w, "%-15s%s REFUSED: %s\n", "Last reload:", clock(r.At), r.Error)
	}
	writeAgent(w, s.DSRAgent)
	writeList(w, "Configuration warnings", s.Config.Warnings)
	writeDegraded(w, s.Degraded)
}

// writeAgent writes what the DSR agent does, if there is one.
func writeAgent(w io.Writer, a *control.DSRAgent) {
	if a == nil {
		return
	}
	section(w, "DSR agent")
	line := func(name, text string) { fmt.Fprintf(w, "  %-18s%s\n", name, text) }
	line("requests on", strings.Join(a.Interfaces, ", "))
	line("replies on", strings.Join(a.ReplyInterfaces, ", "))
	line("flows", usageOf(a.Flows))
	pinned := "pinned at "
	if !a.Pinned {
		pinned = "not pinned: "
	}
	line("programs", a.Hook+", "+pinned+a.Path)
	if len(a.StrictFilter) > 0 {
		line("strict rp_filter", strings.Join(a.StrictFilter, ", "))
	}
	if a.SourceRules {
		line("routing rules", "some ask for the source: replies are looked up with the service address")
	}
	t := newTable(w, left("COUNTER"), right("PACKETS"))
	t.indent = "  "
	for _, c := range a.Counters {
		if c.Packets > 0 {
			t.row(c.Name, fmt.Sprint(c.Packets))
		}
	}
	_ = t.flush() // the buffer takes all
}
