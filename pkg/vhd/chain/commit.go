package chain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

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
	// KeepID leaves the unique id of the changed parent as it is. Then nothing tells its
	// other children, which are invalid, from valid ones.
	KeepID bool
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
// first write, and so do those between the image and the parent. So the parent, and each
// image between, gets a new unique id before that write, and the next image of the chain
// records it: other children are refused with [vhd.ErrParentMismatch] from then on. A raw
// disk has no id. KeepID keeps the ids.
//
// After an error, after ctx is cancelled and after a crash at any instant the image
// opens and reads as before. The parent opens, too; each of its sectors holds what it
// held or what the image holds, and it may have grown. No block leaves the image before
// all of them are durable in the parent. Commit can be called again: that completes it.
//
// ErrParentNotFound is returned if Base is not a parent of the image, ErrUnsupported if
// the image is not a differencing one, and else the errors of [vhd.Open] and those of
// the files. The image and the parent are locked for writing; those between, too, unless
// KeepID is set.
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
// is its own parent, 2 the parent's parent, and so on. The image, that parent and the
// images between are open for writing. With KeepID, only the parent must be, and the image
// unless it is kept. All that [Commit] says holds, and nothing else may
// use the images meanwhile. A parent at depth 2 or more leaves the image as it is. A nil
// o means the zero value. The caller closes the image.
func CommitImage(ctx context.Context, img *vhd.Image, depth int, o *CommitOptions) error {
	if o == nil {
		o = &CommitOptions{}
	}
	if err := differencing(img); err != nil {
		return err
	}
	c := commit{img: img, depth: depth, empty: depth == 1 && !o.Keep}
	for level, left := img, depth; ; left-- {
		c.parentFiles = append(c.parentFiles, level.ParentPath())
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
	name, intoFile string
	parentFiles    []string // from the image's own parent on
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
		name: name, intoFile: files[depth].name,
	}
	for _, f := range files[1:] {
		c.parentFiles = append(c.parentFiles, f.name)
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
		again.Parents, again.Parent, again.Write = disk.ParentSearch{}, below, i == 0 || !o.KeepID
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

// run is the order of a commit: make the parent large enough, change the ids, copy, make
// that durable, and only then take blocks out of the image.
func (c *commit) run(ctx context.Context, o *CommitOptions) error {
	if err := c.grow(ctx); err != nil {
		return c.inInto(err)
	}
	if err := c.renewIDs(ctx, o); err != nil {
		return c.inImage(err)
	}
	if err := c.copy(ctx, o); err != nil {
		return err
	}
	if err := c.settle(ctx, o); err != nil {
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

// levels are the images from the image up to the one right above the changed parent.
func (c *commit) levels() []*vhd.Image {
	all := []*vhd.Image{c.img}
	for level := c.img; len(all) < c.depth; {
		level = level.Parent().(*vhd.Image)
		all = append(all, level)
	}
	return all
}

// renewIDs gives the changed parent and the images between new unique ids, from the parent
// up. If the levels above the parent hold no block, nothing becomes invalid, and the ids
// stay.
func (c *commit) renewIDs(ctx context.Context, o *CommitOptions) error {
	if o.KeepID {
		return nil
	}
	levels := c.levels()
	blocks := int64(0)
	for _, level := range levels {
		_, n := level.BlockCounts()
		blocks += n
	}
	for _, level := range slices.Backward(levels) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, ok := level.Parent().(*vhd.Image); !ok {
			continue // a raw disk has no id
		}
		renew := level.RenewParentID
		if blocks == 0 {
			renew = level.RecordParentID
		}
		if err := renew(); err != nil {
			return err
		}
	}
	return nil
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
// that, by a geometry perhaps beyond the size that was asked for, and records when parents
// were changed. Once the blocks are gone the context counts no more: the rest is short, and a
// check would report an image without it.
func (c *commit) settle(ctx context.Context, o *CommitOptions) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.empty {
		if err := c.img.Empty(ctx, nil); err != nil {
			return err
		}
	}
	if c.depth == 1 && c.img.Size() < c.into.Size() {
		if err := c.img.Resize(context.WithoutCancel(ctx), c.into.Size(), nil); err != nil {
			return err
		}
	}
	return c.recordTimes(o)
}

// recordTimes records when the changed parent and the images between were changed, in the
// images that record it. It goes from the parent up, because that changes each of them.
func (c *commit) recordTimes(o *CommitOptions) error {
	levels := c.levels()
	if o.KeepID && c.depth > 1 {
		return nil // the image's own parent was not changed
	}
	for i, level := range slices.Backward(levels) {
		if level.ParentRecord().Time == 0 || c.parentFiles[i] == "" {
			continue
		}
		st, err := os.Stat(c.parentFiles[i])
		if err != nil {
			return err
		}
		if err := level.SetParentTime(vhd.NearestTimestamp(st.ModTime())); err != nil {
			return err
		}
	}
	return nil
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
