package agent

import (
	"fmt"
	"strings"
	"testing"

	"sluice/internal/lab"
)

// TestNetfilter: a firewall that tracks connections sits between the hooks and sees
// both directions as client and backend have them: it takes no reply for invalid or
// new, masquerades none, and undoes its own translation of a published port.
func TestNetfilter(t *testing.T) {
	r := newRig(t)
	lab.RequireProgram(t, "nft", "nftables")
	for _, command := range []string{
		"add table ip f",
		"add chain ip f forward { type filter hook forward priority 0; policy drop; }",
		"add rule ip f forward ct state established,related accept",
		"add rule ip f forward ct state new tcp dport 80 ip daddr " + podAddress + " accept",
		"add chain ip f input { type filter hook input priority 0; policy drop; }",
		"add rule ip f input ct state established,related accept",
		"add rule ip f input ct state new tcp dport 80 accept",
		"add chain ip f output { type filter hook output priority 0; policy drop; }",
		"add rule ip f output ct state established,related accept",
		"add chain ip f nat { type nat hook postrouting priority 100; }",
		"add rule ip f nat oifname eth0 masquerade",
		"add chain ip f publish { type nat hook prerouting priority -100; }",
		"add rule ip f publish ip daddr " + nodeAddress + " tcp dport 8080 dnat to " + podAddress + ":80",
	} {
		if out, err := r.node.Exec("nft", strings.Fields(command)...); err != nil {
			t.Fatalf("nft %s: %v: %s", command, err, out)
		}
	}
	r.serveHTTP(r.node, nodeAddress+":80")
	r.serveHTTP(r.pod, podAddress+":80")
	config := r.config()
	config.Services = nil
	r.start(config)
	for i, backend := range []string{nodeAddress + ":80", podAddress + ":80", nodeAddress + ":8080"} {
		vip := fmt.Sprintf("%s:%d", vipAddress, 81+i)
		r.standIn.serve(vip, backend)
		if got := string(r.get(vip, "/")); !strings.HasPrefix(got, clientAddress+":") {
			t.Errorf("%s: the server saw %q, want %s", backend, got, clientAddress)
		}
		if got := r.get(vip, "/bytes/600000"); len(got) != 600000 {
			t.Errorf("%s: %d bytes came", backend, len(got))
		}
	}
}
