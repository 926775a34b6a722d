// Command sluice is the gateway: the daemon (`sluice run`), the client that asks
// it, and the checks that need neither.
//
// It owns the words on the command line, what they print and the exit codes:
// 0 fine, 1 failed, 2 usage, 3 degraded. Results go to standard output, errors
// to standard error, one line each with what to do. All logic lies in the
// packages below.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// The exit codes.
const (
	exitFine     = 0
	exitFailed   = 1
	exitUsage    = 2
	exitDegraded = 3
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	a := &app{out: out, errOut: errOut}
	root := newRoot(a)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	switch {
	case err == nil:
		return exitFine
	case errors.Is(err, errDegraded):
		return exitDegraded
	case errors.Is(err, errReported):
		return exitFailed
	case errors.Is(err, syscall.EPIPE):
		return exitFailed // whoever read our output has left; nobody is there to tell
	case !a.begun || isUsage(err):
		fmt.Fprintf(errOut, "sluice: %s; see `%s --help`\n", oneLine(err), cmd.CommandPath())
		return exitUsage
	}
	fmt.Fprintf(errOut, "sluice: %s\n", oneLine(err))
	return exitFailed
}

var (
	errReported = errors.New("already reported")        // exit 1, and nothing more to say
	errDegraded = errors.New("the gateway is degraded") // exit 3
)

// usageError is a command line that asks for what cannot be asked.
type usageError struct{ error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func isUsage(err error) bool {
	_, ok := errors.AsType[usageError](err)
	return ok
}

// oneLine keeps an error on one line, whoever worded it.
func oneLine(err error) string {
	var parts []string
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); line != "" {
			parts = append(parts, line)
		}
	}
	return strings.TrimSuffix(strings.Join(parts, "; "), ".")
}
