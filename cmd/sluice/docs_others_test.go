package main

import (
	"bytes"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/internal/lab"
)

// inLab are the commands of other programs that documents show and that are run
// here, beside a gateway at work: with the file's names, and with the lab's.
var inLab = map[string]string{
	"curl --unix-socket /run/sluice/control.sock http://sluice/v1/flows/count":                                     "",
	"curl --unix-socket /run/sluice/control.sock http://sluice/metrics":                                            "",
	"curl --unix-socket /run/sluice/control.sock 'http://sluice/v1/capture?point=drop&duration=1m' > drops.pcapng": "curl -sSf --unix-socket SOCKET 'http://sluice/v1/capture?point=drop&duration=1s' > drops.pcapng && test -s drops.pcapng",
	"ethtool -l eth0":                           "",
	"ethtool -K eth0 lro off":                   "",
	"ip -br address":                            "",
	"nft list ruleset":                          "",
	"ss --xdp -ap":                              "",
	"ip rule add from 198.51.100.10 lookup 100": "",
	"sysctl net.ipv4.ip_forward":                "",
	"sysctl net.ipv4.ip_forward=1":              "",
}

// inPackaging are those that `make test-package` and `make test-systemd` run, and
// what of those tests does.
var inPackaging = map[string]string{
	"apt install ./sluice-1.0.0-linux-amd64.deb":          "apt install -y",
	"apt install ./bin/packages/sluice-*-linux-amd64.deb": "apt install -y",
	"tar xzf sluice-1.0.0-linux-amd64.tar.gz":             `"tar", "xzf"`,
	"systemctl enable --now sluice":                       "systemctl enable --now sluice",
	"systemctl disable --now sluice":                      "systemctl disable --now sluice",
	"systemctl reload sluice":                             "systemctl reload sluice",
	"systemctl restart sluice":                            "systemctl restart sluice",
	"systemctl stop sluice":                               "systemctl stop sluice",
	"systemd-analyze security sluice":                     "systemd-analyze security sluice",
	"kill -9":                                             "kill -9",
	"apt remove sluice":                                   "apt remove -y sluice",
	"apt purge sluice":                                    "apt purge -y sluice",
}

// noTestRuns marks, in documents, commands that no test runs: the comment at the end
// of the line, or at the top of a block for all of it.
const noTestRuns = "no test runs"

// inSentences are named in sentences, without being there to copy, and why no test
// runs them.
var inSentences = map[string]string{
	"ethtool -X eth0 equal 4": "a network card's", "ethtool -n eth0 rx-flow-hash udp4": "a network card's", "ethtool -K eth0 rxvlan off": "a network card's",
	"ethtool -K eth0 rx-gro-hw off": "a network card's", "ethtool -G eth0 rx 4096 tx 4096": "a network card's", "ethtool -L eth0 combined 2": "a network card's",
	"ethtool -L": "its name", "ip link": "its name", "ip link set": "its name", "kill -INT": "its name",
	"bpftool net": "not on every machine", "ip link set NAME xdp off": "for programs of others", "dnf remove sluice": "another distribution's",
	"conntrack -L": "what a command replaces", "conntrack -L -n": "what a command replaces", "conntrack -E": "what a command replaces", "conntrack -C": "what a command replaces",
	"conntrack -D -s 10.20.30.5": "what a command replaces", "conntrack -S": "what a command replaces", "tcpdump -ni eth0": "what a command replaces",
	"nft monitor trace": "what a command replaces", "ipvsadm -Ln --stats": "what a command replaces", "ipvsadm -e … -w 0": "what a command replaces",
	"nft -c -f": "what a command replaces", "nft -f": "what a command replaces",
}

// tools are programs that documents may name; a line of a block is a command, too,
// where this machine has its first word or its second one is an option.
var tools = strings.Fields("apt apt-get bpftool conntrack curl devlink dnf dpkg ethtool ip iptables ipvsadm journalctl jq kill lspci modprobe mount nft " +
	"perf rpm script ss sysctl systemctl systemd-analyze tar taskset tc tcpdump tshark wireshark yum")

var (
	toolSpan  = regexp.MustCompile("`(?:sudo )?((?:" + strings.Join(tools, "|") + ") [^`]+)`")
	blockLine = regexp.MustCompile(`^(?: {4,8}|\t)(?:\$ |sudo )*([a-z][a-z0-9.-]*)(?: +([^\s\d]\S*))?`)
)

// isCommand reports whether a line of a block begins as one of another program.
func isCommand(line string) bool {
	m := blockLine.FindStringSubmatch(line)
	if m == nil || m[1] == "sluice" || m[1] == "make" { // held elsewhere
		return false
	}
	_, err := exec.LookPath(m[1])
	return m[2] != "" && (err == nil || slices.Contains(tools, m[1]) || strings.HasPrefix(m[2], "-") && len(m[2]) > 1)
}

