package daemon

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/internal/control"
	"sluice/internal/lab"
)

const (
	restartFlows = 50 // of TCP, and of UDP
	talkPause    = 10 * time.Millisecond
	talkTimeout  = 20 * time.Second // TCP doubles its patience with every loss
)

// restartLab is the lab with a daemon whose flows outlive it.
type restartLab struct {
	*lab.Topology
	*testing.T
	program, config, state, dir string
	client                      *control.Client
	daemon                      *exec.Cmd
	log                         *bytes.Buffer
}

func newRestartLab(t *testing.T, maxFlows int) *restartLab {
	t.Helper()
	lab.RequireRoot(t)
	dir := t.TempDir()
	l := &restartLab{T: t, dir: dir, program: filepath.Join(dir, "sluice"), config: filepath.Join(dir, "sluice.yaml")}
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", l.program, "sluice/cmd/sluice").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	// On a tmpfs, as it should be.
	states, err := os.MkdirTemp("/dev/shm", "sluice-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(states) })
	l.state = filepath.Join(states, "flows")
	if l.Topology, err = lab.Up(lab.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Topology.Close(); err != nil {
			t.Error(err)
		}
	})
	socket := filepath.Join(dir, "control.sock")
	l.client = control.NewClient(socket)
	text := strings.Replace(lab.Config(socket), `state-file: ""`, "state-file: "+l.state, 1)
	text += fmt.Sprintf("conntrack: {max-flows: %d}\n", maxFlows)
	if err := os.WriteFile(l.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.remove)
	return l
}

// start runs the daemon in the gateway's namespace and returns when it forwards,
// with the time that this took.
func (l *restartLab) start() time.Duration {
	l.Helper()
	path := filepath.Join(l.dir, "notify.sock")
	os.Remove(path)
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		l.Fatal(err)
	}
	defer ready.Close()
	l.log = &bytes.Buffer{}
	l.daemon = exec.Command(l.program, "run", "--config", l.config)
	l.daemon.Env = append(os.Environ(), "NOTIFY_SOCKET="+path)
	l.daemon.Stderr = l.log
	began := time.Now()
	if err := l.Gateway.Start(l.daemon); err != nil {
		l.Fatal(err)
	}
	if err := ready.SetReadDeadline(began.Add(20 * time.Second)); err != nil {
		l.Fatal(err)
	}
	if _, err := ready.Read(make([]byte, 256)); err != nil {
		l.daemon.Process.Kill()
		l.daemon.Wait()
		l.Fatalf("the daemon was not ready: %v\n%s", err, l.log)
	}
	return time.Since(began)
}

// stop ends the daemon with a signal and returns what it logged.
func (l *restartLab) stop(s syscall.Signal) string {
	l.Helper()
	if err := l.daemon.Process.Signal(s); err != nil {
		l.Fatal(err)
	}
	if err := l.daemon.Wait(); err != nil && s != syscall.SIGKILL {
		l.Errorf("the daemon ended badly: %v\n%s", err, l.log)
	}
	l.daemon = nil
	return l.log.String()
}

// remove ends the daemon, if it runs, and takes its program off.
func (l *restartLab) remove() {
	if l.daemon != nil {
		l.daemon.Process.Kill()
		l.daemon.Wait()
		l.Logf("the last daemon:\n%s", l.log)
	}
	if out, err := l.Gateway.Exec(l.program, "detach", "--config", l.config); err != nil {
		l.Errorf("detach: %v\n%s", err, out)
	}
}

func (l *restartLab) stateFile() control.StateFile {
	l.Helper()
	s, err := l.client.Status(context.Background())
	if err != nil {
		l.Fatal(err)
	}
	return s.StateFile
}

// talk is one flow that keeps moving data: the server answers each message with
// the address that it came from.
type talk struct {
	conn     net.Conn
	answers  atomic.Int64
	external netip.AddrPort
	gap      atomic.Int64 // longest time between two answers, ns
	err      error
}

const (
	question = 8                // bytes: its number
	answer   = question + 4 + 2 // and the sender, as the server saw it
	serve    = ":7007"          // where the servers are
	patience = 20 * time.Millisecond
)

