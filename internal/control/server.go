package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"
)

// stall is how long a client may leave what was sent to it unread before the
// server gives up on it.
const stall = 10 * time.Second

// Server answers on the control socket for a Gateway.
type Server struct {
	gateway Gateway
	version Version
	log     *slog.Logger
	mux     *http.ServeMux
	http    *http.Server
	metrics http.Handler
	peer    func(net.Conn) (p Peer, known bool)
}

// NewServer returns a server that asks gateway.
func NewServer(gateway Gateway, version Version, log *slog.Logger) *Server {
	s := &Server{gateway: gateway, version: version, log: log, peer: peerOf}
	s.mux = http.NewServeMux()
	for _, r := range s.routes() {
		handler := r.handler
		if r.writes {
			handler = s.writer(handler)
		}
		s.mux.HandleFunc(r.pattern, handler)
	}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, fmt.Errorf("no such endpoint: %s; this daemon is %s, is the client of the same version?", r.URL.Path, version.Version))
	})
	s.http = &http.Server{
		Handler:           s.mux,
		ReadHeaderTimeout: stall,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, c)
		},
	}
	return s
}

// route is one endpoint. docs/api.md describes each, and a test holds it to that.
type route struct {
	pattern string
	writes  bool // it changes the gateway, or shows what users say to each other
	handler http.HandlerFunc
}

func (s *Server) routes() []route {
	return []route{
		{"GET /v1/version", false, s.getVersion},
		{"GET /v1/status", false, s.getStatus},
		{"GET /v1/flows", false, s.getFlows},
		{"DELETE /v1/flows", true, s.deleteFlows},
		{"GET /v1/flows/count", false, s.getFlowCount},
		{"GET /v1/flows/watch", false, s.getFlowWatch},
		{"GET /v1/nat/pools", false, s.getPools},
		{"GET /v1/nat/mappings", false, s.getMappings},
		{"GET /v1/nat/who", false, s.getWho},
		{"GET /v1/services", false, s.getServices},
		{"POST /v1/backends", true, s.postBackends},
		{"GET /v1/drops", false, s.getDrops},
		{"GET /v1/config", false, s.getConfig},
		{"GET /v1/explain", false, s.getExplain},
		{"GET /v1/trace", false, s.getTrace},
		{"GET /v1/capture", true, s.getCapture},
		{"POST /v1/reload", true, s.postReload},
		{"GET /metrics", false, s.getMetrics},
	}
}

// SetMetrics sets what answers GET /metrics. It must be called before Serve.
func (s *Server) SetMetrics(h http.Handler) { s.metrics = h }

func (s *Server) getMetrics(w http.ResponseWriter, r *http.Request) {
	if s.metrics == nil {
		fail(w, http.StatusNotFound, errors.New("this daemon has no metrics"))
		return
	}
	s.metrics.ServeHTTP(w, r)
}

// Serve answers on l until ctx ends, and closes l. Listings that run then are
// cut; other requests get a second to finish.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	s.http.BaseContext = func(net.Listener) context.Context { return ctx }
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if s.http.Shutdown(grace) != nil {
			s.http.Close()
		}
	})
	err := s.http.Serve(l)
	if !stop() {
		<-done
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("control socket: %w", err)
}

// peerOf asks the kernel who is at the other end.
func peerOf(c net.Conn) (p Peer, known bool) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return p, false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return p, false
	}
	var cred *syscall.Ucred
	err = raw.Control(func(fd uintptr) {
		cred, _ = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err != nil || cred == nil {
		return p, false
	}
	return Peer{PID: int(cred.Pid), UID: cred.Uid}, true
}

// writer lets only root and the daemon's own user through to next.
func (s *Server) writer(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, _ := r.Context().Value(peerKey{}).(net.Conn)
		peer, known := s.peer(c)
		if own := uint32(os.Geteuid()); !known || peer.UID != 0 && peer.UID != own {
			fail(w, http.StatusForbidden, fmt.Errorf("only root and the daemon's user (uid %d) may change the gateway or capture packets; run the command with sudo", own))
			return
		}
		next(w, r)
	}
}

func (s *Server) getVersion(w http.ResponseWriter, _ *http.Request) { s.reply(w, s.version) }

func (s *Server) getStatus(w http.ResponseWriter, _ *http.Request) {
	status := s.gateway.Status()
	status.fill()
	s.reply(w, status)
}

func (s *Server) getDrops(w http.ResponseWriter, _ *http.Request) {
	drops := s.gateway.Drops()
	list(&drops.Reasons)
	s.reply(w, drops)
}

func (s *Server) getConfig(w http.ResponseWriter, _ *http.Request) {
	text, err := s.gateway.Config()
	if err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	s.reply(w, text)
}

func (s *Server) getExplain(w http.ResponseWriter, r *http.Request) {
	question, err := ParseQuestion(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	explanation, err := s.gateway.Explain(question)
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	list(&explanation.Assumptions)
	list(&explanation.Decisions)
	s.reply(w, explanation)
}

func (s *Server) getFlowCount(w http.ResponseWriter, r *http.Request) {
	filter, err := ParseFilter(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	count, err := s.gateway.CountFlows(r.Context(), filter)
	if err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	s.reply(w, count)
}

// getFlows streams one flow a line. A listing that breaks ends with a line that
// has only the key error.
func (s *Server) getFlows(w http.ResponseWriter, r *http.Request) {
	filter, err := ParseFilter(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	s.streamList(w, r, "flows", func(ctx context.Context, out *bufio.Writer) error {
		line := make([]byte, 0, 1024)
		return s.gateway.Flows(ctx, filter, func(f Flow) error {
			line = append(f.appendJSON(line[:0]), '\n')
			_, err := out.Write(line)
			return err
		})
	})
}

// streamList sends JSON lines that write writes through one buffer, however many
// there are.
func (s *Server) streamList(w http.ResponseWriter, r *http.Request, what string, write func(context.Context, *bufio.Writer) error) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := bufio.NewWriterSize(patient{w, http.NewResponseController(w)}, 64<<10)
	ctx := r.Context()
	err := write(ctx, out)
	if ctx.Err() != nil {
		// The client went away, or the daemon is stopping: the stream is cut
		// without its last chunk, so that it cannot be taken for complete.
		panic(http.ErrAbortHandler)
	}
	if err != nil {
		s.log.Warn("a listing of "+what+" broke off", "error", err)
		_ = json.NewEncoder(out).Encode(problem{err.Error()})
	}
	if out.Flush() != nil {
		panic(http.ErrAbortHandler)
	}
}

// patient moves the deadline on with every write, so that a long listing may
// take its time and a client that stopped reading may not.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (p patient) Write(b []byte) (int, error) {
	if err := p.control.SetWriteDeadline(time.Now().Add(stall)); err != nil {
		return 0, err
	}
	return p.ResponseWriter.Write(b)
}

func (s *Server) postReload(w http.ResponseWriter, r *http.Request) {
	result, err := s.gateway.Reload(r.Context())
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		list(&refusal.Mistakes)
		answer(w, http.StatusUnprocessableEntity, refusal)
		return
	}
	if err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	list(&result.Warnings)
	s.reply(w, result)
}

// problem is the body of every answer that is an error.
type problem struct {
	Error string `json:"error"`
}

func fail(w http.ResponseWriter, code int, err error) { answer(w, code, problem{err.Error()}) }

func (s *Server) reply(w http.ResponseWriter, v any) { answer(w, http.StatusOK, v) }

func answer(w http.ResponseWriter, code int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		code, body = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be written as JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	// A client that went away has nobody to tell.
	_, _ = w.Write(append(body, '\n'))
}
