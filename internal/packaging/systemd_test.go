package packaging

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// machine is a systemd in namespaces of its own.
type machine struct {
	*testing.T
	init int // its process, seen from here
}

// boot starts the systemd of a root and waits until it is up.
func boot(t *testing.T, root string) *machine {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", "-D", root,
		"--private-network", "--capability=all", "--system-call-filter=bpf", "--console=pipe")
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_API_VFS_WRITABLE=1")
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig is about this thread
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m := &machine{T: t}
	t.Cleanup(func() {
		if m.init != 0 {
			syscall.Kill(m.init, syscall.SIGKILL) // its processes go with it
		}
		cmd.Process.Kill()
		cmd.Wait()
	})
	m.await("systemd is up", time.Minute, func() bool {
		children, _ := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/task/" + strconv.Itoa(cmd.Process.Pid) + "/children")
		for _, child := range strings.Fields(string(children)) {
			m.init, _ = strconv.Atoi(child)
		}
		if m.init == 0 {
			return false
		}
		out, _ := m.try("systemctl is-system-running")
		return strings.Contains(out, "running") || strings.Contains(out, "degraded")
	})
	return m
}

// try runs a shell script in the machine.
func (m *machine) try(script string) (string, error) {
	out, err := exec.Command("nsenter", "-t", strconv.Itoa(m.init), "-a", "--", "bash", "-c", script).CombinedOutput()
	return string(out), err
}

func (m *machine) must(script string) string {
	m.Helper()
	out, err := m.try(script)
	if err != nil {
		journal, _ := m.try("journalctl -u sluice --no-pager | tail -30")
		m.Fatalf("%s: %v\n%s\n%s", script, err, out, journal)
	}
	return strings.TrimSpace(out)
}

func (m *machine) await(what string, within time.Duration, f func() bool) {
	m.Helper()
	for deadline := time.Now().Add(within); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			m.Fatalf("not within %v: %s", within, what)
		}
	}
}

// network gives the machine the /sys that nspawn holds back, two links and a
// host at the end of each: a server that says whom it sees, and a client.
const network = `set -e
mkdir -p /mnt/sys
mount -t sysfs sysfs /mnt/sys
mount --rbind /sys/fs/cgroup /mnt/sys/fs/cgroup
mount -t bpf bpf /mnt/sys/fs/bpf
mount --rbind /mnt/sys /sys
for host in in out; do
	ip netns add $host
	ip link add ${host}0 type veth peer name eth0 netns $host
	ip link set ${host}0 up
	ip -n $host link set eth0 up
done
ip address add 10.9.0.1/24 dev in0
ip -n in address add 10.9.0.2/24 dev eth0
ip -n in route add default via 10.9.0.1
ip address add 192.0.2.1/24 dev out0
ip -n out address add 192.0.2.2/24 dev eth0
cat >/root/server.pl <<'P'
use IO::Socket::INET;
my $s = IO::Socket::INET->new(LocalPort => 7, Listen => 5, ReuseAddr => 1) or die $!;
while (my $c = $s->accept) {
	next if fork;
	while (my $line = <$c>) { print $c $c->peerhost, ":", $c->peerport, "\n"; $c->flush }
	exit;
}
P
cat >/root/client.sh <<'C'
exec 3<>/dev/tcp/192.0.2.2/7 4<>/root/ask 5<>/root/told
while read -r line <&4; do echo "$line" >&3; read -r answer <&3; echo "$answer" >&5; done
C
mkfifo /root/ask /root/told
setsid ip netns exec out perl /root/server.pl >/dev/null 2>&1 </dev/null &
`

// config masquerades, balances the server behind a service's address, and is an
// agent for another gateway, so that the unit's limits are held to all of it.
const config = `interfaces:
  - {name: in0, role: inside}
  - {name: out0, role: outside}
masquerade: {sources: [10.9.0.0/24]}
services:
  - name: echo
    address: 198.51.100.10
    port: 7
    health-check: {type: tcp, interval: 1s, timeout: 1s}
    backends: [{address: 192.0.2.2, port: 7}]
dsr-agent: {interfaces: [out0], reply-interfaces: [out0], trusted-gateways: [192.0.2.2], services: [198.51.100.20]}
`

// ask sends a line over the client's connection, and returns whom the server sees.
func (m *machine) ask() string {
	m.Helper()
	return m.must("echo hello >/root/ask; timeout 20 head -n1 /root/told")
}

// well waits until nothing is degraded: at first the agent's gateway has not answered
// ARP, and no probe a backend.
func (m *machine) well() {
	m.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		out, err := m.try("sluice status")
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			m.Fatalf("not well within 30 s:\n%s", out)
		}
	}
}

// pid is the service's main process.
func (m *machine) pid() string { return m.must("systemctl show -p MainPID --value sluice") }

