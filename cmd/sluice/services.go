package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sluice/internal/control"
)

func servicesCommand(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:   "services",
		Short: "Show services and their backends",
	}, servicesListCommand(a), servicesShowCommand(a))
}

func servicesListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the services with their backends",
		Long: `List prints every service, and below it each backend: how it is answered, its
weight and state, and its flows and packets since the daemon began. A service with
both protocols is listed twice.`,
		Example: "  sluice services list\n  sluice services list -o json",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := a.client().Services(c.Context(), "")
			if err != nil {
				return err
			}
			if a.json() {
				return printLines(a, list)
			}
			var b bytes.Buffer
			writeServices(&b, list)
			_, err = b.WriteTo(a.out)
			return err
		},
	}
}

func servicesShowCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "show SERVICE",
		Short:   "Show everything about one service",
		Example: "  sluice services show web",
		Args:    oneService,
		RunE: func(c *cobra.Command, args []string) error {
			list, err := a.client().Services(c.Context(), args[0])
			if err != nil {
				return err
			}
			if a.json() {
				return printLines(a, list)
			}
			var b bytes.Buffer
			for i := range list {
				writeService(&b, &list[i])
			}
			_, err = b.WriteTo(a.out)
			return err
		},
	}
}

// oneService takes a service's name.
func oneService(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usage("which service? `sluice services list` names them")
	}
	return nil
}

// printLines writes each of a list on a line of its own.
func printLines[T any](a *app, list []T) error {
	for i := range list {
		if err := a.printJSON(&list[i]); err != nil {
			return err
		}
	}
	return nil
}

// writeServices lists services as ipvsadm does: backends below their service.
func writeServices(w *bytes.Buffer, list []control.Service) {
	if len(list) == 0 {
		fmt.Fprintln(w, "There are no services: the configuration lists none under services.")
		return
	}
	t := newTable(w, left("PROTO"), left("ADDRESS:PORT"), left("NAME / RETURN PATH"), left("ALGORITHM / STATE"),
		right("WEIGHT"), right("LIVE"), right("FLOWS"), right("PACKETS IN"), right("PACKETS OUT"))
	for i := range list {
		s := &list[i]
		x := &s.Traffic
		t.row(s.Protocol, s.Address.String(), s.Name+" ("+s.Mode+")", s.Algorithm+affinity(s), "",
			strconv.Itoa(x.Live), number(x.Flows), number(x.Packets.Original), number(x.Packets.Reply))
		for j := range s.Backends {
			b := &s.Backends[j]
			x := &b.Traffic
			t.row("", "-> "+b.Address.String(), b.ReturnPath, stateOf(b), strconv.Itoa(b.Weight),
				strconv.Itoa(x.Live), number(x.Flows), number(x.Packets.Original), number(x.Packets.Reply))
		}
	}
	flush(t)
}

func affinity(s *control.Service) string {
	if s.SessionAffinitySeconds == 0 {
		return ""
	}
	return ", affinity " + seconds(s.SessionAffinitySeconds)
}

func seconds(s float64) string { return (time.Duration(s * float64(time.Second))).String() }

// stateOf is a backend's state, and why.
func stateOf(b *control.Backend) string {
	if b.Health != nil && !b.Health.Healthy && b.Health.Reason != "" {
		return stateBy(b) + ": " + b.Health.Reason
	}
	return stateBy(b)
}

// stateBy is a backend's state, and whether an operator asked for it.
func stateBy(b *control.Backend) string {
	switch {
	case !b.Drained:
		return b.State
	case b.State == "draining":
		return "draining (by hand)"
	}
	return b.State + ", drained by hand"
}

