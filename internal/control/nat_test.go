package control

import (
	"encoding/json"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func addrPort(a netip.Addr, p uint16) netip.AddrPort { return netip.AddrPortFrom(a, p) }

// TestFlowJSON holds the encoder of lists to encoding/json.
func TestFlowJSON(t *testing.T) {
	g := &scripted{}
	plain, odd, dsr := g.flow(7), g.flow(8), g.flow(9)
	odd.Service, odd.Backend, odd.State = "w\"e<b>\n\u2028é", "10.0.0.1:80", "a&b"
	odd.Created = time.Date(2026, 11, 25, 5, 3, 1, 120e6, time.FixedZone("", 3600))
	dsr.Reply = nil
	for _, f := range []Flow{plain, odd, dsr} {
		want, err := json.Marshal(&f)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.appendJSON(nil); string(got) != string(want) {
			t.Errorf("\n got %s\nwant %s", got, want)
		}
	}
	line := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() { line = plain.appendJSON(line[:0]) }); n != 0 {
		t.Errorf("%v allocations a flow", n)
	}
}

func TestWatchFlows(t *testing.T) {
	c, _ := serve(t, &scripted{flows: 100})
	port := uint16(42)
	var got []FlowEvent
	begun := false
	err := c.WatchFlows(t.Context(), Filter{Sport: &port}, func() { begun = true }, func(e *FlowEvent) error {
		got = append(got, *e)
		return nil
	})
	if err != nil || !begun || len(got) != 2 || got[0].Event != EventNew || got[0].Original.Sport != 42 || got[1].Event != EventLost || got[1].Lost != 7 {
		t.Errorf("begun %v, %+v, %v", begun, got, err)
	}
}

func TestFlushFlows(t *testing.T) {
	port := uint16(42)
	for name, tc := range map[string]struct {
		filter Filter
		all    bool
		want   int
		says   string
	}{
		"filter":               {Filter{Sport: &port}, false, 1, ""},
		"all":                  {Filter{}, true, 100, ""},
		"nothing said":         {Filter{}, false, 0, "would end every flow"},
		"all beside a filter":  {Filter{Sport: &port}, true, 0, "one or the other"},
		"filter of no meaning": {Filter{Proto: "tpc"}, false, 0, "not a protocol"},
	} {
		t.Run(name, func(t *testing.T) {
			g := &scripted{flows: 100}
			c, _ := serve(t, g)
			f, err := c.FlushFlows(t.Context(), tc.filter, tc.all)
			if (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error %v", err)
			}
			if f.Flushed != tc.want || g.flushed.Load() != int64(tc.want) {
				t.Errorf("%d flushed, said %d, want %d", g.flushed.Load(), f.Flushed, tc.want)
			}
		})
	}
}

func TestFlushAsksForRights(t *testing.T) {
	g := &scripted{flows: 3}
	c, _ := serve(t, g, func(s *Server) {
		s.peer = func(net.Conn) (Peer, bool) { return Peer{UID: uint32(os.Geteuid()) + 4711}, true }
	})
	if _, err := c.FlushFlows(t.Context(), Filter{}, true); err == nil || g.flushed.Load() != 0 {
		t.Errorf("error %v, %d flows flushed", err, g.flushed.Load())
	}
}

func TestNAT(t *testing.T) {
	g := &scripted{flows: 100}
	c, path := serve(t, g)
	p, err := c.Pools(t.Context(), 3)
	if err != nil || len(p.Sources) != 3 {
		t.Errorf("%+v, %v", p, err)
	}
	var got []Mapping
	filter := MappingFilter{Proto: "tcp", Inside: netip.MustParsePrefix("10.0.0.0/8"), External: netip.MustParsePrefix("192.0.2.1/32")}
	if err := c.Mappings(t.Context(), filter, func(m *Mapping) error { got = append(got, *m); return nil }); err != nil || len(got) != 100 {
		t.Errorf("%d mappings, %v", len(got), err)
	}
	h, err := c.Who(t.Context(), Endpoint{"tcp", netip.MustParseAddrPort("192.0.2.1:42")})
	eq := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	if want := []Mapping{g.mapping(42)}; err != nil || cmp.Diff(want, h.Holders, eq) != "" {
		t.Errorf("%+v, %v", h, err)
	}
	if h, err := c.Who(t.Context(), Endpoint{"udp", netip.MustParseAddrPort("192.0.2.1:42")}); err != nil || h.Holders == nil || len(h.Holders) != 0 {
		t.Errorf("%+v, %v", h, err)
	}
	for target, want := range map[string]string{
		"/v1/nat/pools?top=-1":                             "0 to 1000",
		"/v1/nat/pools?tops=1":                             "takes top",
		"/v1/nat/mappings?inside=fd00::1":                  "not an IPv4",
		"/v1/nat/mappings?outside=10.0.0.1":                "not a filter",
		"/v1/nat/mappings?inside=10.0.0.1&inside=10.0.0.2": "give it once",
		"/v1/nat/who":                                      "ADDRESS:PORT",
		"/v1/nat/who?external=[::1]:80":                    "ADDRESS:PORT",
		"/v1/nat/who?external=192.0.2.1:80&proto=tpc":      "not a protocol",
		"/v1/flows/watch?sorce=10.0.0.1":                   "not a filter",
		"/metrics":                                         "no metrics",
	} {
		if status, body := request(t, path, "GET", target); status/100 != 4 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", target, status, body)
		}
	}
}

// TestEveryRouteIsDocumented holds docs/api.md to the routes, both ways, and to
// who may use each.
func TestEveryRouteIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented, there []string
	for _, m := range regexp.MustCompile("(?m)^### `([A-Z]+ /[^`]*)`( \\(write\\))?$").FindAllStringSubmatch(string(text), -1) {
		documented = append(documented, m[1]+m[2])
	}
	for _, r := range NewServer(nil, Version{}, slog.New(slog.DiscardHandler)).routes() {
		name := r.pattern
		if r.writes {
			name += " (write)"
		}
		there = append(there, name)
	}
	slices.Sort(documented)
	slices.Sort(there)
	if d := cmp.Diff(there, documented); d != "" {
		t.Errorf("docs/api.md against the routes (-there +documented):\n%s", d)
	}
}
