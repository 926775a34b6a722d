package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"sluice/xdp"
)

// What outlives a process is beside the pins of the steering program:
//
//	/sys/fs/bpf/sluice/<inode of the network namespace>/agent/maps/<map>
//	                                                         /links/<ifindex>-request|reply
const (
	pinName  = "agent"
	mapsName = "maps"
	linkName = "links"
)

// pins is the directory of an agent's pins; "" where pins would not last.
type pins string

func (p pins) maps() string  { return filepath.Join(string(p), mapsName) }
func (p pins) links() string { return filepath.Join(string(p), linkName) }

// openPins is the caller's namespace's, with its directories, or why there is none.
func openPins() (p pins, why string) {
	dir, why := xdp.PinDirectory()
	if why != "" {
		return "", why
	}
	removeDeadPins(filepath.Dir(dir), filepath.Join(dir, pinName))
	p = pins(filepath.Join(dir, pinName))
	for _, d := range []string{p.maps(), p.links()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return "", err.Error()
		}
	}
	return p, ""
}

// remove takes the maps away and the directories that this leaves empty.
func (p pins) remove() error {
	files, err := filepath.Glob(filepath.Join(p.maps(), "*"))
	errs := []error{err}
	for _, f := range files {
		errs = append(errs, xdp.Unpin(f))
	}
	for _, d := range []string{p.maps(), p.links()} {
		_ = xdp.Unpin(d) // there may be others' pins in it
	}
	return errors.Join(errs...)
}

// pinnedLink is a TCX link that an earlier process left.
type pinnedLink struct {
	link.Link
	path    string
	ifindex int // 0: the device is gone
	attach  ebpf.AttachType
}

func (p pins) pinned() ([]pinnedLink, error) {
	paths, err := filepath.Glob(filepath.Join(p.links(), "*"))
	if err != nil {
		return nil, err
	}
	var all []pinnedLink
	for _, path := range paths {
		l, err := link.LoadPinnedLink(path, nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return all, fmt.Errorf("%s: %w", path, err)
		}
		about, err := l.Info()
		if err != nil || about.TCX() == nil {
			l.Close()
			return all, errors.Join(fmt.Errorf("%s: not a TCX link", path), err)
		}
		t := about.TCX()
		all = append(all, pinnedLink{Link: l, path: path, ifindex: int(t.Ifindex), attach: ebpf.AttachType(t.AttachType)})
	}
	return all, nil
}

// removeDeadPins removes the pins of agents whose network namespace is gone, which
// shows in that all their links are: nobody else would do it.
func removeDeadPins(root, but string) {
	dirs, err := filepath.Glob(filepath.Join(root, "*", pinName))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		if dir == but {
			continue
		}
		p := pins(dir)
		links, err := p.pinned()
		dead := err == nil && len(links) > 0
		for _, l := range links {
			dead = dead && l.ifindex == 0
			l.Close()
		}
		if !dead {
			continue
		}
		for _, l := range links {
			_ = xdp.Unpin(l.path)
		}
		_ = p.remove()
	}
}

// load loads programs and maps. Maps that are pinned are taken over with what is
// in them, so that flows go on; a table of another size is copied.
func (a *Agent) load() error {
	spec, err := loadPrograms()
	if err != nil {
		return err
	}
	spec.Maps[programsMapFlows].MaxEntries = uint32(a.config.MaxFlows)
	var options ebpf.CollectionOptions
	if a.pins != "" {
		for _, m := range spec.Maps {
			m.Pinning = ebpf.PinByName
		}
		options.Maps.PinPath = a.pins.maps()
		if err := a.unpinOther(spec); err != nil {
			return err
		}
	}
	if err := spec.LoadAndAssign(&a.objects, &options); err != nil {
		return loadError(err)
	}
	return a.copyFlows()
}

// unpinOther makes room for maps that are not as this version has them, and keeps
// hold of the old flows.
func (a *Agent) unpinOther(spec *ebpf.CollectionSpec) error {
	for name, want := range spec.Maps {
		path := filepath.Join(a.pins.maps(), name)
		m, err := ebpf.LoadPinnedMap(path, nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if want.Compatible(m) == nil {
			m.Close()
			continue
		}
		if err := m.Unpin(); err != nil {
			m.Close()
			return fmt.Errorf("%s: %w", path, err)
		}
		if name == programsMapFlows && m.KeySize() == want.KeySize && m.ValueSize() == want.ValueSize {
			a.before = m
			continue
		}
		m.Close()
	}
	return nil
}

// handOver copies what began in the table of an earlier process since the first copy,
// when nothing begins there any more, and lets go of it.
func (a *Agent) handOver() error {
	if a.before == nil {
		return nil
	}
	err := errors.Join(a.copyFlows(), a.before.Close())
	a.before = nil
	return err
}

// copyFlows copies the flows of an earlier table that this one does not have.
func (a *Agent) copyFlows() error {
	if a.before == nil {
		return nil
	}
	var k programsFlowKey
	var v programsFlow
	it := a.before.Iterate()
	for it.Next(&k, &v) {
		err := a.objects.Flows.Update(&k, &v, ebpf.UpdateNoExist)
		if err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
			return fmt.Errorf("flows of the DSR agent do not fit into the new table of %d: %w", a.config.MaxFlows, err)
		}
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("flows of the DSR agent: %w", err)
	}
	return nil
}

// loadError adds what an operator can do.
func loadError(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("load the DSR agent's programs: %w: run as root, or with CAP_BPF and CAP_NET_ADMIN", err)
	}
	return fmt.Errorf("load the DSR agent's programs (Linux 5.15 or newer): %w", err)
}
