package migrate

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sluice/internal/config"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden: each directory holds sources, and beside it stands what they amount
// to: the file, then the warnings.
func TestGolden(t *testing.T) {
	dirs, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, d := range dirs {
		if !d.IsDir() || d.Name() == "fuzz" { // what Fuzz targets begin with
			continue
		}
		n++
		t.Run(d.Name(), func(t *testing.T) {
			var sources []Source
			files, _ := filepath.Glob(filepath.Join("testdata", d.Name(), "*.yaml"))
			for _, path := range files {
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				sources = append(sources, Source{filepath.Base(path), text})
			}
			r, err := Read(sources, Options{Inside: []string{"eth1"}})
			if err != nil {
				t.Fatal(err)
			}
			got := r.Text + "--- warnings\n"
			for _, w := range r.Warnings {
				if !w.Warning {
					t.Errorf("more than a warning: %s", w)
				}
				got += w.String() + "\n"
			}
			name := filepath.Join("testdata", d.Name()+".golden")
			if *update {
				if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			// The text is what the configuration says, and is good.
			c, mistakes := config.Parse("f", []byte(r.Text))
			if c == nil {
				t.Fatal(mistakes)
			}
			if changes := config.Diff(r.Config, c); changes != nil {
				t.Errorf("text and configuration differ: %+v", changes)
			}
		})
	}
	if n < 8 {
		t.Errorf("only %d cases", n)
	}
}

// TestTheIncident: what the keys of the incident are migrated to masquerades
// towards everything but the hosts' own network, as they did; and each of the
// three reasons for surprise is said.
func TestTheIncident(t *testing.T) {
	text, err := os.ReadFile("testdata/incident/cilium-config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r, err := Read([]Source{{"cilium-config.yaml", text}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, w := range r.Warnings {
		all.WriteString(w.String() + "\n")
	}
	for _, want := range []string{
		"cilium-config.yaml:2: masquerade: warning: was renamed in Cilium 1.10; since 1.11 the agent ignores it",
		"cilium-config.yaml:4: native-routing-cidr: warning: was renamed in Cilium 1.11",
		"Cilium before 1.8.2 skipped the source NAT of pods by mistake",
		"masquerade.native-routing-cidrs: warning: has nothing but the sources' own networks",
	} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("not said: %s\n%s", want, all.String())
		}
	}
}

func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "say nothing about masquerading",
		"- a\n":                              "f:1: is not a mapping of keys",
		"a: [\n":                             "f: is not YAML",
		"a: b\n":                             "f:1: is neither a ConfigMap",
		"kind: Secret\n":                     "f:1: kind: Secret is none of",
		"kind: ConfigMap\n":                  "data: is missing",
		"kind: ConfigMap\ndata: {a: b}\n":    "has none of Cilium's keys",
		"kind: IPPool\n":                     "spec.cidr: is missing",
		"kind: IPPool\nspec:\n  cidr: ten\n": `f:3: spec.cidr: "ten" is not a prefix`,
		"masquerade: maybe\n":                `f:1: masquerade: "maybe" is neither true nor false`,
		"enable-ip-masq-agent: 2\n":          "f:1: enable-ip-masq-agent:",
		"cluster-pool-ipv4-cidr: 10.0.0.0\n": `f:1: cluster-pool-ipv4-cidr: "10.0.0.0" is not a prefix`,
		"native-routing-cidr: everything\n":  "f:1: native-routing-cidr:",
		"nonMasqueradeCIDRs: [ten]\n":        "f:1: nonMasqueradeCIDRs:",
		"masquerade: true\nbpf-ct-global-tcp-max: many\n":         "f:2: bpf-ct-global-tcp-max:",
		"masquerade: true\nbpf-ct-timeout-regular-any: soon\n":    "f:2: bpf-ct-timeout-regular-any:",
		"masquerade: true\ncluster-pool-ipv4-cidr: 224.0.0.0/4\n": "amount to a configuration that is refused: sluice.yaml:",
		"masquerade: true\nbpf-ct-timeout-regular-any: 10ms\n":    "is refused: sluice.yaml:",
	} {
		_, err := Read([]Source{{"f", []byte(text)}}, Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// TestOrderOfSources does not matter for what is masqueraded.
func TestOrderOfSources(t *testing.T) {
	cilium := Source{"c", []byte("cluster-pool-ipv4-cidr: 10.20.30.0/24\nenable-ip-masq-agent: true\n")}
	agent := Source{"a", []byte("nonMasqueradeCIDRs: [10.0.0.0/8]\n")}
	one, err := Read([]Source{cilium, agent}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	two, err := Read([]Source{agent, cilium}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if one.Text != two.Text || len(one.Warnings) != len(two.Warnings) || one.Config.Masquerade.IPMasqAgentConfig != "" {
		t.Errorf("%s\n%s", one.Text, two.Text)
	}
}

func FuzzRead(f *testing.F) {
	files, _ := filepath.Glob("testdata/*/*.yaml")
	for _, path := range files {
		text, _ := os.ReadFile(path)
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := Read([]Source{{"f", text}}, Options{})
		if (r == nil) == (err == nil) || err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%v, %v", r, err)
		}
	})
}
