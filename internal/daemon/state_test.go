package daemon

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/conntrack"
	"sluice/internal/config"
	"sluice/internal/control"
	"sluice/internal/packet"
	"sluice/internal/verdict"
)

// stateConfig is a configuration with a small flow table in a file.
func stateConfig(t *testing.T) *config.Config {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "sluice.yaml")
	text := "interfaces: [{name: eth1, role: inside}, {name: eth0, role: outside}]\n" +
		"masquerade: {sources: [10.20.30.0/24]}\n" +
		"conntrack: {max-flows: 100}\n" +
		"state-file: " + filepath.Join(dir, "flows") + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, err := load(file)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// opened opens the state; the test must close it.
func opened(t *testing.T, c *config.Config) *state {
	t.Helper()
	s, err := openState(c, 1)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// oneFlow makes a flow at the time now.
func oneFlow(t *testing.T, s *state, now conntrack.Tick) conntrack.Tuple {
	t.Helper()
	key := conntrack.Tuple{Src: 0x0a141e0b, Dst: 0xc6336401, SrcPort: 4000, DstPort: 53, Proto: packet.ProtoUDP}
	w := s.table.Worker(0)
	defer w.Offline()
	_, _, _, r := w.Create(&conntrack.NewFlow{Original: key, Reply: key.Reverse(), Kind: conntrack.Forward, OutPort: 1}, now)
	if r != verdict.None {
		t.Fatal(r)
	}
	return key
}

// said is what a state logs.
func said(s *state) string {
	var b bytes.Buffer
	s.tell(slog.New(slog.NewTextHandler(&b, nil)))
	return b.String()
}

func TestStateOutlivesIt(t *testing.T) {
	c := stateConfig(t)
	first := opened(t, c)
	key := oneFlow(t, first, 100)
	if got := first.status(); got.Start != "started empty" || got.Path != c.StateFile || got.Adopted != 0 {
		t.Errorf("first: %+v", got)
	}
	if _, err := openState(c, 1); err == nil || !strings.Contains(err.Error(), "in use by process") {
		t.Errorf("a second one: %v", err)
	}
	if got, want := first.left(), "; 1 flows stay in "+c.StateFile+" for the next start"; got != want {
		t.Errorf("last words %q, want %q", got, want)
	}
	if err := first.close(); err != nil {
		t.Fatal(err)
	}
	// A start that fails before it made the table whole leaves it as it was.
	failed := opened(t, c)
	if failed.left() != "" || failed.close() != nil {
		t.Error("a start that failed took the table over")
	}
	for _, how := range []string{"after an orderly stop", "after a crash"} {
		s := opened(t, c)
		s.rebuild(101)
		if s.table.Count().Flows != 1 || !strings.Contains(said(s), "1 flows with 0 mappings adopted "+how) {
			t.Errorf("%s: %+v, said %s", how, s.table.Count(), said(s))
		}
		w := s.table.Worker(0)
		if f, _ := w.Find(key, 101); f == nil {
			t.Errorf("%s: the flow is not found", how)
		}
		c.Conntrack.MaxFlows *= 300 // beyond the file's first size
		// No orderly end.
		if err := s.memory.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What cannot be adopted is said in a line, and the table is empty and usable.
func TestStateStartsEmpty(t *testing.T) {
	for _, c := range []struct {
		name, want string
		damage     func(t *testing.T, c *config.Config)
	}{
		{"another size", "is for 100 flows, and conntrack.max-flows is 50", func(_ *testing.T, c *config.Config) { c.Conntrack.MaxFlows = 50 }},
		{"another file", "not a flow table", func(t *testing.T, c *config.Config) {
			if err := os.WriteFile(c.StateFile, bytes.Repeat([]byte("\xa5"), 1<<16), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"truncated", "truncated", func(t *testing.T, c *config.Config) {
			if err := os.Truncate(c.StateFile, 1<<14); err != nil {
				t.Fatal(err)
			}
		}},
		{"corrupted header", "header is corrupted", func(t *testing.T, c *config.Config) {
			f, err := os.OpenFile(c.StateFile, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte{0xff}, 60); err != nil {
				t.Fatal(err)
			}
		}},
		{"emptied", "", func(t *testing.T, c *config.Config) {
			if err := os.Truncate(c.StateFile, 0); err != nil {
				t.Fatal(err)
			}
		}},
		{"removed", "", func(t *testing.T, c *config.Config) {
			if err := os.Remove(c.StateFile); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		cfg := stateConfig(t)
		before := opened(t, cfg)
		oneFlow(t, before, 100)
		if err := before.close(); err != nil {
			t.Fatal(err)
		}
		c.damage(t, cfg)
		s := opened(t, cfg)
		s.rebuild(101)
		got := s.status()
		if !strings.HasPrefix(got.Start, "started empty") || !strings.Contains(got.Start, c.want) || strings.Contains(got.Start, "\n") {
			t.Errorf("%s: %+v", c.name, got)
		}
		if warned := strings.Contains(said(s), "level=WARN msg=\"the flow table"); warned != (c.want != "") {
			t.Errorf("%s: said %s", c.name, said(s))
		}
		oneFlow(t, s, 101)
		if n := s.table.Count().Flows; n != 1 {
			t.Errorf("%s: %d flows in an empty table with one", c.name, n)
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStateOfNoFile(t *testing.T) {
	c := stateConfig(t)
	c.StateFile = ""
	s := opened(t, c)
	oneFlow(t, s, 100)
	if got := s.status(); got != (control.StateFile{}) || said(s) != "" || s.left() != "" {
		t.Errorf("%+v, said %q, left %q", got, said(s), s.left())
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
}
