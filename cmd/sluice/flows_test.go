package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"sluice/internal/control"
)

func flow(proto, state, kind string, orig, reply control.Tuple) control.Flow {
	return control.Flow{
		Protocol: proto, State: state, Kind: kind, Original: orig, Reply: &reply, TimeoutSeconds: 7439,
		Packets: control.Pair{Original: 12, Reply: 10}, Bytes: control.Pair{Original: 1500, Reply: 90000},
		Created: time.Unix(1700000000, 0).UTC(),
	}
}

func someFlows() []control.Flow {
	a := netip.MustParseAddr
	tuple := func(src, dst string, sport, dport uint16) control.Tuple {
		return control.Tuple{Src: a(src), Dst: a(dst), Sport: sport, Dport: dport}
	}
	waiting := flow("udp", "unreplied", "masquerade",
		tuple("10.20.30.12", "198.51.100.12", 5353, 53), tuple("198.51.100.12", "198.51.100.2", 53, 5353))
	waiting.Packets.Reply, waiting.Bytes.Reply = 0, 0
	direct := flow("tcp", "established", "service-dsr", tuple("192.0.2.7", "198.51.100.10", 33000, 80), control.Tuple{})
	direct.Reply, direct.Service, direct.Backend = nil, "web", "10.0.2.123:80"
	return []control.Flow{
		flow("tcp", "established", "masquerade",
			tuple("10.20.30.11", "198.51.100.11", 40000, 443), tuple("198.51.100.11", "198.51.100.2", 443, 40000)),
		waiting,
		flow("icmp", "replied", "forward", tuple("10.20.30.11", "10.99.0.10", 7, 0), tuple("10.99.0.10", "10.20.30.11", 7, 0)),
		flow("47", "replied", "forward", tuple("10.20.30.11", "10.99.0.10", 0, 0), tuple("10.99.0.10", "10.20.30.11", 0, 0)),
		direct,
	}
}

func TestFlowsList(t *testing.T) {
	g := &fake{flows: someFlows()}
	socket := serve(t, g)
	code, out, errOut := sluice(t, "flows", "list", "--socket", socket)
	if code != exitFine || errOut != "" {
		t.Fatalf("exit %d, %s", code, errOut)
	}
	golden(t, "flows.golden", out)
	code, out, _ = sluice(t, "flows", "list", "-o", "json", "--socket", socket)
	if code != exitFine {
		t.Fatalf("exit %d", code)
	}
	golden(t, "flows.json.golden", out)
}

func TestFlowsFilters(t *testing.T) {
	g := &fake{flows: someFlows()}
	socket := serve(t, g)
	for args, want := range map[string]int{
		"":                               5,
		"--proto tcp":                    2,
		"--proto 6":                      2,
		"--proto icmp":                   1,
		"--src 10.20.30.0/24":            4,
		"--src 10.20.30.11":              3,
		"--dst 198.51.100.0/28":          3,
		"--sport 40000 --dport 443":      1,
		"--sport 7 --proto icmp":         1,
		"--state established":            2,
		"--state ESTABLISHED":            2,
		"--service web":                  1,
		"--natted":                       3,
		"--natted=false":                 5,
		"--natted --proto tcp --dport 1": 0,
	} {
		fields := append(strings.Fields(args), "--socket", socket)
		_, out, errOut := sluice(t, append([]string{"flows", "list"}, fields...)...)
		code, count, _ := sluice(t, append([]string{"flows", "count"}, fields...)...)
		if n := strings.Count(out, "\n"); n != want || strings.TrimSpace(count) != string(rune('0'+want)) || code != exitFine || errOut != "" {
			t.Errorf("%s: listed %d, counted %s, want %d; %s", args, n, count, want, errOut)
		}
	}
	_, out, _ := sluice(t, "flows", "count", "-o", "json", "--socket", socket)
	if want := `{"count":5,"capacity":1048576}` + "\n"; out != want {
		t.Errorf("%q, want %q", out, want)
	}
	if g.asked.Load().Natted {
		t.Error("the filter of one command is left over in the next")
	}
}