// TestSystemd is an operator's first day with the service.
func TestSystemd(t *testing.T) {
	dir, version := packages(t)
	root := cleanRoot(t)
	run(t, "cp", filepath.Join(dir, "sluice-"+version+"-linux-"+runtime.GOARCH+".deb"), filepath.Join(root, "root/sluice.deb"))
	m := boot(t, root)
	m.must(network)
	m.must("apt install -y --no-install-recommends /root/sluice.deb")
	if out, _ := m.try("systemctl is-active sluice"); !strings.Contains(out, "inactive") {
		t.Fatalf("the installation started it: %s", out)
	}
	m.must("cat >/etc/sluice/sluice.yaml <<'Y'\n" + config + "Y\nsystemctl enable --now sluice")
	m.well()
	m.must("setsid ip netns exec in bash /root/client.sh >/dev/null 2>&1 </dev/null & true")
	seen := m.ask()
	if !strings.HasPrefix(seen, "192.0.2.1:") {
		t.Fatalf("the server sees %q", seen)
	}
	t.Log(m.must("systemd-analyze security sluice --no-pager | tail -1"))

	t.Run("services and agent", func(t *testing.T) {
		m.await("the probe of a backend", 20*time.Second, func() bool {
			out, _ := m.try("sluice services show echo -o json")
			return strings.Contains(out, `"selectable":1`) && strings.Contains(out, `"health":{`)
		})
		// By the service's address the server sees the gateway.
		if out := m.must("ip netns exec in bash -c 'exec 3<>/dev/tcp/198.51.100.10/7; echo hello >&3; head -n1 <&3'"); !strings.HasPrefix(out, "192.0.2.1:") {
			t.Errorf("by the service the server sees %q", out)
		}
		if out := m.must("sluice status -o json"); !strings.Contains(out, `"dsr_agent":{`) {
			t.Errorf("status has no agent: %s", out)
		}
		m.must("ls -d /sys/fs/bpf/sluice/*/*agent* || ls -R /sys/fs/bpf/sluice >&2")
	})

	t.Run("reload", func(t *testing.T) {
		m.must("systemctl reload sluice")
		m.must("echo 'nonsense: 1' >>/etc/sluice/sluice.yaml")
		if out, err := m.try("systemctl reload sluice"); err == nil {
			t.Errorf("a file with a mistake is taken: %s", out)
		}
		if out, _ := m.try("sluice status"); !strings.Contains(out, "sluice.yaml:12: nonsense") {
			t.Errorf("status does not name it:\n%s", out)
		}
		m.must("sed -i '$d' /etc/sluice/sluice.yaml && systemctl reload sluice")
		m.well()
	})
	same := func(t *testing.T) {
		t.Helper()
		if now := m.ask(); now != seen {
			t.Errorf("the connection is seen as %s, was %s", now, seen)
		}
	}
	t.Run("restart", func(t *testing.T) {
		before := m.pid()
		m.must("systemctl restart sluice")
		if m.pid() == before {
			t.Error("it is the same process")
		}
		same(t)
	})
	t.Run("stop and start", func(t *testing.T) {
		m.must("systemctl stop sluice && ip link show in0 | grep xdp && systemctl start sluice")
		same(t)
	})
	t.Run("crash", func(t *testing.T) {
		before := m.pid()
		m.must("kill -9 " + before)
		m.await("the next process", 20*time.Second, func() bool {
			out, _ := m.try("systemctl is-active sluice")
			return strings.TrimSpace(out) == "active" && m.pid() != before
		})
		same(t)
	})
	t.Run("watchdog", func(t *testing.T) {
		before := m.pid()
		m.must("kill -STOP " + before)
		m.await("the watchdog's restart", time.Minute, func() bool {
			out, _ := m.try("systemctl is-active sluice")
			return strings.TrimSpace(out) == "active" && m.pid() != before
		})
		m.must("journalctl -u sluice | grep -q 'Watchdog timeout'")
		same(t)
	})
	t.Run("upgrade", func(t *testing.T) {
		before := m.pid()
		m.must("dpkg -i /root/sluice.deb")
		if m.pid() == before {
			t.Error("the old program runs on")
		}
		same(t)
	})
	t.Run("removal", func(t *testing.T) {
		m.must("systemctl disable --now sluice && systemctl enable --now sluice")
		m.well()
		m.must("apt remove -y sluice && test -e /etc/sluice/sluice.yaml && apt purge -y sluice")
		if out, _ := m.try("ip link show in0 | grep xdp; ls -d /run/sluice /dev/shm/sluice /sys/fs/bpf/sluice /etc/sluice 2>/dev/null"); out != "" {
			t.Errorf("left behind:\n%s", out)
		}
	})
}
