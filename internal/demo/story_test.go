package demo

import (
	"context"
	"strings"
	"testing"
	"time"

	"sluice/internal/lab"
)

// kernelGateway has the kernel forward in the gateway's place.
func kernelGateway(t *testing.T, rules string) (*lab.Topology, string) {
	t.Helper()
	lab.RequireRoot(t)
	top, err := lab.Up(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { top.Close() })
	if err := top.Gateway.Sysctl("net/ipv4/ip_forward", "1"); err != nil {
		t.Fatal(err)
	}
	if rules != "" {
		if out, err := top.Gateway.Exec("nft", rules); err != nil {
			t.Fatalf("nft: %v\n%s", err, out)
		}
	}
	s, err := newStory(top)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	var out strings.Builder
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s.tell(ctx, newTable(&out))
	t.Log("\n" + out.String())
	return top, out.String()
}

func verdicts(table string) (ok, failed []string) {
	for line := range strings.Lines(table) {
		switch mark, rest, _ := strings.Cut(strings.TrimSpace(line), " "); mark {
		case "ok":
			ok = append(ok, strings.TrimSpace(rest))
		case "FAIL":
			failed = append(failed, strings.TrimSpace(rest))
		}
	}
	return ok, failed
}

// TestStoryWithoutMasquerading tells the story over a router that does not
// masquerade: whatever depends on the gateway must fail, and what does not must
// pass, or the story would prove nothing.
func TestStoryWithoutMasquerading(t *testing.T) {
	top, table := kernelGateway(t, "")
	ok, failed := verdicts(table)
	const dependent = 6 // download, connections, three UDP and ping rows, refusal
	if len(failed) != dependent {
		t.Errorf("%d checks failed, want %d", len(failed), dependent)
	}
	for _, row := range failed {
		if strings.Contains(row, "host session") || strings.Contains(row, "excluded") {
			t.Errorf("failed though nothing is to be translated: %s", row)
		}
	}
	if len(ok) == 0 {
		t.Error("nothing passed: the traffic itself is broken")
	}
	if top.Checker.Report().Err() == nil {
		t.Error("the checker saw no leak")
	}
}

// TestStoryOverNetfilter tells it over netfilter's masquerading, an
// implementation that shares nothing with ours: all must pass.
func TestStoryOverNetfilter(t *testing.T) {
	lab.RequireProgram(t, "nft", "nftables")
	top, table := kernelGateway(t, `
table ip lab {
	chain postrouting {
		type nat hook postrouting priority srcnat
		oifname "outside" ip saddr 10.20.30.0/24 ip daddr != 10.99.0.0/24 masquerade
	}
	chain forward {
		type filter hook forward priority filter
		iifname "outside" ct state new ip saddr != 10.99.0.0/24 drop
	}
}`)
	if _, failed := verdicts(table); len(failed) > 0 {
		t.Errorf("failed over netfilter: %s", strings.Join(failed, "\n"))
	}
	if err := top.Checker.Report().Err(); err != nil {
		t.Error(err)
	}
}
