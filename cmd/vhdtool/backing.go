package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/internal/source"
	"github.com/vhdtool/vhdtool/internal/target"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// backingFlags name the parent of a new differencing image.
type backingFlags struct {
	file   string
	format string
}

func (b *backingFlags) add(cmd *cobra.Command, short string) {
	cmd.Flags().StringVarP(&b.file, "backing", short, "", "make a differencing VHD whose parent is `PARENT`")
	cmd.Flags().StringVarP(&b.format, "backing-format", "F", "", "`FORMAT` of the parent (required if it is raw)")
	_ = cmd.RegisterFlagCompletionFunc("backing-format", completeFormats)
}

// backedFormat returns the format name that the flags imply, if none is given.
func (c *cli) backedFormat(b *backingFlags, given string) string {
	if given == "" && b.file != "" && !c.likeQEMU {
		return vpcFormat.Name
	}
	return given
}

// openBacking opens the parent of an image that is, or will be, in the file child. As in qemu-img,
// a name that does not exist as typed is relative to child's directory.
func (c *cli) openBacking(b *backingFlags, child string, parents disk.ParentSearch) (disk.Disk, string, *format, error) {
	name := fileName(b.file)
	if _, err := os.Stat(name); err != nil && !filepath.IsAbs(name) {
		if beside := filepath.Join(filepath.Dir(child), name); exists(beside) {
			name = beside
		}
	}
	if disk.SameFile(name, child) {
		return nil, name, nil, fmt.Errorf("%s: an image cannot be its own parent", name)
	}
	d, f, err := c.open(imageRef{arg: b.file, name: name, backing: true, options: disk.OpenOptions{
		Format: b.format, Options: disk.Options{}, Parents: parents,
	}}, false)
	if err != nil {
		return nil, name, nil, err
	}
	if f == &rawFormat && b.format == "" {
		d.Close()
		// A guest that writes to a raw disk can make it look like a VHD.
		return nil, name, nil, &hintError{fmt.Errorf("%s: this looks like a raw disk", name), "if it is one, add -F raw"}
	}
	if f != &rawFormat && f != &vpcFormat {
		d.Close()
		return nil, name, nil, fmt.Errorf("%s: a parent of format %s", name, f.Name)
	}
	return d, name, f, nil
}

// refuseAncestor returns an error if the file of a new child is part of the chain of its parent, in
// the file parent.
func refuseAncestor(d disk.Disk, parent, child string) error {
	img, ok := d.(disk.Child)
	if !ok || !exists(child) {
		return nil
	}
	if _, has := img.RecordedParent(); !has {
		return nil
	}
	if img.Parent() == nil { // opened without its parent
		chain, _, err := disk.Open(parent, formats, nil)
		if err != nil {
			return fmt.Errorf("%s exists, and may be a parent of %s: %w", child, parent, err)
		}
		defer chain.Close()
		d = chain
	}
	return refuseMadeOf(d, parent, child)
}

// refuseMadeOf returns an error if the file child is among the parents of the disk in the file
// name.
func refuseMadeOf(d disk.Disk, name, child string) error {
	for _, parent := range fileNames(d, name)[1:] {
		if disk.SameFile(parent, child) {
			return fmt.Errorf("%s: %w: %s depends on it", child, vhd.ErrParentLoop, name)
		}
	}
	return nil
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// childRequest describes a new image with a parent.
type childRequest struct {
	format     *format
	file       disk.File
	name       string       // of the new file
	size       int64        // of the disk, bytes; 0 means the parent's
	set        disk.Options // the user's
	options    disk.Options // set, over the defaults of the product
	product    string       // name of the product of --for, or ""
	parent     disk.Disk    // closed by the new disk
	parentName string       // file of parent
}

// createChild starts a differencing image. Its parent is the one that the flags name, and so is the
// default size. It closes the parent on errors, too.
func (c *cli) createChild(name string, b *backingFlags, parents disk.ParentSearch, f *format, size func(parent disk.Disk) int64, set disk.Options, product string) (*target.Child, error) {
	parent, parentName, _, err := c.openBacking(b, name, parents)
	if err != nil {
		return nil, err
	}
	if err := refuseAncestor(parent, parentName, name); err != nil {
		parent.Close()
		return nil, err
	}
	out, err := c.createOutputBy(name, f, set, func(file disk.File) (disk.Disk, error) {
		return f.createChild(&childRequest{
			format: f, file: file, name: name, size: size(parent), set: set, options: newImageOptions(f, product, set),
			product: product, parent: parent, parentName: parentName,
		})
	})
	if err != nil {
		parent.Close()
		return nil, withoutPath(err)
	}
	return &target.Child{File: out, Parent: source.Named(parent, parentName)}, nil
}

// createDifferencing runs create for an image with a parent.
func (c *cli) createDifferencing(name string, f *format, o *createCmdOptions, size int64, set disk.Options) error {
	out, err := c.createChild(name, &o.backing, disk.ParentSearch{None: true}, f, func(disk.Disk) int64 { return size }, set, o.target.product)
	if err != nil {
		return err
	}
	if !o.quiet {
		fmt.Fprintf(c.stdout, "Formatting '%s', fmt=%s size=%d backing_file=%s backing_fmt=%s", name, f.Name, out.Size(), o.backing.file,
			cmp.Or(o.backing.format, f.Name))
		printSettings(c.stdout, f, set)
		if _, err := fmt.Fprintln(c.stdout); err != nil {
			out.Discard()
			return err
		}
	}
	if err := out.Commit(false); err != nil {
		return withoutPath(err)
	}
	if !o.quiet {
		c.warnApart(name)
	}
	return nil
}

// warnApart warns if a new child cannot be opened without further flags. Mostly the parent is
// outside the child's directory, so the path to it is not trusted.
func (c *cli) warnApart(name string) {
	d, _, err := disk.Open(name, formats, nil)
	switch {
	case err == nil:
		d.Close()
	case errors.Is(err, vhd.ErrParentRefused):
		c.message("warning: %s: the parent is outside the image's directory", name)
		fmt.Fprintln(c.stderr, "hint: open the image with --trust-parents, --parent FILE or --parent-dir DIR")
	default:
		c.message("warning: %s: the new image cannot be opened: %v", name, withoutPath(err))
	}
}

// newChild starts a new target that stores only the differences from its parent.
func (v *conversion) newChild(in *input) (*target.Child, error) {
	fail := func(err error) (*target.Child, error) { return nil, conversionError(v.target, v.format, err) }
	switch {
	case v.likeQEMU || v.format.createChild == nil:
		return nil, qemuErrorf("Backing file not supported for file format '%s'", v.format.Name)
	case in.Disk == nil || v.isStream(v.target):
		return fail(errors.New("a differencing image cannot be created from a stream, or written to one"))
	}
	if err := checkOptions(v.format, v.given); err != nil {
		return nil, err
	}
	// The parent's size may have been rounded up. Then zeros follow the source.
	size := func(parent disk.Disk) int64 { return max(in.Size(), parent.Size()) }
	t, err := v.createChild(v.target, v.backing, v.parents, v.format, size, v.given, v.wanted.product)
	if err != nil {
		return fail(err)
	}
	return t, nil
}
