package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/vhdtool/vhdtool/internal/sizearg"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

type benchOptions struct {
	source  sourceFlags
	count   string
	depth   string
	offset  string
	size    string
	step    string
	pattern string
	flush   string // requests between flushes
	aio     string
	cache   string
	native  bool
	noDrain bool
	write   bool
	quiet   bool
	args    []string
}

func (c *cli) newBenchCmd() *cobra.Command {
	var o benchOptions
	cmd := &cobra.Command{
		Use:    "bench [-c COUNT] [-d DEPTH] [-o OFFSET] [-s SIZE] [-S STEP] [-w] FILE",
		Short:  "Measure how fast an image is read or written",
		Hidden: true, // for scripts
		Long: `bench sends COUNT requests (default 75000) of SIZE bytes (default 4k) to
the disk in FILE, and prints how long they took. DEPTH requests (default 64) are
in flight at a time. Each request starts STEP bytes after the one before.

With -w the requests overwrite the disk with zeros, or with the byte of
--pattern.`,
		Example: "  vhdtool bench -c 1000 -s 64k disk.vhd",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			return c.runBench(cmd.Context(), &o)
		},
	}
	o.source.add(cmd, "format")
	o.source.addForce(cmd)
	fl := cmd.Flags()
	fl.StringVarP(&o.count, "count", "c", "75000", "send `COUNT` requests")
	fl.StringVarP(&o.depth, "depth", "d", "64", "keep `DEPTH` requests in flight")
	fl.StringVarP(&o.offset, "offset", "o", "0", "`OFFSET` of the first request")
	fl.StringVarP(&o.size, "buffer-size", "s", "4k", "`SIZE` of each request")
	fl.StringVarP(&o.step, "step-size", "S", "", "`STEP` from one request to the next (default: the size)")
	fl.BoolVarP(&o.write, "write", "w", false, "write instead of reading")
	fl.StringVar(&o.pattern, "pattern", "0", "with -w: the `BYTE` to write")
	fl.StringVar(&o.flush, "flush-interval", "", "with -w: flush after every `N` requests")
	fl.BoolVar(&o.noDrain, "no-drain", false, "accepted for compatibility: a flush waits for earlier requests")
	fl.StringVarP(&o.aio, "aio", "i", "", "`MODE`, accepted for compatibility")
	fl.BoolVarP(&o.native, "native", "n", false, "accepted for compatibility")
	fl.StringVarP(&o.cache, "cache", "t", "writeback", "cache `MODE`, accepted for compatibility")
	fl.BoolVarP(&o.quiet, "quiet", "q", false, "accepted for compatibility")
	markIgnored(cmd, "no-drain", "aio", "native", "cache", "quiet")
	return cmd
}

// benchRun is a bench command with parsed numbers.
type benchRun struct {
	count, depth, flush int64
	off, size, step     int64
	pattern             byte
}

// parse parses the numbers in qemu-img's order, which decides the first error.
func (o *benchOptions) parse() (b benchRun, err error) {
	if b.count, err = benchNumber("request count", o.count, 1, math.MaxInt32); err != nil {
		return b, err
	}
	if b.depth, err = benchNumber("queue depth", o.depth, 1, math.MaxInt32); err != nil {
		return b, err
	}
	if b.off, err = sizearg.Parse(o.offset); err != nil {
		return b, sizeError("offset", o.offset, err)
	}
	if b.size, err = sizearg.Parse(o.size); err != nil {
		return b, sizeError("buffer size", o.size, err)
	}
	if b.size < 1 || b.size > math.MaxInt32 {
		return b, &versionedError{lines: func(v qemuVersion) []string {
			least := 0
			if v >= qemuNewWords {
				least = 1
			}
			return []string{fmt.Sprintf("Invalid buffer size specified. Must be between %d and %d.", least, math.MaxInt32)}
		}}
	}
	b.step = b.size
	if o.step != "" {
		if b.step, err = sizearg.Parse(o.step); err != nil {
			return b, &versionedError{lines: func(v qemuVersion) []string {
				what := "step_size"
				if v >= qemuNewWords {
					what = "step size"
				}
				var e *versionedError
				_ = errors.As(sizeError(what, o.step, err), &e)
				return e.lines(v)
			}}
		}
	}
	pattern, err := benchNumber("pattern byte", o.pattern, 0, math.MaxUint8)
	if err != nil {
		return b, err
	}
	b.pattern = byte(pattern)
	if o.flush != "" {
		if b.flush, err = benchNumber("flush interval", o.flush, 0, math.MaxInt32); err != nil {
			return b, err
		}
	}
	return b, nil
}

