package chain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// CommitOptions say how to merge an image into its parent. The zero value merges it
// into its own parent, and empties it then.
type CommitOptions struct {
	// Base is the file of the parent to merge into, which may be any in the chain; ""
	// means the image's own parent. With a Base the image keeps its blocks. CommitImage
	// does not use it.
	Base string
	// Keep leaves the blocks in the image that its parent has now, too.
	Keep bool
	// Open says how to open the image, and its parents: where they may be, which field
	// is their size, whether they are locked. Write and Parent are not used. Saved
	// states are refused, unless Force is set. CommitImage does not use it.
	Open vhd.OpenOptions
	// Workers is how many chunks are copied at a time; 0 means as many as there are
	// processors.
	Workers int
	// Progress counts the bytes of the image's disk. It is called by one goroutine at a
	// time, which waits for it.
	Progress disk.Progress
	// ReadThrough, if set, returns the disk through which the image is read while it is
	// copied, for example to limit the rate. It is the same disk to readers, and its
	// extents have the depths of the image's. It is not closed.
	ReadThrough func(image disk.Disk) disk.Disk
}

// Commit merges the differencing image in the named file into one of its parents: the
// parent gets what the image has, and what those between the two have. Then the image
// is emptied, unless o says otherwise. A nil o means the zero value. If the parent is
// smaller than the image, it grows.
//
// Every other image that has the changed parent in its chain becomes invalid with the
// first write, and so do those between the image and the parent.
//
// After an error, after ctx is cancelled and after a crash at any instant the image
// opens and reads as before. The parent opens, too; each of its sectors holds what it
// held or what the image holds, and it may have grown. No block leaves the image before
// all of them are durable in the parent. Commit can be called again: that completes it.
//
// ErrParentNotFound is returned if Base is not a parent of the image, ErrUnsupported if
// the image is not a differencing one, and else the errors of [vhd.Open] and those of
// the files. The image and the parent are locked for writing.
func Commit(ctx context.Context, name string, o *CommitOptions) error {
	if o == nil {
		o = &CommitOptions{}
	}
	c, err := openToCommit(name, o)
	if err != nil {
		return err
	}
	err = c.run(ctx, o)
	if cerr := c.img.Close(); err == nil && cerr != nil {
		err = inFile(name, cerr)
	}
	return err
}

// CommitImage merges an open differencing image into the parent at the given depth: 1
// is its own parent, 2 the parent's parent, and so on. The image, unless it is kept, and
// that parent are open for writing. All that [Commit] says holds, and nothing else may
// use the images meanwhile. A parent at depth 2 or more leaves the image as it is. A nil
// o means the zero value. The caller closes the image.
func CommitImage(ctx context.Context, img *vhd.Image, depth int, o *CommitOptions) error {
	if o == nil {
		o = &CommitOptions{}
	}
	if err := differencing(img); err != nil {
		return err
	}
	c := commit{img: img, depth: depth, parentFile: img.ParentPath(), empty: depth == 1 && !o.Keep}
	for level, left := img, depth; ; left-- {
		if c.into = level.Parent(); c.into == nil || left < 1 {
			return fmt.Errorf("%w at depth %d", vhd.ErrParentNotFound, depth)
		}
		if left == 1 {
			break
		}
		next, ok := c.into.(*vhd.Image)
		if !ok {
			return fmt.Errorf("%w at depth %d: the chain ends in a raw disk", vhd.ErrParentNotFound, depth)
		}
		level = next
	}
	return c.run(ctx, o)
}

// commit is a merge of an image into one of its parents, both open.
type commit struct {
	img   *vhd.Image
	into  disk.Disk
	depth int  // levels above into
	empty bool // take the blocks out of the image

	// The files, as far as they are known.
	name, intoFile, parentFile string
}

