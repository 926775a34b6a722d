package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"sluice/internal/control"
	"sluice/internal/filter"
	"sluice/internal/pcapng"
)

func captureCommand(a *app) *cobra.Command {
	q := control.DefaultCapture()
	var file, sample string
	c := &cobra.Command{
		Use:   "capture [FILTER]",
		Short: "Capture live packets, for Wireshark, tcpdump or the screen",
		Long: `Capture copies packets as the workers deal with them, which tcpdump does not see.
With -w it writes a pcapng file, without it one line a packet. It goes on until -n
packets were captured, --duration is over, or it is interrupted.

A packet is shown at each of the points that --point lists: rx, as it was received;
tx, as it left; drop and punt, as it was received, where it was dropped or given to
the kernel. Its comment (frame.comment in Wireshark) says the verdict, the drop
reason, the flow with its state, the addresses before and after translation, the
worker and the queue.

FILTER is in the language of trace: see ` + "`sluice trace --help`" + `. Packets hold what
users say to each other: only root and the daemon's user may capture.`,
		Example: `  # One host's connections before and after translation, in Wireshark
  sudo sluice capture -w - host 10.20.30.5 | wireshark -k -i -

  # A minute of what is dropped, into a file
  sudo sluice capture -w drops.pcapng --point drop --duration 1m

  # Headers of one packet in a hundred, on a busy gateway
  sudo sluice capture -w sample.pcapng --sample 1/100 --snaplen 96

  # Twenty packets on the screen
  sudo sluice capture -n 20 tcp port 443`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			q.Filter = strings.Join(args, " ")
			if _, err := filter.Parse(q.Filter); err != nil {
				return usage("%w", err)
			}
			n, err := strconv.Atoi(strings.TrimPrefix(sample, "1/"))
			if err != nil || !strings.HasPrefix(sample, "1/") {
				return usage("--sample: %q is not one in so many, such as 1/100", sample)
			}
			q.Sample = n
			if err := q.Check(); err != nil {
				return usage("--%w", err)
			}
			if file == "-" && a.json() {
				return usage("--output: json and -w - would both go to standard output")
			}
			return a.capture(c.Context(), q, file)
		},
	}
	f := c.Flags()
	f.StringVarP(&file, "write", "w", "", "pcapng file to write; - is standard output")
	f.IntVarP(&q.Count, "count", "n", 0, "end after so many packets (0 = go on)")
	f.StringSliceVar(&q.Points, "point", q.Points, "where: rx, tx, drop, punt")
	f.IntVar(&q.Snaplen, "snaplen", 0, "bytes to keep of each frame (0 = all)")
	f.StringVar(&sample, "sample", "1/1", "one packet in so many, by chance")
	f.DurationVar(&q.Duration, "duration", 0, "end after so long (0 = go on)")
	return c
}

// capture takes packets until the capture or ctx ends. How it went is said on
// standard error.
func (a *app) capture(ctx context.Context, q control.CaptureQuestion, file string) (err error) {
	stream, err := a.client().Capture(ctx, q)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // before it began
	}
	if err != nil {
		return err
	}
	defer stream.Close()
	show := a.showCaptured
	if file != "" {
		out := &captureFile{Writer: a.out}
		if file != "-" {
			if err := out.open(file); err != nil {
				return err
			}
		}
		defer func() { err = errors.Join(err, out.close()) }()
		show = func(_ *pcapng.Reader, b *pcapng.Block) error { return out.add(b.Raw) }
	}
	fmt.Fprintln(a.errOut, "capturing; Ctrl-C ends it")
	t := newTally()
	err = a.copyBlocks(stream, t, show)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil
	}
	fmt.Fprintln(a.errOut, t)
	return err
}

// captureFile is what a capture is written to. It ends after a whole block,
// whatever happens.
type captureFile struct {
	io.Writer
	file  *os.File // nil: standard output
	whole int64    // bytes of blocks that are written
}

// open begins a file that only its owner can read: it holds what others say to
// each other. What is no file, such as a named pipe, stays as it is.
func (f *captureFile) open(path string) (err error) {
	if f.file, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return err
	}
	f.Writer = f.file
	if f.regular() {
		err = f.file.Chmod(0o600) // it may have been there before
	}
	if err != nil {
		f.file.Close()
	}
	return err
}

func (f *captureFile) regular() bool {
	if f.file == nil {
		return false
	}
	s, err := f.file.Stat()
	return err == nil && s.Mode().IsRegular()
}

// add writes a block. Where the disk is full, the file ends before it.
func (f *captureFile) add(block []byte) error {
	_, err := f.Write(block)
	if err == nil {
		f.whole += int64(len(block))
		return nil
	}
	if f.regular() {
		err = errors.Join(err, f.file.Truncate(f.whole))
	}
	return err
}

func (f *captureFile) close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}

// copyBlocks calls show with each block, and counts the packets that it took.
func (a *app) copyBlocks(stream io.Reader, t *tally, show func(*pcapng.Reader, *pcapng.Block) error) error {
	in := pcapng.NewReader(stream)
	for {
		b, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := show(in, b); err != nil {
			return err
		}
		t.add(b)
	}
}

// tally counts what was captured.
type tally struct {
	frames  int
	packets map[uint64]struct{} // the last ones; a packet's frames come close together
	number  int
	lost    map[int]uint64 // by interface
	unseen  map[int]uint64
}

func newTally() *tally {
	return &tally{packets: map[uint64]struct{}{}, lost: map[int]uint64{}, unseen: map[int]uint64{}}
}

// tallyMemory bounds the packets that a tally remembers.
const tallyMemory = 1 << 16

func (t *tally) add(b *pcapng.Block) {
	switch {
	case b.Packet != nil:
		t.frames++
		if _, seen := t.packets[b.Packet.ID]; !seen {
			if len(t.packets) == tallyMemory {
				clear(t.packets)
			}
			t.packets[b.Packet.ID] = struct{}{}
			t.number++
		}
	case b.Statistics != nil:
		t.lost[b.Statistics.Interface] = b.Statistics.Dropped
		t.unseen[b.Statistics.Interface] = b.Statistics.Unseen
	}
}

func (t *tally) String() string {
	lost, unseen := sum(t.lost), sum(t.unseen)
	text := fmt.Sprintf("captured %d packets, %d frames", t.number, t.frames)
	if lost > 0 {
		text += fmt.Sprintf("; %d frames came too fast to be kept: choose fewer with a filter, --sample or --snaplen", lost)
	}
	if unseen > 0 {
		text += fmt.Sprintf("; %d packets went by while a worker was behind and looked at none: capture fewer, with --sample", unseen)
	}
	return text
}

func sum(counts map[int]uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}
