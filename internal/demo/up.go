package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"sluice/internal/lab"
)

// upTitle marks a lab that Up keeps, and that Down may end.
const upTitle = "lab up"

// Up builds the lab, starts the gateway and the servers on it, prints commands
// to try, and stays until ctx ends, SIGINT, SIGTERM or Down. Then it removes
// everything. The error is the gateway's, should it end before, or the
// checker's, should an inside source have left outside meanwhile.
func Up(ctx context.Context, o Options) (err error) {
	if err := o.defaults(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	l, err := start(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	s, err := newStory(l.top)
	if err != nil {
		return err
	}
	defer s.close()
	if err := lab.SetTitle(upTitle); err != nil {
		return err
	}
	picture(o.Out, l)
	l.hints(o.Out, o.Binary)
	select {
	case <-ctx.Done():
		fmt.Fprintln(o.Out, "\n  removing the lab")
		return nil
	case <-l.gateway.Done:
		return errors.New("demo: the gateway ended by itself")
	}
}

// hints prints commands for another terminal.
func (l *running) hints(w io.Writer, binary string) {
	in := func(n *lab.Namespace) string { return "ip netns exec " + n.Name() }
	fmt.Fprintf(w, `  in another terminal, as root:

    # the server answers with a header %[8]s: the source that it saw
    %[1]s curl -sD - -o /dev/null http://%[5]s/1
    %[1]s curl -sD - -o /dev/null http://%[6]s/1
    %[1]s curl -o /dev/null http://%[5]s/%[7]d
    %[1]s ping -c 3 %[5]s
    %[2]s bash

    %[3]s status --socket %[4]s
    %[3]s flows list --socket %[4]s
    %[3]s drops --watch --socket %[4]s

    %[3]s lab down    # or ^C here
`, in(l.top.Client1), in(l.top.Server1), binary, l.socket,
		lab.Server1Address, lab.ExcludedAddress, downloadSize, seenHeader)
}

// downTimeout bounds the wait for one lab to be removed.
const downTimeout = 30 * time.Second

// Down ends every lab that Up keeps, and removes what dead runs left.
func Down(ctx context.Context, o Options) error {
	if o.Out == nil {
		o.Out = os.Stdout
	}
	runs, err := lab.Runs()
	if err != nil {
		return err
	}
	var errs []error
	found := false
	for _, r := range runs {
		if r.Title != upTitle {
			continue
		}
		found = true
		ctx, cancel := context.WithTimeout(ctx, downTimeout)
		err := r.Stop(ctx)
		cancel()
		if err == nil {
			fmt.Fprintf(o.Out, "removed sluice-%d-*\n", r.PID)
		}
		errs = append(errs, err)
	}
	if !found {
		fmt.Fprintln(o.Out, "no lab is up")
	}
	return errors.Join(append(errs, lab.Sweep())...)
}
