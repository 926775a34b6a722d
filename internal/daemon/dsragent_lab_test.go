package daemon

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/internal/control"
	"sluice/internal/lab"
)

const (
	podAddress = lab.PodAddress
	agentPort  = 8080 // of service and servers: ipip cannot change it
)

// agentLab is a gateway, and an inside host that is a DSR backend with a server of
// its own and a pod behind veth. The host has a leg on the outside segment, too, by
// which its kernel routes to the clients: answers pass by the gateway.
type agentLab struct {
	*serviceLab
	pod    *lab.Namespace
	daemon *exec.Cmd
	log    bytes.Buffer
	agent  *control.Client
	conf   string
}

func newAgentLab(t *testing.T) *agentLab {
	t.Helper()
	lab.RequireRoot(t)
	program := built(t, "")
	l := &agentLab{serviceLab: newServiceLabAt(t, program, "dsr", labVIP, agentPort, lab.Client1Address)}
	dir := t.TempDir()
	l.conf = filepath.Join(dir, "agent.yaml")
	l.agent = control.NewClient(filepath.Join(dir, "agent.sock"))
	pod, err := l.DSRBackend()
	must(t, err)
	t.Cleanup(func() { must(t, pod.Close()) })
	l.pod = pod
	l.serve(pod, podAddress)

	t.Cleanup(func() {
		l.endAgent(syscall.SIGTERM)
		if out, err := l.Client1.Exec(program, "detach"); err != nil || !strings.Contains(string(out), "dsr-agent") {
			t.Errorf("detach: %v\n%s", err, out)
		}
	})
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// use has gateway and agent use a dispatch and one backend.
func (l *agentLab) use(dispatch, backend string) {
	l.t.Helper()
	l.backends, l.check = []string{backend}, "{type: none}"
	tail := fmt.Sprintf("dsr: {dispatch: %s}\n", dispatch)
	must(l.t, os.WriteFile(l.file, []byte(l.config()+tail), 0o600))
	must(l.t, os.WriteFile(l.conf, []byte(tail+fmt.Sprintf(`dsr-agent:
  interfaces: [%s]
  trusted-gateways: [%s]
  services: ["%s:%d"]
control: {socket: %s}
`, lab.HostNIC, lab.GatewayInside, labVIP, agentPort, filepath.Join(filepath.Dir(l.conf), "agent.sock"))), 0o600))
	_, err := l.client.Reload(l.t.Context())
	must(l.t, err)
	if l.daemon == nil {
		l.startAgent()
	} else {
		_, err := l.agent.Reload(l.t.Context())
		must(l.t, err)
	}
	l.await("agent and gateway are ready", func() bool {
		a, err := l.agent.Status(l.t.Context())
		must(l.t, err)
		s, err := l.client.Services(l.t.Context(), "web")
		must(l.t, err)
		return len(a.Degraded) == 0 && len(s) == 2 && s[0].Selectable == 1 && s[1].Selectable == 1
	})
}

func (l *agentLab) startAgent() {
	l.t.Helper()
	notify := l.conf + ".notify"
	os.Remove(notify)
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	must(l.t, err)
	defer ready.Close()
	l.daemon = exec.Command(l.program, "run", "--config", l.conf)
	l.daemon.Env = append(os.Environ(), "NOTIFY_SOCKET="+notify)
	l.daemon.Stderr = &l.log
	must(l.t, l.Client1.Start(l.daemon))
	must(l.t, ready.SetReadDeadline(time.Now().Add(20*time.Second)))
	if err := lab.ReadReady(ready); err != nil {
		l.t.Fatalf("the agent was not ready: %v\n%s", err, l.log.Bytes())
	}
}

func (l *agentLab) endAgent(s syscall.Signal) {
	if l.daemon == nil {
		return
	}
	must(l.t, l.daemon.Process.Signal(s))
	if err := l.daemon.Wait(); s == syscall.SIGTERM && (err != nil || l.t.Failed()) {
		l.t.Errorf("the agent: %v\n%s", err, l.log.Bytes())
	}
	l.daemon = nil
}

func (l *agentLab) await(what string, f func() bool) {
	l.t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			s, _ := l.agent.Status(l.t.Context())
			l.t.Fatalf("%s: not so after 20 s; agent %+v %+v", what, s.Degraded, s.DSRAgent)
		}
	}
}

