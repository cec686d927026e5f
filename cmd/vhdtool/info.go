package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/internal/sizearg"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/qcow2"
)

// description is what a format tells about a disk: lines for people, and
// itself as JSON.
type description interface{ lines() []string }

type infoOptions struct {
	source  sourceFlags
	salvage salvageFlags
	output  string
	cache   string
	chain   bool
	limits  bool
	args    []string
}

func (c *cli) newInfoCmd() *cobra.Command {
	var o infoOptions
	cmd := &cobra.Command{
		Use:   "info [-f FORMAT] [--output=human|json] FILE",
		Short: "Tell what an image is",
		Long: `Tell the format, sizes and properties of an image. A fixed VHD is recognised
by its footer, where qemu-img takes it for a raw disk. The recorded parent is
shown without opening it. --backing-chain follows the chain; where it breaks, the
images before that are shown, and the exit status is 1.` + salvageHelp,
		Example:     "  vhdtool info disk.vhd\n  vhdtool info --output=json disk.vhd",
		Annotations: onlyReads,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			return c.runInfo(cmd.Context(), &o)
		},
	}
	o.source.add(cmd, "format")
	o.salvage.add(cmd, "open a damaged image as far as it can be read")
	addOutputFlag(cmd, &o.output)
	cmd.Flags().BoolVar(&o.chain, "backing-chain", false, "also show the image's parents, as many as can be opened")
	cmd.Flags().BoolVar(&o.limits, "limits", false, "also show the limits of requests to the disk")
	cmd.Flags().StringVarP(&o.cache, "cache", "t", "writeback", "cache mode, accepted for compatibility")
	addAlias(cmd, "backing-chain", "", "b") // in qemu 10 only
	return cmd
}

// imageInfo is what info tells, in the order of qemu-img's JSON.
type imageInfo struct {
	Limits         *limits         `json:"limits,omitempty"`
	Children       []childInfo     `json:"children,omitempty"`
	Snapshots      []snapshotInfo  `json:"snapshots,omitempty"`
	VirtualSize    int64           `json:"virtual-size"`
	Filename       string          `json:"filename"`
	ClusterSize    int64           `json:"cluster-size,omitempty"`
	Format         string          `json:"format"`
	ActualSize     int64           `json:"actual-size"`
	FileLength     *int64          `json:"file-length,omitempty"`
	FormatSpecific *formatSpecific `json:"format-specific,omitempty"`
	FullBacking    string          `json:"full-backing-filename,omitempty"` // where it was found
	BackingError   string          `json:"backing-error,omitempty"`         // why it could not be opened
	Backing        string          `json:"backing-filename,omitempty"`      // as the image records it
	BackingFormat  string          `json:"backing-filename-format,omitempty"`
	DirtyFlag      bool            `json:"dirty-flag"`
	LostRanges     []lostRange     `json:"lost-ranges,omitempty"`

	likeQEMU  qemuVersion // whose lines are printed of a qcow2 image; 0 for the program's own
	probedRaw bool        // nothing but the lack of another format says that it is a raw disk
}

type formatSpecific struct {
	Type string      `json:"type"`
	Data description `json:"data"`
}

func (c *cli) runInfo(_ context.Context, o *infoOptions) (err error) {
	if err := checkOutput(o.output); err != nil {
		return err
	}
	if _, ok := cacheMode(o.cache); !ok {
		return qemuErrorf("Invalid cache option: %s", o.cache)
	}
	if err := o.salvage.check(); err != nil {
		return err
	}
	o.source.parents.None, o.source.parents.Partial = !o.chain, o.chain && !c.likeQEMU
	o.source.salvage = o.salvage.on
	ref, d, f, err := c.openOne(&o.source, o.args)
	if err != nil {
		return err
	}
	defer d.Close()
	all, broken := c.infoOfChain(d, f, ref, o.limits)
	if len(all) == 0 {
		return broken
	}
	lost := knownLost(d)
	if broken == nil {
		defer func() {
			if err == nil {
				err = c.reportLost(&o.salvage, ref.name, d.Size(), lost, false)
			}
		}()
	}
	all[0].LostRanges = lostRanges(lost)
	if o.output == "json" {
		var v any = all[0]
		if o.chain {
			v = all
		}
		if err := c.printInfoJSON(v); err != nil {
			return err
		}
		return broken
	}
	for i := range all {
		if i > 0 {
			fmt.Fprintln(c.stdout)
		}
		if err := all[i].print(c.stdout); err != nil {
			return err
		}
	}
	return broken
}

