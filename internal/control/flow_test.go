package control

import (
	"encoding/json"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func TestFlowJSONIsTheContract(t *testing.T) {
	_, path := serve(t, &scripted{flows: 1})
	const want = `{"protocol":"tcp","state":"established","original":{"src":"10.0.0.5","dst":"1.1.1.1","sport":0,"dport":443},` +
		`"reply":{"src":"1.1.1.1","dst":"192.0.2.1","sport":443,"dport":0},"kind":"masquerade","timeout_seconds":7440,` +
		`"packets":{"original":1,"reply":2},"bytes":{"original":60,"reply":120},"created":"2023-11-14T22:13:20Z","service":"","backend":""}` + "\n"
	if got := raw(t, path, "GET", "/v1/flows"); got != want {
		t.Errorf("got  %swant %s", got, want)
	}
}

func TestFilterQueryRoundTrip(t *testing.T) {
	p := uint16(0)
	for _, w := range []Filter{
		{},
		{Proto: "47", Src: netip.MustParsePrefix("10.0.0.0/8"), Dst: netip.MustParsePrefix("1.1.1.1/32")},
		{Sport: &p, Dport: &p, State: "syn-sent", Service: "web", Natted: true},
	} {
		got, err := ParseFilter(w.Values())
		if err != nil {
			t.Fatal(err)
		}
		a, _ := json.Marshal(w)
		b, _ := json.Marshal(got)
		if string(a) != string(b) || got.All() != w.All() {
			t.Errorf("%s became %s", a, b)
		}
	}
}

func TestNatted(t *testing.T) {
	a := netip.MustParseAddr
	orig := Tuple{a("10.0.0.5"), a("1.1.1.1"), 4000, 443}
	for name, tc := range map[string]struct {
		proto string
		orig  Tuple
		reply *Tuple
		want  bool
	}{
		"forwarded":          {"tcp", orig, &Tuple{a("1.1.1.1"), a("10.0.0.5"), 443, 4000}, false},
		"masqueraded":        {"tcp", orig, &Tuple{a("1.1.1.1"), a("192.0.2.1"), 443, 4000}, true},
		"other port":         {"tcp", orig, &Tuple{a("1.1.1.1"), a("10.0.0.5"), 443, 4001}, true},
		"no reply seen here": {"tcp", orig, nil, true},
		"ping forwarded":     {"icmp", Tuple{a("10.0.0.5"), a("1.1.1.1"), 7, 0}, &Tuple{a("1.1.1.1"), a("10.0.0.5"), 7, 0}, false},
		"ping masqueraded":   {"icmp", Tuple{a("10.0.0.5"), a("1.1.1.1"), 7, 0}, &Tuple{a("1.1.1.1"), a("10.0.0.5"), 8, 0}, true},
	} {
		f := Flow{Protocol: tc.proto, Original: tc.orig, Reply: tc.reply}
		if f.Natted() != tc.want {
			t.Errorf("%s: Natted is %v", name, !tc.want)
		}
	}
}

// A misspelt word must not look like an empty table.
func TestFilterRefusesUnknownWords(t *testing.T) {
	for query, want := range map[string]string{
		"state=establishd": `state: "establishd" is not a state; these are: syn-sent, `,
		"state=":           `state: "" is not a state`,
		"proto=tpc":        `proto: "tpc" is not a protocol; use tcp, `,
	} {
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseFilter(v); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", query, err, want)
		}
	}
	for query, want := range map[string]Filter{
		"proto=GRE": {Proto: "47"}, "proto=sctp": {Proto: "132"}, "proto=17": {Proto: "udp"}, "state=TIME-WAIT": {State: "time-wait"},
	} {
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseFilter(v); err != nil || got != want {
			t.Errorf("%s: %+v, %v", query, got, err)
		}
	}
}
