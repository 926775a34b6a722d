package daemon

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"sluice/internal/lab"
)

// kernelTCP reads a counter of the TcpExt section of a host's netstat.
func (l *restartLab) kernelTCP(host *lab.Namespace, name string) (value uint64) {
	l.Helper()
	if err := host.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/netstat")
		if err != nil {
			return err
		}
		lines := strings.Split(string(text), "\n")
		for i := 0; i+1 < len(lines); i += 2 {
			names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
			for j, n := range names {
				if n == name && names[0] == "TcpExt:" {
					value, err = strconv.ParseUint(values[j], 10, 64)
					return err
				}
			}
		}
		return fmt.Errorf("netstat has no %s", name)
	}); err != nil {
		l.Fatal(err)
	}
	return value
}

// TestSACKUnderLoss: real kernels move megabytes both ways over connections with
// SACK, scaled windows and timestamps, while the outside segment loses a frame in
// fifty. Retransmissions fill holes far behind what was sent, acknowledgements stand
// still while SACK goes on; yet no segment is out of the windows that the gateway
// goes by, which do not read SACK.
func TestSACKUnderLoss(t *testing.T) {
	l := newRestartLab(t)
	lab.RequireProgram(t, "nft", "nftables")
	for _, command := range []string{
		"add table bridge loss", "add chain bridge loss forward { type filter hook forward priority 0; }",
		"add rule bridge loss forward numgen random mod 50 < 1 drop",
	} {
		if out, err := l.OutsideSwitch.Exec("nft", strings.Fields(command)...); err != nil {
			t.Fatalf("nft %s: %v: %s", command, err, out)
		}
	}
	l.start()
	var listener net.Listener
	if err := l.Server1.Do(func() (err error) {
		listener, err = net.Listen("tcp4", lab.Server1Address+":7008")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	const connections, size = 4, 1 << 20
	data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	var running sync.WaitGroup
	var errs chan error
	move := func(c net.Conn) {
		if err := c.SetDeadline(time.Now().Add(60 * time.Second)); err != nil {
			errs <- err
			return
		}
		running.Go(func() {
			_, err := c.Write(data)
			errs <- err
		})
		running.Go(func() {
			got := make([]byte, size)
			_, err := io.ReadFull(c, got)
			if err == nil && !bytes.Equal(got, data) {
				err = fmt.Errorf("the data arrived damaged")
			}
			errs <- err
		})
	}
	var ends []net.Conn
	var external netip.AddrPort // of one of them
	for range connections {
		var c net.Conn
		if err := l.Client1.Do(func() (err error) {
			c, err = net.DialTimeout("tcp4", listener.Addr().String(), 30*time.Second)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		external = s.RemoteAddr().(*net.TCPAddr).AddrPort()
		ends = append(ends, c, s)
	}
	// What is lost is a matter of chance: until both have recovered often enough.
	for round := 1; l.kernelTCP(l.Client1, "TCPSackRecovery") < 5 || l.kernelTCP(l.Server1, "TCPSackRecovery") < 5; round++ {
		if round > 50 {
			t.Fatal("50 times 8 MB, and the kernels have hardly recovered by SACK: it proves nothing")
		}
		errs = make(chan error, 2*len(ends))
		for _, c := range ends {
			move(c)
		}
		running.Wait()
		close(errs)
		for err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	// One that is forged comes last, so that when it is counted the others are. It
	// must not get lost.
	if out, err := l.OutsideSwitch.Exec("nft", "delete", "table", "bridge", "loss"); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	newForger(t, l.Server2).send(netip.MustParseAddrPort(listener.Addr().String()), external, layers.TCP{ACK: true})
	n := uint64(0)
	for deadline := time.Now().Add(20 * time.Second); n == 0; time.Sleep(10 * time.Millisecond) {
		if n = l.status().Router.TCPOutOfWindow; n == 0 && time.Now().After(deadline) {
			t.Fatal("a forged segment is not out of window")
		}
	}
	if n != 1 {
		t.Errorf("%d segments of healthy connections are out of window", n-1)
	}
	if n := l.inState("established"); n != connections {
		t.Errorf("%d of %d connections are established", n, connections)
	}
	if r := l.Checker.Close(); r.Err() != nil {
		t.Error(r.Err())
	}
	l.stop(syscall.SIGTERM)
}
