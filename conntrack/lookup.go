package conntrack

// Burst is the most keys that one LookupBurst takes.
const Burst = 64

// Lookup is a burst of keys and what was found for them. It is large: a worker
// has one and uses it again and again.
type Lookup struct {
	Keys [Burst]Tuple     // in
	Flow [Burst]*Flow     // out, by Settle: nil where there is none
	Dir  [Burst]Direction // out: which of the flow's tuples the key is

	n      int
	hash   [Burst]uint64
	bucket [Burst]*bucket
	word   [Burst]uint64 // the slot that matched, 0 = none
}

// Stride is how many records Settle sends for at once: enough for the memory to
// be kept busy, few enough for all of them to be under way together.
const Stride = 8

// LookupBurst finds the flows of l.Keys[:n]. A flow that has been silent for too
// long is ended and counts as not found.
//
// At a million flows a key costs three cache misses of 150 ns. So it is worked on
// in three stages, each of which sends for the memory that the next one needs,
// and a caller with something else to do between them, as the gateway has, waits
// for next to none of it:
//
//	Ask     as soon as some keys are known: hash them, send for their buckets
//	Match   for the burst: find the slots, send for the first few flows
//	Settle  a stride at a time: take the flows, send for the next few
func (w *Worker) LookupBurst(l *Lookup, n int, now Tick) {
	n = min(n, Burst)
	w.Ask(l, 0, n)
	w.Match(l, n, now)
	for at := 0; at < n; {
		at = w.Settle(l, at)
	}
}

// Ask hashes l.Keys[from:to] and sends for the buckets where their chains begin.
func (w *Worker) Ask(l *Lookup, from, to int) {
	t := w.table
	keys, hash, bucket := l.Keys[from:to], l.hash[from:to], l.bucket[from:to]
	for i := range keys {
		h := t.seed.hash(keys[i].key())
		hash[i], bucket[i] = h, &t.buckets[reduce(h, t.nBuckets)]
	}
	fetch(bucket)
}

// Match looks for l.Keys[:n], which were asked for, in their first buckets, and
// returns how many are in none of them. What Settle will take is sent for.
func (w *Worker) Match(l *Lookup, n int, now Tick) (unmatched int) {
	w.now = now
	l.n = min(n, Burst)
	t := w.table
	for i, b := range l.bucket[:l.n] {
		word := b.match(tag(l.hash[i]) | slotLive)
		l.word[i] = word
		// Without a match that is record 0, which is in the cache.
		l.Flow[i] = &t.flows[slotID(word)]
		if word == 0 {
			unmatched++
		}
	}
	fetchPairs(l.Flow[:min(Stride, l.n)])
	return unmatched
}

// Unmatched reports whether Match found key i in no slot of its first bucket: most
// likely it belongs to no flow.
func (l *Lookup) Unmatched(i int) bool { return l.word[i] == 0 }

// match returns the slot with what is wanted of foundMask, 0 = none. Without
// branches: which slot matches cannot be predicted, and each wrong guess costs
// more than the seven compares. Two slots with the tag come up once in tens of
// millions of keys; the last one is taken, and Settle notices.
func (b *bucket) match(want uint64) (found uint64) {
	s := &b.slot
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
	return found
}

// Settle finds the flows of a stride of keys from `from` on, and returns where the
// next one begins. It takes the matches that are live flows with just this key;
// whatever is less simple goes the slow way.
func (w *Worker) Settle(l *Lookup, from int) (to int) {
	to = min(from+Stride, l.n)
	fetchPairs(l.Flow[to:min(to+Stride, l.n)])
	limits := w.table.limits.Load()
	for i := from; i < to; i++ {
		word, f := l.word[i], l.Flow[i]
		d := slotDirection(word)
		s := status(f.status.Load())
		if s.phase() == phaseLive && f.is(d, &l.Keys[i]) && !limits.idle(s.state(), f.lastSeen(), w.now) {
			l.Dir[i] = d
			continue
		}
		if word == 0 && l.bucket[i].overflow.Load() == 0 {
			l.Flow[i], l.Dir[i] = nil, 0
			continue
		}
		l.Flow[i], l.Dir[i] = w.lookup(l.Keys[i].key(), l.hash[i])
	}
	return to
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
