package metrics

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"sluice/internal/control"
)

// Source is what a scrape asks. All must be safe for concurrent use, and must
// not block a worker.
type Source interface {
	// Measure is the state of the gateway, without what takes long to find out
	// and no metric shows.
	Measure() control.Status

	// Drops returns the counter of every drop reason.
	Drops() control.Drops

	// MeasureServices describes every service and its backends, but for the flows
	// that live now.
	MeasureServices() []control.Service
}

// NewRegistry returns a registry that asks source.
func NewRegistry(source Source) *prometheus.Registry {
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(collector{source})
	return r
}

// NewHandler answers a scrape.
func NewHandler(source Source) http.Handler {
	return promhttp.HandlerFor(NewRegistry(source), promhttp.HandlerOpts{
		MaxRequestsInFlight: 4, EnableOpenMetrics: true, Timeout: 10 * time.Second,
	})
}

type collector struct{ source Source }

// Describe implements prometheus.Collector.
func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, f := range all {
		to <- f.desc
	}
}

// sink is where one scrape goes.
type sink chan<- prometheus.Metric

func (s sink) put(f *Family, v float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(f.desc, f.Type, v, labels...)
}

func (s sink) count(f *Family, n uint64, labels ...string) { s.put(f, float64(n), labels...) }

func (s sink) truth(f *Family, is bool, labels ...string) {
	v := 0.0
	if is {
		v = 1
	}
	s.put(f, v, labels...)
}

// Collect implements prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	status, s := c.source.Measure(), sink(to)
	s.daemon(&status)
	s.workers(status.Workers)
	s.interfaces(status.Interfaces)
	s.packets(&status)
	s.tables(&status)
	s.nat(&status)
	s.agent(status.DSRAgent)
	s.services(c.source.MeasureServices())
	for _, d := range c.source.Drops().Reasons {
		s.count(drops, d.Packets, d.Reason)
	}
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

func (s sink) daemon(st *control.Status) {
	s.put(buildInfo, 1, st.Version.Version, st.Version.Commit, st.Version.Go)
	s.put(startTime, seconds(st.Started))
	s.put(degraded, float64(len(st.Degraded)))
	s.put(configLoaded, seconds(st.Config.Loaded))
	last := control.LastReload{}
	if st.Config.LastReload != nil {
		last = *st.Config.LastReload
	}
	s.truth(reloadGood, last.Error == "")
	s.put(reloadAt, seconds(last.At))
	s.put(goroutines, float64(st.Process.Goroutines))
	s.count(heapBytes, st.Process.HeapBytes)
	s.count(residentSet, st.Process.ResidentBytes)
	s.put(descriptors, float64(st.Process.Descriptors))
	s.put(flowsAdopted, float64(st.StateFile.Adopted))
	s.put(flowsDropped, float64(st.StateFile.Dropped))
	s.truth(stateOnTmpfs, st.StateFile.Tmpfs || st.StateFile.Path == "")
}

func (s sink) workers(list []control.Worker) {
	for i := range list {
		w := &list[i]
		id := strconv.Itoa(w.ID)
		s.truth(workerRunning, w.Running, id)
		s.put(workerHeartbeat, max(w.HeartbeatAgeSeconds, 0), id)
		s.put(workerBusy, w.Utilisation, id)
		s.count(workerPackets, w.Packets, id)
		s.count(workerBursts, w.Bursts, id)
		f := &w.Frames
		for place, n := range map[string]int{"free": f.Free, "fill": f.Fill, "rx": f.RX, "tx": f.TX, "held": f.Held} {
			s.put(workerFrames, float64(n), id, place)
		}
	}
}

func (s sink) interfaces(list []control.Interface) {
	for i := range list {
		s.truth(interfaceUp, list[i].Up, list[i].Name)
		for j := range list[i].Queues {
			s.queue(list[i].Name, &list[i].Queues[j])
		}
	}
}

