package plant

// fault is a change of one place in one file, and the test that notices it.
type fault struct {
	name string
	file string // from the module's root
	old  string // stands there exactly once
	new  string
	test string // package.Test, the package as a path from the root
}

// faults are sorted by what they harm. Each compiles.
var faults = []fault{
	// What is parsed, and what is not.
	{"a wrong header checksum is let in", "internal/packet/parse.go",
		"headerSum(h, headerLength) != 0xffff", "headerSum(h, headerLength) == 0", "internal/packet.TestParse"},
	{"a fragment may overwrite a TCP header", "internal/packet/parse.go",
		", p.FragOff != 0 && int(p.FragOff) < header:", ":", "internal/packet.TestParse"},
	{"an option may reach beyond the header", "internal/packet/parse.go",
		"if r := checkOptions(h[IPv4MinLength:headerLength]); r != verdict.None {", "if r := checkOptions(h[IPv4MinLength:headerLength]); r == verdict.SourceRoute {", "internal/packet.TestParse"},
	{"SYN with FIN is legal", "internal/packet/parse.go",
		"const tcpFlagSets uint32 = 1<<TCPSyn |", "const tcpFlagSets uint32 = 1<<(TCPSyn|TCPFin) | 1<<TCPSyn |", "internal/packet.TestParse"},

	// Checksums.
	{"the last carry of a sum is lost", "internal/packet/checksum.go",
		"\tacc += carry // which", "\tacc += carry & 0 // which", "internal/packet.TestSumCarries"},
	{"UDP's sum of 0 is sent as none", "nat/translate.go",
		"\tsum := d.apply(old)\n\tif sum == 0 {", "\tsum := d.apply(old)\n\tif sum == 1 {", "nat.TestRewriteUDPZero"},
	{"a time to live goes down without its checksum", "nat/translate.go",
		"\tlessTTL.store(h[ipChecksum:])\n", "", "nat.TestDecrementTTL"},
	{"ports change without the checksum", "nat/translate.go",
		"(rewritePorts(t, p, srcPort, dstPort) + pseudo).store(t[tcpChecksum:])", "(rewritePorts(t, p, srcPort, dstPort)&0 + pseudo).store(t[tcpChecksum:])", "nat.TestRewriteEqualsRecompute"},
	{"an ICMP error's own checksum is forgotten", "nat/icmperror.go",
		"\td.store(message[icmpChecksum:])\n", "\t_ = d\n", "nat.TestErrorFromOutside"},
	{"a quoted TCP checksum is forgotten", "nat/icmperror.go",
		"\t\t(d + pseudo).store(sum)\n", "", "nat.TestErrorEqualsRecompute"},

	// Translation.
	{"ports are easy to guess", "nat/allocate.go",
		"return r.Low + uint16(a.below(uint32(r.High-r.Low)+1))", "return r.Low + uint16(a.below(uint32(r.High-r.Low)+1))&0", "nat.TestPortsAreHardToGuess"},
	{"the search for a port does not begin again at the low end", "conntrack/external.go",
		"!ok && from > lo {", "!ok && from < lo {", "conntrack.TestNextFreeWholeRange"},
	{"the last port is not looked at for sharing", "nat/share.go",
		"for s.left > 0 {", "for s.left > 1 {", "nat.TestLastPortIsFound"},
	{"a search may take as long as it likes", "nat/share.go",
		"\t\ta.allowed--\n", "", "internal/gateway.TestExhaustedAfterEveryPort"},
	{"parity is always even", "conntrack/external.go",
		"return x.nextFree(proto, evenPorts<<(like&1), from, lo, hi)", "return x.nextFree(proto, evenPorts, from, lo, hi)", "nat.TestParity"},
	{"a reserved port is given out", "conntrack/external.go",
		"return (x.reserved[space][port/64].Load()|x.static[space][port/64].Load())&(1<<(port%64)) != 0", "return x.static[space][port/64].Load()&(1<<(port%64)) != 0", "conntrack.TestReserve"},
	{"nodes are masqueraded to", "nat/policy.go",
		"if line, ok := p.nodes.table.Lookup(to); ok {", "if line, ok := p.nodes.table.Lookup(from); ok {", "nat.TestPolicyRules"},
	{"the last port of a forwarded range is not forwarded", "nat/static.go",
		"f.Proto == proto && port <= f.Last {", "f.Proto == proto && port < f.Last {", "nat.TestStaticAgainstModel"},
	{"an answer of a forwarded range leaves from another port", "nat/static.go",
		"return x, x.External, x.outside(port)", "return x, x.External, x.First", "nat.TestStaticAgainstModel"},

	// The flow table.
	{"the index does not count what goes further", "conntrack/insert.go",
		"\t\tb.overflow.Add(1)\n", "", "conntrack.TestHashFlood"},
	{"who cannot kill a rival does not look whether it won", "conntrack/insert.go",
		"if v = slot.Load(); v&foundMask != want|slotLive || !t.holds(v, k) {", "if v = slot.Load(); v&foundMask != want|slotLive || t.holds(v, k) {", "conntrack.TestOneOfRivalsWins"},
	{"a port's bit is cleared after the port is free", "conntrack/external.go",
		"\tx.unhold(space, port)\n\tx.ports[space][port].CompareAndSwap(id, 0)\n", "\tx.ports[space][port].CompareAndSwap(id, 0)\n\tx.unhold(space, port)\n", "conntrack.TestBitGoesBeforePort"},
	{"a mapping that ends stays in the index", "conntrack/mapping.go",
		"\tif m.found() {\n\t\th := t.seed.hash(m.key())\n\t\tt.remove(", "\tif m.found() {\n\t\th := ^t.seed.hash(m.key())\n\t\tt.remove(", "conntrack.TestModel"},
	{"the hash has no key", "conntrack/key.go",
		"mix(k.a^s[0]^prime0, k.b^s[1])", "mix(k.a^prime0, k.b)", "conntrack.TestHashFlood"},
	{"answered flows make room, too", "conntrack/earlydrop.go",
		"\treturn false\n}", "\treturn true\n}", "internal/gateway.TestFloodOfUnansweredDatagrams"},
	{"a time-out by port holds for a sweep only where the usual one is over", "conntrack/timeouts.go",
		"\t\tl.least[UDPReplied] = min(l.least[UDPReplied], p.Timeout)\n", "", "conntrack.TestPortTimeoutEnds"},
	{"what has no mapping stays counted to its source", "conntrack/create.go",
		"if s&counted != 0 {", "if s&counted != 0 && f.mapping != 0 {", "conntrack.TestSourceLimitWithoutMapping"},
	{"a torn record is taken over", "conntrack/rebuild.go",
		"case !f.sealed():", "case !f.sealed() && f.Kind() >= kinds:", "conntrack.TestFlowsThatCannotStay"},

	// TCP.
	{"any reset ends a connection", "conntrack/sequence.go",
		"return p.Seq == loadWord(&f.sent[from]) || s&(synAcked<<from) != 0", "return true || s&(synAcked<<from) != 0", "internal/gateway.TestOutOfWindow"},
	{"an acknowledgement of what was never sent fits", "conntrack/sequence.go",
		"int32(end-sent+theirs)|int32(other-p.Ack)|int32(p.Ack-other+lag) < 0", "int32(end-sent+theirs)|int32(p.Ack-other+lag) < 0", "conntrack.TestTCPAgainstEnds"},
	{"a quoted sequence number may be any", "conntrack/sequence.go",
		"return !after(seq, sent) && ", "return seq == seq || ", "internal/gateway.TestImplausibleError"},

	// Fragments.
	{"overlapping fragments pass", "internal/fragment/pieces.go",
		"case i > 0 && s.list[i-1].to > from, i < int(s.n) && s.list[i].from < to:", "case i > 0 && s.list[i-1].to > from && s.list[i-1].to < from:", "internal/fragment.TestPieces"},
	{"one source may hold all room for fragments", "internal/fragment/store.go",
		"of.n >= room/share {", "of.n >= room {", "internal/fragment.TestStore"},
	{"the fragment of an error passes unjudged", "internal/gateway/fragment.go",
		"if r := w.judgeErrorFragment(frame, p); r != verdict.None {", "if r := w.judgeErrorFragment(frame, p); r != verdict.None && p.TTL == 0 {", "internal/gateway.TestFragmentedErrorIsNotRouted"},
	{"the rest of an error goes with addresses of the inside", "nat/icmperror.go",
		"\trewriteNetwork(frame[p.L3:], p, outerSrc, outerDst, 0)\n}\n\n// rewriteQuoted", "\trewriteNetwork(frame[p.L3:], p, p.Src, outerDst, 0)\n}\n\n// rewriteQuoted", "internal/gateway.TestFragmentedError"},
	{"the first fragment of an error may change its mind", "internal/fragment/store.go",
		"return d.about == about\n", "return d.about == d.about\n", "internal/gateway.TestFragmentedErrorChangesItsMind"},

	// The pipeline.
	{"a way out that leaks is not noticed", "internal/gateway/forward.go",
		"} else if s.fromInside(in, src) && s.Policy.Decide(src, to.Dst).Masquerade {\n\t\treturn 0, hop, verdict.WouldLeakSource\n\t}\n\treturn id, hop, verdict.None\n}\n\n// hopReason",
		"}\n\treturn id, hop, verdict.None\n}\n\n// hopReason", "internal/gateway.TestReloadedPolicy"},
	{"the outside may call the inside", "internal/gateway/decision.go",
		"\t\treturn verdict.OutsideToInside\n", "\t\treturn verdict.None\n", "internal/gateway.TestPolicy"},
	{"inside sources are believed on the outside", "internal/gateway/static.go",
		"return back.Type == fib.Forward && s.Roles[back.Port] == RoleInside", "return back.Type == fib.Forward && s.Roles[back.Port] == RoleNone", "internal/gateway.TestDrops"},
	{"an error confirms a guessed inside address", "internal/gateway/error.go",
		"return !outside || s.ownsExternal(hop.Port, p.Dst) ||", "return !outside || w.table.External(p.Dst) != nil ||", "internal/gateway.TestErrorConfirmsNoGuess"},
	{"a dropped frame is not given back", "internal/gateway/worker.go",
		"\tw.dead[w.nDead] = d\n\tw.nDead++\n", "\tw.dead[w.nDead] = d\n\tw.nDead += int(d.Len & 1)\n", "internal/gateway.TestMutatedFrames"},
	{"a stale next hop is believed after a reload", "internal/gateway/forward.go",
		"\tif flow.NextHop(dir)>>16 == uint32(s.Generation) && id != 0 {", "\tif id != 0 {", "internal/gateway.TestReloadedPolicy"},

	{"a quoted address is forgotten", "nat/icmperror.go",
		"pseudo := rewriteNetwork(quote, quoted, quotedTo.Src, quotedTo.Dst, 0)", "pseudo := rewriteNetwork(quote, quoted, quotedTo.Src, quoted.Dst, 0)", "internal/gateway.TestFixtures"},
	{"a fragmented datagram has as many identifications as fragments", "internal/gateway/fragment.go",
		"x.ID, x.Named = w.idents.next(p.Src, p.Dst, p.Proto), true", "x.ID, x.Named = w.idents.next(p.Src, p.Dst, p.Proto), false", "internal/gateway.TestFixtures"},
	{"an inside host takes the answers to the host's tunnel", "internal/gateway/other.go",
		"if w.snapshot.hostSpeaks(p.Proto, nf.Reply.Dst, nf.Reply.Src) {", "if p.TTL == 0 {", "internal/gateway.TestHostPeer"},
	{"and keeps them when the host begins later", "internal/gateway/hostpeer.go",
		"return f.Original.Src != f.Reply.Dst &&", "return f.Original.Src == f.Reply.Dst &&", "internal/gateway.TestTakesFromHost"},
	{"IPsec inside UDP counts as ESP", "internal/hostpeer/ipsec.go",
		"case states[i].Encap != nil:", "case states[i].Encap != nil && states[i].Proto == 0:", "internal/hostpeer.TestAssociations"},
	{"a tunnel device that is down has a peer", "internal/hostpeer/device.go",
		"&syscall.IFF_UP == 0 {", "&syscall.IFF_UP > syscall.IFF_UP {", "internal/hostpeer.TestDevices"},

	// Routes.
	{"equal paths do not share evenly", "internal/fib/compile.go",
		"limit := uint32((sum<<32+total-1)/total - 1)", "limit := uint32((sum<<31+total-1)/total - 1)", "internal/fib.TestMultipath"},
	{"a rule that suppresses short prefixes does not", "internal/fib/compile.go",
		"return !e.throw && (e.reject || e.length >= st.minLength)", "return !e.throw && (e.reject || e.length >= 0)", "internal/fib.TestRules"},

	// Rings and frames.
	{"a ring is written over while the kernel reads", "xdp/ring.go",
		"\treturn min(int(free), want)\n}\n\n// put", "\treturn min(int(free)+1, want)\n}\n\n// put", "xdp.TestRingAgainstModel"},
	{"a frame can be freed twice", "xdp/umem.go",
		"\tu.strays++\n\treturn false\n}\n\n// whole", "\tu.strays++\n\treturn f < uint64(len(u.place))\n}\n\n// whole", "xdp.TestFrameLifeAgainstModel"},

	// Services.
	{"the option has its bytes the other way round", "dsr/option.go",
		"\tbinary.LittleEndian.PutUint16(b[2:], port)\n", "\tbinary.BigEndian.PutUint16(b[2:], port)\n", "dsr.TestFieldNote"},
	{"the header with the option has no checksum of its own", "dsr/option.go",
		"\tbinary.BigEndian.PutUint16(h[10:], packet.Checksum(h[:n]))\n", "\tbinary.BigEndian.PutUint16(h[10:], packet.Checksum(h[:baseHeader]))\n", "dsr.TestStripUndoesInsert"},
	{"a hidden client is shown to a backend outside", "internal/gateway/service.go",
		"d.Inside && s.Policy.Decide(p.Src, d.Backend.Address).Masquerade:\n\t\treturn ReturnHiddenClient", "!d.Inside && s.Policy.Decide(p.Src, d.Backend.Address).Masquerade:\n\t\treturn ReturnHiddenClient", "internal/gateway.TestServiceCrossProduct"},
}
