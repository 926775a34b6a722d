package conntrack

import (
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// Services says which service and backend a flow of kind ServiceSNAT or
// ServiceDSR is of, by its tuples, and false where there is none any more. It is
// asked for the flows that another process left: each numbers services and
// backends for itself, and the tuples name them as well as any id. The client is
// original.Src, the service original.Dst, the backend reply.Src, each with its
// port.
type Services func(original, reply Tuple) (service uint16, backend uint32, ok bool)

// Balanced reports whether flows of the kind have a service and a backend.
func (k Kind) Balanced() bool { return k == ServiceSNAT || k == ServiceDSR }

// served gives an adopted flow the ids that its service and backend have now,
// and reports whether they are still there.
func (r *Remains) served(f *Flow) bool {
	if !f.Kind().Balanced() || r.cfg.Services == nil {
		return true
	}
	service, backend, ok := r.cfg.Services(f.tuple[Original], f.tuple[Reply])
	if ok {
		f.service, f.backend = service, backend
	}
	return ok
}

// scope is the service whose own the mapping of a flow is, 0 for those of
// masqueraded flows.
func (f *Flow) scope() uint16 {
	if f.Kind() != ServiceSNAT {
		return 0
	}
	return f.service
}

// of is the key of a mapping that serves the clients of one service. A client may
// use one port towards several services, and they may share a backend: were its
// mapping the same, so would be the answers. 0 is the key as it was.
func (k key) of(service uint16) key {
	k.b |= uint64(service) << 16
	return k
}

// Service is the service whose client the mapping is of, 0 where it is a
// masqueraded endpoint's. Nothing but the flows it was made for uses one of the
// former: it is found by no other service and by no stranger.
func (m *Mapping) Service() uint16 { return m.service }

// FindServiceMapping returns the mapping that service has of a client's endpoint
// at x, with a reference, or nil.
func (w *Worker) FindServiceMapping(service uint16, proto uint8, client uint32, port uint16, x *External) *Mapping {
	return w.findMapping(mappingKey(proto, client, port, 0, x.addr).of(service))
}

// NewServiceMapping is NewMapping for a client of a service. It has no Source:
// clients are the world, and no limit counts their flows.
func (w *Worker) NewServiceMapping(service uint16, proto uint8, client uint32, port uint16, x *External, extPort uint16, now Tick) (m *Mapping, existed, portTaken bool, r verdict.Reason) {
	return w.newMapping(service, proto, client, port, x, extPort, nil, now)
}

// SeenAt reports whether a packet of the flow was seen in this tick already.
func (f *Flow) SeenAt(now Tick) bool { return f.lastSeen() == now }

// oneWay is the status of a flow whose answers go another way, after a packet of
// the client's, not the first, and all that it alone tells. The client acknowledges the SYN that
// was not seen; so what would take a forger on both sides elsewhere takes one
// here, which could no more than keep a record that its own SYN made. UDP has
// been answered when the client goes on: nothing else will ever say so. Of the
// close only the client's FIN is seen: from there the time-out is the transitory
// one, which its last ACKs put off.
func (s status) oneWay(proto, flags uint8) status {
	switch s.state() {
	case UDPUnreplied:
		return s.withState(UDPReplied)
	case TCPSynSent, TCPSynReceived:
		if proto == packet.ProtoTCP && flags&(packet.TCPAck|packet.TCPSyn) == packet.TCPAck {
			return (s | opened).withState(TCPEstablished).closing(Original, flags)
		}
	}
	return s
}