// infoOfChain describes an image and its open parents. An error says where the chain
// breaks; what comes before that is returned with it.
func (c *cli) infoOfChain(d disk.Disk, f *format, ref imageRef, limits bool) ([]imageInfo, error) {
	var all []imageInfo
	leaf := ref
	for {
		info, err := c.infoOf(d, f, ref)
		if err == nil {
			err = c.addChild(&info, ref.name, limits)
		}
		if err != nil {
			return all, c.openError(ref, err)
		}
		child, _ := d.(disk.Child)
		if child == nil || child.Parent() == nil {
			if child != nil && child.ParentErr() != nil {
				info.BackingError = child.ParentErr().Error()
				err = c.openError(leaf, child.ParentErr())
			}
			return append(all, info), err
		}
		d, ref.name = child.Parent(), child.ParentPath()
		f = formatOfDisk(d)
		ref.options.Options = nil
		info.FullBacking, info.BackingFormat = ref.name, f.Name
		all = append(all, info)
	}
}

// printInfoJSON prints what info shows, in qemu-img's layout.
func (c *cli) printInfoJSON(v any) error {
	if c.qemu < qemuChildren {
		return printJSON(c.stdout, v)
	}
	var b strings.Builder
	if err := printJSON(&b, v); err != nil {
		return err
	}
	_, err := io.WriteString(c.stdout, expandEmpty(b.String()))
	return err
}

// parentOf is the parent of a disk, and its file; nil if the disk has none.
func parentOf(d disk.Disk) (disk.Disk, string) {
	if child, ok := d.(disk.Child); ok {
		return child.Parent(), child.ParentPath()
	}
	return nil, ""
}

// infoOf tells about one disk.
func (c *cli) infoOf(d disk.Disk, f *format, ref imageRef) (imageInfo, error) {
	st, err := os.Stat(ref.name)
	if err != nil {
		return imageInfo{}, err
	}
	info := imageInfo{VirtualSize: d.Size(), Filename: ref.name, Format: f.Name, ActualSize: actualSize(st)}
	info.probedRaw = f == &rawFormat && ref.options.Format == ""
	if b, ok := d.(disk.Blocker); ok {
		info.ClusterSize = b.BlockSize()
	}
	if img, ok := d.(*qcow2.Image); ok {
		info.Snapshots = snapshotInfos(img)
	}
	described := int64(0)
	child, isChild := d.(disk.Child)
	if c.likeQEMU {
		info.Filename = ref.jsonName(f.Name)
		if img, ok := d.(*qcow2.Image); ok {
			h := img.Header()
			info.addBacking(&h, ref.name)
			info.DirtyFlag = h.Dirty()
			info.likeQEMU = c.qemu
		}
	} else {
		length, err := fileLength(ref.name, st)
		if err != nil {
			return imageInfo{}, err
		}
		info.FileLength, described = &length, length
		if isChild {
			info.Backing, _ = child.RecordedParent()
		}
	}
	if f.describe != nil && (!c.likeQEMU || f == &qcow2Format) {
		info.FormatSpecific = &formatSpecific{f.Name, f.describe(d, described)}
	}
	return info, nil
}

// fileLength is the length of a regular file or a block device.
func fileLength(name string, st fs.FileInfo) (int64, error) {
	if st.Mode().IsRegular() {
		return st.Size(), nil
	}
	f, size, err := disk.OpenFile(name, false, nil)
	if err != nil {
		return 0, err
	}
	return size, f.Close()
}

// print writes the lines for people.
func (i *imageInfo) print(w io.Writer) error {
	s := fmt.Sprintf("image: %s\nfile format: %s\nvirtual size: %s (%d bytes)\ndisk size: %s\n",
		i.Filename, i.Format, sizearg.Format(i.VirtualSize), i.VirtualSize, sizearg.Format(i.ActualSize))
	if i.ClusterSize != 0 {
		s += fmt.Sprintf("cluster_size: %d\n", i.ClusterSize)
	}
	if i.FileLength != nil {
		s += fmt.Sprintf("file length: %s\n", humanSize(*i.FileLength))
	}
	if i.likeQEMU != 0 {
		s += i.qemuLines() + i.Limits.lines()
		for _, child := range i.Children {
			s += child.lines()
		}
		_, err := io.WriteString(w, s)
		return err
	}
	if i.FormatSpecific != nil {
		for _, line := range i.FormatSpecific.Data.lines() {
			s += line + "\n"
		}
	}
	s += snapshotTable(i.Snapshots, qemuChildren)
	if i.FullBacking != "" {
		s += fmt.Sprintf("backing file: %s\nbacking file format: %s\n", i.FullBacking, i.BackingFormat)
	}
	if i.BackingError != "" {
		s += fmt.Sprintf("backing file: not opened: %s\n", i.BackingError)
	}
	s += i.Limits.lines()
	for _, child := range i.Children {
		s += child.lines()
	}
	_, err := io.WriteString(w, s)
	return err
}
