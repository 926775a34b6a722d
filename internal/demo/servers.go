package demo

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// servers is everything that the hosts serve. Every server tells its client the
// address that it saw.
type servers struct {
	mu   sync.Mutex
	open map[io.Closer]bool
}

// seenHeader carries the address an HTTP server saw.
const seenHeader = "Sluice-Seen"

// http serves the first n bytes of payload at /n.
func (s *servers) http(h host, address string, payload []byte) error {
	ln, err := h.listen(at(address, portHTTP))
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		if err != nil || n < 0 || n > len(payload) {
			http.Error(w, "no such size", http.StatusNotFound)
			return
		}
		w.Header().Set(seenHeader, r.RemoteAddr)
		w.Header().Set("Content-Length", strconv.Itoa(n))
		w.Write(payload[:n])
	})}
	s.add(srv)
	go srv.Serve(ln)
	return nil
}

// who answers, at an address with its port, a line over TCP with the same line and the address it came from,
// until the client closes.
func (s *servers) who(h host, address string) error {
	return s.serve(h, address, func(c net.Conn) error {
		lines := bufio.NewScanner(c)
		for lines.Scan() {
			if _, err := fmt.Fprintf(c, "%s %s\n", lines.Text(), c.RemoteAddr()); err != nil {
				return err
			}
		}
		return lines.Err()
	})
}

// session first says whom it saw, in a line, and then echoes.
func (s *servers) session(h host, address string) error {
	return s.serve(h, at(address, portSession), func(c net.Conn) error {
		if _, err := fmt.Fprintf(c, "%s\n", c.RemoteAddr()); err != nil {
			return err
		}
		_, err := io.Copy(c, c)
		return err
	})
}

// whoUDP answers a datagram with the address it came from, a line, and its
// content.
func (s *servers) whoUDP(h host, address string) error {
	c, err := h.packets("udp4", address)
	if err != nil {
		return err
	}
	s.add(c)
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				c.WriteTo(append([]byte(from.String()+"\n"), buf[:n]...), from)
			}
		}
	}()
	return nil
}

// serve accepts connections until it is closed, and handles each on its own.
// What goes wrong on one of them its client notices.
func (s *servers) serve(h host, address string, handle func(net.Conn) error) error {
	ln, err := h.listen(address)
	if err != nil {
		return err
	}
	s.add(ln)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.add(c)
			go func() {
				defer s.remove(c)
				handle(c)
			}()
		}
	}()
	return nil
}

func (s *servers) add(c io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = make(map[io.Closer]bool)
	}
	s.open[c] = true
}

func (s *servers) remove(c io.Closer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
	c.Close()
}

func (s *servers) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		c.Close()
	}
	clear(s.open)
}
