package gateway

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"sluice/internal/fib"
)

// recipe is one packet of a fixture, as its line says: see testdata/fixtures/README.
// What it is built with is not the gateway's.
type recipe struct {
	proto        byte
	error        bool // an ICMP error: type and code are set
	src, dst     uint32
	sport, dport uint16
	flags        string
	typ, code    byte
	attrs        map[string]string
	payload      []byte
	quoted       *recipe
}

var protocols = map[string]byte{"icmp": 1, "echo": 1, "tcp": 6, "udp": 17, "dccp": 33, "gre": 47, "esp": 50, "sctp": 132, "udplite": 136}

// names are the hosts of the rig, by what fixtures call them.
var names = map[string]uint32{
	"client": client, "client2": client2, "server": server, "external": external, "pooled": pooled, "router": router, "excluded": excluded,
	"gateway": gatewayInside, "vip": vip, "vip2": vip2, "backend": backends[0], "silent": silent,
}

// parseRecipe reads a line such as `udp client:4000 > server:53 ttl=3 "hello"`.
func parseRecipe(line string) (r *recipe, err error) {
	r = &recipe{attrs: map[string]string{}}
	if head, rest, ok := strings.Cut(line, "{"); ok {
		inner, _, ok := strings.Cut(rest, "}")
		if !ok {
			return nil, fmt.Errorf("no } in %q", line)
		}
		if r.quoted, err = parseRecipe(strings.TrimSpace(inner)); err != nil {
			return nil, err
		}
		line = head
	}
	if head, rest, ok := strings.Cut(line, `"`); ok {
		r.payload, line = []byte(strings.TrimSuffix(strings.TrimSpace(rest), `"`)), head
	}
	words := strings.Fields(line)
	if len(words) < 4 || words[2] != ">" {
		return nil, fmt.Errorf("%q is not `protocol source > destination ...`", line)
	}
	proto, ok := protocols[words[0]]
	if n, err := strconv.Atoi(words[0]); err == nil {
		proto, ok = byte(n), true
	}
	r.proto, r.error = proto, words[0] == "icmp"
	if !ok {
		return nil, fmt.Errorf("no protocol %q", words[0])
	}
	if r.src, r.sport, err = endpoint(words[1]); err != nil {
		return nil, err
	}
	if r.dst, r.dport, err = endpoint(words[3]); err != nil {
		return nil, err
	}
	return r, r.parseRest(words[0], words[4:])
}

func (r *recipe) parseRest(kind string, words []string) error {
	for i, word := range words {
		key, value, ok := strings.Cut(word, "=")
		switch {
		case ok:
			r.attrs[key] = value
		case i == 0 && kind == "tcp":
			r.flags = word
		case i == 0 && kind == "echo":
			r.typ = map[string]byte{"request": 8, "reply": 0}[word]
		case i == 0 && kind == "icmp":
			if _, err := fmt.Sscanf(word, "%d/%d", &r.typ, &r.code); err != nil {
				return fmt.Errorf("%q: %w", word, err)
			}
		default:
			r.attrs[word] = "yes"
		}
	}
	if n := r.number("bytes", 0); n > 0 {
		r.payload = []byte(big(n))
	}
	return nil
}

func endpoint(s string) (addr uint32, port uint16, err error) {
	host, p, ok := strings.Cut(s, ":")
	if ok {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return 0, 0, err
		}
		port = uint16(n)
	}
	if addr, known := names[host]; known {
		return addr, port, nil
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return 0, 0, err
	}
	return fib.U32(a), port, nil
}

func (r *recipe) number(attr string, otherwise int) int {
	n, err := strconv.Atoi(r.attrs[attr])
	if err != nil {
		return otherwise
	}
	return n
}

// frame is the recipe as it comes on the wire of a port.
func (r *recipe) frame(on fib.PortID) []byte {
	f := append([]byte(nil), gatewayMACs[on][:]...)
	f = append(f, 2, 9, 9, 9, 9, 9)
	f = binary.BigEndian.AppendUint16(f, uint16(r.number("ethertype", 0x0800)))
	f = append(f, r.packet()...)
	f = append(f, make([]byte, r.number("padding", 0))...)
	return f[:min(len(f), r.number("cut", len(f)))]
}

