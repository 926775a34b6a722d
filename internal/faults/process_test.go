package faults

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/internal/control"
	"sluice/internal/lab"
)

// program is sluice, built once; "" where there is no lab to run it in.
var program string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Geteuid() == 0 {
		dir, err := os.MkdirTemp("", "sluice-faults-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "sluice")
		build := exec.Command("go", append(buildFlags, "-buildvcs=false", "-o", program, "sluice/cmd/sluice")...)
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
	}
	return m.Run()
}

// gateway is `sluice run` as a child inside the gateway's namespace.
type gateway struct {
	*control.Client
	rig    *rig
	socket string
	config string // the path of its configuration
	cmd    *exec.Cmd
	log    *log
	ready  chan struct{} // closed when it said READY=1, as it says it to systemd
	done   chan struct{}
	err    error // how it ended; read after done
}

// start runs the program with the configuration and waits until it is ready.
func (r *rig) start(config string, args ...string) *gateway {
	r.Helper()
	g := r.launch(config, args...)
	r.running = g
	select {
	case <-g.ready:
	case <-g.done:
		r.Fatalf("the gateway ended before it was ready: %v\n%s", g.err, g.log)
	case <-time.After(30 * time.Second):
		r.Fatalf("the gateway was not ready in time\n%s", g.log)
	}
	return g
}

// launch runs the program with the configuration.
func (r *rig) launch(config string, args ...string) *gateway {
	r.Helper()
	dir := r.TempDir()
	g := &gateway{rig: r, socket: filepath.Join(dir, "control.sock"), log: newLog(),
		ready: make(chan struct{}), done: make(chan struct{})}
	g.Client = control.NewClient(g.socket)
	g.config = filepath.Join(dir, "sluice.yaml")
	r.write(g.config, config)
	g.cmd = exec.Command(program, append([]string{"run", "--config", g.config, "--socket", g.socket}, args...)...)
	g.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+g.notifySocket(dir))
	// Should the test be killed, the gateway does not stay behind.
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	out, err := g.cmd.StderrPipe()
	if err != nil {
		r.Fatal(err)
	}
	started := make(chan error)
	go func() {
		// Pdeathsig comes when the thread that forked ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := r.top.Gateway.Start(g.cmd)
		started <- err
		if err == nil {
			g.log.read(out)
			g.err = g.cmd.Wait()
			close(g.done)
		}
	}()
	if err := <-started; err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if r.Failed() {
			r.Logf("the gateway's log:\n%s", g.log)
		}
		g.cmd.Process.Signal(syscall.SIGCONT)
		g.cmd.Process.Kill()
		<-g.done
	})
	return g
}

// notifySocket listens for what the gateway says to systemd.
func (g *gateway) notifySocket(dir string) string {
	path := filepath.Join(dir, "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		g.rig.Fatal(err)
	}
	g.rig.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 4096)
		for ready := false; ; {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if !ready && slices.Contains(strings.Split(string(buf[:n]), "\n"), "READY=1") {
				ready = true
				close(g.ready)
			}
		}
	}()
	return path
}

// stop ends the gateway with SIGTERM, which it must obey.
func (g *gateway) stop() {
	g.rig.Helper()
	g.signal(syscall.SIGTERM)
	g.ended(0)
}

// end stops a gateway that takes its program away with it, and sees that it
// did. From then on the kernel has the packets, and forwards them no more.
func (r *rig) end(g *gateway) {
	r.Helper()
	r.noLeak()
	r.must(r.top.Gateway.Sysctl("net/ipv4/ip_forward", "0"))
	g.stop()
	r.noPins()
	for _, nic := range []string{lab.InsideNIC, lab.OutsideNIC, uplinkNIC} {
		if r.steered(nic) {
			r.Errorf("%s has an XDP program left", nic)
		}
	}
}

// ended waits for the end and compares the exit status.
func (g *gateway) ended(want int) {
	g.rig.Helper()
	select {
	case <-g.done:
	case <-time.After(15 * time.Second):
		g.rig.Fatalf("the gateway does not end\n%s", g.log)
	}
	if got := g.cmd.ProcessState.ExitCode(); got != want {
		g.rig.Errorf("exit status %d, want %d (%v)\n%s", got, want, g.err, g.log)
	}
}

func (g *gateway) signal(s syscall.Signal) {
	g.rig.Helper()
	if err := g.cmd.Process.Signal(s); err != nil {
		g.rig.Fatal(err)
	}
}

// status asks the gateway, which must answer.
func (g *gateway) status() control.Status {
	g.rig.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s, err := g.Status(ctx)
	if err != nil {
		g.rig.Fatalf("status: %v\n%s", err, g.log)
	}
	return s
}

// flows lists the live flows.
func (g *gateway) flows() (list []control.Flow) {
	g.rig.Helper()
	err := g.Flows(context.Background(), control.Filter{}, func(f control.Flow) error {
		list = append(list, f)
		return nil
	})
	if err != nil {
		g.rig.Fatal(err)
	}
	return list
}

