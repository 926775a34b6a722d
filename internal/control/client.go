package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
)

// Client talks to the daemon behind a control socket. It is safe for concurrent
// use.
type Client struct {
	socket string
	http   http.Client
}

// NewClient returns a client of the daemon at socket. Nothing is opened yet.
func NewClient(socket string) *Client {
	c := &Client{socket: socket}
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
		DisableCompression: true,
	}
	return c
}

// Version asks which build answers.
func (c *Client) Version(ctx context.Context) (v Version, err error) {
	return v, c.get(ctx, "/v1/version", nil, &v)
}

// Status asks for the state of the gateway.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.get(ctx, "/v1/status", nil, &s)
}

// Drops asks for the drop counters.
func (c *Client) Drops(ctx context.Context) (d Drops, err error) {
	return d, c.get(ctx, "/v1/drops", nil, &d)
}

// CountFlows counts the flows that filter matches.
func (c *Client) CountFlows(ctx context.Context, filter Filter) (n FlowCount, err error) {
	return n, c.get(ctx, "/v1/flows/count", filter.Values(), &n)
}

// Config asks for the configuration in force.
func (c *Client) Config(ctx context.Context) (t ConfigText, err error) {
	return t, c.get(ctx, "/v1/config", nil, &t)
}

// Explain asks what becomes of a packet.
func (c *Client) Explain(ctx context.Context, q Question) (e Explanation, err error) {
	return e, c.get(ctx, "/v1/explain", q.Values(), &e)
}

// Reload makes the daemon read its configuration again. A refusal is a *Refusal.
func (c *Client) Reload(ctx context.Context) (r ReloadResult, err error) {
	resp, err := c.do(ctx, http.MethodPost, "/v1/reload", nil)
	if err != nil {
		return r, err
	}
	defer resp.Body.Close()
	return r, c.decode(resp.Body, &r)
}

// Flows calls yield for each flow that filter matches, until yield fails or ctx
// ends, and returns that error.
func (c *Client) Flows(ctx context.Context, filter Filter, yield func(Flow) error) error {
	return stream(c, ctx, "/v1/flows", filter.Values(), func() {}, func(f *Flow) error { return yield(*f) })
}

func (c *Client) get(ctx context.Context, path string, query url.Values, into any) error {
	resp, err := c.do(ctx, http.MethodGet, path, query)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return c.decode(resp.Body, into)
}

func (c *Client) decode(body io.Reader, into any) error {
	if err := json.NewDecoder(body).Decode(into); err != nil {
		return c.explain(err)
	}
	return nil
}

// do sends one request and returns the answer where it is not an error.
func (c *Client) do(ctx context.Context, method, path string, query url.Values) (*http.Response, error) {
	target := url.URL{Scheme: "http", Host: "sluice", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, target.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if resp.StatusCode == http.StatusUnprocessableEntity {
		var r Refusal
		if json.Unmarshal(body, &r) == nil && r.Reason != "" {
			return nil, &r
		}
	}
	var p problem
	if json.Unmarshal(body, &p) == nil && p.Error != "" {
		return nil, errors.New(p.Error)
	}
	return nil, fmt.Errorf("the daemon at %s answered %s: %s", c.socket, resp.Status, bytes.TrimSpace(body))
}

// explain turns what the system says into what to do.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no daemon answers at %s; start it with `systemctl start sluice` or `sluice run --config FILE`, or name its socket with --socket", c.socket)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("permission denied on %s; run the command with sudo, or as a member of the socket's group", c.socket)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("the daemon at %s went away in the middle of its answer; see its log", c.socket)
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	return fmt.Errorf("the daemon at %s: %w", c.socket, err)
}
