package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/internal/control"
	"sluice/internal/lab"
)

// terminal is a program on a terminal of its own, which script(1) makes.
type terminal struct {
	*testing.T
	in io.Writer

	mu  sync.Mutex
	out bytes.Buffer
	end chan struct{}
}

func (t *terminal) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.out.Write(b)
}

// text is what the terminal was sent from a place on.
func (t *terminal) text(from int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.out.String()[from:]
}

// await waits until what was sent from a place on has a property.
func (t *terminal) await(what string, from int, has func(text string) bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !has(t.text(from)); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			all := t.text(0)
			t.Fatalf("never: %s; the terminal has %q", what, all[max(len(all)-1000, 0):])
		}
	}
}

// line is the rest of a line that begins so.
func (t *terminal) line(start string) string {
	t.Helper()
	has := func(text string) bool {
		_, after, found := strings.Cut(text, start)
		return found && strings.Contains(after, "\n")
	}
	t.await(start, 0, has)
	_, rest, _ := strings.Cut(t.text(0), start)
	rest, _, _ = strings.Cut(rest, "\r")
	return rest
}

// topOn runs `sluice top` on a terminal of 12 lines of 40 columns, as a shell
// would, which says afterwards how it ended and whether the terminal is as before.
func topOn(t *testing.T, socket string) (x *terminal, pid int, tty string) {
	t.Helper()
	script := lab.RequireProgram(t, "script", "bsdutils")
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const shell = `trap : INT; stty rows 12 cols 40; before=$(stty -g); echo "TTY $(tty)"
%s=1 sh -c 'echo "PID $$"; exec "$@"' - '%s' top --interval 100ms --socket '%s'
echo "CODE $?"; [ "$before" = "$(stty -g)" ] && echo "AS BEFORE" || echo "CHANGED: $(stty -a)"`
	cmd := exec.Command(script, "-qefc", fmt.Sprintf(shell, asProgram, program, socket), "/dev/null")
	cmd.Env = append(os.Environ(), "TERM=xterm", "SHELL=/bin/sh")
	x = &terminal{T: t, end: make(chan struct{})}
	if x.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = x
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // its own exit code is no matter
		close(x.end)
	}()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	tty = x.line("TTY ")
	if pid, err = strconv.Atoi(x.line("PID ")); err != nil {
		t.Fatal(err)
	}
	return x, pid, tty
}

const (
	enteredScreen = "\x1b[?1049h\x1b[?25l"
	leftScreen    = "\x1b[?25h\x1b[?1049l"
)

// screens are the whole screens that were drawn.
func screens(text string) (list [][]string) {
	for _, s := range strings.Split(text, "\x1b[H")[1:] {
		if body, _, whole := strings.Cut(s, "\x1b[J"); whole {
			// The terminal puts a return before each line feed, too.
			list = append(list, strings.Split(strings.ReplaceAll(body, "\r", ""), "\n"))
		}
	}
	return list
}

// fits reports whether a screen has no more lines and columns than these.
func fits(screen []string, rows, columns int) bool {
	for _, l := range screen {
		if len([]rune(strings.TrimSuffix(l, "\x1b[K"))) > columns {
			return false
		}
	}
	return len(screen) <= rows
}

// ended holds how the program ended, and that the terminal is as it was.
func (t *terminal) ended(code int) {
	t.Helper()
	if got := t.line("CODE "); got != strconv.Itoa(code) {
		t.Errorf("exit %s, want %d: %q", got, code, t.text(0))
	}
	select {
	case <-t.end:
	case <-time.After(20 * time.Second):
		t.Error("the shell goes on")
	}
	text := t.text(0)
	if !strings.Contains(text, "AS BEFORE") || strings.Count(text, enteredScreen) != strings.Count(text, leftScreen) || strings.LastIndex(text, leftScreen) < strings.LastIndex(text, "\x1b[J") {
		t.Errorf("the terminal is not as it was: %q", text)
	}
}

// TestTopLeavesTheTerminalAsItWas: by q, by Ctrl-C, by SIGTERM, and when the daemon
// goes away.
func TestTopLeavesTheTerminalAsItWas(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(x *terminal, pid int, stop func())
		code int
	}{
		"q":       {func(x *terminal, _ int, _ func()) { fmt.Fprint(x.in, "q") }, exitFine},
		"Ctrl-C":  {func(x *terminal, _ int, _ func()) { fmt.Fprint(x.in, "\x03") }, exitFine},
		"SIGTERM": {func(_ *terminal, pid int, _ func()) { _ = syscall.Kill(pid, syscall.SIGTERM) }, exitFine},
		"daemon":  {func(_ *terminal, _ int, stop func()) { stop() }, exitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			g := natted()
			_, now := readings()
			g.status, g.drops = now.status, func() control.Drops { return now.drops }
			socket, stop := serveUntil(t, g)
			x, pid, _ := topOn(t, socket)
			x.await("a screen", 0, func(text string) bool { return strings.Contains(text, enteredScreen) && len(screens(text)) > 1 })
			tt.end(x, pid, stop)
			x.ended(tt.code)
			for _, s := range screens(x.text(0)) {
				if !fits(s, 12, 40) {
					t.Errorf("a screen of 12 lines of 40 columns does not hold %q", s)
				}
			}
		})
	}
}

// TestTopFollowsTheTerminal: a smaller terminal gets smaller screens at once, and
// Ctrl-Z gives it back until the program goes on.
func TestTopFollowsTheTerminal(t *testing.T) {
	g := natted()
	_, now := readings()
	g.status, g.drops = now.status, func() control.Drops { return now.drops }
	x, pid, tty := topOn(t, serve(t, g))
	x.await("a screen", 0, func(text string) bool { return len(screens(text)) > 0 })
	if s := screens(x.text(0))[0]; len(s) != 12 || fits(s, 12, 30) {
		t.Errorf("the terminal of 12 lines of 40 columns is not used: %q", s)
	}
	if out, err := exec.Command("stty", "-F", tty, "rows", "5", "cols", "20").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	x.await("a screen of 5 lines of 20 columns", 0, func(text string) bool {
		all := screens(text)
		return fits(all[len(all)-1], 5, 20)
	})

	fmt.Fprint(x.in, "\x1a")
	x.await("the terminal is given back", 0, func(text string) bool { return strings.HasSuffix(text, leftScreen) })
	stopped := func(string) bool {
		stat, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		return bytes.Contains(stat, []byte(") T "))
	}
	x.await("it has stopped", 0, stopped)
	if out, err := exec.Command("stty", "-F", tty, "-a").Output(); err != nil || !bytes.Contains(out, []byte(" icanon")) || !bytes.Contains(out, []byte(" echo ")) {
		t.Errorf("suspended, the terminal is %s, %v", out, err)
	}
	from := len(x.text(0))
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	x.await("it goes on", from, func(text string) bool { return strings.Contains(text, enteredScreen) && len(screens(text)) > 0 })
	fmt.Fprint(x.in, "q")
	x.ended(exitFine)
}
