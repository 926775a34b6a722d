package main

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sluice/internal/control"
)

func TestStatus(t *testing.T) {
	g := &fake{status: busyStatus()}
	socket := serve(t, g)

	code, out, errOut := sluice(t, "status", "--socket", socket)
	if code != exitFine || errOut != "" {
		t.Errorf("exit %d, %s", code, errOut)
	}
	golden(t, "status.golden", out)

	code, out, _ = sluice(t, "status", "--verbose", "--socket", socket)
	if code != exitFine {
		t.Errorf("exit %d", code)
	}
	golden(t, "status-verbose.golden", out)

	g.change(func() {
		g.status.Degraded = []control.Degradation{
			{What: "eth0: the link is down", Remedy: "`ip link set eth0 up`"},
			{What: "the last reload was refused", Remedy: "correct the file and `sluice reload`"},
		}
		g.status.Config.LastReload = &control.LastReload{At: g.status.Started.Add(time.Hour), Error: "/etc/sluice/sluice.yaml:3: k: is not a key"}
		g.status.Interfaces[1].Up = false
		g.status.Workers[1].Running = false
		g.status.Steering.Pinned, g.status.Steering.Path = false, "no bpffs"
		g.status.Masquerade.Sources = nil
		g.status.StateFile.Tmpfs = false
		g.status.Punts = control.Punts{Problem: "this kernel is too old"}
	})
	code, out, errOut = sluice(t, "status", "--socket", socket)
	if code != exitDegraded || errOut != "" {
		t.Errorf("exit %d, %s; want 3", code, errOut)
	}
	golden(t, "status-degraded.golden", out)

	code, out, _ = sluice(t, "status", "-o", "json", "--socket", socket)
	var got control.Status
	if err := json.Unmarshal([]byte(out), &got); err != nil || strings.Count(out, "\n") != 1 {
		t.Fatalf("not one object: %v\n%s", err, out)
	}
	if code != exitDegraded || len(got.Degraded) != 2 || got.Interfaces[1].Name != "eth0" {
		t.Errorf("exit %d\n%s", code, out)
	}
}

