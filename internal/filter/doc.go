// Package filter is the language in which an operator says which packets to
// trace or capture: the part of tcpdump's (pcap-filter(7)) that speaks of five-tuples, and
// words for what the gateway did.
//
//	filter    = [ term { ( "and" | "&&" | "or" | "||" ) term } ]
//	term      = ( "not" | "!" ) term | "(" filter ")" | primitive
//	primitive = [ "src" | "dst" ] [ "host" ] ADDRESS
//	          | [ "src" | "dst" ] "net" PREFIX
//	          | [ "tcp" | "udp" ] [ "src" | "dst" ] ( "port" N | "portrange" N-N )
//	          | "tcp" | "udp" | "icmp" | "proto" N
//	          | ( "tcp[tcpflags]" | "tcp[13]" ) [ "&" SET ] ( "==" | "=" | "!=" ) SET
//	          | "dropped" | "reason" WORD
//	SET       = FLAG | N | "(" ( FLAG | N ) { "|" ( FLAG | N ) } ")"
//	FLAG      = "tcp-syn" | "tcp-ack" | "tcp-fin" | "tcp-rst" | "tcp-push" | "tcp-urg" | "tcp-ece" | "tcp-cwr"
//
// As in tcpdump, "and" and "or" bind alike and group from the left, "not" binds
// closest, only TCP and UDP have ports, and a port or an address that stands alone
// after another one has that one's words: "tcp dst port 80 or 443". The empty filter is true of every
// packet.
//
// It owns the grammar and the evaluation. It looks at no packet itself: whoever
// asks fills a View.
//
// Concurrency: a Filter is immutable once parsed, and any number of goroutines
// may evaluate it at once.
package filter