// counter is what the agent counted.
func (l *agentLab) counter(name string) uint64 {
	l.t.Helper()
	s, err := l.agent.Status(l.t.Context())
	must(l.t, err)
	for _, c := range s.DSRAgent.Counters {
		if c.Name == name {
			return c.Packets
		}
	}
	l.t.Fatalf("no counter %s", name)
	return 0
}

// dial makes a UDP socket of a client's.
func (l *agentLab) dial() (c net.Conn) {
	l.t.Helper()
	must(l.t, l.Server1.Do(func() (err error) {
		c, err = net.Dial("udp4", net.JoinHostPort(labVIP, strconv.Itoa(agentPort)))
		return err
	}))
	return c
}

// echoed sends a datagram to the service and returns the answer.
func (l *agentLab) echoed(text string) (answer string, err error) {
	c := l.dial()
	defer c.Close()
	return echoedBy(c, text)
}

func echoedBy(c net.Conn, text string) (answer string, err error) {
	buffer := make([]byte, 2048)
	for range 5 { // UDP may be lost
		if _, err = c.Write([]byte(text)); err != nil {
			return "", err
		}
		_ = c.SetReadDeadline(time.Now().Add(4 * time.Second))
		var n int
		if n, err = c.Read(buffer); err == nil {
			return string(buffer[:n]), nil
		}
	}
	return "", err
}

// TestDSRAgentLab: gateway and agent, by each dispatch, to a server of the node and
// to a pod, by TCP and UDP. The server sees the client; the answers do not pass the
// gateway, which counts none.
func TestDSRAgentLab(t *testing.T) {
	l := newAgentLab(t)
	for _, dispatch := range []string{"option", "ipip", "geneve"} {
		for where, backend := range map[string]string{"host": lab.Client1Address, "pod": podAddress} {
			t.Run(dispatch+"/"+where, func(t *testing.T) {
				l.use(dispatch, backend)
				before := l.counter("reply")
				want := backend + " served " + lab.Server1Address
				for range 3 {
					if body, err := l.get(l.Server1, "/"); err != nil || body != want {
						t.Fatalf("%q, %v; want %q", body, err, want)
					}
				}
				if body, err := l.get(l.Server1, "/large"); err != nil || len(body) != largeBody {
					t.Errorf("a large answer: %d bytes, %v", len(body), err)
				}
				if answer, err := l.echoed("hello"); err != nil || answer != want+": hello" {
					t.Errorf("UDP: %q, %v", answer, err)
				}
				if l.counter("reply") == before {
					t.Error("the agent translated nothing")
				}
				l.passedBy(t, backend)
			})
		}
	}
}

// passedBy: the gateway saw no answer, and the agent lists the flows.
func (l *agentLab) passedBy(t *testing.T, backend string) {
	t.Helper()
	// Workers publish what they counted a moment later.
	l.await("the gateway has counted the requests", func() bool {
		services, err := l.client.Services(t.Context(), "web")
		must(t, err)
		for _, s := range services {
			for _, b := range s.Backends {
				if b.Traffic.Packets.Reply != 0 {
					t.Fatalf("%s: answers passed the gateway: %+v", s.Protocol, b.Traffic)
				}
				if b.Traffic.Packets.Original == 0 {
					return false
				}
			}
		}
		return true
	})
	seen := map[string]int{}
	must(t, l.agent.Flows(t.Context(), control.Filter{}, func(f control.Flow) error {
		if f.Kind != "dsr-backend" || f.Original.Dst.String() != labVIP || f.Original.Src.String() != lab.Server1Address {
			t.Errorf("%+v", f)
		}
		l.explained(t, &f)
		if f.Backend == fmt.Sprintf("%s:%d", backend, agentPort) {
			seen[f.Protocol]++
		}
		return nil
	}))
	if seen["tcp"] < 4 || seen["udp"] < 1 {
		t.Errorf("flows of %s that the agent lists: %v", backend, seen)
	}
}

