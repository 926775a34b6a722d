package config

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// IPMasq is what an ip-masq-agent file says, or its absence. It is read as
// Cilium's agent reads it (pkg/ipmasq): leniently where the configuration is
// strict, since the file is shared with that agent.
type IPMasq struct {
	// NonMasqueradeCIDRs are the IPv4 destinations that see the true source.
	// Link-local is not among them unless the file names it: see MasqLinkLocal.
	NonMasqueradeCIDRs []netip.Prefix

	// MasqLinkLocal is false where link-local destinations (169.254.0.0/16)
	// see the true source as well.
	MasqLinkLocal bool

	// ResyncInterval is how often the file is to be read again.
	ResyncInterval time.Duration
}

// builtIn is what is not masqueraded where there is no file, or an empty one.
var builtIn = []string{
	"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24",
	"192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
}

// maxIPMasqCIDRs is how many prefixes Cilium's map holds.
const maxIPMasqCIDRs = 16384

// defaultResync is the agent's own default.
const defaultResync = 60 * time.Second

// LoadIPMasq reads the ip-masq-agent file at path, YAML or JSON. A missing file
// gives the built-in list. On an error the caller keeps what it had.
func LoadIPMasq(path string) (IPMasq, error) {
	m, _, err := new(IPMasqFile).Load(path)
	return m, err
}

// IPMasqFile is an ip-masq-agent file that is read again and again. That of a
// ConfigMap changes by a swap of symbolic links some directories up, which a watch
// on the file does not see: so it is read by its path each time, and compared.
type IPMasqFile struct {
	path   string // of the last Load, "" before the first
	text   []byte
	broken string // why it could not be read
	last   IPMasq
	err    error
}

// Load reads the file at path as LoadIPMasq does. changed is false where path and
// file are what they were at the last Load, byte for byte; then the answer is
// that one's, and costs no parsing.
func (f *IPMasqFile) Load(path string) (m IPMasq, changed bool, err error) {
	text, err := readBounded(path, maxFile)
	broken := ""
	if err != nil {
		if _, stat := os.Stat(path); !errors.Is(stat, os.ErrNotExist) {
			broken = err.Error()
		}
	}
	if path == f.path && broken == f.broken && bytes.Equal(text, f.text) {
		return f.last, false, f.err
	}
	f.path, f.text, f.broken = path, text, broken
	if broken != "" {
		f.last, f.err = IPMasq{}, fmt.Errorf("%s: %w", path, err)
	} else {
		f.last, f.err = ParseIPMasq(path, text)
	}
	return f.last, true, f.err
}

// ipMasqKeys is the file as it is written.
type ipMasqKeys struct {
	CIDRs         []yaml.Node `yaml:"nonMasqueradeCIDRs"`
	MasqLinkLocal bool        `yaml:"masqLinkLocal"`
	Resync        yaml.Node   `yaml:"resyncInterval"`
}

// IPMasqKey reports whether key is one of the file's. Case does not count, as it does
// not for the agents, which read the file as JSON by Go's encoding/json.
func IPMasqKey(key string) bool { return ipMasqKey(key) != "" }

func ipMasqKey(key string) string {
	for _, known := range []string{"nonMasqueradeCIDRs", "masqLinkLocal", "resyncInterval"} {
		if strings.EqualFold(key, known) {
			return known
		}
	}
	return ""
}

func (k *ipMasqKeys) read(text []byte) error {
	var n yaml.Node
	if err := yaml.Load(text, &n); err != nil {
		return err
	}
	root := &n
	if n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
		root = n.Content[0]
	}
	for i := 0; root.Kind == yaml.MappingNode && i+1 < len(root.Content); i += 2 {
		if known := ipMasqKey(root.Content[i].Value); known != "" {
			root.Content[i].Value = known
		}
	}
	return root.Load(k)
}

// ParseIPMasq reads an ip-masq-agent file from text; file names it in errors.
// Empty text gives the built-in list; a file with other keys only has no list.
func ParseIPMasq(file string, text []byte) (IPMasq, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		m := IPMasq{ResyncInterval: defaultResync}
		for _, p := range builtIn {
			m.NonMasqueradeCIDRs = append(m.NonMasqueradeCIDRs, netip.MustParsePrefix(p))
		}
		return m, nil
	}
	if i := invalidUTF8(text); i >= 0 {
		return IPMasq{}, fmt.Errorf("%s: is not UTF-8", file)
	}
	var raw ipMasqKeys
	if err := raw.read(text); err != nil {
		return IPMasq{}, fmt.Errorf("%s: is not an ip-masq-agent file: %s", file, strings.Join(strings.Fields(err.Error()), " "))
	}
	if len(raw.CIDRs) > maxIPMasqCIDRs {
		return IPMasq{}, fmt.Errorf("%s: %d nonMasqueradeCIDRs; at most %d", file, len(raw.CIDRs), maxIPMasqCIDRs)
	}
	m := IPMasq{MasqLinkLocal: raw.MasqLinkLocal, ResyncInterval: defaultResync}
	for _, n := range raw.CIDRs {
		p, err := netip.ParsePrefix(n.Value)
		if err != nil {
			return IPMasq{}, fmt.Errorf("%s:%d: nonMasqueradeCIDRs: %s is not a prefix", file, max(n.Line, 1), quote(n.Value))
		}
		if p.Addr().Is4() { // the agent keeps IPv6 apart, and there is none here
			m.NonMasqueradeCIDRs = append(m.NonMasqueradeCIDRs, p.Masked())
		}
	}
	if text := raw.Resync.Value; text != "" {
		every, err := time.ParseDuration(text)
		if err != nil || every <= 0 {
			return IPMasq{}, fmt.Errorf("%s:%d: resyncInterval: %s is not a duration such as 60s", file, max(raw.Resync.Line, 1), quote(text))
		}
		m.ResyncInterval = every
	}
	return m, nil
}
