package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Report is everything that one run found. Its JSON is bench/out/report.json.
type Report struct {
	Version  string         `json:"version"`
	Started  time.Time      `json:"started"`
	Seconds  float64        `json:"seconds"` // that the run took
	Quick    bool           `json:"quick"`   // too few samples to quote
	Machine  Machine        `json:"machine"`
	Memory   []MemoryResult `json:"memory"`
	Kinds    []KindResult   `json:"kinds"`
	Wire     *WireReport    `json:"wire"`
	Services *WireReport    `json:"services"` // the same of services

	Receivers *ReceiversReport `json:"receivers"`
	Operator  *OperatorReport  `json:"operator"` // nil where it was not asked for
	Bars      []Bar            `json:"bars"`
	LeftOut   []string         `json:"left_out"` // what could not be measured here, and why
}

// Machine is what the figures are of.
type Machine struct {
	CPU       string     `json:"cpu"`
	CPUs      int        `json:"cpus"`
	Kernel    string     `json:"kernel"`
	Go        string     `json:"go"`
	GCC       string     `json:"gcc"`  // "" where there is none
	Load      [2]float64 `json:"load"` // run-queue length, before and after
	MemoryMiB int        `json:"memory_mib"`
}

// describeMachine looks around. What it cannot find out stays empty.
func describeMachine() Machine {
	m := Machine{CPUs: runtime.NumCPU(), Go: runtime.Version() + " " + runtime.GOARCH, CPU: field("/proc/cpuinfo", "model name")}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(b))
	}
	if b, err := exec.Command("gcc", "-dumpfullversion").Output(); err == nil {
		m.GCC = strings.TrimSpace(string(b))
	}
	var kib int
	if _, err := fmt.Sscan(field("/proc/meminfo", "MemTotal"), &kib); err == nil {
		m.MemoryMiB = kib >> 10
	}
	m.Load[0] = load()
	return m
}

// field is the value of the first line of a file that begins with name and a
// colon.
func field(file, name string) string {
	b, _ := os.ReadFile(file)
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// load is the average number of running tasks of the last minute.
func load() (l float64) {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	fmt.Sscan(string(b), &l)
	return l
}

// memory is the result for a number of flows, nil if there is none.
func (r *Report) memory(flows int, how Distribution) *MemoryResult {
	for i := range r.Memory {
		if m := &r.Memory[i]; m.Flows == flows && m.Distribution == how && m.Whole.Samples > 0 {
			return m
		}
	}
	return nil
}

// save writes the report into a directory: report.txt, report.json, report.html.
func (r *Report) save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	j, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	for name, content := range map[string][]byte{
		"report.txt":  []byte(r.Text()),
		"report.json": append(j, '\n'),
		"report.html": []byte(r.HTML()),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
	}
	return nil
}
