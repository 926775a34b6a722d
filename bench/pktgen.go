package bench

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"sluice/internal/lab"
)

// pktgenDir is where the kernel's own generator is told what to do, of the
// calling thread's network namespace (Documentation/networking/pktgen.rst). It
// is there where the module is loaded: modprobe pktgen.
const pktgenDir = "/proc/thread-self/net/pktgen"

// pktgen floods with the kernel's generator: packets that no socket and no user
// space made, of as many flows as the other generator's. They carry no sequence
// number and no checksum, so the sink only counts them.
type pktgen struct {
	thread string // file of the generator's thread
	device string // interface, and file
	setup  []string
	write  func(file, command string) error
	read   func(file string) ([]byte, error)
}

// newPktgen makes a generator on the client's interface of a lane, on a CPU. It
// returns nil where the kernel has none.
func newPktgen(ns *lab.Namespace, cpu int, gateway net.HardwareAddr) *pktgen {
	if ns.Do(func() error { _, err := os.Stat(filepath.Join(pktgenDir, "pgctrl")); return err }) != nil {
		return nil
	}
	p := &pktgen{thread: "kpktgend_" + strconv.Itoa(cpu), device: laneNIC, setup: pktgenSetup(gateway)}
	p.write = func(file, command string) error {
		return ns.Do(func() error { return os.WriteFile(filepath.Join(pktgenDir, file), []byte(command), 0) })
	}
	p.read = func(file string) (b []byte, err error) {
		err = ns.Do(func() error { b, err = os.ReadFile(filepath.Join(pktgenDir, file)); return err })
		return b, err
	}
	return p
}

// pktgenSetup are the commands that describe the packets. What the kernel calls
// the maximum of a range it excludes.
func pktgenSetup(gateway net.HardwareAddr) []string {
	return []string{
		fmt.Sprintf("pkt_size %d", frameLength),
		"dst_mac " + gateway.String(),
		"src_min " + clientAddress, "src_max " + clientAddress,
		"dst_min " + serverAddress, "dst_max " + serverAddress,
		fmt.Sprintf("udp_src_min %d", firstPort), fmt.Sprintf("udp_src_max %d", firstPort+wireFlows),
		fmt.Sprintf("udp_dst_min %d", discardPort), fmt.Sprintf("udp_dst_max %d", discardPort),
		"delay 0", "clone_skb 0",
	}
}

// pktgenResult matches what the device's file says after a run:
//
//	Result: OK: 1234567(c1234000+d567) usec, 1000000 (60byte,0frags)
var pktgenResult = regexp.MustCompile(`Result: OK: (\d+)\(.*\) usec, (\d+) \(`)

// run sends so many packets, and returns how many left and how long that took.
func (p *pktgen) run(count int64) (sent, microseconds int64, err error) {
	defer func() {
		if e := p.write(p.thread, "rem_device_all"); e != nil || err != nil {
			err = fmt.Errorf("bench: pktgen: %w", errors.Join(err, e))
		}
	}()
	commands := [][2]string{{p.thread, "rem_device_all"}, {p.thread, "add_device " + p.device}, {p.device, fmt.Sprintf("count %d", count)}}
	for _, c := range p.setup {
		commands = append(commands, [2]string{p.device, c})
	}
	// This write returns when all packets are sent.
	commands = append(commands, [2]string{"pgctrl", "start"})
	for _, c := range commands {
		if err := p.write(c[0], c[1]); err != nil {
			return 0, 0, fmt.Errorf("%s %q: %w", c[0], c[1], err)
		}
	}
	b, err := p.read(p.device)
	if err != nil {
		return 0, 0, err
	}
	m := pktgenResult.FindSubmatch(b)
	if m == nil {
		return 0, 0, fmt.Errorf("%s says no result: %q", p.device, b)
	}
	microseconds, err = strconv.ParseInt(string(m[1]), 10, 64)
	if err == nil {
		sent, err = strconv.ParseInt(string(m[2]), 10, 64)
	}
	return sent, microseconds, err
}
