// Package bypass finds what of the host's own packet processing steered packets
// do not meet: the rules of nft and iptables, and the tc filters of the steered
// interfaces. An operator who added a firewall rule and sees no effect finds the
// reason in `sluice status`.
//
// It asks the kernel anew at every call, in the network namespace of the calling
// thread, and keeps nothing; calls may run concurrently. It changes nothing. It
// follows include/uapi/linux/netfilter/nf_tables.h and linux/pkt_sched.h.
package bypass

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
)

// From nf_tables.h and nfnetlink.h, which package syscall does not have.
const (
	netlinkNetfilter  = 12
	subsystemNFTables = 10
	messageNewRule    = 6
	messageGetRule    = 7
	attributeTable    = 1 // NFTA_RULE_TABLE
)

// families are those whose rules an IPv4 packet can meet (linux/netfilter.h).
var families = []struct {
	number uint8
	name   string
}{
	{1, "inet"}, {syscall.AF_INET, "ip"}, {5, "netdev"}, {7, "bridge"},
}

// Rules says in words which rules exist that packets steered past the kernel on
// these interfaces do not meet. What could not be asked is an error, along with
// what could.
func Rules(interfaces []string) ([]string, error) {
	words, err := nftRules()
	legacy, err2 := legacyTables("/proc/thread-self/net/ip_tables_names")
	filters, err3 := tcFilters(interfaces)
	return slices.Concat(words, legacy, filters), errors.Join(err, err2, err3)
}

// nftRules counts the rules of every table. iptables of today writes its rules
// there, too.
func nftRules() (words []string, err error) {
	for _, f := range families {
		req := nl.NewNetlinkRequest(subsystemNFTables<<8|messageGetRule, syscall.NLM_F_DUMP)
		req.AddData(&nl.Nfgenmsg{NfgenFamily: f.number})
		rules, err := req.Execute(netlinkNetfilter, subsystemNFTables<<8|messageNewRule)
		if errors.Is(err, syscall.EPROTONOSUPPORT) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EAFNOSUPPORT) {
			continue // a kernel without nf_tables, or without this family
		}
		if err != nil {
			return words, fmt.Errorf("nft rules of family %s: %w", f.name, err)
		}
		count := map[string]int{}
		for _, rule := range rules {
			if table, ok := tableOf(rule); ok {
				count[table]++
			}
		}
		for table, n := range count {
			words = append(words, fmt.Sprintf("nft table %s %s: %s", f.name, table, counted(n, "rule")))
		}
	}
	slices.Sort(words)
	return words, nil
}

// tableOf reads the table's name from a rule message: struct nfgenmsg, then
// attributes.
func tableOf(rule []byte) (string, bool) {
	if len(rule) < nl.SizeofNfgenmsg {
		return "", false
	}
	attributes, err := nl.ParseRouteAttr(rule[nl.SizeofNfgenmsg:])
	if err != nil {
		return "", false
	}
	for _, a := range attributes {
		if a.Attr.Type == attributeTable {
			return string(bytes.TrimRight(a.Value, "\x00")), true
		}
	}
	return "", false
}

// legacyTables reads which tables the older iptables has made. The file is there
// where the kernel has that interface at all.
func legacyTables(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("iptables tables: %w", err)
	}
	if tables := strings.Fields(string(text)); len(tables) > 0 {
		return []string{"iptables (legacy) tables: " + strings.Join(tables, ", ")}, nil
	}
	return nil, nil
}

// tcFilters counts the filters on the way in and out of each interface. The
// older ingress qdisc has its filters at the same place as clsact's ingress.
func tcFilters(interfaces []string) (words []string, err error) {
	for _, name := range interfaces {
		link, err := netlink.LinkByName(name)
		if err != nil {
			continue // gone: status says so elsewhere
		}
		for _, at := range []struct {
			name   string
			parent uint32
		}{{"ingress", netlink.HANDLE_MIN_INGRESS}, {"egress", netlink.HANDLE_MIN_EGRESS}} {
			filters, err := netlink.FilterList(link, at.parent)
			if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOENT) {
				continue // no such qdisc
			}
			if err != nil {
				return words, fmt.Errorf("tc filters of %s: %w", name, err)
			}
			if len(filters) > 0 {
				words = append(words, fmt.Sprintf("tc %s of %s: %s", at.name, name, counted(len(filters), "filter")))
			}
		}
	}
	return words, nil
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
