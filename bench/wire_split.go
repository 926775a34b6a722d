package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/cilium/ebpf"

	"sluice/internal/lab"
)

// splitRounds is how often each peer is sampled while the kernel times programs.
const splitRounds = 5

// bpfStatsRunTime is BPF_STATS_RUN_TIME (include/uapi/linux/bpf.h): as with
// kernel.bpf_stats_enabled, for as long as somebody holds it.
const bpfStatsRunTime = 0

// programs are the XDP programs on the gateway's interfaces.
func (l *lane) programs() (list []*ebpf.Program, err error) {
	defer func() {
		if err != nil {
			closePrograms(list)
			list = nil
		}
	}()
	for _, name := range []string{lab.InsideNIC, lab.OutsideNIC} {
		link, err := l.gateway.Netlink().LinkByName(name)
		if err != nil {
			return list, fmt.Errorf("bench: %s: %w", name, err)
		}
		x := link.Attrs().Xdp
		if x == nil || !x.Attached {
			continue
		}
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(x.ProgId))
		if err != nil {
			return list, fmt.Errorf("bench: program of %s: %w", name, err)
		}
		list = append(list, p)
	}
	return list, nil
}

func closePrograms(list []*ebpf.Program) {
	for _, p := range list {
		p.Close()
	}
}

// ranFor is how long programs have run so far while somebody wanted to know.
func ranFor(list []*ebpf.Program) (sum time.Duration, err error) {
	for _, p := range list {
		s, err := p.Stats()
		if err != nil {
			return 0, fmt.Errorf("bench: statistics of a program: %w", err)
		}
		sum += s.Runtime
	}
	return sum, nil
}

// split has the kernel time the programs of all lanes that have some.
func (w *wireRun) split(ctx context.Context) error {
	stats, err := ebpf.EnableStats(bpfStatsRunTime)
	if err != nil {
		w.leaveOut(fmt.Sprintf("the time of XDP programs: %v", err))
		return nil
	}
	defer stats.Close()
	for range splitRounds {
		for _, l := range w.lanes {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := l.timePrograms(w.o.Sample); err != nil {
				return err
			}
		}
	}
	return nil
}

// timePrograms takes one sample of what the programs take of a packet.
func (l *lane) timePrograms(span time.Duration) error {
	list, err := l.programs()
	if err != nil || len(list) == 0 {
		return err
	}
	defer closePrograms(list)
	l.tester.run(warmUp/5, window)
	before, err := ranFor(list)
	if err != nil {
		return err
	}
	p := l.tester.run(span, window)
	after, err := ranFor(list)
	if err != nil {
		return err
	}
	l.inProgram = append(l.inProgram, reading{value: float64((after - before).Nanoseconds()) / float64(max(p.received, 1))})
	return nil
}

// worker is the stat file of what does a gateway's work in user space, "" where
// that is the kernel.
func (l *lane) worker() string {
	switch {
	case l.child != nil:
		return filepath.Join("/proc", strconv.Itoa(l.child.pid()), "stat")
	case l.forwarder != nil:
		return filepath.Join("/proc/self/task", strconv.Itoa(l.forwarder.thread), "stat")
	}
	return ""
}

// user is what a packet took in user mode, in ns, all samples that count together.
func (l *lane) user() float64 { return float64(l.inUser.Nanoseconds()) / float64(max(l.passed, 1)) }

// userTime is how long a process or thread has been in user mode so far, as its
// stat file says in ticks; 0 where there is none.
func userTime(path string) time.Duration {
	const utime = 11 // behind the name: proc_pid_stat(5), field 14
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) <= utime {
		return 0
	}
	ticks, err := strconv.ParseInt(fields[utime], 10, 64)
	if err != nil {
		return 0
	}
	return time.Duration(ticks) * time.Second / userHZ
}

// splitText is the table of where the CPU time of the peers goes that have more
// than the kernel.
func (w *WireReport) splitText(b *strings.Builder) {
	var list []*WireResult
	for i := range w.Results {
		if w.Results[i].Program.Samples > 0 && w.Results[i].User > 0 {
			list = append(list, &w.Results[i])
		}
	}
	if len(list) == 0 {
		return
	}
	b.WriteString("\nOf this CPU, ns per packet: in the gateway's XDP program (timed by the kernel, which adds its clock's cost),\n" +
		"in the worker's user mode (by the kernel's ticks, all rounds together), and the rest, which is the kernel's\n\n")
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\tXDP program\tworker\tkernel")
	for _, p := range list {
		fmt.Fprintf(t, "%s\t%s\t%.0f\t%.0f\n", p.Peer, p.Program.text(0), p.User, p.CPU.Median-p.Program.Median-p.User)
	}
	t.Flush()
}
