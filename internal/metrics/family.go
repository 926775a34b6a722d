package metrics

import "github.com/prometheus/client_golang/prometheus"

// Family is one metric: what docs/metrics.md says of it.
type Family struct {
	Name   string
	Type   prometheus.ValueType
	Labels []string
	Help   string

	desc *prometheus.Desc
}

func gauge(name, help string, labels ...string) *Family {
	return family(name, prometheus.GaugeValue, help, labels)
}

func counter(name, help string, labels ...string) *Family {
	return family(name, prometheus.CounterValue, help, labels)
}

func family(name string, kind prometheus.ValueType, help string, labels []string) *Family {
	f := &Family{Name: "sluice_" + name, Type: kind, Labels: labels, Help: help}
	f.desc = prometheus.NewDesc(f.Name, help, labels, nil)
	all = append(all, f)
	return f
}

var all []*Family // in the order of their declaration

// Families lists every metric, in the order of the document.
func Families() []*Family { return all }

var (
	buildInfo    = gauge("build_info", "Always 1; the labels say which build runs.", "version", "commit", "goversion")
	startTime    = gauge("start_time_seconds", "When the daemon started, in seconds since 1970.")
	degraded     = gauge("degraded_reasons", "Things that are not as they should be; `sluice status` names each with its remedy.")
	configLoaded = gauge("config_loaded_timestamp_seconds", "When the configuration in force was read.")
	reloadGood   = gauge("config_last_reload_successful", "Whether the last reload was accepted; 1 where there was none.")
	reloadAt     = gauge("config_last_reload_timestamp_seconds", "When the last reload was tried; 0 where there was none.")

	workerRunning   = gauge("worker_running", "Whether the worker's thread runs.", "worker")
	workerHeartbeat = gauge("worker_heartbeat_age_seconds", "Age of the worker's heartbeat; from 1 on the steering program applies on-failure.", "worker")
	workerBusy      = gauge("worker_busy_ratio", "Share of the last second that the worker spent on packets.", "worker")
	workerPackets   = counter("worker_packets_total", "Packets that the worker received.", "worker")
	workerBursts    = counter("worker_bursts_total", "Bursts with packets in them.", "worker")
	workerFrames    = gauge("worker_frames", "Where the frames of the worker's UMEM are: free, fill, rx, tx, held.", "worker", "place")

	interfaceUp = gauge("interface_up", "Whether the interface is there and its link is up.", "interface")
	queueUp     = gauge("queue_up", "Whether the queue's AF_XDP socket is in service.", "interface", "queue", "worker")
	queueMode   = gauge("queue_mode_info", "Always 1; mode is zero-copy, copy, generic or none.", "interface", "queue", "worker", "mode")
	rxPackets   = counter("receive_packets_total", "Packets received on the queue.", "interface", "queue", "worker")
	rxBytes     = counter("receive_bytes_total", "Bytes of frames received on the queue.", "interface", "queue", "worker")
	txPackets   = counter("transmit_packets_total", "Packets sent on the queue.", "interface", "queue", "worker")
	txBytes     = counter("transmit_bytes_total", "Bytes of frames sent on the queue.", "interface", "queue", "worker")
	ringSize    = gauge("ring_size_descriptors", "Size of a ring: fill, rx, tx, completion.", "interface", "queue", "worker", "ring")
	ringUsed    = gauge("ring_used_descriptors", "Descriptors in a ring.", "interface", "queue", "worker", "ring")
	queueLost   = counter("queue_lost_frames_total", "Frames that the queue lost (struct xdp_statistics): rx-dropped, rx-invalid, rx-ring-full, tx-invalid, tx-ring-full.", "interface", "queue", "worker", "reason")
	fillEmpty   = counter("queue_fill_ring_empty_total", "Times the kernel found no frame to receive into.", "interface", "queue", "worker")
	txEmpty     = counter("queue_tx_ring_empty_total", "Times the kernel found nothing to send, which loses nothing.", "interface", "queue", "worker")

	drops         = counter("drops_total", "Packets dropped, by the reason that `sluice drops` explains.", "reason")
	punts         = counter("punts_total", "Packets for the kernel that reached a worker, by result: passed, refused, failed.", "reason", "result")
	icmpErrors    = counter("icmp_errors_sent_total", "ICMP errors of the gateway's own.", "kind")
	icmpLimited   = counter("icmp_errors_limited_total", "ICMP errors not sent for the limit's sake.")
	fragmented    = counter("fragmented_packets_total", "Packets that left in fragments.")
	fragments     = counter("fragments_sent_total", "Fragments that those became.")
	followed      = counter("fragments_received_total", "Fragments of datagrams that may have to be translated.")
	fragmentsHeld = counter("fragments_held_total", "Of those, the ones that came before the first of their datagram and waited for it.")
	handedOver    = counter("fragments_handed_over_total", "Fragments that one worker gave to another, which has their datagram.")
	outOfWindow   = counter("tcp_out_of_window_total", "TCP segments whose numbers fit no window of their connection; they passed and changed nothing.")
	mssClamped    = counter("mss_clamped_total", "SYNs whose maximum segment size was lowered.")
	earlyDrops    = counter("early_dropped_flows_total", "Flows never answered that ended to make room.")
	synsHeld      = counter("syns_held_total", "Unsolicited SYNs that an answer was put off for.")
	echoReplies   = counter("echo_replies_total", "Answers to pings of addresses that the host does not hold.")
	returnPaths   = counter("service_flows_total", "Flows to services that began, by the way that their answers take.", "return_path")
	serviceResets = counter("service_resets_total", "Resets to clients of services whose connections cannot go on.")
	announcements = counter("service_announcements_total", "ARP announcements of service addresses.")
	strippedFrom  = counter("dsr_options_stripped_total", "Packets from which a foreign DSR option was taken.")
	pathMTUs      = counter("dsr_path_mtu_errors_total", "ICMP errors that told the MTU of a path to a backend.")
	conflicts     = counter("address_conflicts_total", "ARP messages in which another station has an address of the gateway's.")
	steered       = counter("steering_packets_total", "Packets that the steering program saw, by its decision.", "decision")
	steeringPin   = gauge("steering_pinned", "Whether the steering program outlives the daemon.")
	flows         = gauge("flows", "Live flows.", "protocol", "state")
	flowsLimit    = gauge("flows_limit", "Flows that the table has room for.")
	mappings      = gauge("mappings", "Mappings of inside to external endpoints.")
	mappingsLimit = gauge("mappings_limit", "Mappings that the table has room for.")
	sources       = gauge("sources", "Inside addresses that have mappings.")
	sourcesLimit  = gauge("sources_limit", "Inside addresses that the table has room for.")
	flowsAdopted  = gauge("state_file_adopted_flows", "Flows of an earlier process that this one took over.")
	flowsDropped  = gauge("state_file_dropped_flows", "Flows of an earlier process that could not stay.")
	stateOnTmpfs  = gauge("state_file_on_tmpfs", "Whether the flow table is in memory, as it should be; 1 where there is no file.")

	portsInUse   = gauge("nat_ports_in_use", "Ports (for icmp: identifiers) of the external address that mappings hold.", "address", "protocol")
	portsResting = gauge("nat_ports_resting", "Ports of the external address that were in use a moment ago and are not given out yet.", "address", "protocol")
	natRefused   = counter("nat_refused_mappings_total", "New mappings that found no port on the external address.", "address")
	portsLimit   = gauge("nat_ports_limit", "Ports of the external address that NAT may use.", "address", "protocol")
	portSearches = counter("nat_port_searches_total", "Searches for the port of a new mapping, by result: kept (the inside port), searched (another), exhausted (none was free), shared (another's, where none was free).", "result")

	portSearchesWaited = counter("nat_port_searches_waited_total", "Packets that were held while ports to share were searched.")
	portRetries        = counter("nat_port_retries_total", "Ports lost to another worker between search and claim.")

	goroutines  = gauge("goroutines", "Goroutines of the daemon.")
	heapBytes   = gauge("heap_bytes", "Objects in the daemon's Go heap, live and not yet swept.")
	residentSet = gauge("resident_memory_bytes", "All memory of the daemon; the flow table and the frames are most of it.")
	descriptors = gauge("open_descriptors", "Open files of the daemon.")
)