// run exchanges messages until stop is closed or the flow fails.
func (f *talk) run(stop <-chan struct{}) {
	last := time.Now()
	for n := uint64(1); ; n++ {
		select {
		case <-stop:
			return
		case <-time.After(talkPause):
		}
		got, err := f.exchange(n)
		if err != nil {
			f.err = err
			return
		}
		if !got {
			continue // a datagram may be lost; the next one asks again
		}
		now := time.Now()
		f.gap.Store(max(f.gap.Load(), int64(now.Sub(last))))
		last = now
		f.answers.Add(1)
	}
}

// exchange sends message n and reads its answer.
func (f *talk) exchange(n uint64) (got bool, err error) {
	var b [answer]byte
	binary.BigEndian.PutUint64(b[:], n)
	_, stream := f.conn.(*net.TCPConn)
	wait := patience
	if stream {
		wait = talkTimeout
	}
	if err := f.conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return false, err
	}
	if _, err := f.conn.Write(b[:question]); err != nil {
		return false, err
	}
	for {
		if _, err := io.ReadFull(f.conn, b[:]); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) && !stream {
				return false, nil
			}
			return false, fmt.Errorf("message %d: %w", n, err)
		}
		if binary.BigEndian.Uint64(b[:]) == n {
			break
		}
		if stream {
			return false, fmt.Errorf("message %d was answered with %d", n, binary.BigEndian.Uint64(b[:]))
		}
	}
	seen := netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[8:12])), binary.BigEndian.Uint16(b[12:]))
	if f.external.IsValid() && f.external != seen {
		return false, fmt.Errorf("renumbered: the server saw %v, and now %v", f.external, seen)
	}
	f.external = seen
	return true, nil
}

func appendAnswer(b []byte, from netip.AddrPort) []byte {
	addr := from.Addr().Unmap().As4()
	return binary.BigEndian.AppendUint16(append(b[:question], addr[:]...), from.Port())
}

// serveTalks answers on a server, over TCP and UDP, until the test ends.
func (l *restartLab) serveTalks(host *lab.Namespace) {
	l.Helper()
	var tcp net.Listener
	var udp *net.UDPConn
	if err := host.Do(func() (err error) {
		if tcp, err = net.Listen("tcp4", serve); err != nil {
			return err
		}
		addr, err := net.ResolveUDPAddr("udp4", serve)
		if err != nil {
			return err
		}
		udp, err = net.ListenUDP("udp4", addr)
		return err
	}); err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { tcp.Close(); udp.Close() })
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var b [answer]byte
				from := c.RemoteAddr().(*net.TCPAddr).AddrPort()
				for {
					if _, err := io.ReadFull(c, b[:question]); err != nil {
						return
					}
					if _, err := c.Write(appendAnswer(b[:], from)); err != nil {
						return
					}
				}
			}()
		}
	}()
	go func() {
		var b [answer]byte
		for {
			if _, from, err := udp.ReadFromUDPAddrPort(b[:question]); err != nil {
				return
			} else if _, err := udp.WriteToUDPAddrPort(appendAnswer(b[:], from), from); err != nil {
				return
			}
		}
	}()
}

// open starts n flows of a network from both clients.
func (l *restartLab) open(network string, n int, stop <-chan struct{}, running *sync.WaitGroup) (list []*talk) {
	l.Helper()
	for i := range n {
		f := &talk{}
		if err := [2]*lab.Namespace{l.Client1, l.Client2}[i%2].Do(func() (err error) {
			f.conn, err = net.DialTimeout(network, lab.Server1Address+serve, 5*time.Second)
			return err
		}); err != nil {
			l.Fatal(err)
		}
		l.Cleanup(func() { f.conn.Close() })
		list = append(list, f)
		running.Go(func() { f.run(stop) })
	}
	return list
}

