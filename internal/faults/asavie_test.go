package faults

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"sluice/internal/lab"
)

// TestFaultsAsavie breaks links under the driver asavie, whose library panics
// where it cannot send: the sockets fail, say so and are opened anew, and every
// flow survives it.
func TestFaultsAsavie(t *testing.T) {
	r := newRig(t)
	w := newWorld(r, "driver: asavie\n")
	w.run("status names the driver's limits", func() {
		for _, i := range w.g.status().Interfaces {
			if notes := strings.Join(i.Notes, "; "); !strings.Contains(notes, "driver asavie") {
				w.Errorf("%s: notes %q", i.Name, notes)
			}
		}
	})
	w.fault("outside down under traffic", func() {
		// The library panics where a frame is sent between the link's going down
		// and the gateway's learning of it, which is likely under load.
		mark := w.g.log.mark()
		for range 50 {
			var sent sync.WaitGroup
			sent.Go(func() { w.blast(w.top.Client1, lab.Server1Address, 20_000) })
			w.downAndUp(lab.OutsideNIC)
			sent.Wait()
			w.near.goesOn(resume)
			if w.g.log.has(mark, "outside queue 0: driver asavie: ") {
				w.g.said(mark, "sockets failed and are opened anew")
				return
			}
		}
		w.Error("no socket failed")
	})
	for _, nic := range []string{lab.InsideNIC, lab.OutsideNIC} {
		w.fault(fmt.Sprintf("%s down and up", nic), func() { w.downAndUp(nic) })
		w.fault(fmt.Sprintf("%s loses its carrier", nic), func() { w.carrier(nic) })
	}
	w.fault("inside deleted and recreated", func() { w.recreate(lab.InsideNIC) })
	w.change("outside deleted and recreated", func() { w.recreate(lab.OutsideNIC) })
	w.fault("inside renamed and back", func() { w.rename(lab.InsideNIC) })
	w.fault("another device is called inside", func() { w.replace(lab.InsideNIC) })
	w.fault("the process is stopped and continued", w.stopped)
	w.fault("more frames than there is room for", w.flood)
	w.fault("the uplink takes no more", func() { w.blast(w.top.Client1, uplinkPeer, 3000) })
	r.end(w.g)
}

// has reports whether a line from mark on has text.
func (l *log) has(mark int, text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.lines[mark:], func(line string) bool { return strings.Contains(line, text) })
}
