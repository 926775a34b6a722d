package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// The words of FlowEvent.Event. In tables they stand in capitals, as `conntrack
// -E` prints them.
const (
	EventNew     = "new"
	EventUpdate  = "update"  // the state changed
	EventDestroy = "destroy" // the flow ended
	EventLost    = "lost"    // no flow: Lost events were not told
)

// FlowEvent is a birth, change of state or end of a flow, as `sluice flows watch`
// shows it. The flow is as it was then; timeout_seconds is that of its state, 0
// for one that ended.
type FlowEvent struct {
	Event  string    `json:"event"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason"` // why it ended: silence, or a drop reason's word; "" otherwise
	Lost   uint64    `json:"lost"`   // with event lost: how many; 0 otherwise
	Flow
}

// Flush says what a flush did.
type Flush struct {
	Flushed int `json:"flushed"` // flows that it ended
}

// FlowControl is the part of a Gateway that watches and ends flows.
type FlowControl interface {
	// WatchFlows calls begun when it watches, then yield with each event of a
	// flow that filter matches, until either fails, which is returned, or ctx
	// ends. Who is too slow loses events, and is told how many.
	WatchFlows(ctx context.Context, filter Filter, begun func() error, yield func(*FlowEvent) error) error

	// FlushFlows ends the live flows that filter matches.
	FlushFlows(ctx context.Context, filter Filter) (Flush, error)
}

// getFlowWatch streams one event a line, each as soon as it is there.
func (s *Server) getFlowWatch(w http.ResponseWriter, r *http.Request) {
	filter, err := ParseFilter(r.URL.Query())
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	control := http.NewResponseController(w)
	out := json.NewEncoder(patient{w, control})
	err = s.gateway.WatchFlows(r.Context(), filter, func() error {
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.WriteHeader(http.StatusOK)
		return control.Flush()
	}, func(e *FlowEvent) error {
		if err := out.Encode(e); err != nil {
			return err
		}
		return control.Flush()
	})
	if err != nil || r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // nobody listens, or the daemon is stopping
	}
}

// deleteFlows ends flows: all of them only where that is asked for in so many
// words.
func (s *Server) deleteFlows(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	all := query.Get("all") == "true"
	query.Del("all")
	filter, err := ParseFilter(query)
	switch {
	case err == nil && all && !filter.All():
		err = errors.New("all: it excludes a filter; give one or the other")
	case err == nil && !all && filter.All():
		err = errors.New("no filter is given, which would end every flow; give one, or all=true")
	}
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	done, err := s.gateway.FlushFlows(r.Context(), filter)
	if err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	s.log.Info("flows flushed", "flows", done.Flushed, "filter", filter.Values().Encode())
	s.reply(w, done)
}

// WatchFlows calls begun when the daemon watches, then yield with each event,
// until yield fails or ctx ends, and returns that error.
func (c *Client) WatchFlows(ctx context.Context, filter Filter, begun func(), yield func(*FlowEvent) error) error {
	return stream(c, ctx, "/v1/flows/watch", filter.Values(), begun, yield)
}

// FlushFlows ends the flows that filter matches; all must be set where it matches
// every flow.
func (c *Client) FlushFlows(ctx context.Context, filter Filter, all bool) (f Flush, err error) {
	query := filter.Values()
	if all {
		query.Set("all", "true")
	}
	resp, err := c.do(ctx, http.MethodDelete, "/v1/flows", query)
	if err != nil {
		return f, err
	}
	defer resp.Body.Close()
	return f, c.decode(resp.Body, &f)
}

// stream reads an answer of JSON lines. A line that has the key error ends it.
func stream[T any](c *Client, ctx context.Context, path string, query map[string][]string, begun func(), yield func(*T) error) error {
	ctx, cancel := context.WithCancel(ctx) // ends the stream when yield fails
	defer cancel()
	resp, err := c.do(ctx, http.MethodGet, path, query)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	begun()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 64<<10), 1<<20)
	for lines.Scan() {
		var p problem
		v := new(T)
		err := json.Unmarshal(lines.Bytes(), &p)
		if err == nil {
			err = json.Unmarshal(lines.Bytes(), v)
		}
		if err != nil {
			return fmt.Errorf("the daemon at %s sent a line that is not JSON: %w", c.socket, err)
		}
		if p.Error != "" {
			return errors.New(p.Error)
		}
		if err := yield(v); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return c.explain(err)
	}
	return nil
}
