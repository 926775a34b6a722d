package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/internal/control"
	"sluice/internal/gateway"
	"sluice/internal/lab"
)

// TestTraceLab follows a TCP connection through a running gateway by the client's
// own address, beside another client's that is not to be seen, and a drop.
func TestTraceLab(t *testing.T) {
	lab.RequireRoot(t)
	program := built(t, "")
	l := newPuntLab(t, program)
	address := l.echo(l.Server1, lab.Server1Address+":8080")

	list := l.trace("host "+lab.Client1Address+" and tcp port 8080", 100, func() {
		for _, client := range []*lab.Namespace{l.Client2, l.Client1} {
			l.fetch(client, address)
		}
	}, func(p *control.Traced) bool { return !strings.Contains(stage(p, "flow"), "time-wait") })
	there, back := 0, 0
	for i, p := range list {
		client := lab.Client1Address
		switch {
		case p.Original.Src.String() == client && p.Translated.Src.String() == lab.GatewayOutside && p.Original.Dport == 8080:
			there++
		case p.Original.Dst.String() == lab.GatewayOutside && p.Translated.Dst.String() == client && p.Original.Sport == 8080 && p.Verdict == "forward":
			back++
		default:
			t.Errorf("packet %d is none of the connection's: %+v", i, p)
		}
		if p.Flow != list[0].Flow || p.Protocol != "tcp" || p.Number != i+1 || p.In == p.Out || p.Out == "" {
			t.Errorf("packet %d: %+v", i, p)
		}
	}
	if there < 4 || back < 3 { // SYN, ACK, data, FIN; SYN+ACK, data, FIN
		t.Fatalf("%d packets there, %d back", there, back)
	}
	if first := list[0]; !strings.HasPrefix(first.Verdict, "masquerade to "+lab.GatewayOutside+":") ||
		!strings.Contains(stage(first, "policy"), "masqueraded: ") || !strings.Contains(stage(first, "flow"), "syn-sent") || first.Decisions[0].Line == 0 {
		t.Errorf("the first packet:\n%s", decisions(first.Explanation))
	}
	if second := list[1]; !strings.Contains(stage(second, "translation"), "translated back to "+lab.Client1Address) {
		t.Errorf("the second packet:\n%s", decisions(second.Explanation))
	}

	stranger := l.udp(l.Server2, lab.Server2Address+":9")
	list = l.trace("reason outside-to-inside", 1, func() { l.write(stranger, lab.Client1Address+":9", []byte("x")) },
		func(*control.Traced) bool { return false })
	if p := list[0]; p.Verdict != "drop: outside-to-inside" || p.Reason != "outside-to-inside" || !strings.Contains(stage(p, "drop"), "policy masquerades") {
		t.Errorf("%s\n%s", p.Verdict, decisions(p.Explanation))
	}

	// An end where nothing comes.
	q := control.TraceQuestion{Filter: "host 192.0.2.200", Count: 1, Timeout: time.Second}
	if err := l.client.Trace(t.Context(), q, func() {}, func(p *control.Traced) error { t.Errorf("%+v", p); return nil }); err != nil {
		t.Error(err)
	}
	testSeveralTraces(t, l)
}

// testSeveralTraces: as many as there may be see the same packet, each by its own
// filter; one more is refused, naming who has the others, until one ends.
func testSeveralTraces(t *testing.T, l *puntLab) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var on, done sync.WaitGroup
	q := control.TraceQuestion{Count: 1, Timeout: time.Minute}
	for i := range gateway.MaxLooks {
		on.Add(1)
		q := q
		q.Filter = fmt.Sprintf("udp and (port 9 or port %d)", 1000+i)
		done.Go(func() {
			n := 0
			if err := l.client.Trace(ctx, q, on.Done, func(*control.Traced) error { n++; return nil }); err != nil || n != 1 {
				t.Errorf("trace %d: %d packets, %v", i, n, err)
			}
		})
	}
	on.Wait()
	err := l.client.Trace(ctx, q, func() {}, nil)
	if want := fmt.Sprintf("%d: pid %d (uid 0) since ", gateway.MaxLooks, os.Getpid()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("one trace too many: %v, want %q", err, want)
	}
	s, err := l.client.Status(ctx)
	if err != nil || len(s.Looks) != gateway.MaxLooks || s.Looks[0].Kind != "trace" || s.Looks[0].PID != os.Getpid() || !strings.HasPrefix(s.Looks[0].Filter, "udp and") {
		t.Errorf("status lists %+v, %v", s.Looks, err)
	}
	l.write(l.udp(l.Client1, lab.Client1Address+":0"), lab.Server1Address+":9", []byte("x"))
	done.Wait()
	if err := l.client.Trace(ctx, control.TraceQuestion{Filter: "host 192.0.2.200", Count: 1, Timeout: time.Millisecond}, func() {}, nil); err != nil {
		t.Errorf("a trace after those ended: %v", err)
	}
	if s, err := l.client.Status(ctx); err != nil || len(s.Looks) != 0 {
		t.Errorf("status lists %+v, %v", s.Looks, err)
	}
}

// stage is what a packet's decisions of a stage say.
func stage(p *control.Traced, name string) (text string) {
	for _, d := range p.Decisions {
		if d.Stage == name {
			text += d.Text + "\n"
		}
	}
	return text
}

// trace does something while a trace is on, and returns its packets up to the
// last that more asks for.
func (l *puntLab) trace(filter string, n int, do func(), more func(*control.Traced) bool) (list []*control.Traced) {
	l.t.Helper()
	enough := errors.New("enough")
	ctx, cancel := context.WithTimeout(l.t.Context(), 20*time.Second)
	defer cancel()
	began := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- l.client.Trace(ctx, control.TraceQuestion{Filter: filter, Count: n, Timeout: 20 * time.Second}, func() { close(began) }, func(p *control.Traced) error {
			if list = append(list, p); !more(p) {
				return enough
			}
			return nil
		})
	}()
	select {
	case <-began:
		do()
	case err := <-done:
		l.t.Fatalf("%s: %v", filter, err)
	}
	if err := <-done; !errors.Is(err, enough) {
		l.t.Fatalf("%s: %v after %d packets: %+v", filter, err, len(list), list)
	}
	return slices.Clip(list)
}

// echo serves a host's TCP connections: it sends back what it gets until the
// client has ended.
func (l *puntLab) echo(host *lab.Namespace, address string) string {
	l.t.Helper()
	var server net.Listener
	if err := host.Do(func() (err error) {
		server, err = net.Listen("tcp4", address)
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { server.Close() })
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c) // the client checks
			}()
		}
	}()
	return address
}

// fetch makes a connection, has something echoed, and closes it in order.
func (l *puntLab) fetch(from *lab.Namespace, address string) {
	l.t.Helper()
	if err := from.Do(func() error {
		c, err := net.DialTimeout("tcp4", address, 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		if _, err := c.Write([]byte("question")); err != nil {
			return err
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			return err
		}
		got, err := io.ReadAll(c)
		if err == nil && string(got) != "question" {
			err = errors.New("echoed: " + string(got))
		}
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
}