// allDrops lists the drops so far, for a failure to be understood.
func (g *gateway) allDrops() string {
	var words []string
	d, err := g.Drops(context.Background())
	for _, x := range d.Reasons {
		if x.Packets > 0 {
			words = append(words, fmt.Sprintf("%s %d", x.Reason, x.Packets))
		}
	}
	if err != nil {
		words = append(words, err.Error())
	}
	return strings.Join(words, ", ")
}

// state is what the gateway knows, for a failure to be understood.
func (r *rig) state() string {
	g := r.running
	if g == nil {
		return ""
	}
	select {
	case <-g.done:
		return "; the gateway has ended"
	default:
	}
	text := "\n\tdrops: " + g.allDrops()
	for _, c := range g.status().Steering.Counters {
		if c.Packets > 0 {
			text += fmt.Sprintf("\n\tsteering: %s %d", c.Name, c.Packets)
		}
	}
	for _, f := range g.flows() {
		text += fmt.Sprintf("\n\tflow: %s %s %v, answers %v, packets %v, %d s left", f.Protocol, f.State, f.Original, *f.Reply, f.Packets, f.TimeoutSeconds)
	}
	return text
}

// drops is how many packets were dropped for a reason.
func (g *gateway) drops(reason string) uint64 {
	g.rig.Helper()
	d, err := g.Drops(context.Background())
	if err != nil {
		g.rig.Fatal(err)
	}
	for _, x := range d.Reasons {
		if x.Reason == reason {
			return x.Packets
		}
	}
	g.rig.Fatalf("there is no drop reason %q", reason)
	return 0
}

// dropped waits until more packets than before are dropped for a reason.
func (g *gateway) dropped(reason string, before uint64) {
	g.rig.Helper()
	g.rig.eventually("drops as "+reason, func() error {
		if n := g.drops(reason); n == before {
			return fmt.Errorf("still %d; %s", n, g.allDrops())
		}
		return nil
	})
}

// healthy waits until nothing is degraded and checks where the frames are.
func (g *gateway) healthy() {
	g.rig.Helper()
	var s control.Status
	g.rig.eventually("nothing is degraded", func() error {
		s = g.status()
		if len(s.Degraded) > 0 {
			return fmt.Errorf("degraded: %v", s.Degraded)
		}
		return nil
	})
	g.balanced(&s)
}

// balanced holds every worker's frames to be in one place each.
func (g *gateway) balanced(s *control.Status) {
	g.rig.Helper()
	for _, w := range s.Workers {
		f := w.Frames
		if f.Total == 0 || f.Free+f.Fill+f.RX+f.TX+f.Held != f.Total {
			g.rig.Errorf("worker %d: frames do not balance: %+v", w.ID, f)
		}
	}
}

// degraded waits until something is degraded in words that contain `what`.
func (g *gateway) degraded(what string) {
	g.rig.Helper()
	g.rig.eventually("status is degraded: "+what, func() error {
		s := g.status()
		g.balanced(&s)
		for _, d := range s.Degraded {
			if strings.Contains(d.What, what) && d.Remedy != "" {
				return nil
			}
		}
		return fmt.Errorf("degraded: %v", s.Degraded)
	})
}

// sluice runs another command of the program and returns its exit status and
// what it printed.
func (g *gateway) sluice(args ...string) (int, string) {
	g.rig.Helper()
	out, err := exec.Command(program, append(args, "--socket", g.socket)...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		g.rig.Fatal(err)
	}
	if exit != nil {
		return exit.ExitCode(), string(out)
	}
	return 0, string(out)
}

// log is what a process wrote, line by line, as it comes.
type log struct {
	mu    sync.Mutex
	lines []string
	more  chan struct{} // closed and replaced with every line
}

func newLog() *log { return &log{more: make(chan struct{})} }

func (l *log) read(r io.Reader) {
	for s := bufio.NewScanner(r); s.Scan(); {
		l.mu.Lock()
		l.lines = append(l.lines, s.Text())
		close(l.more)
		l.more = make(chan struct{})
		l.mu.Unlock()
	}
}

// mark is where the log ends now.
func (l *log) mark() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lines)
}

// await waits for a line with text, from mark on, and reports whether it came
// before the end.
func (l *log) await(mark int, text string, end <-chan struct{}) bool {
	for {
		l.mu.Lock()
		for _, line := range l.lines[mark:] {
			if strings.Contains(line, text) {
				l.mu.Unlock()
				return true
			}
		}
		mark = len(l.lines)
		more := l.more
		l.mu.Unlock()
		select {
		case <-more:
		case <-end:
			return false
		}
	}
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return "\t" + strings.Join(l.lines, "\n\t")
}

// said waits for a line of the gateway's log.
func (g *gateway) said(mark int, text string) {
	g.rig.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if !g.log.await(mark, text, ctx.Done()) {
		g.rig.Fatalf("the gateway does not say %q\n%s", text, g.log)
	}
}
