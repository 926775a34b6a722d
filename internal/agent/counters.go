package agent

import "fmt"

// Counter counts what the programs did with packets.
type Counter struct {
	Name    string // stable, kebab-case
	Text    string // what it means, for people
	Fate    Fate
	Packets uint64
}

// Fate is what became of a packet that a Counter counts.
type Fate uint8

const (
	Served  Fate = iota // part of the agent's work
	Ignored             // left as it came: nothing was learned from it
	Dropped
)

// events names enum event of the C source.
var events = [programsEventEVENTS]struct {
	name, text string
	fate       Fate
}{
	programsEventLEARNED:           {"learned", "flows begun", Served},
	programsEventREQUEST:           {"request", "packets of a flow from its client", Served},
	programsEventREPLY:             {"reply", "packets of a flow that left with the service address", Served},
	programsEventERROR:             {"error", "ICMP errors about a flow that left with the service address", Served},
	programsEventREROUTED:          {"rerouted", "replies and errors that routing rules for the service address sent another way", Served},
	programsEventSTRIPPED:          {"stripped", "requests that the option was taken out of", Served},
	programsEventDECAPSULATED:      {"decapsulated", "requests that an outer header was taken off", Served},
	programsEventUNTRUSTED_GATEWAY: {"untrusted-gateway", "named a service, and came from none of the trusted gateways", Ignored},
	programsEventUNLISTED_SERVICE:  {"unlisted-service", "named a service that is not listed", Ignored},
	programsEventOWN_SIDE:          {"own-side", "named a service, and came from this node or a pod of it", Ignored},
	programsEventOPTION_MALFORMED:  {"option-malformed", "named a service in a header that is not sound", Ignored},
	programsEventOTHER_PROTOCOL:    {"other-protocol", "named a service for a packet that is neither TCP nor UDP", Ignored},
	programsEventOUTER_FOREIGN:     {"outer-foreign", "a gateway's outer header that is no dispatch of a service, or not sound", Ignored},
	programsEventOUTER_FRAGMENT:    {"outer-fragment", "a gateway's outer header in fragments, which cannot be taken off before they are put together", Ignored},
	programsEventFRAGMENT_UNKNOWN:  {"fragment-unknown", "later fragment in an outer header whose first one did not come before", Ignored},
	programsEventDIRECT_SYN:        {"direct-syn", "a SYN to the backend itself from a client port that a flow has: the server decides which of the two goes on", Ignored},

	programsEventDIRECT_DATAGRAM:        {"direct-datagram", "a datagram to the backend itself from a client port that a flow has: its answer would leave with the service address", Dropped},
	programsEventSERVICE_COLLISION:      {"service-collision", "another service address had a flow with the same client and backend port", Dropped},
	programsEventTABLE_FULL:             {"table-full", "the flow table had no room for a new flow", Dropped},
	programsEventHANDING_OVER:           {"handing-over", "would have begun a flow while flows are handed to a table of another size", Dropped},
	programsEventFLOW_UNKNOWN:           {"flow-unknown", "came in an outer header, named no service and belonged to no flow: its answer would leave with the backend's address", Dropped},
	programsEventOUTER_CONGESTION:       {"outer-congestion", "a router marked the outer header for congestion, which the ends do not understand", Dropped},
	programsEventREPLY_FRAGMENT_UNKNOWN: {"reply-fragment-unknown", "later fragment from a backend whose first one did not leave before: it may be a reply", Dropped},
	programsEventREPLY_UNROUTABLE:       {"reply-unroutable", "routing rules for the service address have no way to the client", Dropped},
	programsEventREPLY_TOO_BIG:          {"reply-too-big", "routing rules for the service address have a way to the client whose MTU is smaller", Dropped},
	programsEventREWRITE_FAILED:         {"rewrite-failed", "the kernel could not change the packet", Dropped},
}

// Counters reads every counter, in a fixed order. They count from the first start
// after which the programs stayed attached.
func (a *Agent) Counters() ([]Counter, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	counters := make([]Counter, len(events))
	var perCPU []uint64
	for i, e := range events {
		if err := a.objects.Counters.Lookup(uint32(i), &perCPU); err != nil {
			return nil, fmt.Errorf("counter %s of the DSR agent: bpf(BPF_MAP_LOOKUP_ELEM): %w", e.name, err)
		}
		counters[i] = Counter{Name: e.name, Text: e.text, Fate: e.fate}
		for _, n := range perCPU {
			counters[i].Packets += n
		}
	}
	return counters, nil
}
