// Package target has the targets that a command writes: a new file or a device, an existing
// image, a differencing image, or a stream. Each kind supports the same options of a copy, and
// has its own safety: locks, temporary files, the order of completion.
package target

import (
	"context"
	"fmt"

	"github.com/vhdtool/vhdtool/internal/source"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
)

// Target is the target of a copy. Call Copy once, and then either Commit or Discard. Errors of
// reading the source are a *[source.Error]. Others are about the target.
type Target interface {
	// Copy writes all of the source.
	Copy(ctx context.Context, src *source.Source, o *convert.Options) error
	// Size is the size of the target's disk in bytes, after Copy.
	Size() int64
	// Commit completes the target. With flush, it is durable then. If it fails, the target
	// is discarded.
	Commit(flush bool) error
	// Discard abandons the target. Data written in place stays.
	Discard()
}

// Existing is an image that is written in place, from byte Seek of its disk on. The disk is
// unchanged before Seek, and after the end of the source.
type Existing struct {
	Disk disk.Disk // open for writing; Commit and Discard close it
	Seek int64
}

// Copy implements [Target].
func (t *Existing) Copy(ctx context.Context, src *source.Source, o *convert.Options) error {
	at, err := disk.NewSection(t.Disk, min(t.Seek, t.Disk.Size()), max(t.Disk.Size()-t.Seek, 0))
	if err != nil {
		return err
	}
	var dst convert.Target = at
	if t.Seek == 0 { // the disk itself has more abilities than its section
		dst = t.Disk.(convert.Target)
	}
	n := src.Size()
	if src.Disk != nil {
		err = convert.Copy(ctx, dst, src.Disk, o)
	} else {
		n, err = convert.ReadFrom(ctx, fixedSize{dst}, src.Stream, src.Trailer, o)
	}
	if r, ok := t.Disk.(*raw.Disk); ok && err == nil {
		err = r.ClearTrailingFooter(t.Seek + n)
	}
	return err
}

// Size implements [Target].
func (t *Existing) Size() int64 { return t.Disk.Size() }

// Commit implements [Target].
func (t *Existing) Commit(flush bool) error {
	var err error
	if flush {
		err = sync(t.Disk)
	}
	if cerr := t.Disk.Close(); err == nil {
		err = cerr
	}
	return err
}

// Discard implements [Target].
func (t *Existing) Discard() { _ = t.Disk.Close() }

// sync flushes a disk.
func sync(d disk.Disk) error {
	if s, ok := d.(disk.Syncer); ok {
		return s.Sync()
	}
	return nil
}

// fixedSize is the target of a stream that has a fixed size.
type fixedSize struct{ convert.Target }

// Resize implements [disk.Resizer]. It refuses sizes larger than the target.
func (t fixedSize) Resize(_ context.Context, size int64, _ disk.Progress) error {
	if size > t.Size() {
		return fmt.Errorf("the target ends at byte %d, and there is more to write", t.Size())
	}
	return nil
}

// Child is a new differencing image. It stores only the differences from its parent.
type Child struct {
	*File
	Parent disk.Disk // closed by the new disk
}

// Copy implements [Target]. Zeros follow the source if the target is larger. The source is
// a disk.
func (t *Child) Copy(ctx context.Context, src *source.Source, o *convert.Options) error {
	if err := convert.CopyDifference(ctx, t.Disk, src.Disk, t.Parent, o); err != nil {
		return err
	}
	if rest := t.Disk.Size() - src.Size(); rest > 0 {
		return t.Disk.(disk.Zeroer).WriteZeroes(src.Size(), rest)
	}
	return nil
}
