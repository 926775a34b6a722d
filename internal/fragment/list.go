package fragment

import "sluice/conntrack"

// link is a place in a doubly linked list of datagrams, by id; 0 = none.
type link struct{ older, newer uint16 }

// list is one, in the order in which they entered the stage.
type list struct{ oldest, newest, n uint16 }

// stageLists are the datagrams of a stage, and of each source among them.
type stageLists struct {
	all     list
	sources [sources]list
}

// The lists that a datagram is on, as indices of its links.
const (
	ofStage = iota
	ofSource
)

// enter makes a datagram the newest one of a stage.
func (s *Store) enter(d *Datagram, stage Stage, now conntrack.Tick) {
	d.Stage, d.since = stage, now
	l := &s.lists[stage]
	s.push(&l.all, d, ofStage)
	s.push(&l.sources[d.source], d, ofSource)
}

// leave takes it off the lists of its stage.
func (s *Store) leave(d *Datagram) {
	l := &s.lists[d.Stage]
	s.unlink(&l.all, d, ofStage)
	s.unlink(&l.sources[d.source], d, ofSource)
}

func (s *Store) push(l *list, d *Datagram, which int) {
	d.links[which] = link{older: l.newest}
	if l.newest == 0 {
		l.oldest = d.id
	} else {
		s.at(l.newest).links[which].newer = d.id
	}
	l.newest = d.id
	l.n++
}

func (s *Store) unlink(l *list, d *Datagram, which int) {
	k := d.links[which]
	if k.older == 0 {
		l.oldest = k.newer
	} else {
		s.at(k.older).links[which].newer = k.newer
	}
	if k.newer == 0 {
		l.newest = k.older
	} else {
		s.at(k.newer).links[which].older = k.older
	}
	l.n--
}
