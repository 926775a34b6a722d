// Command licences prints the licences of everything that is linked into sluice:
// its own and those of the modules that the program is built from.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
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
		fmt.Fprintf(w, "==== %s %s\n\n%s\n", m.Path, m.Version, bytes.TrimSpace(text))
		fmt.Fprintln(w)
	}
	return nil
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
