package conntrack

import (
	"testing"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// TestOneWayStates: the states of a flow of which only the client's packets are
// seen, as these make it move.
func TestOneWayStates(t *testing.T) {
	const syn, ack, fin, rst = packet.TCPSyn, packet.TCPAck, packet.TCPFin, packet.TCPRst
	for _, c := range []struct {
		name  string
		proto uint8
		flags []uint8
		want  State
	}{
		{"SYN", packet.ProtoTCP, []uint8{syn}, TCPSynSent},
		{"SYN again", packet.ProtoTCP, []uint8{syn, syn}, TCPSynSent},
		{"handshake", packet.ProtoTCP, []uint8{syn, ack}, TCPEstablished},
		{"moved here", packet.ProtoTCP, []uint8{ack, ack}, TCPEstablished},
		{"client closes", packet.ProtoTCP, []uint8{syn, ack, ack | fin}, TCPFinWait},
		{"client closes at once", packet.ProtoTCP, []uint8{syn, ack | fin}, TCPFinWait},
		{"last ACK", packet.ProtoTCP, []uint8{syn, ack, ack | fin, ack}, TCPFinWait},
		{"client resets", packet.ProtoTCP, []uint8{syn, ack, rst}, TCPClose},
		{"refused by the client", packet.ProtoTCP, []uint8{syn, rst}, TCPClose},
		{"datagram", packet.ProtoUDP, []uint8{0}, UDPUnreplied},
		{"datagrams", packet.ProtoUDP, []uint8{0, 0}, UDPReplied},
	} {
		table := newTable(t, 16, 1)
		w := table.Worker(0)
		original := Tuple{Src: client, Dst: server, SrcPort: 4000, DstPort: 80, Proto: c.proto}
		reply := original.Reverse()
		reply.Src++
		f, d, _, r := w.Create(&NewFlow{Original: original, Reply: reply, Kind: ServiceDSR, TCPFlags: c.flags[0], Service: 3, Backend: 9}, 1)
		if r != verdict.None {
			t.Fatal(r)
		}
		for _, flags := range c.flags {
			w.Update(f, d, &packet.Packet{Proto: c.proto, TCPFlags: flags})
			f.Touch(d, 40, 1)
			if len(c.flags) == 1 {
				break
			}
		}
		if f.State() != c.want {
			t.Errorf("%s: %v, want %v", c.name, f.State(), c.want)
		}
	}
}

// TestServiceMappingsAreApart: one client endpoint has a mapping for each service
// and one as an inside host, and none is found as another.
func TestServiceMappingsAreApart(t *testing.T) {
	l := newLeft(t, 16, external)
	x := l.table.External(external)
	ports := map[uint16]uint16{}
	for service := uint16(0); service < 4; service++ {
		var m *Mapping
		if service == 0 {
			m = l.mapping(t, Tuple{Src: client, SrcPort: 4000, Proto: packet.ProtoUDP}, external, 5000, 1)
		} else {
			var r verdict.Reason
			if m, _, _, r = l.w.NewServiceMapping(service, packet.ProtoUDP, client, 4000, x, 5000+service, 1); r != verdict.None {
				t.Fatal(r)
			}
		}
		if m.Service() != service {
			t.Errorf("the mapping for service %d is service %d's", service, m.Service())
		}
		_, ports[service] = m.External()
	}
	for service, port := range ports {
		m := l.w.FindServiceMapping(service, packet.ProtoUDP, client, 4000, x)
		if m == nil {
			t.Fatalf("service %d: no mapping", service)
		}
		if _, got := m.External(); got != port {
			t.Errorf("service %d: port %d, want %d", service, got, port)
		}
		l.w.Release(m)
		l.w.Release(m)
	}
	if err := l.table.Verify(); err != nil {
		t.Error(err)
	}
}

// balanced makes a flow to a service by a client's port, whose answers come to a
// port of the external address, or for DSR nowhere.
func (l *left) balanced(t *testing.T, service uint16, clientPort uint16, dsr bool, now Tick) *Flow {
	t.Helper()
	original := Tuple{Src: client, SrcPort: clientPort, Dst: server, DstPort: 80 + service, Proto: packet.ProtoTCP}
	nf := &NewFlow{
		Original: original, Reply: Tuple{Src: server + 9, SrcPort: 8080, Dst: client, DstPort: clientPort, Proto: packet.ProtoTCP},
		Kind: ServiceDSR, Service: service, Backend: uint32(service) * 10, TCPFlags: packet.TCPSyn, OutPort: 1,
	}
	if !dsr {
		m, _, _, r := l.w.NewServiceMapping(service, original.Proto, client, clientPort, l.table.External(external), 6000+service, now)
		if r != verdict.None {
			t.Fatal(r)
		}
		nf.Kind, nf.Mapping = ServiceSNAT, m
		nf.Reply.Dst, nf.Reply.DstPort = m.External()
	}
	return mustCreate(t, l.w, nf, now)
}

// TestServicesNumberedAnew: flows of services are adopted under the ids that
// their service and backend have in the new process, found by their tuples, with
// their ports; those of services that are gone end.
func TestServicesNumberedAnew(t *testing.T) {
	l := newLeft(t, 16, external)
	l.balanced(t, 1, 4000, false, 5)
	l.balanced(t, 2, 4000, false, 5)
	l.balanced(t, 3, 4001, true, 5)
	l.balanced(t, 4, 4002, true, 5) // whose service is gone
	l.cfg.Services = func(original, reply Tuple) (uint16, uint32, bool) {
		service := original.DstPort - 80
		if reply.Src != server+9 || original.Src != client {
			t.Errorf("asked for %v, %v", original, reply)
		}
		return service + 100, uint32(service) + 1000, service != 4
	}
	table, report := l.adopted(t, l.copy(), 6, external)
	if report.Adopted != 3 || report.Lost[LostService] != 1 || report.Mappings != 2 || report.Mended != 0 {
		t.Errorf("%v", report)
	}
	for _, s := range snapshots(table) {
		service := s.Original.DstPort - 80
		if s.Service != service+100 || s.Backend != uint32(service)+1000 {
			t.Errorf("%v: service %d, backend %d", s.Original, s.Service, s.Backend)
		}
	}
	w, x := table.Worker(0), table.External(external)
	for service := uint16(1); service <= 2; service++ {
		m := w.FindServiceMapping(service+100, packet.ProtoTCP, client, 4000, x)
		if m == nil {
			t.Fatalf("service %d has no mapping", service)
		}
		if _, port := m.External(); port != 6000+service {
			t.Errorf("service %d: port %d", service, port)
		}
		w.Release(m)
	}
}
