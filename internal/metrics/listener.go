package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Listener answers scrapes over TCP, at one address at a time or at none.
type Listener struct {
	handler http.Handler
	log     *slog.Logger

	mu      sync.Mutex
	address string
	server  *http.Server
}

// NewListener returns a listener that is closed.
func NewListener(handler http.Handler, log *slog.Logger) *Listener {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", handler)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		// A client that went away has nobody to tell.
		_, _ = io.WriteString(w, "<!doctype html><title>Sluice</title><a href=\"/metrics\">metrics</a>\n")
	})
	return &Listener{handler: mux, log: log}
}

// Move makes the listener answer at address, "" for nowhere. The new address is
// open before the old one is closed; an error changes nothing. undo goes back.
func (l *Listener) Move(address string) (undo func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if address == l.address {
		return func() {}, nil
	}
	var next *http.Server
	if address != "" {
		if next, err = l.open(address); err != nil {
			return nil, err
		}
	}
	old, was := l.server, l.address
	l.server, l.address = next, address
	shut(old)
	return func() {
		if _, err := l.Move(was); err != nil {
			l.log.Error("metrics: the address from before is lost", "error", err)
		}
	}, nil
}

// open listens at address and answers there.
func (l *Listener) open(address string) (*http.Server, error) {
	socket, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("control.metrics: %w; choose an address of this host and a port that is free", err)
	}
	server := &http.Server{
		Handler:           l.handler,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(l.log.Handler(), slog.LevelDebug),
	}
	go func() {
		if err := server.Serve(socket); !errors.Is(err, http.ErrServerClosed) {
			l.log.Error("metrics are not answered any more", "address", address, "error", err)
		}
	}()
	l.log.Info("metrics", "address", socket.Addr())
	return server, nil
}

// shut lets scrapes that run finish, for a moment.
func shut(s *http.Server) {
	if s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if s.Shutdown(ctx) != nil {
		s.Close()
	}
}

// Close answers nowhere any more.
func (l *Listener) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	shut(l.server)
	l.server, l.address = nil, ""
}
