package daemon

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"sluice/conntrack"
	"sluice/internal/config"
	"sluice/internal/control"
	"sluice/internal/flowmem"
)

// state is the flow memory and what an earlier process left in it.
type state struct {
	memory  *flowmem.Memory
	table   *conntrack.Table
	remains *conntrack.Remains // until the table is made whole again
	rebuilt bool               // remains was made whole: the table is at rest when the workers are
	verify  bool               // walk the table whenever it is at rest
	report  conntrack.Report
	refused error // why what was there could not be adopted
}

// openState maps the state file, or anonymous memory where there is to be none,
// and looks at what is in it. A file that another process uses, or that somebody
// else could have written, is an error; one that holds nothing of use is made
// anew.
func openState(c *config.Config, workers int, locate conntrack.Services) (*state, error) {
	cfg, err := tableConfig(c, workers)
	if err != nil {
		return nil, err
	}
	cfg.Services = locate
	s := &state{}
	if c.StateFile == "" {
		s.memory, err = flowmem.Anonymous(conntrack.Size(cfg))
	} else {
		s.memory, err = flowmem.File(flowmem.Resolve(c.StateFile), conntrack.Size(cfg))
	}
	if err != nil {
		return nil, err
	}
	mem := s.memory.Bytes()
	if found := s.memory.Found(); found > 0 {
		s.remains, err = conntrack.Adopt(mem, found, cfg)
		if err == nil {
			s.table = s.remains.Table()
			return s, nil
		}
		if !errors.Is(err, conntrack.ErrNoTable) {
			s.refused = err
		}
		conntrack.Erase(mem)
	}
	if s.table, err = conntrack.New(mem, cfg); err != nil {
		return nil, errors.Join(err, s.memory.Close())
	}
	s.rebuilt = true
	return s, nil
}

// tableConfig sizes the flow table and says what its records refer to.
func tableConfig(c *config.Config, workers int) (cfg conntrack.Config, err error) {
	cfg = conntrack.Config{MaxFlows: c.Conntrack.MaxFlows, Workers: workers, Timeouts: *timeouts(&c.Conntrack.Timeouts), Events: flowEvents}
	var seed [16]byte
	rand.Read(seed[:]) // never fails (crypto/rand)
	for i, b := range seed {
		cfg.Seed[i/8] |= uint64(b) << (i % 8 * 8)
	}
	for _, i := range c.Interfaces {
		cfg.Ports = append(cfg.Ports, i.Name)
	}
	if cfg.Boot, err = bootID(); err != nil {
		return cfg, err
	}
	cfg.Namespace, err = networkNamespace()
	return cfg, err
}

// bootID names this boot of the machine, and so the clock that flows' times are
// of.
func bootID() (id [16]byte, err error) {
	const path = "/proc/sys/kernel/random/boot_id"
	text, err := os.ReadFile(path)
	if err != nil {
		return id, fmt.Errorf("boot id: %w", err)
	}
	b, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("boot id: %s holds %q and not a UUID", path, text)
	}
	return [16]byte(b), nil
}

// networkNamespace is the inode of the process's network namespace.
func networkNamespace() (inode uint64, err error) {
	const path = "/proc/self/ns/net"
	link, err := os.Readlink(path)
	if err != nil {
		return 0, fmt.Errorf("network namespace: %w", err)
	}
	if _, err := fmt.Sscanf(link, "net:[%d]", &inode); err != nil {
		return 0, fmt.Errorf("network namespace: %s leads to %q: %w", path, link, err)
	}
	return inode, nil
}

// rebuild makes an adopted table whole again. The external addresses that there
// are must have been added to it, and nothing steer to the workers yet.
func (s *state) rebuild(now conntrack.Tick) {
	if s.remains != nil {
		s.report = s.remains.Rebuild(now)
		s.remains, s.rebuilt = nil, true
	}
}

// check walks the table, which must be at rest, where that was asked for.
func (s *state) check() error {
	if !s.verify || !s.rebuilt {
		return nil
	}
	return s.table.Verify()
}

// tell logs where the flows are kept and what became of those that were there.
func (s *state) tell(log *slog.Logger) {
	path := s.memory.Path()
	if path == "" {
		return
	}
	if !s.memory.Tmpfs() {
		log.Warn("the state file is not on a tmpfs: workers will wait for the disk that it is written to; choose another place", "state-file", path)
	}
	switch {
	case s.refused != nil:
		log.Warn("the flow table that an earlier process left cannot be adopted; starting with an empty one", "state-file", path, "reason", s.refused)
	case s.adopted():
		log.Info(s.report.String(), "state-file", path)
	default:
		log.Info("starting with an empty flow table", "state-file", path)
	}
}

// adopted reports whether the table is an earlier process's.
func (s *state) adopted() bool { return s.memory.Found() > 0 && s.report != conntrack.Report{} }

// status words the state for the control socket.
func (s *state) status() control.StateFile {
	out := control.StateFile{
		Path: s.memory.Path(), Tmpfs: s.memory.Tmpfs(),
		Adopted: s.report.Adopted, Dropped: s.report.Dropped(),
	}
	switch {
	case s.refused != nil:
		out.Start = "started empty: " + s.refused.Error()
	case s.adopted():
		out.Start = s.report.String()
	case out.Path != "":
		out.Start = "started empty"
	}
	return out
}

// left says what stays in the file.
func (s *state) left() string {
	if s.memory.Path() == "" || !s.rebuilt {
		return ""
	}
	return fmt.Sprintf("; %d flows stay in %s for the next start", s.table.Count().Flows, s.memory.Path())
}

// close gives the memory back when no worker uses it any more. A table that is
// whole is marked as left in order; one that was not made whole is left as it was
// found.
func (s *state) close() error {
	if s.rebuilt {
		s.table.MarkClean()
	}
	return s.memory.Close()
}
