package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sluice/internal/control"
)

func statusCommand(a *app) *cobra.Command {
	var verbose bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show the state of the gateway",
		Long: `Status shows the state of the whole gateway. The exit code is 3 where something is
not as it should be; each such thing is listed last, with what to do.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := a.client().Status(c.Context())
			if err != nil {
				return err
			}
			if a.json() {
				err = a.printJSON(s)
			} else {
				var b bytes.Buffer
				writeStatus(&b, &s, verbose)
				_, err = b.WriteTo(a.out)
			}
			if err == nil && len(s.Degraded) > 0 {
				err = errDegraded
			}
			return err
		},
	}
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "also show rings, kernel counters, steering counters and timeouts")
	return c
}

// writeStatus writes what people read. Writing to a buffer cannot fail.
func writeStatus(w *bytes.Buffer, s *control.Status, verbose bool) {
	if s.DSRAgent != nil && len(s.Interfaces) == 0 {
		writeBackend(w, s)
		return
	}
	writeSummary(w, s)
	writeInterfaces(w, s.Interfaces)
	writeQueues(w, s.Interfaces, verbose)
	writeWorkers(w, s.Workers)
	writeAddresses(w, &s.Masquerade)
	writePunts(w, &s.Punts)
	writeRouter(w, &s.Router)
	writeAgent(w, s.DSRAgent)
	if verbose {
		writeExclusions(w, s.Masquerade.Exclusions)
		writeCounters(w, s.Steering.Counters)
		writeTimeouts(w, &s.Timeouts)
	}
	writeLooks(w, s.Looks)
	writeList(w, "Not followed", s.Unsupported)
	writeList(w, "Bypassed by steered packets", s.Netfilter)
	writeList(w, "Spoken by the host itself, not by inside hosts", hostPeerWords(s.HostPeers))
	writeList(w, "Configuration warnings", s.Config.Warnings)
	writeDegraded(w, s.Degraded)
}

func writeDegraded(w io.Writer, list []control.Degradation) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(w, "\nDegraded:\n")
	for _, d := range list {
		fmt.Fprintf(w, "  - %s\n", d.What)
		if d.Remedy != "" {
			fmt.Fprintf(w, "    %s\n", d.Remedy)
		}
	}
}

// writeSummary writes the lines of one value each.
func writeSummary(w io.Writer, s *control.Status) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-15s", name+":")
		fmt.Fprintf(w, format+"\n", args...)
	}
	state := "forwarding"
	if n := len(s.Degraded); n > 0 {
		state = fmt.Sprintf("DEGRADED for %s, see the end", plural(n, "reason"))
	}
	line("Gateway", "%s", state)
	line("Version", "%s, pid %d, up %s", describeVersion(s.Version), s.PID, span(s.UptimeSeconds))
	line("Configuration", "%s, read %s", s.Config.Path, clock(s.Config.Loaded))
	if r := s.Config.LastReload; r != nil {
		how := "succeeded"
		if r.Error != "" {
			how = "REFUSED: " + r.Error
		}
		line("Last reload", "%s %s", clock(r.At), how)
	}
	line("Masquerade", "%s", describeMasquerade(&s.Masquerade, s.Interfaces))
	if s.Services.Count > 0 {
		line("Services", "%s", describeServices(&s.Services))
	}
	line("Flows", "%s%s", usageOf(s.Flows.Usage), countsOf(s.Flows.Protocols))
	if len(s.Flows.States) > 0 {
		line("States", "%s", strings.TrimPrefix(countsOf(s.Flows.States), "; "))
	}
	line("Mappings", "%s", usageOf(s.Mappings))
	line("Sources", "%s", usageOf(s.Sources))
	line("State file", "%s", describeState(&s.StateFile))
	pinned := "pinned at "
	if !s.Steering.Pinned {
		pinned = "not pinned: "
	}
	line("Steering", "%s%s; on failure: %s", pinned, s.Steering.Path, s.Steering.OnFailure)
}

func describeState(f *control.StateFile) string {
	switch {
	case f.Path == "":
		return "none: flows end with the process"
	case !f.Tmpfs:
		return f.Path + " (NOT on a tmpfs); " + f.Start
	}
	return f.Path + "; " + f.Start
}

// describeMasquerade has what cilium status has: by which devices, to what, and
// which prefixes are excluded.
func describeMasquerade(m *control.Masquerade, interfaces []control.Interface) string {
	switch {
	case !m.Enabled:
		return "off"
	case len(m.Sources) == 0:
		return "on, but without sources: nothing is masqueraded"
	}
	var by []string
	for i := range interfaces {
		if interfaces[i].Role != "inside" {
			by = append(by, interfaces[i].Name)
		}
	}
	text := fmt.Sprintf("%s leaving by %s, to ports %s; ", someOf(m.Sources), strings.Join(by, ", "), m.PortRange)
	if len(m.Exclusions) == 0 {
		return text + "no exclusion"
	}
	var not []netip.Prefix
	for _, x := range m.Exclusions {
		not = append(not, x.Prefix)
	}
	return text + plural(len(not), "exclusion") + ": " + someOf(not)
}

// describeServices has the mode, the dispatch and the selection, as cilium status.
func describeServices(u *control.ServiceUsage) string {
	mode := strings.Join(u.Modes, ", ")
	if u.Dispatch != "" {
		mode += "; dispatch " + u.Dispatch
	}
	return fmt.Sprintf("%d; mode %s; selection %s; %d of %s new flows", u.Count, mode, strings.Join(u.Algorithms, ", "),
		u.Selectable, plural(u.Backends, "backend")+" can get")
}

// someOf lists the first few prefixes.
func someOf(list []netip.Prefix) string {
	const few = 4
	var words []string
	for _, p := range list[:min(len(list), few)] {
		words = append(words, p.String())
	}
	if more := len(list) - few; more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, ", ")
}

func writeInterfaces(w io.Writer, list []control.Interface) {
	section(w, "Interfaces")
	t := newTable(w, left("NAME"), left("ROLE"), left("LINK"), left("MODE"), right("QUEUES"), right("MTU"), left("DRIVER"), left("ADDRESSES"))
	t.indent = "  "
	var notes []string
	for i := range list {
		f := &list[i]
		link := "up"
		if !f.Up {
			link = "DOWN"
		}
		live := 0
		for _, q := range f.Queues {
			if q.Up {
				live++
			}
		}
		t.row(f.Name, f.Role, link, modesOf(f.Queues), fmt.Sprintf("%d/%d", live, len(f.Queues)), strconv.Itoa(f.MTU), f.Driver, someOf(f.Addresses))
		for _, n := range f.Notes {
			notes = append(notes, f.Name+": "+n)
		}
	}
	flush(t)
	for _, n := range notes {
		fmt.Fprintf(w, "  note: %s\n", n)
	}
}

// modesOf names the modes of an interface's queues, each once.
func modesOf(queues []control.Queue) string {
	var modes []string
	for _, q := range queues {
		if q.Mode != "" && !slices.Contains(modes, q.Mode) {
			modes = append(modes, q.Mode)
		}
	}
	if len(modes) == 0 {
		return "none"
	}
	return strings.Join(modes, "+")
}

func writeQueues(w io.Writer, list []control.Interface, verbose bool) {
	section(w, "Queues")
	t := newTable(w, left("INTERFACE"), right("QUEUE"), right("WORKER"), left("MODE"),
		right("RX PACKETS"), right("RX BYTES"), right("TX PACKETS"), right("TX BYTES"), right("LOST"),
		right("FILL"), right("RX"), right("TX"), right("COMPLETION"), left(""))
	t.indent = "  "
	if !verbose {
		for i := 9; i <= 12; i++ {
			t.hide(i)
		}
	}
	for i := range list {
		for _, q := range list[i].Queues {
			mode := q.Mode
			if mode == "" {
				mode = "none"
			}
			t.row(list[i].Name, strconv.Itoa(q.Queue), strconv.Itoa(q.Worker), mode,
				number(q.RXPackets), bytesOf(q.RXBytes), number(q.TXPackets), bytesOf(q.TXBytes), number(q.Drops.Lost()),
				ringOf(q.FillRing), ringOf(q.RXRing), ringOf(q.TXRing), ringOf(q.CompletionRing), q.ModeReason)
		}
	}
	flush(t)
	if verbose {
		writeQueueDrops(w, list)
	}
}

// writeQueueDrops takes the column LOST apart.
func writeQueueDrops(w io.Writer, list []control.Interface) {
	section(w, "Kernel counters of the queues")
	t := newTable(w, left("INTERFACE"), right("QUEUE"), right("RX DROPPED"), right("RX INVALID"), right("RX RING FULL"),
		right("FILL EMPTY"), right("TX INVALID"), right("TX EMPTY"), right("TX RING FULL"))
	t.indent = "  "
	for i := range list {
		for _, q := range list[i].Queues {
			d := q.Drops
			t.row(list[i].Name, strconv.Itoa(q.Queue), number(d.RXDropped), number(d.RXInvalid), number(d.RXRingFull),
				number(d.FillRingEmpty), number(d.TXInvalid), number(d.TXRingEmpty), number(d.TXRingFullDrops))
		}
	}
	flush(t)
}

func writeWorkers(w io.Writer, list []control.Worker) {
	section(w, "Workers")
	t := newTable(w, right("ID"), right("CPU"), left("STATE"), right("HEARTBEAT"), right("BUSY"), right("PACKETS"), left("FRAMES"))
	t.indent = "  "
	for _, k := range list {
		cpu, state := "-", "running"
		if k.CPU >= 0 {
			cpu = strconv.Itoa(k.CPU)
		}
		if !k.Running {
			state = "STOPPED"
		}
		f := k.Frames
		t.row(strconv.Itoa(k.ID), cpu, state, fmt.Sprintf("%.1f s ago", max(k.HeartbeatAgeSeconds, 0)), percent(k.Utilisation), number(k.Packets),
			fmt.Sprintf("%d free, %d fill, %d rx, %d tx, %d held of %d, %d MiB", f.Free, f.Fill, f.RX, f.TX, f.Held, f.Total, f.Bytes>>20))
	}
	flush(t)
}

func writeAddresses(w io.Writer, m *control.Masquerade) {
	if len(m.Addresses) == 0 {
		return
	}
	section(w, "External addresses")
	t := newTable(w, left("ADDRESS"), left("OF"), right("TCP"), right("UDP"), right("ICMP"), right("PORTS EACH"))
	t.indent = "  "
	for _, x := range m.Addresses {
		t.row(x.Address.String(), describeAddress(&x), strconv.Itoa(x.InUse.TCP), strconv.Itoa(x.InUse.UDP), strconv.Itoa(x.InUse.ICMP), portsOf(&x))
	}
	flush(t)
}

// writePunts writes what the workers got and was the kernel's, where there was
// any, and why the kernel did not get it, where it cannot.
func writePunts(w io.Writer, p *control.Punts) {
	if len(p.Reasons) == 0 && p.Problem == "" {
		return
	}
	section(w, "Given back to the kernel")
	if p.Problem != "" {
		fmt.Fprintf(w, "  not possible: %s\n", p.Problem)
	}
	if len(p.Reasons) == 0 {
		return
	}
	t := newTable(w, right("PASSED"), right("REFUSED"), right("FAILED"), left("ELSE DROPPED AS"))
	t.indent = "  "
	for _, n := range p.Reasons {
		t.row(number(n.Passed), number(n.Refused), number(n.Failed), n.Reason)
	}
	flush(t)
}

func writeExclusions(w io.Writer, list []control.Exclusion) {
	if len(list) == 0 {
		return
	}
	section(w, "Not masqueraded")
	t := newTable(w, left("PREFIX"), left("RULE"), right("LINE"))
	t.indent = "  "
	for _, x := range list {
		line := "-"
		if x.Line > 0 {
			line = strconv.Itoa(x.Line)
		}
		t.row(x.Prefix.String(), x.Rule, line)
	}
	flush(t)
}

func writeCounters(w io.Writer, list []control.Counter) {
	if len(list) == 0 {
		return
	}
	section(w, "Steering")
	t := newTable(w, right("PACKETS"), left("DECISION"))
	t.indent = "  "
	for _, c := range list {
		t.row(number(c.Packets), c.Name)
	}
	flush(t)
}

func writeTimeouts(w io.Writer, t *control.Timeouts) {
	section(w, "Timeouts")
	for _, e := range []struct {
		name    string
		seconds float64
	}{
		{"tcp-established", t.TCPEstablished}, {"tcp-transitory", t.TCPTransitory}, {"tcp-closing", t.TCPClosing}, {"tcp-syn", t.TCPSyn},
		{"tcp-close", t.TCPClose}, {"tcp-time-wait", t.TCPTimeWait}, {"udp", t.UDP},
		{"udp-unreplied", t.UDPUnreplied}, {"icmp", t.ICMP}, {"other", t.Other},
	} {
		fmt.Fprintf(w, "  %-16s %s\n", e.name, span(e.seconds))
	}
	for _, ports := range slices.SortedFunc(maps.Keys(t.UDPPorts), byNumber) {
		fmt.Fprintf(w, "  %-16s %s\n", "udp to "+ports, span(t.UDPPorts[ports]))
	}
}

// byNumber orders ports and ranges of ports by the number that they begin with.
func byNumber(a, b string) int {
	number := func(s string) int { n, _ := strconv.Atoi(strings.SplitN(s, "-", 2)[0]); return n }
	return number(a) - number(b)
}

func writeList(w io.Writer, title string, list []string) {
	if len(list) == 0 {
		return
	}
	section(w, title)
	for _, s := range list {
		fmt.Fprintf(w, "  - %s\n", s)
	}
}

func section(w io.Writer, title string) { fmt.Fprintf(w, "\n%s:\n", title) }

// flush writes a table into a buffer, which cannot fail.
func flush(t *table) { _ = t.flush() }

func number(n uint64) string { return strconv.FormatUint(n, 10) }

func ringOf(r control.Ring) string { return fmt.Sprintf("%d/%d", r.Used, r.Size) }

func percent(share float64) string { return fmt.Sprintf("%.1f %%", 100*share) }

func usageOf(u control.Usage) string {
	if u.Capacity <= 0 {
		return strconv.Itoa(u.Used)
	}
	return fmt.Sprintf("%d of %d (%s)", u.Used, u.Capacity, percent(float64(u.Used)/float64(u.Capacity)))
}

// countsOf lists counts by name, those of nothing left out.
func countsOf(m map[string]int) string {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if m[name] != 0 {
			words = append(words, fmt.Sprintf("%s %d", name, m[name]))
		}
	}
	if len(words) == 0 {
		return ""
	}
	return "; " + strings.Join(words, ", ")
}

// bytesOf writes a count of bytes with a binary prefix.
func bytesOf(n uint64) string {
	const step = 1024
	if n < step {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), -1
	for v >= step {
		v /= step
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTPE"[unit])
}

// span writes seconds as a duration, to the second.
func span(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Second).String()
}

func clock(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Local().Format(time.DateTime)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if strings.HasSuffix(what, "s") {
		what += "e"
	}
	return fmt.Sprintf("%d %ss", n, what)
}
