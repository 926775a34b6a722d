package conntrack

import (
	"sync/atomic"

	"sluice/internal/packet"
)

// Remains is the flow table that another process left, with all its records
// and nothing yet that leads to them.
//
// Of what a process killed at any instruction leaves, the flows alone are
// believed: each says by its phase whether it was complete and by its seal
// whether it is whole. Index, mappings, sources, references, ports and free
// lists follow from them and are made again. Mappings and sources that match
// keep their ids and history; those that do not are mended.
//
// Making them again can itself be killed at any instruction: what it goes by, the
// part of a live flow that the seal covers, it never writes.
type Remains struct {
	table *Table
	cfg   Config

	report   Report
	now      Tick
	limits   *limits
	ports    [maxPorts]bool // those that still number the same interface
	orphans  []uint32       // mappings whose source record is another's
	later    [3][]uint32    // flows that wait for a stage; see Mapping.stage
	stage    int
	latest   *External
	batch    [Burst]pending
	nBatch   int
	touched  uint64
	counting *Worker
}

// pending is a flow that was found good by itself and waits for its buckets.
type pending struct {
	id             uint32
	original, back uint64 // hashes of its tuples

	// Where it has a mapping:
	x      *External
	mapped uint64         // hash of the mapping's key
	port   *atomic.Uint32 // the claim to the port, in x
}

// Adopt looks at the table that another process left in the first found bytes of
// mem, which is Size(cfg) bytes long and aligned to 64. An error says why it is
// not to be had; the memory is unchanged then, and Erase makes room for New.
//
// The hash seed is the table's own. A table for fewer flows than cfg.MaxFlows grows
// here; otherwise nothing is changed until Rebuild.
func Adopt(mem []byte, found int, cfg Config) (*Remains, error) {
	if err := cfg.validate(mem); err != nil {
		return nil, err
	}
	s := cfg.shape()
	h := headerOf(mem)
	if err := h.check(&cfg, &s, found); err != nil {
		return nil, err
	}
	r := &Remains{cfg: cfg}
	if before := int(h.flows); before < s.flows {
		old := shapeOf(before)
		grow(mem, &old, &s)
		r.report.Grown = before
	}
	r.table = lay(mem, &cfg, &s)
	r.report.Clean = atomic.LoadUint64(&h.clean) == cleanMark
	for i, name := range cfg.Ports {
		r.ports[i] = atomic.LoadUint32(&h.ports[i]) == portName(name)
	}
	return r, nil
}

// Table is the table, for AddExternal. It is not to be used otherwise before
// Rebuild.
func (r *Remains) Table() *Table { return r.table }

// Rebuild makes the table whole again. The external addresses that still exist
// must have been added to it: the ports that mappings hold are claimed on them,
// and their bits set, so that the steering program knows them before it is
// attached. A flow that cannot stay is ended and counted in the report.
//
// It may be called once. The table may be used when it returns.
func (r *Remains) Rebuild(now Tick) Report {
	t := r.table
	r.begin(now)
	for id := 1; id < len(t.flows); id++ {
		r.look(uint32(id))
	}
	r.insertBatch()
	for r.stage = 1; r.stage < len(r.later); r.stage++ {
		for _, id := range r.later[r.stage] {
			r.look(id)
		}
		r.insertBatch()
	}
	r.freeFlows()
	r.freeMappings()
	r.freeSources()
	r.mendSources()
	r.countSources()
	// Every flow that stays has ports which mean the same by the old list and
	// by the new one.
	t.header.setPorts(r.cfg.Ports)
	r.report.Mappings, r.report.Sources = int(r.counting.mappingCount.Load()), int(r.counting.sourceCount.Load())
	return r.report
}

