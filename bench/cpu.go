package bench

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// processor adds up the CPU time of what a measurement consists of: this
// process, the gateway's, and the kernel's threads. Softirqs are charged to the
// thread that they interrupt, which is one of these. Other programs are none of
// it: they disturb, which shows in the time that ours wait.
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

// usage is CPU time in ns, and how long the busiest thread of each process has
// waited for a CPU.
type usage struct {
	ran    int64
	waited map[string]threadTime // by thread
}

type threadTime struct{ ran, waited int64 }

// of is the usage of this process, the others given, and the kernel's threads.
func (p *processor) of(pids ...int) usage {
	u := usage{waited: make(map[string]threadTime)}
	for _, path := range p.kernel {
		ran, _ := schedstat(path)
		u.ran += ran
	}
	for _, pid := range append(pids, os.Getpid()) {
		threads, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/schedstat")
		for _, path := range threads {
			ran, waited := schedstat(path)
			u.ran += ran
			u.waited[path] = threadTime{ran, waited}
		}
	}
	return u
}

// since is what happened since an earlier usage: CPU time, and the longest wait
// of a thread that worked for a good part of the time.
func (u usage) since(before usage, span int64) (ran, delay int64) {
	for path, t := range u.waited {
		b := before.waited[path]
		if t.ran-b.ran > span/4 {
			delay = max(delay, t.waited-b.waited)
		}
	}
	return u.ran - before.ran, delay
}