func (s sink) queue(name string, q *control.Queue) {
	mode := q.Mode
	if mode == "" {
		mode = "none"
	}
	at := []string{name, strconv.Itoa(q.Queue), strconv.Itoa(q.Worker)}
	with := func(more string) []string { return []string{at[0], at[1], at[2], more} }
	s.truth(queueUp, q.Up, at...)
	s.put(queueMode, 1, with(mode)...)
	s.count(rxPackets, q.RXPackets, at...)
	s.count(rxBytes, q.RXBytes, at...)
	s.count(txPackets, q.TXPackets, at...)
	s.count(txBytes, q.TXBytes, at...)
	for ring, r := range map[string]control.Ring{"fill": q.FillRing, "rx": q.RXRing, "tx": q.TXRing, "completion": q.CompletionRing} {
		s.put(ringSize, float64(r.Size), with(ring)...)
		s.put(ringUsed, float64(r.Used), with(ring)...)
	}
	d := &q.Drops
	for reason, n := range map[string]uint64{
		"rx-dropped": d.RXDropped, "rx-invalid": d.RXInvalid, "rx-ring-full": d.RXRingFull,
		"tx-invalid": d.TXInvalid, "tx-ring-full": d.TXRingFullDrops,
	} {
		s.count(queueLost, n, with(reason)...)
	}
	s.count(fillEmpty, d.FillRingEmpty, at...)
	s.count(txEmpty, d.TXRingEmpty, at...)
}

func (s sink) packets(st *control.Status) {
	for _, p := range st.Punts.Reasons {
		s.count(punts, p.Passed, p.Reason, "passed")
		s.count(punts, p.Refused, p.Reason, "refused")
		s.count(punts, p.Failed, p.Reason, "failed")
	}
	for _, c := range st.Router.ICMPErrors {
		s.count(icmpErrors, c.Packets, c.Name)
	}
	s.count(icmpLimited, st.Router.ICMPErrorsLimited)
	s.count(fragmented, st.Router.FragmentedPackets)
	s.count(fragments, st.Router.Fragments)
	s.count(followed, st.Router.FragmentsFollowed)
	s.count(fragmentsHeld, st.Router.FragmentsHeld)
	s.count(handedOver, st.Router.FragmentsHandedOver)
	s.count(outOfWindow, st.Router.TCPOutOfWindow)
	s.count(mssClamped, st.Router.MSSClamped)
	s.count(earlyDrops, st.Router.EarlyDrops)
	s.count(synsHeld, st.Router.SYNsHeld)
	s.count(echoReplies, st.Router.EchoReplies)
	for _, c := range st.Router.ServiceFlows {
		s.count(returnPaths, c.Packets, c.Name)
	}
	s.count(serviceResets, st.Router.ServiceResets)
	s.count(announcements, st.Router.Announcements)
	s.count(strippedFrom, st.Router.OptionsStripped)
	s.count(pathMTUs, st.Router.PathMTUs)
	s.count(conflicts, st.Router.AddressConflicts)
	for _, c := range st.Steering.Counters {
		s.count(steered, c.Packets, c.Name)
	}
	s.truth(steeringPin, st.Steering.Pinned)
}

func (s sink) tables(st *control.Status) {
	for _, f := range st.Flows.ByState {
		s.put(flows, float64(f.Flows), f.Protocol, f.State)
	}
	s.put(flowsLimit, float64(st.Flows.Capacity))
	s.put(mappings, float64(st.Mappings.Used))
	s.put(mappingsLimit, float64(st.Mappings.Capacity))
	s.put(sources, float64(st.Sources.Used))
	s.put(sourcesLimit, float64(st.Sources.Capacity))
}

// identifiers is the number of ICMP echo identifiers of an external address:
// masquerade.port-range does not bound them.
const identifiers = 1 << 16

func (s sink) nat(st *control.Status) {
	for _, x := range st.Masquerade.Addresses {
		a := x.Address.String()
		s.put(portsInUse, float64(x.InUse.TCP), a, "tcp")
		s.put(portsInUse, float64(x.InUse.UDP), a, "udp")
		s.put(portsInUse, float64(x.InUse.ICMP), a, "icmp")
		s.put(portsResting, float64(x.Resting.TCP), a, "tcp")
		s.put(portsResting, float64(x.Resting.UDP), a, "udp")
		s.put(portsResting, float64(x.Resting.ICMP), a, "icmp")
		s.count(natRefused, x.Refused, a)
		if x.Capacity == 0 {
			continue // nothing is chosen there: no share of it could be said
		}
		s.put(portsLimit, float64(x.Capacity), a, "tcp")
		s.put(portsLimit, float64(x.Capacity), a, "udp")
		s.put(portsLimit, identifiers, a, "icmp")
	}
	p := &st.PortSearch
	s.count(portSearches, p.Kept, "kept")
	s.count(portSearches, p.Searched, "searched")
	s.count(portSearches, p.Exhausted, "exhausted")
	s.count(portSearches, p.Shared, "shared")
	s.count(portSearchesWaited, p.Waited)
	s.count(portRetries, p.Retries)
}
