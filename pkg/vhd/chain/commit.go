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

// CommitOptions control a merge. The zero value merges an image into its own parent, and then
// empties the image.
type CommitOptions struct {
	// Base is the file of the parent to merge into, which may be any in the chain; "" means the
	// image's own parent. With a Base the image keeps its blocks. CommitImage ignores Base.
	Base string
	// Keep leaves the blocks in the image although its parent has them, too.
	Keep bool
	// KeepID leaves the unique id of the changed parent as it is. Then its other children,
	// which are invalid, cannot be distinguished from valid ones.
	KeepID bool
	// Open has the options for opening the image and its parents: the parents' directories, the
	// size rule, the locks. Write and Parent are ignored. A saved state is an error unless
	// Force is set. CommitImage ignores Open.
	Open vhd.OpenOptions
	// Workers is the number of chunks that are copied at a time; 0 means the number of
	// processors.
	Workers int
	// Progress counts the bytes of the image's disk. One goroutine calls it at a time, and
	// waits for it.
	Progress disk.Progress
	// ReadThrough, if set, returns the disk through which the image is read during the copy,
	// for example to limit the rate. That disk has the contents and the extents of image. It is
	// not closed.
	ReadThrough func(image disk.Disk) disk.Disk
}

// Commit merges the differencing image in the named file into one of its parents. The parent
// gets the blocks of the image, and those of the images between the two. Then the image is
// emptied, unless o says otherwise. A nil o means the zero value. A parent that is smaller than
// the image grows.
//
// With the first write, every other image that has the changed parent in its chain becomes
// invalid. So do the images between the image and the parent. Therefore the parent and each
// image between get new unique ids before that write, and the next image of the chain records
// its parent's. From then on other children are refused with [vhd.ErrParentMismatch]. A raw
// disk has no id. KeepID keeps the ids.
//
// After an error, after ctx is cancelled and after a crash at any instant, the image opens and
// reads as before. The parent opens, too; each of its sectors has its old contents or those of
// the image, and the parent may have grown. No block leaves the image before all of them are
// durable in the parent. Calling Commit again completes the merge.
//
// Commit returns ErrParentNotFound if Base is not a parent of the image, and ErrUnsupported if
// the image is not differencing. Other errors are those of [vhd.Open] and those of the files.
// The image and the parent are locked for writing. The images between are, too, unless KeepID
// is set.
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

// CommitImage merges an open differencing image into the parent at the given depth: 1 is its
// own parent, 2 the parent's parent, and so on. The image, that parent and the images between
// must be open for writing. With KeepID, only the parent must be, and the image unless it keeps
// its blocks.
//
// All other properties are those of [Commit]. Nothing else may use the images meanwhile. A
// merge into a parent at depth 2 or more does not empty the image. A nil o means the zero
// value. The caller closes the image.
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
	depth int  // number of levels from the image up to into
	empty bool // remove the blocks from the image afterwards

	// The names of the files, if known.
	name, intoFile string
	parentFiles    []string // from the image's own parent on
}

// openToCommit opens the chain of an image. The image and the parent to merge into are open for
// writing. Closing the image closes all of them.
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
	// Open the base first: the parents of an image are open before it is.
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

// depthOf returns the index of a file among the files of a chain, or 0 if it is not a parent.
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

// run runs the steps of a commit: enlarge the parent, change the ids, copy, make the copy
// durable, and only then remove blocks from the image.
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
	if err := c.finishImage(ctx, o); err != nil {
		return c.inImage(err)
	}
	return nil
}

// grow makes the parent as large as the image. Sectors past the parent's end read as zeros
// through the image, and must stay zeros. So grow first zeroes what a parent sized by its
// geometry stores past its end.
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

// levels returns the images from the image up to the child of the changed parent.
func (c *commit) levels() []*vhd.Image {
	all := []*vhd.Image{c.img}
	for level := c.img; len(all) < c.depth; {
		level = level.Parent().(*vhd.Image)
		all = append(all, level)
	}
	return all
}

// renewIDs gives the changed parent and the images between new unique ids, from the parent
// down. If the levels below the parent hold no block, nothing becomes invalid, and the ids
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

// copy writes the blocks of the levels below the changed parent into that parent, durably.
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

// finishImage removes the blocks that its own parent now has from the image. Emptying lets the
// image grow with its parent, which a geometry may have made larger than requested. finishImage
// also records the times of the changed parents. It ignores the context once the blocks are
// removed: the remaining steps are short, and without them a check reports the image.
func (c *commit) finishImage(ctx context.Context, o *CommitOptions) error {
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

// recordTimes records the times of change of the changed parent and the images between in their
// children. It goes from the parent down, because recording a time changes the child.
func (c *commit) recordTimes(o *CommitOptions) error {
	levels := c.levels()
	if o.KeepID && c.depth > 1 {
		return nil // the image's own parent is unchanged
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