func benchNumber(what, arg string, least, most int64) (int64, error) {
	n, err := strconv.ParseInt(arg, 0, 64)
	if err != nil || n < least || n > most {
		return 0, numberError(what, arg, "Invalid "+what+" specified", err == nil, least, most)
	}
	return n, nil
}

func (c *cli) runBench(ctx context.Context, o *benchOptions) error {
	b, err := o.parse()
	if err != nil {
		return err
	}
	switch o.aio {
	case "", "threads", "io_uring":
	case "native":
		o.native = true
	default:
		return qemuErrorf("Invalid aio option: %s", o.aio)
	}
	if _, ok := cacheMode(o.cache); !ok {
		return qemuErrorf("Invalid cache mode")
	}
	if len(o.args) != 1 {
		return usagef("Expecting one image file name")
	}
	if !o.write && b.flush > 0 {
		return qemuErrorf("--flush-interval is only available in write tests")
	}
	if b.flush > 0 && b.flush < b.depth {
		return qemuErrorf("Flush interval can't be smaller than depth")
	}
	if err := o.source.check(); err != nil {
		return err
	}
	ref, err := o.source.resolve(o.args[0])
	if err != nil {
		return err
	}
	if direct := o.cache == "none" || o.cache == "off" || o.cache == "directsync"; o.native && !direct {
		return qemuErrorf("Could not open '%s': aio=native was specified, but it requires cache.direct=on, which was not specified.", ref.name)
	}
	d, f, err := c.open(ref, o.write)
	if err != nil {
		return err
	}
	if o.write {
		c.warnRaw(ref, f)
	}
	request := "read"
	if o.write {
		request = "write"
	}
	fmt.Fprintf(c.stdout, "Sending %d %s requests, %d bytes each, %d in parallel (starting at offset %d, step size %d)\n",
		b.count, request, b.size, b.depth, b.off, b.step)
	if b.flush > 0 {
		fmt.Fprintf(c.stdout, "Sending flush every %d requests\n", b.flush)
	}
	progress := c.newProgress(false, o.quiet, false, 1)
	start := time.Now()
	err = b.run(ctx, d, o.write, progress.update)
	progress.finish(err == nil)
	if err == nil {
		fmt.Fprintf(c.stdout, "Run completed in %3.3f seconds.\n", time.Since(start).Seconds())
	}
	if cerr := d.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("%s: %w", ref.name, cerr)
	}
	return err
}

// after returns the offset of the request that follows the one at off, on a disk of size bytes.
func (b *benchRun) after(off, size int64) int64 {
	last := size - b.size
	if last <= 0 {
		return 0
	}
	return (off + b.step%last) % last
}

// maxBenchMemory bounds the buffers of all requests in flight.
const maxBenchMemory = 256 << 20

// run sends the requests, in groups that end with a flush.
func (b *benchRun) run(ctx context.Context, d disk.Disk, write bool, progress disk.Progress) error {
	group := b.count
	if b.flush > 0 {
		group = b.flush
	}
	buf := bytes.Repeat([]byte{b.pattern}, int(b.size)) // shared by all writes
	next, sent := b.off, int64(0)
	for done := int64(0); done < b.count; {
		var requests errgroup.Group
		requests.SetLimit(int(max(1, min(b.depth, b.count, maxBenchMemory/b.size))))
		n := min(group, b.count-done)
		for range n {
			if err := ctx.Err(); err != nil {
				return errors.Join(err, requests.Wait())
			}
			off := next
			requests.Go(func() error {
				if off > d.Size()-b.size {
					return qemuErrorf("Failed request: Input/output error")
				}
				var err error
				if write {
					_, err = d.(io.WriterAt).WriteAt(buf, off)
				} else {
					_, err = d.ReadAt(make([]byte, b.size), off)
				}
				if err != nil && !errors.Is(err, io.EOF) {
					return qemuErrorf("Failed request: %s", cText(withoutPath(err)))
				}
				return nil
			})
			next = b.after(off, d.Size())
			sent++
			progress(sent*b.size, b.count*b.size)
		}
		if err := requests.Wait(); err != nil {
			return err
		}
		done += n
		if s, ok := d.(disk.Syncer); ok && b.flush > 0 {
			if err := s.Sync(); err != nil {
				return err
			}
		}
	}
	return nil
}