func writeService(w *bytes.Buffer, s *control.Service) {
	mode := s.Mode
	if s.Dispatch != "" {
		mode += ", dispatch " + s.Dispatch
	}
	sources := "all"
	if len(s.SourceRanges) > 0 {
		sources = strings.Join(s.SourceRanges, ", ")
	}
	fmt.Fprintf(w, "Service:       %s, %s/%s, line %d of the configuration\n", s.Name, s.Address, s.Protocol, s.Line)
	fmt.Fprintf(w, "Mode:          %s; announced by %s\n", mode, s.Announce)
	fmt.Fprintf(w, "Selection:     %s%s; %d of %s new flows\n", s.Algorithm, affinity(s), s.Selectable, getOf(len(s.Backends)))
	fmt.Fprintf(w, "Clients:       %s\n", sources)
	fmt.Fprintf(w, "No backend:    %s; flows of a dead backend: %s\n", s.NoBackend, s.DeadBackend)
	fmt.Fprintf(w, "Health check:  %s\n", s.HealthCheck)
	x := &s.Traffic
	fmt.Fprintf(w, "Traffic:       %d flows now, %d since the start, %d connections; %d packets (%s) from clients, %d (%s) to them\n",
		x.Live, x.Flows, x.Connections, x.Packets.Original, bytesOf(x.Bytes.Original), x.Packets.Reply, bytesOf(x.Bytes.Reply))
	if x.Unanswered > 0 {
		fmt.Fprintf(w, "Unanswered:    %d flows: their backends' answers do not come back through the gateway\n", x.Unanswered)
	}
	section(w, "Backends")
	t := newTable(w, left("ADDRESS:PORT"), right("WEIGHT"), left("STATE"), left("RETURN PATH"), right("LIVE"), right("FLOWS"),
		right("BYTES IN"), right("BYTES OUT"), left("LAST PROBE"))
	t.indent = "  "
	for i := range s.Backends {
		b := &s.Backends[i]
		t.row(b.Address.String(), strconv.Itoa(b.Weight), stateBy(b), b.ReturnPath, strconv.Itoa(b.Traffic.Live), number(b.Traffic.Flows),
			bytesOf(b.Traffic.Bytes.Original), bytesOf(b.Traffic.Bytes.Reply), probeOf(b.Health))
	}
	flush(t)
	fmt.Fprintln(w)
}

func getOf(backends int) string {
	if backends == 1 {
		return "1 backend gets"
	}
	return strconv.Itoa(backends) + " backends get"
}

// probeOf is the latest probe, in words.
func probeOf(h *control.Health) string {
	switch {
	case h == nil:
		return "not probed"
	case h.Last.IsZero():
		return "none yet"
	case h.Reason != "":
		return h.Reason + ", " + h.Last.Format(time.TimeOnly)
	}
	return "answered, " + h.Last.Format(time.TimeOnly)
}

func backendCommand(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:   "backend",
		Short: "Take backends out of service, and back in",
	}, backendSwitch(a, true), backendSwitch(a, false))
}

// backendSwitch is `backend drain` or `backend enable`.
func backendSwitch(a *app, drain bool) *cobra.Command {
	c := &cobra.Command{
		Use:   "enable SERVICE|all ADDRESS[:PORT]",
		Short: "Give a backend new flows again",
		Long: `Enable gives a backend new flows again, in one service or in all; if its probes
fail, it stays dead until they succeed.`,
		Example: "  sluice backend enable all 10.0.2.123",
	}
	if drain {
		c.Use = "drain SERVICE|all ADDRESS[:PORT]"
		c.Short = "Give a backend no new flows"
		c.Long = `Drain has a backend get no new flows, in one service or in all; those that it has go
on until they end. Without PORT all ports of the address are meant. It lasts until
` + "`sluice backend enable`" + `, over reloads and restarts; a machine that reboots forgets it, as
it does its flows, and so does a daemon with state-file: "". To write it down, set
weight: 0 in the configuration.`
		c.Example = "  sluice backend drain web 10.0.2.123:80\n  sluice backend drain all 10.0.2.123"
	}
	c.Args = func(_ *cobra.Command, args []string) error {
		if len(args) != 2 {
			return usage("write SERVICE or all, and ADDRESS or ADDRESS:PORT of the backend")
		}
		if _, err := control.ParseBackendAddress(args[1]); err != nil {
			return usage("%w", err)
		}
		return nil
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		backend, err := control.ParseBackendAddress(args[1])
		if err != nil {
			return err
		}
		service := args[0]
		if service == "all" {
			service = ""
		}
		change, err := a.client().SetDraining(c.Context(), service, backend, drain)
		if err != nil {
			return err
		}
		if a.json() {
			return a.printJSON(change)
		}
		for _, x := range change.Backends {
			was := ""
			if !x.Changed {
				was = ", as before"
			}
			fmt.Fprintf(a.out, "%s in %s: %s%s\n", x.Backend, x.Service, x.State, was)
		}
		return nil
	}
	return c
}
