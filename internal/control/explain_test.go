package control

import (
	"net/url"
	"strings"
	"testing"
)

// TestQuestion: what is read is what was written.
func TestQuestion(t *testing.T) {
	for _, text := range []string{
		"proto=tcp&src=10.0.0.5:40000&dst=1.1.1.1:443",
		"proto=udp&src=10.0.0.5:1&dst=1.1.1.1:65535&in=eth1",
		"proto=icmp&src=10.0.0.5:0&dst=1.1.1.1",
		"proto=icmp&src=10.0.0.5:7&dst=1.1.1.1",
		"proto=icmp&src=10.0.0.5&dst=1.1.1.1",
		"proto=47&src=10.0.0.5&dst=1.1.1.1",
		"proto=6&src=10.0.0.5:40000&dst=1.1.1.1:443",
	} {
		v, _ := url.ParseQuery(text)
		q, err := ParseQuestion(v)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if again, err := ParseQuestion(q.Values()); err != nil || again != q {
			t.Errorf("%s: %+v became %+v, %v", text, q, again, err)
		}
	}
}

func TestQuestionRefused(t *testing.T) {
	for text, want := range map[string]string{
		"proto=&src=10.0.0.5:4&dst=1.1.1.1:443":                   "proto:",
		"proto=tpc&src=10.0.0.5:4&dst=1.1.1.1:443":                `proto: "tpc" is not a protocol`,
		"proto=tcp&dst=1.1.1.1:443":                               "src: is missing; write ADDRESS:PORT",
		"proto=tcp&src=10.0.0.5:4":                                "dst: is missing",
		"proto=tcp&src=10.0.0.5&dst=1.1.1.1:443":                  `src: "10.0.0.5" has no port; write 10.0.0.5:PORT`,
		"proto=tcp&src=10.0.0.5:0&dst=1.1.1.1:443":                "does not end in a port",
		"proto=tcp&src=10.0.0.5:70000&dst=1.1.1.1:443":            "does not end in a port",
		"proto=tcp&src=[fd00::1]:4&dst=1.1.1.1:443":               "IPv4",
		"proto=tcp&src=example.com:4&dst=1.1.1.1:443":             "IPv4",
		"proto=47&src=10.0.0.5:4&dst=1.1.1.1":                     "has a port, which 47 has not",
		"proto=icmp&src=10.0.0.5:4&dst=1.1.1.1:5":                 "has a port, which icmp has not",
		"proto=icmp&dst=1.1.1.1":                                  "write ADDRESS or ADDRESS:IDENTIFIER",
		"proto=tcp&src=10.0.0.5:4&dst=1.1.1.1:443&sport=5":        "sport: not part of a question",
		"proto=tcp&src=10.0.0.5:4&src=10.0.0.6:4&dst=1.1.1.1:443": "src: given 2 times",
	} {
		v, _ := url.ParseQuery(text)
		if _, err := ParseQuestion(v); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestConfigOverTheSocket(t *testing.T) {
	c, _ := serve(t, &scripted{})
	if text, err := c.Config(t.Context()); err != nil || text.Path != "/etc/s.yaml" || text.Text != "cpus: [1]\n" {
		t.Errorf("%+v, %v", text, err)
	}
}

// TestExplainOverTheSocket: the question arrives as it was asked, the answer has
// lists where its type says so, and a refusal is an error.
func TestExplainOverTheSocket(t *testing.T) {
	c, _ := serve(t, &scripted{})
	v, _ := url.ParseQuery("src=10.0.0.5:40000&dst=1.1.1.1:443&in=eth1")
	q, err := ParseQuestion(v)
	if err != nil {
		t.Fatal(err)
	}
	e, err := c.Explain(t.Context(), q)
	if err != nil || e.Verdict != "forward" || e.In != "eth1" || e.Protocol != "tcp" || e.Original.Sport != 40000 || e.Assumptions == nil || e.Decisions == nil {
		t.Errorf("%+v, %v", e, err)
	}
	q.In = "nowhere"
	if _, err := c.Explain(t.Context(), q); err == nil || err.Error() != "in: nowhere is not an interface" {
		t.Errorf("%v", err)
	}
}
