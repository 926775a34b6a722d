package faults

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"sluice/internal/lab"
)

// TestPoolAddresses: sources are masqueraded to addresses that the host does not
// have. Nobody but Sluice answers ARP for them; each source keeps the one it got
// (RFC 4787 REQ-2), towards every destination.
func TestPoolAddresses(t *testing.T) {
	r := newRig(t)
	pool := netip.MustParsePrefix("198.51.100.40/29")
	g := r.start(strings.Replace(config(""), "masquerade:", fmt.Sprintf("masquerade:\n  addresses: [%s]", pool), 1), "--detach-on-exit")
	for _, client := range []*lab.Namespace{r.top.Client1, r.top.Client2} {
		near := r.stream("near", client, lab.Server1Address, 64).goesOn(patience)
		far := r.stream("far", client, farAddress, 64).goesOn(patience)
		if !pool.Contains(near.source.Addr()) {
			t.Errorf("a client is seen as %s, want one of %s", near.source, pool)
		}
		if far.source.Addr() != near.source.Addr() {
			t.Errorf("one client is seen as %s and as %s", near.source, far.source)
		}
	}
	r.session(r.top.Client1, lab.Server1Address).goesOn()
	if g.steering("worker-arp") == 0 {
		t.Error("no ARP request came to a worker: somebody else answered")
	}
	for _, a := range g.status().Masquerade.Addresses {
		if a.Shared || !pool.Contains(a.Address) {
			t.Errorf("status: %+v", a)
		}
	}
	if rules := g.status().Netfilter; len(rules) != 0 {
		t.Errorf("status tells of rules that are not there: %q", rules)
	}
	g.healthy()
	// What the clients send after the gateway's end, the kernel must not forward.
	r.must(r.top.Gateway.Sysctl("net/ipv4/ip_forward", "0"))
	g.stop()
	r.noPins()
}

// TestBypassedRules: a rule that steered packets do not meet is named in status,
// since nothing else would tell why it does nothing.
func TestBypassedRules(t *testing.T) {
	lab.RequireRoot(t)
	lab.RequireProgram(t, "nft", "nftables")
	r := newRig(t)
	g := r.start(config(""), "--detach-on-exit")
	for _, command := range []string{"add table ip edge", "add chain ip edge forward", "add rule ip edge forward counter"} {
		if out, err := r.top.Gateway.Exec("nft", strings.Fields(command)...); err != nil {
			t.Fatalf("nft %s: %v: %s", command, err, out)
		}
	}
	if rules := g.status().Netfilter; !slices.Contains(rules, "nft table ip edge: 1 rule") {
		t.Errorf("status tells of %q", rules)
	}
	g.stop()
	r.noPins()
}
