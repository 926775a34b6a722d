package bench

import (
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
)

// TestPktgen: the commands that the kernel's documentation asks for, in an order
// that it takes; its answer read; the device given back whatever happens.
func TestPktgen(t *testing.T) {
	var told []string
	answer := "Params: count 1000  min_pkt_size: 60\nCurrent:\n     pkts-sofar: 1000  errors: 0\n" +
		"Result: OK: 2500(c2400+d100) usec, 1000 (60byte,0frags)\n  400000pps 192Mb/sec (192000000bps) errors: 0\n"
	refuse := ""
	p := &pktgen{thread: "kpktgend_0", device: "eth0", setup: pktgenSetup(net.HardwareAddr{2, 0, 0, 0, 0, 1})}
	p.write = func(file, command string) error {
		told = append(told, file+" "+command)
		if command == refuse {
			return errors.New("refused")
		}
		return nil
	}
	p.read = func(string) ([]byte, error) { return []byte(answer), nil }
	sent, took, err := p.run(1000)
	if err != nil || sent != 1000 || took != 2500 {
		t.Fatalf("%d packets in %d µs: %v", sent, took, err)
	}
	for _, want := range []string{"eth0 count 1000", "eth0 pkt_size 60", "eth0 dst_mac 02:00:00:00:00:01", "eth0 udp_src_max 21024", "eth0 udp_dst_min 9"} {
		if !slices.Contains(told, want) {
			t.Errorf("not told: %q", want)
		}
	}
	add, start := slices.Index(told, "kpktgend_0 add_device eth0"), slices.Index(told, "pgctrl start")
	if add != 1 || start != len(told)-2 || told[len(told)-1] != "kpktgend_0 rem_device_all" {
		t.Errorf("order: %q", told)
	}
	refuse, told = "clone_skb 0", nil
	if _, _, err := p.run(1); err == nil || !strings.Contains(err.Error(), "clone_skb") || told[len(told)-1] != "kpktgend_0 rem_device_all" {
		t.Errorf("%v, %q", err, told)
	}
	refuse, answer = "", "Result: Idle"
	if _, _, err := p.run(1); err == nil {
		t.Error("an answer without a result passed")
	}
}