// packet is the recipe from the IPv4 header on.
func (r *recipe) packet() []byte {
	options, err := hex.DecodeString(r.attrs["options"])
	if err != nil {
		panic(err)
	}
	body := r.transport()
	field := uint16(0)
	if cut, ok := r.attrs["piece"]; ok { // FROM-TO, of the whole IPv4 payload
		var from, to int
		if _, err := fmt.Sscanf(cut, "%d-%d", &from, &to); err != nil {
			panic(err)
		}
		field = uint16(from / 8)
		if to < len(body) {
			field |= 0x2000
		}
		body = body[from:min(to, len(body))]
	}
	if r.attrs["df"] != "" {
		field |= 0x4000
	}
	h := make([]byte, 20, 60)
	h = append(h, options...)
	h[0] = byte(r.number("version", 4)<<4 | r.number("ihl", len(h)/4))
	binary.BigEndian.PutUint16(h[2:], uint16(r.number("length", len(h)+len(body))))
	binary.BigEndian.PutUint16(h[4:], uint16(r.number("id", 7)))
	binary.BigEndian.PutUint16(h[6:], field)
	h[8], h[9] = byte(r.number("ttl", 64)), r.proto
	binary.BigEndian.PutUint32(h[12:], r.src)
	binary.BigEndian.PutUint32(h[16:], r.dst)
	binary.BigEndian.PutUint16(h[10:], ^onesSum(h)+uint16(r.number("header-sum", 0)))
	return append(h, body...)
}

// transport is the IPv4 payload, its checksum right unless the line says by how
// much it is wrong.
func (r *recipe) transport() []byte {
	var b []byte
	at, pseudo := -1, r.proto != 1
	switch r.proto {
	case 1:
		b, at = r.icmp(), 2
	case 6:
		b, at = r.tcp(), 16
	case 17, 136:
		b = binary.BigEndian.AppendUint16(nil, r.sport)
		b = binary.BigEndian.AppendUint16(b, r.dport)
		b = binary.BigEndian.AppendUint16(b, uint16(r.number("udp-length", 8+len(r.payload))))
		b, at = append(append(b, 0, 0), r.payload...), 6
	default:
		b = append([]byte(nil), r.payload...)
	}
	if at < 0 || r.attrs["sum"] == "0" {
		return b
	}
	sum := uint32(0)
	if pseudo {
		sum = uint32(onesSum(r.pseudoHeader(len(b))))
	}
	sum += uint32(onesSum(b))
	binary.BigEndian.PutUint16(b[at:], ^uint16(sum+sum>>16))
	if r.attrs["sum"] == "wrong" {
		b[at]++
	}
	return b
}

func (r *recipe) pseudoHeader(length int) []byte {
	b := binary.BigEndian.AppendUint32(nil, r.src)
	b = binary.BigEndian.AppendUint32(b, r.dst)
	return binary.BigEndian.AppendUint16(append(b, 0, r.proto), uint16(length))
}

func (r *recipe) icmp() []byte {
	b := []byte{byte(r.number("type", int(r.typ))), r.code, 0, 0, 0, 0, 0, 0}
	if !r.error {
		binary.BigEndian.PutUint16(b[4:], uint16(r.number("id", 1)))
		binary.BigEndian.PutUint16(b[6:], uint16(r.number("seq", 1)))
		return append(b, r.payload...)
	}
	binary.BigEndian.PutUint16(b[6:], uint16(r.number("mtu", 0)))
	if r.quoted != nil {
		q := r.quoted.packet()
		b = append(b, q[:min(len(q), r.number("quote", len(q)))]...)
	}
	return append(b, r.payload...)
}

func (r *recipe) tcp() []byte {
	seq, ack := 100, 201
	if r.sport < r.dport {
		seq, ack = 200, 101
	}
	flags := byte(0)
	for i, letter := range "FSRPAU" {
		if strings.ContainsRune(r.flags, letter) {
			flags |= 1 << i
		}
	}
	if flags&2 == 0 {
		seq++
	}
	if flags&16 == 0 {
		ack = 0
	}
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, r.sport)
	binary.BigEndian.PutUint16(b[2:], r.dport)
	binary.BigEndian.PutUint32(b[4:], uint32(r.number("seq", seq)))
	binary.BigEndian.PutUint32(b[8:], uint32(r.number("ack", ack)))
	b[13] = flags
	binary.BigEndian.PutUint16(b[14:], 1000)
	if mss := r.number("mss", 0); mss > 0 {
		b = append(b, 2, 4, byte(mss>>8), byte(mss))
	}
	b[12] = byte(r.number("offset", len(b)/4)) << 4
	return append(b, r.payload...)
}