// begin forgets everything that is made again.
func (r *Remains) begin(now Tick) {
	t := r.table
	r.now, r.limits = now, t.limits.Load()
	r.counting = t.workers[len(t.workers)-1]
	atomic.StoreUint64(&t.header.clean, 0)
	atomic.AddUint64(&t.header.generation, 1)
	clear(asBytes(t.buckets))
	// Never used, but looked at instead of one that is not there.
	clear(asBytes(t.flows[:1]))
	clear(asBytes(t.mappings[:1]))
	clear(asBytes(t.sources[:1]))
	for i := range t.mappings {
		if refs := &t.mappings[i].refs; refs.Load() != 0 {
			refs.Store(0)
		}
	}
	for i := range t.sources {
		t.sources[i].refs.Store(0)
		t.sources[i].flows.Store(0)
		t.sources[i].ports.Store(0)
	}
}

// look judges one flow record by itself. Those that pass are indexed in batches,
// so that the misses on what they lead to overlap; the order stays that of the
// ids, and of two records that exclude each other the lower id stays.
func (r *Remains) look(id uint32) {
	t := r.table
	f := &t.flows[id]
	switch status(f.status.Load()).phase() {
	case phaseLive:
	case phaseBuilding:
		r.lose(id, LostIncomplete)
		return
	default:
		return
	}
	p := &r.batch[r.nBatch]
	why := r.judge(f)
	if why == stays {
		why = r.locate(f, p)
	}
	if why != stays {
		r.lose(id, why)
		return
	}
	if p.x != nil {
		if stage := t.mappings[f.mapping].stage(f); stage > r.stage {
			r.later[stage] = append(r.later[stage], id)
			return
		}
	}
	p.id, p.original, p.back = id, t.seed.hash(f.tuple[Original].key()), t.seed.hash(f.tuple[Reply].key())
	if r.nBatch++; r.nBatch == len(r.batch) {
		r.insertBatch()
	}
}

// judge says whether a live flow can stay, as far as its record alone tells.
func (r *Remains) judge(f *Flow) Loss {
	switch {
	case !f.sealed():
		return LostTorn
	case !f.plausible(r.now):
		return LostImplausible
	case !r.numbered(f.in) || !r.numbered(f.out):
		return LostInterface
	case !r.served(f):
		return LostService
	}
	seen := f.lastSeen()
	if seen == expiring || r.limits.expired(f, status(f.status.Load()).state(), seen, r.now) {
		return LostExpired
	}
	return stays
}

// numbered reports whether port number p means what it did.
func (r *Remains) numbered(p uint8) bool { return int(p) < len(r.ports) && r.ports[p] }

// plausible reports whether a sealed flow is one that this program would make:
// it could have been sealed by one that was out of order.
func (f *Flow) plausible(now Tick) bool {
	o, a, s := &f.tuple[Original], &f.tuple[Reply], status(f.status.Load())
	return o.Proto == a.Proto && o.Zone == a.Zone && o.pad == 0 && a.pad == 0 &&
		f.Kind() < kinds && (f.Kind() != Masquerade || (f.mapping != 0) != packet.Portless(o.Proto)) &&
		(f.Kind() != ServiceSNAT || f.mapping != 0) && (f.Kind() != ServiceDSR || f.mapping == 0) &&
		(f.Kind() != Forward || f.mapping == 0 && *a == o.Reverse()) &&
		s.state().of(o.Proto) && int32(now-f.created) >= 0
}

// of reports whether flows of a protocol can be in state s.
func (s State) of(proto uint8) bool {
	switch initial(proto, Original, 0).state() {
	case UDPUnreplied:
		return s == UDPUnreplied || s == UDPReplied
	case ICMPQuery:
		return s == ICMPQuery
	case OtherProtocol:
		return s == OtherProtocol
	}
	return TCPSynSent <= s && s <= TCPClose
}

// insertBatch indexes the flows of the batch and gives them their mappings back.
func (r *Remains) insertBatch() {
	r.touch()
	for i := range r.batch[:r.nBatch] {
		p := &r.batch[i]
		if why := r.insert(p); why != stays {
			r.lose(p.id, why)
		} else {
			r.keep(p.id)
		}
	}
	r.nBatch = 0
}

