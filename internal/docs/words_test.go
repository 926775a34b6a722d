package docs

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sluice/conntrack"
	"sluice/internal/explain"
	"sluice/internal/gateway"
	"sluice/internal/verdict"
	"sluice/nat"
)

var update = flag.Bool("update", false, "write the explanations of drop reasons anew")

var wordRow = regexp.MustCompile("^\\| `([^`]+)` \\| (.*) \\|$")

// TestWords holds docs/words.md to the words that the program prints: all of
// them, no others, in its order, and the drop reasons with the explanation that
// `sluice drops` prints.
func TestWords(t *testing.T) {
	want := map[string][]string{}
	for s := conntrack.StateNone + 1; s < conntrack.States; s++ {
		want["States of flows"] = append(want["States of flows"], s.String())
	}
	for k := conntrack.Forward; k <= conntrack.PortForward; k++ {
		want["Kinds of flows"] = append(want["Kinds of flows"], k.String())
	}
	for r := range nat.RuleKinds {
		want["Rules of the masquerade policy"] = append(want["Rules of the masquerade policy"], r.String())
	}
	want["Stages of an explanation"] = explain.Stages
	for k := gateway.NoError + 1; k < gateway.ErrorKinds; k++ {
		want["ICMP errors of the gateway's own"] = append(want["ICMP errors of the gateway's own"], k.String())
	}
	explained := map[string]string{}
	for _, r := range verdict.All() {
		want["Drop reasons"] = append(want["Drop reasons"], r.String())
		explained[r.String()] = r.Explain()
	}

	path := filepath.Join(root, "docs/words.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	got, under := map[string][]string{}, ""
	for i, line := range lines {
		if heading, ok := strings.CutPrefix(line, "## "); ok {
			under = heading
		}
		m := wordRow.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		got[under] = append(got[under], m[1])
		if says := explained[m[1]]; under == "Drop reasons" && says != "" {
			row := "| `" + m[1] + "` | " + says + " |"
			if *update {
				lines[i] = row
			}
			if lines[i] != row {
				t.Errorf("docs/words.md:%d:\n got %s\nwant %s", i+1, lines[i], row)
			}
		}
	}
	for heading, list := range want {
		if !slices.Equal(got[heading], list) {
			t.Errorf("docs/words.md, %s:\n got %v\nwant %v", heading, got[heading], list)
		}
	}
	for heading := range got {
		if want[heading] == nil {
			t.Errorf("docs/words.md: nothing holds %q to the program", heading)
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
