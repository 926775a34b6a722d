package daemon

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"sluice/internal/config"
	"sluice/internal/flowmem"
)

// drainFile keeps which backends an operator drained, so that a restart does not
// send clients to a server that is being worked on. It lies beside the flow memory,
// whose lock is its lock, and is replaced as a whole. "" keeps nothing.
type drainFile string

// drainFileOf is the file that goes with a configuration's state-file.
func drainFileOf(c *config.Config) drainFile {
	if c.StateFile == "" {
		return ""
	}
	return drainFile(flowmem.Resolve(c.StateFile) + ".drained")
}

// drained is what is in the file.
type drained struct {
	Version int            `json:"version"`
	Drained []drainedEntry `json:"drained"`
}

type drainedEntry struct {
	Service string         `json:"service"`
	Backend netip.AddrPort `json:"backend"`
}

const (
	drainFileVersion = 1
	drainFileLimit   = 16 << 20 // bytes: far more than all backends that there can be
)

// read returns the backends that were drained. Without a file it is none.
func (f drainFile) read() ([]backendKey, error) {
	if f == "" {
		return nil, nil
	}
	file, err := os.OpenFile(string(f), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	about, err := file.Stat()
	if err != nil {
		return nil, err
	}
	owner, _ := about.Sys().(*syscall.Stat_t)
	if !about.Mode().IsRegular() || about.Mode().Perm()&0o022 != 0 || owner == nil || int(owner.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("%s is not a regular file that this user alone can write to", f)
	}
	b, err := io.ReadAll(io.LimitReader(file, drainFileLimit+1))
	if err != nil {
		return nil, err
	}
	list, err := decodeDrained(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f, err)
	}
	return list, nil
}

// decodeDrained reads what encodeDrained wrote, and nothing else.
func decodeDrained(b []byte) (list []backendKey, err error) {
	if len(b) > drainFileLimit {
		return nil, fmt.Errorf("is longer than %d bytes", drainFileLimit)
	}
	var in drained
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return nil, err
	}
	if in.Version != drainFileVersion {
		return nil, fmt.Errorf("has version %d and not %d", in.Version, drainFileVersion)
	}
	for _, e := range in.Drained {
		list = append(list, backendKey{e.Service, e.Backend})
	}
	return list, nil
}

func encodeDrained(list []backendKey) ([]byte, error) {
	out := drained{Version: drainFileVersion, Drained: []drainedEntry{}}
	for _, k := range list {
		out.Drained = append(out.Drained, drainedEntry{k.service, k.at})
	}
	return json.Marshal(&out)
}

// write replaces the file. After a crash at any point it is the old or the new one.
func (f drainFile) write(list []backendKey) error {
	if f == "" {
		return nil
	}
	b, err := encodeDrained(list)
	if err != nil {
		return err
	}
	next := string(f) + ".new"
	file, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(b)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	return os.Rename(next, string(f))
}

// recall has the backends that an earlier process left drained drained again, of
// those that the configuration still has. A file that cannot be read is no reason
// not to forward.
func (b *balancer) recall(c *config.Config, log *slog.Logger) {
	b.file = drainFileOf(c)
	list, err := b.file.read()
	if err != nil {
		log.Warn("which backends were drained by hand is not known, all get new flows", "error", err)
		return
	}
	b.kept = list
	for _, k := range list {
		b.states[k] = backendState{drained: true}
	}
	b.forget(c)
	for _, k := range b.drained() {
		log.Info("still drained by hand", "service", k.service, "backend", k.at)
	}
}

// keep writes down which backends are drained, if that changed.
func (b *balancer) keep() error {
	list := b.drained()
	if slices.Equal(list, b.kept) {
		return nil
	}
	if err := b.file.write(list); err != nil {
		return fmt.Errorf("which backends are drained cannot be kept over a restart: %w", err)
	}
	b.kept = list
	return nil
}

// drained lists the backends that an operator drained, sorted.
func (b *balancer) drained() (list []backendKey) {
	for k, state := range b.states {
		if state.drained {
			list = append(list, k)
		}
	}
	slices.SortFunc(list, func(a, b backendKey) int {
		return cmp.Or(strings.Compare(a.service, b.service), a.at.Compare(b.at))
	})
	return list
}
