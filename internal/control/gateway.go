package control

import (
	"context"
	"io"
	"time"
)

// Gateway is what the server asks. The daemon implements it; every method must
// be safe for concurrent use and must not block a worker.
type Gateway interface {
	FlowControl
	NAT
	Balancing

	// Status returns the state of the whole gateway.
	Status() Status

	// Flows calls yield for each live flow that filter matches, in bounded
	// memory, until yield fails or ctx ends, and returns that error.
	Flows(ctx context.Context, filter Filter, yield func(Flow) error) error

	// CountFlows counts the live flows that filter matches.
	CountFlows(ctx context.Context, filter Filter) (FlowCount, error)

	// Drops returns the counter of every drop reason, zeros included, in the
	// order of their list.
	Drops() Drops

	// Explain says what becomes of a packet, and why. It changes nothing. An
	// error is about the question.
	Explain(Question) (Explanation, error)

	// Trace has workers trace packets: begun is called when they do, yield with
	// each packet, until there were as many as asked for, the time is over, ctx
	// ends, or either fails, which is returned. An error before begun is about
	// the question, or wraps ErrLooks.
	Trace(ctx context.Context, q TraceQuestion, begun func() error, yield func(*Traced) error) error

	// Capture has workers copy packets, and writes them as a pcapng file, each
	// call a part of it that ends with a block: begun is called when they do. It
	// ends as the question says, when ctx ends, or when either fails, which is
	// returned. An error before begun is about the question, or wraps ErrLooks.
	Capture(ctx context.Context, q CaptureQuestion, begun func() error, out io.Writer) error

	// Config returns the configuration in force.
	Config() (ConfigText, error)

	// Reload reads the configuration again and returns when every worker uses
	// it. An error changes nothing; a *Refusal carries the mistakes.
	Reload(ctx context.Context) (ReloadResult, error)
}

// Drops are the packets dropped since the daemon started, by reason.
type Drops struct {
	At      time.Time `json:"at"`
	Reasons []Drop    `json:"reasons"`
}

// Drop is the counter of one drop reason.
type Drop struct {
	Reason      string `json:"reason"` // kebab-case word, never renamed
	Packets     uint64 `json:"packets"`
	Explanation string `json:"explanation"`
}

// ConfigText is a configuration as a file: every key, defaults filled in.
type ConfigText struct {
	Path string `json:"path"` // the file that it was read from, which may say something else by now
	Text string `json:"text"` // YAML
}

// ReloadResult says what a reload did.
type ReloadResult struct {
	Path     string    `json:"path"`
	Loaded   time.Time `json:"loaded"`
	Changed  bool      `json:"changed"` // false: the file says what was in force already
	Warnings []string  `json:"warnings"`
}

// Refusal is a reload that was refused: the configuration in force stays.
type Refusal struct {
	Reason   string   `json:"error"`    // one line
	Mistakes []string `json:"mistakes"` // FILE:LINE: key: what is wrong, each
}

func (r *Refusal) Error() string { return r.Reason }
