// Package filter is the language in which an operator says which packets to
// trace: the part of tcpdump's (pcap-filter(7)) that speaks of five-tuples, and
// words for what the gateway did.
//
//	filter    = [ term { ( "and" | "&&" | "or" | "||" ) term } ]
//	term      = ( "not" | "!" ) term | "(" filter ")" | primitive
//	primitive = [ "src" | "dst" ] [ "host" ] ADDRESS
//	          | [ "src" | "dst" ] "net" PREFIX
//	          | [ "tcp" | "udp" ] [ "src" | "dst" ] ( "port" N | "portrange" N-N )
//	          | "tcp" | "udp" | "icmp" | "proto" N
//	          | "dropped" | "reason" WORD
//
// As in tcpdump, "and" and "or" bind alike and group from the left, "not" binds
// closest, and only TCP and UDP have ports. The empty filter is true of every
// packet.
//
// It owns the grammar and the evaluation. It looks at no packet itself: whoever
// asks fills a View.
//
// Concurrency: a Filter is immutable once parsed, and any number of goroutines
// may evaluate it at once.
package filter