// touch asks for the memory that the batch needs, see LookupBurst: a loop of its
// own, in which nothing depends on what was loaded.
func (r *Remains) touch() {
	t := r.table
	var sum uint64
	for i := range r.batch[:r.nBatch] {
		p := &r.batch[i]
		sum += t.buckets[reduce(p.original, t.nBuckets)].overflow.Load()
		sum += t.buckets[reduce(p.back, t.nBuckets)].overflow.Load()
		if p.x != nil {
			sum += t.buckets[reduce(p.mapped, t.nBuckets)].overflow.Load()
			sum += uint64(t.mappings[t.flows[p.id].mapping].refs.Load()) + uint64(p.port.Load())
		}
	}
	r.touched = sum
}

func (r *Remains) insert(p *pending) Loss {
	t := r.table
	f := &t.flows[p.id]
	if why := r.enter(f.tuple[Original].key(), p.original, kindOriginal|uint64(p.id)); why != stays {
		return why
	}
	why := stays
	if f.tuple[Original] != f.tuple[Reply] {
		why = r.enter(f.tuple[Reply].key(), p.back, kindReply|uint64(p.id))
	}
	if why == stays && p.x != nil {
		why = r.restoreMapping(f, p)
	}
	if why != stays {
		t.remove(p.original, tag(p.original)|slotLive|kindOriginal|uint64(p.id))
		t.remove(p.back, tag(p.back)|slotLive|kindReply|uint64(p.id))
	}
	return why
}

// enter is Table.insert where nobody else does.
func (r *Remains) enter(k key, h, ref uint64) Loss {
	word := tag(h) | slotLive | ref
	if r.table.find(k, h, word&classBit) != 0 {
		return LostDuplicate
	}
	if _, ok := r.table.claim(h, word); !ok {
		return LostDuplicate // sixteen buckets full of its like
	}
	return stays
}

// keep makes an indexed flow a flow again.
func (r *Remains) keep(id uint32) {
	f := &r.table.flows[id]
	// Routes are counted from the beginning by every process, and a hop of
	// another's is none of ours.
	f.nextHop[Original].Store(0)
	f.nextHop[Reply].Store(0)
	if int32(r.now-f.lastSeen()) < 0 {
		storeTick(&f.seen, r.now)
		r.report.Mended++
	}
	r.table.peers.count(f, 1)
	add(&r.counting.states[f.State()], 1)
	r.report.Adopted++
}

// lose ends a flow for good.
func (r *Remains) lose(id uint32, why Loss) {
	r.table.flows[id].status.Store(uint32(phaseDead))
	r.report.Lost[why]++
}

// freeFlows makes the list of flow records that are free.
func (r *Remains) freeFlows() {
	t := r.table
	free := freeList{link: t.flowPool.link}
	for id := 1; id < len(t.flows); id++ {
		if status(t.flows[id].status.Load()).phase() == phaseLive {
			free.used(uint32(id))
		}
	}
	free.into(t.flowPool)
}

// freeMappings makes the list of mappings that no flow uses.
func (r *Remains) freeMappings() {
	t := r.table
	free := freeList{link: t.mappingPool.link}
	for id := 1; id < len(t.mappings); id++ {
		if t.mappings[id].refs.Load() != 0 {
			free.used(uint32(id))
		} else {
			r.restoreRest(&t.mappings[id])
		}
	}
	free.into(t.mappingPool)
}

func (r *Remains) freeSources() {
	t := r.table
	free := freeList{link: t.sourcePool.link}
	for id := 1; id < len(t.sources); id++ {
		if t.sources[id].refs.Load() != 0 {
			free.used(uint32(id))
		}
	}
	free.into(t.sourcePool)
}

// freeList links the records between those in use, in order.
type freeList struct {
	link        func(uint32) *atomic.Uint32
	last        uint32 // id in use
	first, tail uint32 // ids that are free
}

// used says that id, higher than any before, is in use.
func (l *freeList) used(id uint32) {
	for free := l.last + 1; free < id; free++ {
		if l.first == 0 {
			l.first = free
		} else {
			l.link(l.tail).Store(free)
		}
		l.tail = free
	}
	l.last = id
}

// into hands the list to a new pool. Ids above the last one in use count as
// never used.
func (l *freeList) into(p *pool) {
	p.fresh.Store(l.last)
	if l.first != 0 {
		p.push(l.first, l.tail)
	}
}
