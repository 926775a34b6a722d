// Command licences prints the licences of everything that is linked into sluice:
// its own, that of its eBPF programs, and those of the modules that the program is
// built from.
package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
)

// The eBPF programs may be had under either.
var (
	//go:embed GPL-2.0-only.txt
	gpl []byte
	//go:embed BSD-2-Clause.txt
	bsd []byte
)

// module is what `go list` says of a module.
type module struct {
	Path, Version, Dir string
	Main               bool
}

func main() {
	if err := write(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

func write(w io.Writer) error {
	modules, err := linked()
	if err != nil {
		return err
	}
	for _, m := range modules {
		text, err := licence(m.Dir)
		if err != nil {
			return fmt.Errorf("%s: %w", m.Path, err)
		}
		section(w, m.Path+" "+m.Version, text)
		if m.Main {
			section(w, "its eBPF programs, under either this licence: BSD-2-Clause", bsd)
			section(w, "or this one: GPL-2.0-only", gpl)
		}
	}
	return nil
}

func section(w io.Writer, title string, text []byte) {
	fmt.Fprintf(w, "==== %s\n\n%s\n\n", title, bytes.TrimSpace(text))
}

// linked lists the modules whose packages sluice is built from.
func linked() ([]module, error) {
	out, err := exec.Command("go", "list", "-deps", "-json=Module", "./cmd/sluice").Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	seen := map[string]module{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct{ Module *module }
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if p.Module != nil {
			seen[p.Module.Path] = *p.Module
		}
	}
	var list []module
	for _, m := range seen {
		list = append(list, m)
	}
	sort.Slice(list, func(i, j int) bool {
		if list[i].Main != list[j].Main {
			return list[i].Main
		}
		return list[i].Path < list[j].Path
	})
	return list, nil
}

// licence is the text of the licence files at the top of a module.
func licence(dir string) (text []byte, err error) {
	for _, pattern := range []string{"LICENSE*", "LICENCE*", "COPYING*", "NOTICE*"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				return nil, err
			}
			text = append(append(text, b...), '\n')
		}
	}
	if text == nil {
		return nil, errors.New("it has no licence file at its top")
	}
	return text, nil
}
