package route

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"

	"sluice/internal/fib"
)

// Actions, flags and attributes of rules (linux/fib_rules.h).
const (
	actTable       = 1
	actGoto        = 2
	actNop         = 3
	actBlackhole   = 6
	actUnreachable = 7
	actProhibit    = 8

	ruleInvert = 2

	fraDst               = 1
	fraSrc               = 2
	fraIifName           = 3
	fraGoto              = 4
	fraPriority          = 6
	fraMark              = 10
	fraRealm             = 11
	fraTunnelID          = 12
	fraSuppressIfgroup   = 13
	fraSuppressPrefixLen = 14
	fraTable             = 15
	fraMask              = 16
	fraOifName           = 17
	fraPad               = 18
	fraL3mdev            = 19
	fraUIDRange          = 20
	fraProtocol          = 21
	fraIPProto           = 22
	fraSourcePort        = 23
	fraDestinationPort   = 24
	fraDSCP              = 25
)

var ruleActions = map[uint8]fib.RuleAction{
	actTable: fib.ActionTable, actGoto: fib.ActionGoto, actNop: fib.ActionNop,
	actBlackhole: fib.ActionBlackhole, actUnreachable: fib.ActionUnreachable, actProhibit: fib.ActionProhibit,
}

// decodeRule reads a struct fib_rule_hdr. lacks names the selectors that are not
// followed, and what they are taken for.
//
// A selector that is not followed is taken to match nothing. For most that is
// what the kernel does with a packet it forwards: it has no mark (netfilter,
// which sets marks, does not see steered packets), no tunnel, no outgoing
// interface yet, no user but root. For the rest it is a guess, and said.
func decodeRule(msg []byte) (r fib.Rule, lacks string, err error) {
	if len(msg) < syscall.SizeofRtMsg {
		return r, "", errShort
	}
	if msg[1] > 32 || msg[2] > 32 {
		return r, "", errLength
	}
	var words, notes []string
	never := func(format string, v ...any) {
		r.Never = true
		words = append(words, fmt.Sprintf(format, v...))
	}
	var mark, markMask uint32
	r.Table, r.Invert = uint32(msg[4]), u32(msg[8:])&ruleInvert != 0
	if tos := msg[3]; tos != 0 {
		never("tos %#x", tos)
	}
	for t, v := range attributes(msg[syscall.SizeofRtMsg:]) {
		switch t {
		case fraDst:
			r.To = netip.PrefixFrom(fib.Addr(addrOf(v)), int(msg[1]))
		case fraSrc:
			r.From = netip.PrefixFrom(fib.Addr(addrOf(v)), int(msg[2]))
		case fraIifName:
			r.Iif = text(v)
		case fraGoto:
			r.Target = u32(v)
		case fraPriority:
			r.Priority = u32(v)
		case fraTable:
			r.Table = u32(v)
		case fraSuppressPrefixLen:
			// -1 where there is none
			r.MinLength = uint8(min(u32(v)+1, 33))
		case fraMark:
			mark = u32(v)
		case fraMask:
			markMask = u32(v)
		case fraUIDRange:
			if first := u32(v); first != 0 { // forwarded packets count as root's
				never("uidrange from %d", first)
			}
		case fraSuppressIfgroup:
			if group := u32(v); group != ^uint32(0) {
				notes = append(notes, fmt.Sprintf("suppress_ifgroup %d is not supported; the rule's answers are all taken", group))
			}
		case fraRealm, fraPad, fraProtocol: // say nothing about packets
		default:
			never("%s", selectorWord(t, v))
		}
	}
	if mark&markMask != 0 {
		never("fwmark %#x/%#x", mark, markMask)
	}
	var known bool
	if r.Action, known = ruleActions[msg[7]]; !known {
		r.Action = fib.ActionNop
		notes = append(notes, fmt.Sprintf("action %d is not supported; the rule is passed over", msg[7]))
	}
	if len(words) > 0 {
		taken := "the rule is taken to match no packet that is forwarded"
		if r.Invert {
			taken = "the rule, being inverted, is taken to match every packet that is forwarded"
		}
		notes = append(notes, fmt.Sprintf("%s is not supported; %s", strings.Join(words, ", "), taken))
	}
	if len(notes) > 0 {
		lacks = fmt.Sprintf("rule %d: %s", r.Priority, strings.Join(notes, "; "))
	}
	return r, lacks, nil
}

// selectorWord names a selector as `ip rule` does.
func selectorWord(t uint16, v []byte) string {
	switch t {
	case fraOifName:
		return "oif " + text(v)
	case fraTunnelID:
		return "tun_id"
	case fraL3mdev:
		return "l3mdev"
	case fraIPProto:
		return "ipproto"
	case fraSourcePort:
		return "sport"
	case fraDestinationPort:
		return "dport"
	case fraDSCP:
		return "dscp"
	}
	return fmt.Sprintf("selector %d", t)
}

// text reads a zero-terminated string.
func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }
