package conntrack

// Burst is the most keys that one LookupBurst takes.
const Burst = 64

// Lookup is a burst of keys and what was found for them. It is large: a worker
// has one and uses it again and again.
type Lookup struct {
	Keys [Burst]Tuple     // in
	Flow [Burst]*Flow     // out: nil where there is none
	Dir  [Burst]Direction // out: which of the flow's tuples the key is

	key    [Burst]key
	hash   [Burst]uint64
	bucket [Burst]uint32
	word   [Burst]uint64 // the slot that matched, 0 = none
	sink   uint64
}

// LookupBurst finds the flows of l.Keys[:n]. A flow that has been silent for too
// long is ended and counts as not found.
//
// At a million flows a key costs two or three cache misses of 150 ns. The burst
// is therefore worked on in stages, each of which asks for the memory of all
// keys before the next one needs it: the processor then waits for ten lines at
// once instead of one after the other.
func (w *Worker) LookupBurst(l *Lookup, n int, now Tick) {
	w.now = now
	n = min(n, Burst)
	l.hashAll(w.table, n)
	l.touchBuckets(w.table, n)
	l.match(w.table, n)
	l.touchFlows(w.table, n)
	w.compare(l, n)
}

// hashAll works out where each key's chain begins.
func (l *Lookup) hashAll(t *Table, n int) {
	for i := range l.Keys[:n] {
		k := l.Keys[i].key()
		h := t.seed.hash(k)
		l.key[i], l.hash[i], l.bucket[i] = k, h, reduce(h, t.nBuckets)
	}
}

// touchBuckets loads a word of every bucket. Nothing here depends on a value
// loaded, so that the misses overlap; the sum only keeps the compiler from
// leaving the loads out. A loop of its own: mixed with the hashing, the loads
// would block the retirement of what follows them.
func (l *Lookup) touchBuckets(t *Table, n int) {
	var sum uint64
	for _, at := range l.bucket[:n] {
		sum += t.buckets[at].overflow.Load()
	}
	l.sink = sum
}

// match looks at the seven slots of each bucket. Without branches: which slot
// matches cannot be predicted, and each wrong guess costs more than the seven
// compares. Two slots with the tag come up once in tens of millions of keys; the
// last one is taken, and compare notices.
func (l *Lookup) match(t *Table, n int) {
	for i := range l.bucket[:n] {
		s := &t.buckets[l.bucket[i]].slot
		want := tag(l.hash[i]) | slotLive
		var found uint64
		if v := s[0].Load(); v&foundMask == want {
			found = v
		}
		if v := s[1].Load(); v&foundMask == want {
			found = v
		}
		if v := s[2].Load(); v&foundMask == want {
			found = v
		}
		if v := s[3].Load(); v&foundMask == want {
			found = v
		}
		if v := s[4].Load(); v&foundMask == want {
			found = v
		}
		if v := s[5].Load(); v&foundMask == want {
			found = v
		}
		if v := s[6].Load(); v&foundMask == want {
			found = v
		}
		l.word[i] = found
	}
}

// touchFlows loads both lines of every record. Where there was no match that is
// record 0, which is in the cache.
func (l *Lookup) touchFlows(t *Table, n int) {
	var sum uint32
	for _, word := range l.word[:n] {
		f := &t.flows[slotID(word)]
		sum += f.nextHop[0].Load() + f.status.Load()
	}
	l.sink += uint64(sum)
}

// compare takes the matches that are live flows with just this key; whatever is
// less simple goes the slow way.
func (w *Worker) compare(l *Lookup, n int) {
	t := w.table
	limits := t.limits.Load()
	for i := range l.word[:n] {
		word := l.word[i]
		d := slotDirection(word)
		f := &t.flows[slotID(word)]
		s := status(f.status.Load())
		if s.phase() == phaseLive && f.is(d, &l.Keys[i]) && !limits.idle(s.state(), f.lastSeen(), w.now) {
			l.Flow[i], l.Dir[i] = f, d
			continue
		}
		if word == 0 && t.buckets[l.bucket[i]].overflow.Load() == 0 {
			l.Flow[i], l.Dir[i] = nil, 0
			continue
		}
		l.Flow[i], l.Dir[i] = w.lookup(l.key[i], l.hash[i])
	}
}

// Find finds the flow of one key, as LookupBurst does.
func (w *Worker) Find(key Tuple, now Tick) (*Flow, Direction) {
	w.now = now
	k := key.key()
	return w.lookup(k, w.table.seed.hash(k))
}

// lookup finds the live flow of a key, along its whole chain.
func (w *Worker) lookup(k key, h uint64) (*Flow, Direction) {
	word := w.table.find(k, h, kindOriginal)
	if word == 0 {
		return nil, 0
	}
	f := &w.table.flows[slotID(word)]
	s := status(f.status.Load())
	if s.phase() != phaseLive || w.expire(f, s) {
		return nil, 0
	}
	return f, slotDirection(word)
}
