package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// processor adds up the CPU time of what a measurement consists of: this
// process, the gateway's, and the kernel's threads. Softirqs are charged to the
// thread that they interrupt, which is one of these. What the CPUs did besides
// was for others, or for another virtual machine, and disturbs.
type processor struct {
	kernel []string // schedstat of the kernel's threads
}

// newProcessor lists the kernel's threads: the children of kthreadd, process 2.
func newProcessor() *processor {
	p := new(processor)
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is good
	for _, stat := range stats {
		b, err := os.ReadFile(stat)
		if err != nil {
			continue // it ended
		}
		// pid (name) state ppid …; the name may hold anything.
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(fields) > 1 && fields[1] == "2" {
			p.kernel = append(p.kernel, filepath.Join(filepath.Dir(stat), "schedstat"))
		}
	}
	return p
}

// usage is what was used up to some moment, in ns.
type usage struct {
	ran  int64 // by ours and the kernel's threads
	idle int64 // by nobody, all CPUs together
	at   time.Time
}

// of is the usage of this process, the others given, and the kernel's threads.
func (p *processor) of(pids ...int) usage {
	u := usage{idle: idleTime(), at: time.Now()}
	for _, path := range p.kernel {
		ran, _ := schedstat(path)
		u.ran += ran
	}
	for _, pid := range append(pids, os.Getpid()) {
		threads, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/schedstat") // the pattern is good
		for _, path := range threads {
			ran, _ := schedstat(path)
			u.ran += ran
		}
	}
	return u
}

// since is the CPU time since an earlier usage: what ours ran, and what others
// did. The latter is the rest of a sum that is exact to some ticks, and can come
// out a little below 0.
func (u usage) since(before usage) (ran, others int64) {
	ran = u.ran - before.ran
	return ran, int64(runtime.NumCPU())*u.at.Sub(before.at).Nanoseconds() - (u.idle - before.idle) - ran
}

// userHZ is the unit of /proc/stat (USER_HZ), the same on every architecture
// that this runs on.
const userHZ = 100

// idleTime is how long the CPUs have been idle so far, those of this process's
// affinity or not.
func idleTime() int64 {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	var name string
	var user, nice, system, idle, iowait int64
	if _, err := fmt.Sscan(string(b), &name, &user, &nice, &system, &idle, &iowait); err != nil {
		return 0
	}
	return (idle + iowait) * int64(time.Second) / userHZ
}