// other is a command of another program that a document shows.
type other struct {
	where, text string
	block       bool
	marked      bool // no test runs it, and the document says so
}

func others(t *testing.T) (all []other) {
	t.Helper()
	for _, lines := range documentLines(t) {
		fenced, kind, marked := false, "", false // marked: the block's top says that no test runs it
		for _, l := range lines {
			where, line := l.where, l.text
			if label, found := strings.CutPrefix(strings.TrimSpace(line), "```"); found {
				fenced, kind, marked = !fenced, label, false
				continue
			}
			if strings.TrimSpace(line) == "" {
				marked = false
			}
			if fenced && (strings.HasPrefix(kind, "yaml") || kind == "console") {
				continue // files, and what test of their own run
			}
			if fenced {
				line = "    " + line
			}
			if strings.HasPrefix(strings.TrimSpace(line), "# ") && strings.Contains(line, noTestRuns) {
				marked = true
			}
			if isCommand(line) {
				command, comment, _ := strings.Cut(line, " #")
				command = strings.TrimPrefix(strings.TrimSpace(command), "sudo ")
				all = append(all, other{where, command, true, marked || strings.Contains(comment, noTestRuns)})
				continue
			}
			for _, m := range toolSpan.FindAllStringSubmatch(line, -1) {
				all = append(all, other{where, m[1], false, false})
			}
		}
	}
	return all
}

// TestDocumentsShowOthersCommands: every command of another program that a document
// shows is run, here or by the tests of the packages, or the document says that it
// is not.
func TestDocumentsShowOthersCommands(t *testing.T) {
	packaging := ""
	for _, name := range []string{"package_test.go", "systemd_test.go"} {
		text, err := os.ReadFile("../../internal/packaging/" + name)
		if err != nil {
			t.Fatal(err)
		}
		packaging += string(text)
	}
	unused := maps.Clone(inSentences)
	maps.Copy(unused, inLab)
	maps.Copy(unused, inPackaging)
	for _, c := range others(t) {
		delete(unused, c.text)
		_, run := inLab[c.text]
		by, packaged := inPackaging[c.text]
		switch _, named := inSentences[c.text]; {
		case run || !c.block && named || c.marked && !packaged:
		case packaged && strings.Contains(packaging, by):
		case packaged:
			t.Errorf("%s: `%s`: the tests of the packages have no %q", c.where, c.text, by)
		default:
			t.Errorf("%s: `%s` is run by no test: list it in inLab or inPackaging, or say \"# %s this\" where it stands", c.where, c.text, noTestRuns)
		}
	}
	for text := range unused {
		t.Errorf("no document shows `%s` any more", text)
	}
}

// TestOthersCommandsRun runs those of inLab on a gateway's host.
func TestOthersCommandsRun(t *testing.T) {
	lab.RequireRoot(t)
	for name, of := range map[string]string{"curl": "curl", "ethtool": "ethtool", "nft": "nftables", "ss": "iproute2", "sysctl": "procps"} {
		lab.RequireProgram(t, name, of)
	}
	top, err := lab.Up(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := top.Close(); err != nil {
			t.Error(err)
		}
	})
	dir := t.TempDir()
	socket := filepath.Join(dir, "control.sock")
	runGateway(t, top.Gateway, dir, lab.Config(socket))
	for _, shown := range slices.Sorted(maps.Keys(inLab)) {
		script := inLab[shown]
		if script == "" {
			script = strings.ReplaceAll(shown, "curl ", "curl -sSf ")
		}
		script = strings.NewReplacer("/run/sluice/control.sock", socket, "SOCKET", socket, "eth0", lab.OutsideNIC).Replace(script)
		cmd := exec.Command("sh", "-c", script)
		cmd.Dir = dir
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := top.Gateway.Start(cmd)
		if err == nil {
			err = cmd.Wait()
		}
		if err != nil {
			t.Errorf("`%s`, as `%s`: %v: %s", shown, script, cmd.ProcessState, out.Bytes())
		}
	}
}

// runGateway runs this test's binary as the program, until the test ends.
func runGateway(t *testing.T, ns *lab.Namespace, dir, config string) {
	t.Helper()
	path := filepath.Join(dir, "sluice.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	notify := filepath.Join(dir, "notify")
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(program, "run", "--config", path, "--detach-on-exit")
	cmd.Env = append(os.Environ(), asProgram+"=1", "NOTIFY_SOCKET="+notify)
	cmd.Stderr = &log
	child, err := ns.Spawn(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if <-child.Done; child.Err != nil || t.Failed() {
			t.Errorf("the gateway: %v\n%s", child.Err, log.Bytes())
		}
	})
	if err := ready.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := lab.ReadReady(ready); err != nil {
		t.Fatalf("%v\n%s", err, log.Bytes())
	}
}