// busyStatus is a gateway at work.
func busyStatus() control.Status {
	started := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	prefix := netip.MustParsePrefix
	queue := func(q, worker int, mode, reason string) control.Queue {
		return control.Queue{
			Queue: q, Worker: worker, Mode: mode, ModeReason: reason, ZeroCopy: mode == "zero-copy", Up: true,
			FillRing: control.Ring{Size: 2048, Used: 2040}, RXRing: control.Ring{Size: 2048, Used: 3},
			TXRing: control.Ring{Size: 2048}, CompletionRing: control.Ring{Size: 2048},
			RXPackets: 123456789, RXBytes: 98765432100, TXPackets: 1234, TXBytes: 999,
			Drops: control.QueueDrops{RXRingFull: 17, FillRingEmpty: 4},
		}
	}
	return control.Status{
		Version: control.Version{Version: "v0.2.0", Commit: strings.Repeat("c", 40), Go: "go1.26.8", Arch: "amd64"},
		PID:     4711, Started: started, UptimeSeconds: 11530.4,
		Config: control.ConfigStatus{Path: "/etc/sluice/sluice.yaml", Loaded: started, Warnings: []string{"/etc/sluice/sluice.yaml:9: masquerade.nodes[1]: warning: 192.0.2.10 is listed twice"}},
		Workers: []control.Worker{
			{ID: 0, CPU: 2, Running: true, HeartbeatAgeSeconds: 0.04, Packets: 123456789, Utilisation: 0.731, Frames: control.Frames{Free: 4000, Fill: 4080, RX: 3, TX: 90, Held: 19, Total: 8192, Bytes: 16 << 20}},
			{ID: 1, CPU: -1, Running: true, HeartbeatAgeSeconds: 0.1, Frames: control.Frames{Free: 8192, Total: 8192, Bytes: 16 << 20}},
		},
		Interfaces: []control.Interface{
			{Name: "eth1", Role: "inside", Up: true, Driver: "mlx5_core", MTU: 1500, Addresses: []netip.Prefix{prefix("10.20.30.1/24")}, Queues: []control.Queue{queue(0, 0, "zero-copy", ""), queue(1, 1, "zero-copy", "")}},
			{
				Name: "eth0", Role: "outside", Up: true, Driver: "veth", MTU: 1500, Addresses: []netip.Prefix{prefix("198.51.100.2/24"), prefix("198.51.100.9/24")},
				Notes: []string{"native XDP on veth limits frames to 3498 bytes"}, Queues: []control.Queue{queue(0, 0, "copy", "the driver has no zero-copy"), {Queue: 1, Worker: 1}},
			},
		},
		Masquerade: control.Masquerade{
			Enabled: true, Sources: []netip.Prefix{prefix("10.20.30.0/24")}, PortRange: "1024-65535",
			Exclusions: []control.Exclusion{{Rule: "native-routing", Prefix: prefix("10.0.0.0/8"), Line: 8}, {Rule: "link-local", Prefix: prefix("169.254.0.0/16")}},
			Addresses: []control.ExternalAddress{
				{Address: netip.MustParseAddr("198.51.100.2"), Interface: "eth0", Shared: true, Use: control.ForMasquerading, Capacity: 64512, InUse: control.PortsInUse{TCP: 40000, UDP: 23, ICMP: 1}},
				{Address: netip.MustParseAddr("203.0.113.4"), Use: control.ForMasquerading, Capacity: 64512},
				{Address: netip.MustParseAddr("203.0.113.9"), Use: control.ForForwards, InUse: control.PortsInUse{TCP: 2}},
				{Address: netip.MustParseAddr("10.20.30.1"), Interface: "eth1", Shared: true, Use: control.ForServices, Capacity: 64512, InUse: control.PortsInUse{TCP: 7}},
			},
		},
		Services: control.ServiceUsage{Count: 3, Modes: []string{"dsr", "snat"}, Dispatch: "option", Algorithms: []string{"maglev"}, Backends: 4, Selectable: 3},
		Flows:    control.FlowUsage{Usage: control.Usage{Used: 40024, Capacity: 1 << 20}, Protocols: map[string]int{"tcp": 40000, "udp": 23, "icmp": 1}, States: map[string]int{"established": 39000, "syn-sent": 1000, "replied": 24}},
		Mappings: control.Usage{Used: 40024, Capacity: 1 << 20}, Sources: control.Usage{Used: 2, Capacity: 1 << 18},
		Timeouts:    control.Timeouts{TCPEstablished: 7440, TCPTransitory: 240, TCPClosing: 60, TCPSyn: 240, TCPClose: 240, TCPTimeWait: 120, UDP: 300, UDPUnreplied: 120, ICMP: 60, Other: 600, UDPPorts: map[string]float64{"3478-3481": 600, "53": 17}},
		Steering:    control.Steering{OnFailure: "drop", Pinned: true, Path: "/sys/fs/bpf/sluice/4026531840", Counters: []control.Counter{{Name: "to-worker-held-port", Packets: 123456}, {Name: "pass-not-ipv4", Packets: 7}}},
		Punts:       control.Punts{LimitPerSecond: 10000, Reasons: []control.Punt{{Reason: "host-owned", Passed: 1234, Refused: 5}, {Reason: "kernel-route", Passed: 7, Failed: 1}}},
		Router:      control.Router{ICMPErrors: []control.Counter{{Name: "time-exceeded", Packets: 12}, {Name: "prohibited"}}, ICMPErrorsLimited: 3, FragmentedPackets: 4, Fragments: 9},
		StateFile:   control.StateFile{Path: "/run/sluice/flows", Tmpfs: true, Adopted: 998, Dropped: 2, Start: "998 flows with 500 mappings adopted after a crash; ended: 2 torn"},
		Looks:       []control.Look{{Kind: "capture", Filter: "host 10.20.30.5", Since: started, Peer: control.Peer{PID: 4800}}, {Kind: "trace", Since: started, Peer: control.Peer{UID: 1000}}},
		Unsupported: []string{"rule 100: fwmark 0x1"},
		Netfilter:   []string{"nft table ip filter has rules on eth0"},
	}
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	tab := newTable(&b, left("NAME"), right("N"), left("HIDDEN"), left("WORDS"))
	tab.hide(2)
	tab.row("ä", "1", "x", "trailing ")
	tab.row("longer", "1000", "x", "")
	if err := tab.flush(); err != nil {
		t.Fatal(err)
	}
	want := "NAME       N  WORDS\nä          1  trailing\nlonger  1000\n"
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d)
	}
}

func TestBytesOf(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1 << 30: "1.0 GiB", 1<<64 - 1: "16.0 EiB"} {
		if got := bytesOf(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
