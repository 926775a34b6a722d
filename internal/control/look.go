package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// ErrLooks refuses a trace or capture where as many are on as there can be.
var ErrLooks = errors.New("as many are on as there can be")

// Look is a trace or capture that is on.
type Look struct {
	Kind   string    `json:"kind"`   // trace or capture
	Filter string    `json:"filter"` // "" is every packet
	Since  time.Time `json:"since"`
	Peer
}

// Peer is who is at the other end of the control socket, as the kernel tells
// (SO_PEERCRED).
type Peer struct {
	PID int    `json:"pid"` // 0 where this process cannot see that one
	UID uint32 `json:"uid"`
}

func (p Peer) String() string {
	if p.PID == 0 {
		return fmt.Sprintf("a process of uid %d", p.UID)
	}
	return fmt.Sprintf("pid %d (uid %d)", p.PID, p.UID)
}

// TooManyLooks is ErrLooks, with who has those that are on.
func TooManyLooks(kind string, on []Look) error {
	var who []string
	for _, l := range on {
		if l.Kind == kind {
			who = append(who, fmt.Sprintf("%s since %s", l.Peer, l.Since.Local().Format(time.TimeOnly)))
		}
	}
	return fmt.Errorf("%ss: %w, %d: %s; end one with Ctrl-C where it runs, or by `kill -INT` of its pid", kind, ErrLooks, len(who), strings.Join(who, ", "))
}

// lookAnswer answers a request for a trace or capture: a stream whose header goes out
// when the workers look, and that ends with the look.
type lookAnswer struct {
	w       http.ResponseWriter
	r       *http.Request
	control *http.ResponseController
	begun   bool
}

// begin returns what to call when the workers look.
func (a *lookAnswer) begin(contentType string) func() error {
	return func() error {
		a.begun = true
		a.w.Header().Set("Content-Type", contentType)
		a.w.WriteHeader(http.StatusOK)
		return a.control.Flush()
	}
}

// end is told how the look ended.
func (a *lookAnswer) end(err error) {
	switch {
	case errors.Is(err, ErrLooks):
		fail(a.w, http.StatusConflict, err)
	case err != nil && !a.begun:
		fail(a.w, http.StatusBadRequest, err)
	case err != nil || a.r.Context().Err() != nil:
		panic(http.ErrAbortHandler) // cut, so that it cannot be taken for complete
	}
}

type peerKey struct{}

// PeerOf is who asks for what is done with ctx. It is known of requests over the
// control socket.
func PeerOf(ctx context.Context) (p Peer, known bool) {
	c, _ := ctx.Value(peerKey{}).(net.Conn)
	return peerOf(c)
}
