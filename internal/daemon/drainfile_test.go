package daemon

import (
	"bytes"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"sluice/internal/config"
)

var drainedKeys = []backendKey{
	{"dns", netip.MustParseAddrPort("10.0.2.9:53")},
	{"web", netip.MustParseAddrPort("10.0.2.1:80")},
	{"web", netip.MustParseAddrPort("10.0.2.1:443")},
}

// TestDrainFile: what is written is read, also over what a crash left; without a
// file nothing is drained.
func TestDrainFile(t *testing.T) {
	f := drainFile(filepath.Join(t.TempDir(), "flows.drained"))
	if list, err := f.read(); err != nil || len(list) != 0 {
		t.Fatalf("without a file: %v, %v", list, err)
	}
	if err := os.WriteFile(string(f)+".new", []byte("half a fi"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]backendKey{drainedKeys, drainedKeys[:1], nil} {
		if err := f.write(want); err != nil {
			t.Fatal(err)
		}
		if list, err := f.read(); err != nil || !slices.Equal(list, want) {
			t.Fatalf("%v, %v; want %v", list, err, want)
		}
	}
	var none drainFile
	if list, err := none.read(); none.write(drainedKeys) != nil || err != nil || list != nil {
		t.Errorf("without a state file: %v, %v", list, err)
	}
}

// TestDrainFileRefusals: what this program did not write, or somebody else could
// have, is an error.
func TestDrainFileRefusals(t *testing.T) {
	whole, err := encodeDrained(drainedKeys)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(path string) error{
		"torn":            func(p string) error { return os.WriteFile(p, whole[:len(whole)-5], 0o600) },
		"empty":           func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"of another time": func(p string) error { return os.WriteFile(p, []byte(`{"version":2,"drained":[]}`), 0o600) },
		"an unknown key":  func(p string) error { return os.WriteFile(p, []byte(`{"version":1,"drained":[],"x":1}`), 0o600) },
		"no address": func(p string) error {
			return os.WriteFile(p, []byte(`{"version":1,"drained":[{"service":"a","backend":"b"}]}`), 0o600)
		},
		"open to others":   func(p string) error { return os.WriteFile(p, whole, 0o666) },
		"a symbolic link":  func(p string) error { return os.Symlink("/dev/null", p) },
		"a directory":      func(p string) error { return os.Mkdir(p, 0o700) },
		"longer than ours": func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte(" "), drainFileLimit+1), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			f := drainFile(filepath.Join(t.TempDir(), "flows.drained"))
			if err := spoil(string(f)); err != nil {
				t.Fatal(err)
			}
			if name == "open to others" {
				if err := os.Chmod(string(f), 0o666); err != nil { // whatever the umask
					t.Fatal(err)
				}
			}
			if list, err := f.read(); err == nil {
				t.Errorf("taken for %v", list)
			}
		})
	}
}

// TestRecall: backends that the configuration does not have any more are not
// drained when they come back later.
func TestRecall(t *testing.T) {
	c := &config.Config{StateFile: filepath.Join(t.TempDir(), "flows"), Services: []config.Service{{
		Name: "web", Backends: []config.Backend{{Address: netip.MustParseAddr("10.0.2.1"), Port: 80}},
	}}}
	if err := drainFileOf(c).write(drainedKeys); err != nil {
		t.Fatal(err)
	}
	b := newBalancer()
	b.recall(c, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if list := b.drained(); !slices.Equal(list, drainedKeys[1:2]) {
		t.Errorf("drained: %v", list)
	}
	if err := b.keep(); err != nil {
		t.Fatal(err)
	}
	if list, err := drainFileOf(c).read(); err != nil || !slices.Equal(list, drainedKeys[1:2]) {
		t.Errorf("kept: %v, %v", list, err)
	}
}

// FuzzDrainFile: nothing makes the reader fail but by an error, and what it takes
// it would write again.
func FuzzDrainFile(f *testing.F) {
	whole, _ := encodeDrained(drainedKeys)
	f.Add(whole)
	f.Add([]byte(`{"version":1,"drained":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := decodeDrained(b)
		if err != nil {
			return
		}
		again, err := encodeDrained(list)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeDrained(again); err != nil || !slices.Equal(back, list) {
			t.Errorf("%v became %v, %v", list, back, err)
		}
	})
}