// awaitAnswers waits until every flow has had n more answers.
func (l *restartLab) awaitAnswers(flows []*talk, n int64) {
	l.Helper()
	deadline := time.Now().Add(talkTimeout)
	want := make([]int64, len(flows))
	for i, f := range flows {
		want[i] = f.answers.Load() + n
	}
	for i, f := range flows {
		for f.answers.Load() < want[i] {
			if time.Now().After(deadline) {
				l.Fatalf("flow %d of %d is silent after %d answers", i, len(flows), f.answers.Load())
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// gaps is the longest silence of any of the flows since the last call.
func gaps(flows []*talk) (longest time.Duration) {
	for _, f := range flows {
		longest = max(longest, time.Duration(f.gap.Swap(0)))
	}
	return longest
}

// Connections outlive the daemon, killed or stopped, with their external ports;
// only one daemon has the flows at a time.
func TestFlowsOutliveTheDaemon(t *testing.T) {
	l := newRestartLab(t, 65536)
	l.Logf("first start: ready after %v", l.start().Round(time.Millisecond))
	if s := l.stateFile(); s != (control.StateFile{Path: l.state, Tmpfs: true, Start: "started empty"}) {
		t.Errorf("state %+v", s)
	}
	l.serveTalks(l.Server1)
	var running sync.WaitGroup
	stop := make(chan struct{})
	tcp := l.open("tcp4", restartFlows, stop, &running)
	udp := l.open("udp4", restartFlows, stop, &running)
	flows := append(append([]*talk(nil), tcp...), udp...)
	l.awaitAnswers(flows, 3)
	gaps(flows)
	l.refuseSecond()

	for _, how := range []struct {
		name   string
		signal syscall.Signal
		start  string
	}{
		{"kill -9", syscall.SIGKILL, "after a crash"},
		{"SIGTERM", syscall.SIGTERM, "after an orderly stop"},
		{"kill -9 again", syscall.SIGKILL, "after a crash"},
	} {
		log := l.stop(how.signal)
		if how.signal == syscall.SIGTERM && (!strings.Contains(log, "on-failure: drop") || !strings.Contains(log, "100 flows stay in "+l.state)) {
			t.Errorf("%s: its last words do not say what stays:\n%s", how.name, log)
		}
		ready := l.start()
		l.awaitAnswers(flows, 3)
		t.Logf("%s: ready again after %v; longest gap %v over UDP, %v over TCP, whose retransmissions wait ever longer",
			how.name, ready.Round(time.Millisecond), gaps(udp).Round(time.Millisecond), gaps(tcp).Round(time.Millisecond))
		s := l.stateFile()
		if s.Adopted < 2*restartFlows || s.Dropped > 0 || !strings.Contains(s.Start, how.start) {
			t.Errorf("%s: state %+v", how.name, s)
		}
	}
	close(stop)
	running.Wait()
	ports := map[netip.AddrPort]bool{}
	for i, f := range flows {
		if f.err != nil {
			t.Errorf("flow %d (%s): %v", i, f.conn.LocalAddr().Network(), f.err)
		}
		if f.external.Addr().String() != lab.GatewayOutside {
			t.Errorf("flow %d came from %v", i, f.external)
		}
		if i == restartFlows {
			clear(ports) // the same ports again, over UDP
		}
		if ports[f.external] {
			t.Errorf("two flows came from %v", f.external)
		}
		ports[f.external] = true
	}
	if r := l.Checker.Close(); r.Err() != nil {
		t.Error(r.Err())
	}
}

// refuseSecond starts a second daemon over the same state file.
func (l *restartLab) refuseSecond() {
	l.Helper()
	text, err := os.ReadFile(l.config)
	if err != nil {
		l.Fatal(err)
	}
	second := filepath.Join(l.dir, "second.yaml")
	text = bytes.Replace(text, []byte("control.sock"), []byte("second.sock"), 1)
	if err := os.WriteFile(second, text, 0o600); err != nil {
		l.Fatal(err)
	}
	out, err := l.Gateway.Exec(l.program, "run", "--config", second)
	want := fmt.Sprintf("%s is in use by process %d", l.state, l.daemon.Process.Pid)
	if err == nil || !strings.Contains(string(out)+err.Error(), want) {
		l.Errorf("a second daemon: %v\n%s", err, out)
	}
}
