package daemon

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// TestTellLink: a link that goes down or comes up is logged once each, and that of
// another device than the one in service not at all.
func TestTellLink(t *testing.T) {
	var log bytes.Buffer
	d := &Daemon{log: slog.New(slog.NewTextHandler(&log, nil))}
	l := &linkState{serving: 3, up: true}
	for _, tt := range []struct {
		is   device
		want string // of the line; "" = none
	}{
		{device{ifindex: 3, up: true}, ""},
		{device{ifindex: 3}, `level=WARN msg="link is down: what leaves by it is dropped" interface=eth0`},
		{device{ifindex: 3}, ""},
		{device{ifindex: 4, up: true}, ""},
		{device{ifindex: 0}, ""},
		{device{ifindex: 3, up: true}, `level=INFO msg="link is up" interface=eth0`},
		{device{ifindex: 3, mtu: 9000, up: true}, ""},
	} {
		log.Reset()
		d.tellLink(l, "eth0", tt.is)
		if got := strings.TrimSpace(log.String()); got == "" != (tt.want == "") || !strings.HasSuffix(got, tt.want) {
			t.Errorf("%+v: %q, want %q", tt.is, got, tt.want)
		}
	}
	l.serving = 0
	log.Reset()
	if d.tellLink(l, "eth0", device{ifindex: 0}); log.Len() > 0 {
		t.Errorf("without a device: %s", log.String())
	}
}