// openToCommit opens the chain of an image, with the image and the parent that it is
// merged into open for writing. Closing the image closes all.
func openToCommit(name string, o *CommitOptions) (*commit, error) {
	look := o.Open
	look.Write, look.Parent = false, nil
	files, err := filesOf(name, look)
	if err != nil {
		return nil, err
	}
	depth := 1
	if o.Base != "" {
		if depth, err = depthOf(o.Base, files); err != nil {
			return nil, err
		}
	}
	if depth == 0 || depth >= len(files) {
		return nil, fmt.Errorf("%s: %w among the image's parents: %s", name, vhd.ErrParentNotFound, cmp.Or(o.Base, "none is opened"))
	}
	c := &commit{
		depth: depth, empty: o.Base == "" && !o.Keep,
		name: name, intoFile: files[depth].name, parentFile: files[1].name,
	}
	// From the bottom up, because the parents of an image are open before it is.
	again := o.Open
	again.Parents, again.Parent, again.Write = disk.ParentSearch{}, nil, true
	if depth+1 < len(files) {
		again.Parents = o.Open.Parents
		again.Parents.Files = nil
		for _, f := range files[depth+1:] {
			again.Parents.Files = append(again.Parents.Files, f.name)
		}
		again.Parents.Dirs = append([]string(nil), o.Open.Parents.Dirs...)
		for _, f := range files {
			again.Parents.Dirs = append(again.Parents.Dirs, filepath.Dir(f.name))
		}
	}
	if files[depth].raw {
		c.into, err = openRaw(files[depth].name, true, again.NoLock)
	} else {
		var img *vhd.Image
		img, err = vhd.Open(files[depth].name, &again)
		c.into = img
	}
	if err != nil {
		return nil, err
	}
	below := c.into
	for i := depth - 1; i >= 0; i-- {
		again.Parents, again.Parent, again.Write = disk.ParentSearch{}, below, i == 0
		level, err := vhd.Open(files[i].name, &again)
		if err != nil {
			below.Close()
			return nil, err
		}
		c.img, below = level, level
	}
	return c, nil
}

// depthOf is the index of a file among those of a chain, or 0 if it is not a parent.
func depthOf(base string, files []file) (int, error) {
	st, err := os.Stat(base)
	if err != nil {
		return 0, err
	}
	for i := len(files) - 1; i > 0; i-- {
		if x, err := os.Stat(files[i].name); err == nil && os.SameFile(st, x) {
			return i, nil
		}
	}
	return 0, nil
}

// run is the order of a commit: make the parent large enough, copy, make that durable,
// and only then touch the image.
func (c *commit) run(ctx context.Context, o *CommitOptions) error {
	if err := c.grow(ctx); err != nil {
		return c.inInto(err)
	}
	if err := c.copy(ctx, o); err != nil {
		return err
	}
	if err := c.settle(ctx); err != nil {
		return c.inImage(err)
	}
	return nil
}

// grow makes the parent as large as the image. Where the image read zeros, it goes on
// to: what a parent sized by its geometry keeps beyond it is zeroed before.
func (c *commit) grow(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.into.Size() >= c.img.Size() {
		return nil
	}
	r, ok := c.into.(disk.Resizer)
	if !ok {
		return fmt.Errorf("%w: the parent has %d bytes, the image %d, and the parent cannot grow", vhd.ErrUnsupported, c.into.Size(), c.img.Size())
	}
	if p, ok := c.into.(*vhd.Image); ok {
		if err := p.ZeroBeyondSize(); err != nil {
			return err
		}
	}
	return r.Resize(ctx, c.img.Size(), nil)
}

// copy writes what the levels above the parent have into it, durably.
func (c *commit) copy(ctx context.Context, o *CommitOptions) error {
	target, ok := c.into.(convert.Target)
	if !ok {
		return c.inInto(fmt.Errorf("%w: writing to a parent of type %T", vhd.ErrUnsupported, c.into))
	}
	var src disk.Disk = c.img
	if o.ReadThrough != nil {
		src = o.ReadThrough(src)
	}
	err := convert.Copy(ctx, target, src, &convert.Options{
		Workers: o.Workers, Progress: o.Progress,
		Only: func(e disk.Extent) bool { return e.Depth < c.depth },
	})
	if op := (*convert.OpError)(nil); errors.As(err, &op) && op.Op != "writing" {
		return c.inImage(err)
	}
	if err == nil {
		if s, ok := c.into.(disk.Syncer); ok {
			err = s.Sync()
		}
	}
	return c.inInto(err)
}

// settle takes out of the image what its own parent has now, lets the image grow with
// that, by a geometry perhaps beyond the size that was asked for, and records when the
// parent was changed, if the image records that. Once the blocks are gone the context
// counts no more: the rest is short, and a check would report an image without it.
func (c *commit) settle(ctx context.Context) error {
	if err := ctx.Err(); err != nil || c.depth > 1 {
		return err
	}
	if c.empty {
		if err := c.img.Empty(ctx, nil); err != nil {
			return err
		}
	}
	if c.img.Size() < c.into.Size() {
		if err := c.img.Resize(context.WithoutCancel(ctx), c.into.Size(), nil); err != nil {
			return err
		}
	}
	if c.img.ParentRecord().Time == 0 || c.parentFile == "" {
		return nil
	}
	st, err := os.Stat(c.parentFile)
	if err != nil {
		return err
	}
	return c.img.SetParentTime(vhd.NearestTimestamp(st.ModTime()))
}

func (c *commit) inImage(err error) error {
	if c.name == "" {
		return err
	}
	return inFile(c.name, err)
}

func (c *commit) inInto(err error) error {
	if c.intoFile == "" {
		return err
	}
	return inFile(c.intoFile, err)
}
