package demo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"sluice/internal/lab"
)

// echo is an ICMP echo message as it travels.
type echo struct {
	id, seq uint16
	payload []byte
}

const (
	echoRequest = layers.ICMPv4TypeEchoRequest
	echoReply   = layers.ICMPv4TypeEchoReply
)

func (e echo) marshal() ([]byte, error) {
	buf := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{ComputeChecksums: true},
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(echoRequest, 0), Id: e.id, Seq: e.seq},
		gopacket.Payload(e.payload))
	return buf.Bytes(), err
}

// parseEcho reads an echo message of the given type; ok is false for any other.
func parseEcho(b []byte, kind uint8) (e echo, ok bool) {
	if len(b) < 8 || b[0] != kind || b[1] != 0 {
		return echo{}, false
	}
	return echo{id: binary.BigEndian.Uint16(b[4:]), seq: binary.BigEndian.Uint16(b[6:]), payload: b[8:]}, true
}

// pings has both clients ping server1 under the same identifier: the gateway
// must tell them apart and bring each its own answers.
func (s *story) pings(ctx context.Context) (outcome, error) {
	return s.ping(ctx, s.server1, lab.Server1Address, s.client1, s.client2)
}

func (s *story) pingExcluded(ctx context.Context) (outcome, error) {
	return s.ping(ctx, s.excluded, lab.ExcludedAddress, s.client1)
}

// ping sends echoes from the clients, side by side and under one identifier,
// and listens at the server for whom they seem to come from.
func (s *story) ping(ctx context.Context, server host, address string, clients ...host) (o outcome, err error) {
	ear, err := server.packets("ip4:icmp", address)
	if err != nil {
		return o, err
	}
	defer ear.Close()
	heard := make(chan request, len(clients)*echoes*attempts)
	go listen(ear, heard)

	var (
		g   group
		mu  sync.Mutex
		sum tally
		id  = uint16(rand.Uint32())
	)
	for _, from := range clients {
		g.run(func() error {
			t, err := pingFrom(ctx, from, address, id)
			mu.Lock()
			defer mu.Unlock()
			sum.merge(t)
			return err
		})
	}
	err = g.wait()
	o.detail = sum.String()
	if err != nil {
		return o, err
	}
	ids := make(map[request]bool)
	for range sum.n {
		select {
		case r := <-heard:
			ids[r] = true
			o.saw(r.from)
		case <-ctx.Done():
			return o, fmt.Errorf("the server saw fewer echo requests than were answered: %w", ctx.Err())
		}
	}
	if len(ids) != len(clients) {
		return o, fmt.Errorf("the server saw %d identifiers for %d clients", len(ids), len(clients))
	}
	return o, nil
}

// request is the endpoint that an echo request came from.
type request struct {
	from netip.Addr
	id   uint16
}

// listen reports the echo requests that reach a host, until c is closed.
func listen(c net.PacketConn, heard chan<- request) {
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		if e, ok := parseEcho(buf[:n], echoRequest); ok {
			heard <- request{remote(from), e.id}
		}
	}
}

// pingFrom pings one after the other, as ping(8) does without its pause.
func pingFrom(ctx context.Context, from host, address string, id uint16) (t tally, err error) {
	c, err := from.packets("ip4:icmp", "0.0.0.0")
	if err != nil {
		return t, err
	}
	defer c.Close()
	for seq := range uint16(echoes) {
		e := echo{id: id, seq: seq, payload: fmt.Appendf(nil, "%s sends echo %d at %d", from.Name(), seq, time.Now().UnixNano())}
		took, err := e.roundTrip(ctx, c, address)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			t.lost++
		case err != nil:
			return t, fmt.Errorf("echo %d: %w", seq, err)
		default:
			t.add(took)
		}
	}
	if t.lost > 0 {
		return t, fmt.Errorf("%d of %d echoes were not answered", t.lost, echoes)
	}
	return t, nil
}

// roundTrip sends an echo request and waits for exactly its reply. Other ICMP
// messages to the host are none of its business.
func (e echo) roundTrip(ctx context.Context, c net.PacketConn, address string) (time.Duration, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	b, err := e.marshal()
	if err != nil {
		return 0, err
	}
	to := &net.IPAddr{IP: net.ParseIP(address)}
	began := time.Now()
	if _, err := c.WriteTo(b, to); err != nil {
		return 0, err
	}
	c.SetReadDeadline(began.Add(answerTimeout))
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return 0, err
		}
		r, ok := parseEcho(buf[:n], echoReply)
		if !ok || from.String() != to.String() || r.id != e.id || r.seq != e.seq {
			continue
		}
		if !bytes.Equal(r.payload, e.payload) {
			return 0, fmt.Errorf("the reply carries %q, the request carried %q", r.payload, e.payload)
		}
		return time.Since(began), nil
	}
}
