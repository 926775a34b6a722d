package bypass

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"sluice/internal/lab"
)

// TestRules: a namespace without rules has none to tell of; each kind that is
// then added is told of.
func TestRules(t *testing.T) {
	lab.RequireRoot(t)
	ns, err := lab.NewNamespace("bypass")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	peer, err := lab.NewNamespace("peer")
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if err := lab.Veth(ns, "eth0", peer, "eth0", lab.VethOptions{}); err != nil {
		t.Fatal(err)
	}
	rules := func() (words []string) {
		t.Helper()
		err := ns.Do(func() (err error) {
			words, err = Rules([]string{"eth0", "gone0"})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return words
	}
	if got := rules(); len(got) != 0 {
		t.Fatalf("an empty namespace: %q", got)
	}
	err = ns.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		attrs := netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}
		if err := netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: attrs}); err != nil {
			return err
		}
		return netlink.FilterAdd(&netlink.MatchAll{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_MIN_EGRESS, Priority: 1, Protocol: 0x0800},
		})
	})
	if err != nil {
		t.Logf("this kernel takes no tc filter: %v", err)
	} else if got := rules(); !slices.Contains(got, "tc egress of eth0: 1 filter") {
		t.Errorf("with a tc filter: %q", got)
	}
	lab.RequireProgram(t, "nft", "nftables")
	for _, command := range []string{
		"add table ip edge", "add chain ip edge forward { type filter hook forward priority 0; }",
		"add rule ip edge forward ip daddr 192.0.2.1 drop", "add rule ip edge forward counter",
	} {
		if out, err := ns.Exec("nft", strings.Fields(command)...); err != nil {
			t.Fatalf("nft %s: %v: %s", command, err, out)
		}
	}
	if got := rules(); !slices.Contains(got, "nft table ip edge: 2 rules") {
		t.Errorf("with two nft rules: %q", got)
	}
}

func TestLegacyTables(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ip_tables_names")
	if got, err := legacyTables(path); got != nil || err != nil {
		t.Errorf("without the file: %q, %v", got, err)
	}
	for text, want := range map[string]string{"": "", "nat\nfilter\n": "iptables (legacy) tables: nat, filter"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := legacyTables(path)
		if err != nil || strings.Join(got, "|") != want {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestTableOf(t *testing.T) {
	rule := []byte{2, 0, 0, 0, 9, 0, 1, 0, 'e', 'd', 'g', 'e', 0, 0, 0, 0}
	if got, ok := tableOf(rule); !ok || got != "edge" {
		t.Errorf("table %q, %v", got, ok)
	}
	for n := range 5 {
		if got, ok := tableOf(rule[:n]); ok {
			t.Errorf("%d bytes name the table %q", n, got)
		}
	}
}
