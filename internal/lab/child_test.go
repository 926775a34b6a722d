package lab

import (
	"net"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestSpawn: the child runs inside the namespace, and how it ended is told.
func TestSpawn(t *testing.T) {
	RequireRoot(t)
	ns, err := NewNamespace("child")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	c, err := ns.Spawn(exec.Command("sh", "-c", "test \"$(readlink /proc/self/ns/net)\" != \"$(readlink /proc/1/ns/net)\" && exit 7"))
	if err != nil {
		t.Fatal(err)
	}
	<-c.Done
	if c.Err == nil || c.Cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("ended with %v", c.Err)
	}
	if _, err := ns.Spawn(exec.Command("/no/such/program")); err == nil {
		t.Error("a program that is not there was started")
	}
}

func TestReadReady(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ready := make(chan error, 2)
	go func() { ready <- ReadReady(l) }()
	for _, message := range []string{"STATUS=not READY=1 yet", "READY=10", "STATUS=forwarding\nREADY=1"} {
		if _, err := c.Write([]byte(message)); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-ready; err != nil {
		t.Error(err)
	}
	go func() { ready <- ReadReady(l) }()
	l.Close()
	if <-ready == nil {
		t.Error("ready, although the socket was closed")
	}
}