// explained: the agent tells of a reply what its source becomes.
func (l *agentLab) explained(t *testing.T, f *control.Flow) {
	t.Helper()
	e, err := l.agent.Explain(t.Context(), control.Question{
		Proto: f.Protocol, Src: netip.AddrPortFrom(f.Reply.Src, f.Reply.Sport), Dst: netip.AddrPortFrom(f.Reply.Dst, f.Reply.Dport),
	})
	if err != nil || e.Verdict != "pass to kernel" || e.Translated == nil || e.Translated.Src != f.Original.Dst || e.Translated.Sport != f.Original.Dport {
		t.Errorf("%+v, %v", e, err)
	}
}

// TestDSRAgentRestartLab kills the agent in the midst of a transfer: its programs
// stay, connections go on, and the next agent takes them over.
func TestDSRAgentRestartLab(t *testing.T) {
	l := newAgentLab(t)
	l.use("option", lab.Client1Address)
	var c net.Conn
	must(t, l.Server1.Do(func() (err error) {
		c, err = net.DialTimeout("tcp4", net.JoinHostPort(labVIP, strconv.Itoa(agentPort)), 20*time.Second)
		return err
	}))
	defer c.Close()
	request := func() {
		t.Helper()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		_, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: web\r\n\r\n")
		must(t, err)
		buffer := make([]byte, 1<<16)
		n, err := c.Read(buffer)
		if err != nil || !strings.Contains(string(buffer[:n]), "served "+lab.Server1Address) {
			t.Fatalf("%q, %v", buffer[:n], err)
		}
	}
	request()
	l.endAgent(syscall.SIGKILL)
	request()
	if _, err := l.get(l.Server1, "/"); err != nil {
		t.Errorf("a new connection without the agent's process: %v", err)
	}
	l.startAgent()
	request()
	if n := l.counter("learned"); n < 2 {
		t.Errorf("the new agent knows of %d flows", n)
	}
}

// TestDSRAgentBesideGatewayLab: a gateway becomes a DSR agent, too, by a reload, and
// ceases to be one by another; a configuration that is refused changes nothing.
func TestDSRAgentBesideGatewayLab(t *testing.T) {
	lab.RequireRoot(t)
	program := built(t, "")
	l := newLabWith(t, program, lab.Options{}, func(config string) string { return config })
	plain, err := os.ReadFile(l.file)
	must(t, err)
	reload := func(text string) error {
		must(t, os.WriteFile(l.file, append(bytes.Clone(plain), text...), 0o600))
		_, err := l.client.Reload(t.Context())
		return err
	}
	status := func() *control.DSRAgent {
		s, err := l.client.Status(t.Context())
		must(t, err)
		return s.DSRAgent
	}
	if s := status(); s != nil {
		t.Errorf("an agent that nobody asked for: %+v", s)
	}
	agent := fmt.Sprintf("dsr-agent: {interfaces: [%s], trusted-gateways: [10.20.30.99], services: [%s]}\n", lab.InsideNIC, labVIP)
	must(t, reload(agent))
	s := status()
	if s == nil || len(s.Interfaces) != 1 || s.Interfaces[0] != lab.InsideNIC || len(s.ReplyInterfaces) != 2 || s.Flows.Capacity == 0 {
		t.Errorf("%+v", s)
	}
	if err := reload("dsr-agent: {interfaces: [lo]}\n"); err == nil {
		t.Error("loopback was accepted")
	}
	if status() == nil {
		t.Error("a refused reload ended the agent")
	}
	drops, err := l.client.Drops(t.Context())
	must(t, err)
	if last := drops.Reasons[len(drops.Reasons)-1].Reason; !strings.HasPrefix(last, "dsr-agent-") {
		t.Errorf("the last drop reason is %s", last)
	}
	must(t, reload(""))
	if s := status(); s != nil {
		t.Errorf("still an agent: %+v", s)
	}
	if out, err := l.Gateway.Exec(program, "detach"); err != nil || strings.Contains(string(out), "dsr-agent") {
		t.Errorf("its programs are left: %v\n%s", err, out)
	}
}
