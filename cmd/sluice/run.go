package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"sluice/internal/daemon"
)

func runCommand(a *app) *cobra.Command {
	var (
		o      daemon.Options
		level  string
		format string
	)
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the gateway in the foreground",
		Long: `Run brings the gateway up and forwards until SIGINT or SIGTERM. It logs to standard
error, and tells systemd READY=1 when packets are forwarded. SIGHUP is the same as
` + "`sluice reload`" + `.

When it stops, the steering program stays and treats packets as on-failure says, so
that a restart neither leaks nor resets flows; --detach-on-exit or ` + "`sluice detach`" + `
takes it away.`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			log, err := newLogger(a.errOut, level, format)
			if err != nil {
				return err
			}
			o.Socket, o.Version, o.Logger = a.socket, buildVersion(), log
			// What a command in another directory is told of it must still name it.
			if o.ConfigPath, err = filepath.Abs(o.ConfigPath); err != nil {
				return err
			}
			reload, stop := onHangup(c.Context())
			defer stop()
			o.Reload = reload
			return daemon.Run(c.Context(), o)
		},
	}
	configFlag(c, &o.ConfigPath)
	c.Flags().BoolVar(&o.DetachOnExit, "detach-on-exit", false, "take the steering program away when the daemon stops")
	c.Flags().BoolVar(&o.VerifyFlows, "verify-flows", false, "walk the flow table at start and stop, and fail if anything in it does not fit together")
	c.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	c.Flags().StringVar(&format, "log-format", "text", "text or json")
	return c
}

// newLogger returns the daemon's log.
func newLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var o slog.HandlerOptions
	switch level {
	case "debug":
		o.Level = slog.LevelDebug
	case "info":
		o.Level = slog.LevelInfo
	case "warn":
		o.Level = slog.LevelWarn
	case "error":
		o.Level = slog.LevelError
	default:
		return nil, usage("--log-level: %q is not one of debug, info, warn, error", level)
	}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, &o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, &o)), nil
	}
	return nil, usage("--log-format: %q is neither text nor json", format)
}

// onHangup turns SIGHUP into reloads: those that come while one runs are one.
func onHangup(ctx context.Context) (<-chan struct{}, func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	reload := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-signals:
			}
			select {
			case reload <- struct{}{}:
			default:
			}
		}
	}()
	return reload, func() { signal.Stop(signals); cancel() }
}
