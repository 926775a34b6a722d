package bench

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// twinSource is the C program. It is compiled where the benchmark runs, for the
// very processor, as nobody would publish a figure of anything less.
//
//go:embed twin/twin.c
var twinSource []byte

// twinFlags are what it is compiled with.
var twinFlags = []string{"-O3", "-march=native", "-std=gnu11"}

var errNoCompiler = errors.New("there is no gcc: apt-get install gcc libc6-dev")

// compileTwin compiles the twin into dir.
func compileTwin(dir string) (binary string, err error) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		return "", errNoCompiler
	}
	source := filepath.Join(dir, "twin.c")
	if err := os.WriteFile(source, twinSource, 0o644); err != nil {
		return "", fmt.Errorf("bench: twin: %w", err)
	}
	binary = filepath.Join(dir, "twin")
	out, err := exec.Command(gcc, append(twinFlags, "-o", binary, source)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("bench: twin: gcc: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return binary, nil
}

// twin is the C program at work on the same traffic, on the same CPU, when told.
type twin struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// startTwin starts it and waits until its table is filled.
func startTwin(ctx context.Context, binary string, t *traffic, cpu int) (*twin, error) {
	w := &twin{cmd: exec.CommandContext(ctx, binary)}
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // our thread is locked for as long as it runs
	w.cmd.Stderr = os.Stderr
	var err error
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("bench: twin: %w", err)
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("bench: twin: %w", err)
	}
	w.out = bufio.NewScanner(out)
	if err := w.cmd.Start(); err != nil {
		return nil, fmt.Errorf("bench: twin: %w", err)
	}
	if err = t.send(w.in, cpu); err == nil {
		var ready string
		if _, err = w.ask("", "%s", &ready); err == nil && ready != "ready" {
			err = fmt.Errorf("bench: twin: it says %q", ready)
		}
	}
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// ask sends a command, "" for none, and reads the fields of the answer.
func (w *twin) ask(command, format string, fields ...any) (int, error) {
	if command != "" {
		if _, err := io.WriteString(w.in, command+"\n"); err != nil {
			return 0, fmt.Errorf("bench: twin: %w", err)
		}
	}
	if !w.out.Scan() {
		return 0, fmt.Errorf("bench: twin: it ended: %w", errors.Join(w.out.Err(), io.ErrUnexpectedEOF))
	}
	n, err := fmt.Sscanf(w.out.Text(), format, fields...)
	if err != nil {
		return n, fmt.Errorf("bench: twin: answer %q: %w", w.out.Text(), err)
	}
	return n, nil
}

// verify is the digest of the first n packets as they leave.
func (w *twin) verify(n int) (d digest, refused int, err error) {
	_, err = w.ask(fmt.Sprintf("verify %d", n), "%x %d", &d, &refused)
	return d, refused, err
}

// run processes packets for about as long as asked.
func (w *twin) run(budget time.Duration) (s sample, err error) {
	_, err = w.ask(fmt.Sprintf("run %d", budget.Nanoseconds()), "%d %d %d", &s.packets, &s.ns, &s.delay)
	return s, err
}

func (w *twin) close() error {
	w.in.Close()
	return w.cmd.Wait()
}
