package hostpeer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"

	"sluice/internal/packet"
	"sluice/nat"
)

// socketProtocols are those without ports, as NAT sees them, that have sockets of
// their own kind.
var socketProtocols = [3]struct {
	number uint8
	name   string
}{
	{packet.ProtoSCTP, "SCTP socket"}, {packet.ProtoDCCP, "DCCP socket"}, {packet.ProtoUDPLite, "UDP-Lite socket"},
}

// rawSockets reads /proc/net/raw: the protocol stands where others have the port. A
// socket that is bound to no address, or connected to none, gets what comes from
// anywhere.
func rawSockets(table io.Reader) (peers []nat.HostPeer, err error) {
	lines := bufio.NewScanner(table)
	for first := true; lines.Scan(); first = false {
		if first {
			continue // the heading
		}
		fields := strings.Fields(lines.Text())
		if len(fields) < 3 {
			return nil, fmt.Errorf("hostpeer: /proc/net/raw: %q", lines.Text())
		}
		local, proto, err := procEndpoint(fields[1])
		if err != nil {
			return nil, err
		}
		peer, _, err := procEndpoint(fields[2])
		if err != nil {
			return nil, err
		}
		// A socket of IPPROTO_RAW sends whatever it likes, and receives nothing.
		if proto > 255 || proto == syscall.IPPROTO_RAW || !packet.Portless(uint8(proto)) {
			continue
		}
		peers = append(peers, nat.HostPeer{Proto: uint8(proto), Local: local, Peer: peer, By: "raw socket"})
	}
	return peers, lines.Err()
}

// procEndpoint reads an address and a port as /proc/net writes them: the bytes of
// the address as one number of this machine's, both in hexadecimal digits.
func procEndpoint(s string) (addr uint32, port uint16, err error) {
	address, last, ok := strings.Cut(s, ":")
	a, err := strconv.ParseUint(address, 16, 32)
	p, err2 := strconv.ParseUint(last, 16, 16)
	if err = errors.Join(err, err2); err != nil || !ok {
		return 0, 0, fmt.Errorf("hostpeer: %q is no address of /proc/net: %w", s, err)
	}
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], uint32(a))
	return binary.BigEndian.Uint32(b[:]), uint16(p), nil
}

// readSockets lists all of the host's sockets of protocols without ports.
func (w *Watcher) readSockets() ([]nat.HostPeer, error) {
	var peers []nat.HostPeer
	if w.raw != nil {
		// The whole file at once: the kernel writes it anew for each reader that
		// begins at 0, and forgets its place between two reads of a slow one.
		if _, err := w.raw.Seek(0, io.SeekStart); err != nil {
			return nil, fmt.Errorf("hostpeer: /proc/net/raw: %w", err)
		}
		table, err := io.ReadAll(w.raw)
		if err != nil {
			return nil, fmt.Errorf("hostpeer: /proc/net/raw: %w", err)
		}
		if peers, err = rawSockets(bytes.NewReader(table)); err != nil {
			return nil, err
		}
	}
	for i, p := range socketProtocols {
		if time.Since(w.absent[i]) < askAgain {
			continue
		}
		// A socket of IPv6 may take IPv4 as well.
		for _, family := range []uint8{syscall.AF_INET, syscall.AF_INET6} {
			found, err := w.diagSockets(family, p.number, p.name)
			if errors.Is(err, errAbsent) {
				w.absent[i] = time.Now()
				break
			}
			if err != nil {
				return nil, err
			}
			peers = append(peers, found...)
		}
	}
	return peers, nil
}

// askAgain is when a kernel is asked again that did not know a protocol, or cannot
// list its sockets: it may look for a module each time.
const askAgain = 10 * time.Second

var errAbsent = errors.New("hostpeer: the kernel lists no such sockets")

// diagSockets asks sock_diag for the sockets of a protocol in any state.
func (w *Watcher) diagSockets(family, proto uint8, by string) (peers []nat.HostPeer, err error) {
	// struct inet_diag_req_v2: family, protocol, 2 bytes, states, then an empty
	// socket id.
	request := make([]byte, 56)
	request[0], request[1] = family, proto
	binary.NativeEndian.PutUint32(request[4:], ^uint32(0))
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, syscall.NLM_F_DUMP)
	req.Sockets = map[int]*nl.SocketHandle{syscall.NETLINK_INET_DIAG: w.diag}
	req.AddRawData(request)
	err = req.ExecuteIter(syscall.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(msg []byte) bool {
		if p, ok := decodeSocket(msg, proto, by); ok {
			peers = append(peers, p)
		}
		return true
	})
	switch {
	case err == nil, errors.Is(err, netlink.ErrDumpInterrupted): // sockets that come and go meanwhile do no harm
		return peers, nil
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.EINVAL):
		return nil, errAbsent
	}
	return nil, fmt.Errorf("hostpeer: list sockets of protocol %d: %w", proto, err)
}

// decodeSocket reads the addresses of a struct inet_diag_msg: family and 3 bytes,
// two ports, then local and remote address of 16 bytes each.
func decodeSocket(msg []byte, proto uint8, by string) (p nat.HostPeer, ok bool) {
	if len(msg) < 40 {
		return p, false
	}
	local, ok := addressV4(msg[0], msg[8:24])
	peer, ok2 := addressV4(msg[0], msg[24:40])
	return nat.HostPeer{Proto: proto, Local: local, Peer: peer, By: by}, ok && ok2
}

// addressV4 is the IPv4 address of a socket, 0 for any.
func addressV4(family uint8, b []byte) (addr uint32, ok bool) {
	if family == syscall.AF_INET {
		return binary.BigEndian.Uint32(b), true
	}
	if mapped := [12]byte{10: 0xff, 11: 0xff}; bytes.Equal(b[:12], mapped[:]) {
		return binary.BigEndian.Uint32(b[12:]), true
	}
	return 0, bytes.Equal(b, make([]byte, 16))
}

// openRaw opens the list of raw sockets of this thread's network namespace.
func openRaw() (*os.File, error) {
	f, err := os.Open("/proc/thread-self/net/raw")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // no /proc: what is in it stays unseen
	}
	return f, err
}
