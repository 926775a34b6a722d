package conntrack

import (
	"bufio"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// killFile is the environment variable by which the test's child finds the file
// that it shares with the test.
const killFile = "SLUICE_TEST_KILL_FILE"

const (
	killWorkers = 4
	killKeys    = 64  // of each worker alone
	killShared  = 32  // that all workers fight for
	killFlows   = 512 // capacity
)

// The diary stands behind the table in the shared memory. Each worker writes
// down what it is about to do with its own keys, and what it did, so that a
// SIGKILL between two instructions leaves the truth, or the two things that may
// be true.
type diary [killWorkers][killKeys]struct {
	state atomic.Uint32
	name  atomic.Uint64 // generation << 32 | id of the flow
}

const (
	diaryAbsent uint32 = iota
	diaryCreating
	diaryPresent
	diaryEnding
)

// mapKillFile maps the table's memory and the diary.
func mapKillFile(t *testing.T, path string) ([]byte, *diary) {
	t.Helper()
	cfg := adoptionConfig(killFlows, killWorkers)
	tableSize := (Size(cfg) + 4095) &^ 4095
	var d diary
	size := tableSize + int(unsafe.Sizeof(d))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(size)); err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(mem) })
	return mem[:Size(cfg)], &over[diary](mem, uintptr(tableSize), 1)[0]
}

// killKey is key i of worker w: four destinations for each inside endpoint.
func killKey(w, i int) Tuple {
	return udp(client+uint32(w), uint16(4000+i/4), server+uint32(i%4), 53)
}

// A process that is killed at any instruction, in the middle of whatever its
// workers do: every flow that was there stays, under its name and with its port;
// every flow that had ended stays away; what was going on went one way or the
// other, and nothing else is there.
func TestKilledWhileWorking(t *testing.T) {
	if path := os.Getenv(killFile); path != "" {
		killedChild(t, path)
		return
	}
	rounds, lost := 100/(1+3*raceFactor), [losses]int{}
	for range rounds {
		path := filepath.Join(t.TempDir(), "flows")
		killAfter(t, path, time.Duration(rand.IntN(4000))*time.Microsecond)
		mem, d := mapKillFile(t, path)
		report := checkKilled(t, mem, d)
		for why, n := range report.Lost {
			lost[why] += n
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d kills: %d flows were half created", rounds, lost[LostIncomplete])
}

// killAfter runs the child, and kills it some time after it began to work.
func killAfter(t *testing.T, path string, after time.Duration) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWhileWorking$")
	cmd.Env = append(os.Environ(), killFile+"="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "working\n" {
		t.Errorf("the child said %q, %v", line, err)
	}
	time.Sleep(after) // not for an event: any moment will do
	cmd.Process.Kill()
	cmd.Wait()
}

// checkKilled adopts what the child left and compares it with its diary.
func checkKilled(t *testing.T, mem []byte, d *diary) Report {
	t.Helper()
	cfg := adoptionConfig(killFlows, killWorkers)
	r, err := Adopt(mem, len(mem), cfg)
	if err != nil {
		t.Fatal(err)
	}
	table := r.Table()
	if err := table.AddExternal(NewExternal(external, nil)); err != nil {
		t.Fatal(err)
	}
	report := r.Rebuild(2)
	if err := table.Verify(); err != nil {
		t.Error(err)
	}
	if report.Dropped() != report.Lost[LostIncomplete] || report.Mended > 0 {
		t.Errorf("a kill alone did this: %v", report)
	}
	w := table.Worker(0)
	for owner := range d {
		for i := range d[owner] {
			e := &d[owner][i]
			f, _ := w.Find(killKey(owner, i), 2)
			switch state := e.state.Load(); {
			case state == diaryPresent && f == nil:
				t.Errorf("a flow of worker %d is lost", owner)
			case state == diaryAbsent && f != nil:
				t.Errorf("a flow of worker %d that had ended is back", owner)
			case state == diaryPresent && (nameOf(table, f) != e.name.Load() || f.Tuple(Reply).DstPort != killPort(killKey(owner, i))):
				t.Errorf("flow %#x of worker %d came back as %#x, with reply %v", e.name.Load(), owner, nameOf(table, f), f.Tuple(Reply))
			}
		}
	}
	return report
}

func nameOf(t *Table, f *Flow) uint64 { return uint64(f.Generation())<<32 | uint64(t.ID(f)) }

// killPort is the external port of a key's mapping.
func killPort(k Tuple) uint16 { return uint16(10000 + (k.Src-client)*1000 + uint32(k.SrcPort) - 4000) }

// killedChild works until it is killed.
func killedChild(t *testing.T, path string) {
	runtime.GOMAXPROCS(2 * killWorkers)
	mem, d := mapKillFile(t, path)
	table, err := New(mem, adoptionConfig(killFlows, killWorkers))
	if err != nil {
		t.Fatal(err)
	}
	x := NewExternal(external, nil)
	if err := table.AddExternal(x); err != nil {
		t.Fatal(err)
	}
	for i := range killWorkers {
		go killWork(table, x, i, d)
	}
	os.Stdout.WriteString("working\n")
	select {}
}

// killWork is one worker's life.
func killWork(table *Table, x *External, id int, d *diary) {
	w := table.Worker(id)
	for {
		if i := rand.IntN(killKeys + killShared); i < killKeys {
			killOwn(w, x, killKey(id, i), &d[id][i].state, &d[id][i].name)
		} else {
			// Fights leave flows in every stage of being made and taken back.
			key := udp(client+100, uint16(i), server, 53)
			if f, _ := w.Find(key, 1); f != nil {
				w.Retire(f, verdict.Filtered)
			} else {
				killCreate(w, x, key)
			}
		}
		w.Quiesce()
	}
}

// killOwn does something with a key that nobody else uses.
func killOwn(w *Worker, x *External, key Tuple, state *atomic.Uint32, name *atomic.Uint64) {
	if state.Load() == diaryAbsent {
		state.Store(diaryCreating)
		if f := killCreate(w, x, key); f != nil {
			name.Store(nameOf(w.table, f))
			state.Store(diaryPresent)
		} else {
			state.Store(diaryAbsent)
		}
		return
	}
	f, d := w.Find(key, 1)
	if rand.IntN(2) == 0 {
		w.Update(f, d, &packet.Packet{Proto: packet.ProtoUDP})
		f.Touch(d, 100, 1)
		return
	}
	state.Store(diaryEnding)
	w.Retire(f, verdict.Filtered)
	state.Store(diaryAbsent)
}

// killCreate makes a masqueraded flow, or returns nil where it must not be or is
// another's.
func killCreate(w *Worker, x *External, key Tuple) *Flow {
	m := w.FindMapping(key.Proto, key.Src, key.SrcPort, x)
	if m == nil {
		src, r := w.Source(key.Src)
		if r != verdict.None {
			return nil
		}
		var existed bool
		if m, existed, _, _ = w.NewMapping(key.Proto, key.Src, key.SrcPort, x, killPort(key), src, 1); m == nil || existed {
			w.ReleaseSource(src)
		} else {
			src.Pair(x.Address())
		}
		if m == nil {
			return nil
		}
	}
	nf := &NewFlow{Original: key, Reply: key.Reverse(), Kind: Masquerade, Mapping: m, OutPort: 1}
	nf.Reply.Dst, nf.Reply.DstPort = m.External()
	f, _, existed, r := w.Create(nf, 1)
	if existed || r != verdict.None {
		w.Release(m)
		return nil
	}
	return f
}
