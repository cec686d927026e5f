package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/internal/sizearg"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// description has the properties of a disk in a format, as lines for people. It marshals to JSON.
type description interface{ lines(o *infoLines) []string }

// infoLines says which lines info prints.
type infoLines struct {
	verbose       bool  // all lines
	isParent      bool  // the image is the parent of the one before
	parentFollows bool  // the parent is printed next
	shownSize     int64 // disk size of the image before
	damaged       bool
}

type infoOptions struct {
	source  sourceFlags
	salvage salvageFlags
	output  string
	cache   string
	chain   bool
	limits  bool
	detail  bool // --verbose
	args    []string
}

func (c *cli) newInfoCmd() *cobra.Command {
	var o infoOptions
	cmd := &cobra.Command{
		Use:   "info [-f FORMAT] [-v] [--backing-chain] [--output=human|json] FILE",
		Short: "Show the format, sizes and properties of an image",
		Long: `info shows what the image is, its sizes, and the products that accept
it. Damage is shown first. --verbose adds the creator, the geometry and
other fields; JSON always has all of them.

A fixed VHD is recognised by its footer, while qemu-img detects a raw disk. The
recorded parent is shown without opening it; --backing-chain follows the chain.
If the chain is broken, the images before the break are shown, and the exit
status is 1.` + salvageHelp,
		Example: "  vhdtool info disk.vhd\n" +
			"  vhdtool info --backing-chain child.vhd\n" +
			"  vhdtool info --output=json disk.vhd",
		Annotations: onlyReads,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			return c.runInfo(cmd.Context(), &o)
		},
	}
	o.source.add(cmd, "format")
	o.salvage.add(cmd, "open a damaged image as far as it can be read")
	addOutputFlag(cmd, &o.output)
	cmd.Flags().BoolVar(&o.chain, "backing-chain", false, "also show the parents of the image")
	cmd.Flags().BoolVar(&o.limits, "limits", false, "also show the limits of requests to the disk")
	cmd.Flags().BoolVarP(&o.detail, "verbose", "v", false, "show all properties")
	markOwn(cmd, "verbose")
	cmd.Flags().StringVarP(&o.cache, "cache", "t", "writeback", "cache `MODE`, accepted for compatibility")
	addAlias(cmd, "backing-chain", "", "b") // in qemu 10 only
	markIgnored(cmd, "cache")
	return cmd
}

// imageInfo is the output of info, in the order of qemu-img's JSON.
type imageInfo struct {
	Limits         *limits         `json:"limits,omitempty"`
	Children       []childInfo     `json:"children,omitempty"`
	VirtualSize    int64           `json:"virtual-size"`
	Filename       string          `json:"filename"`
	ClusterSize    int64           `json:"cluster-size,omitempty"`
	Format         string          `json:"format"`
	ActualSize     int64           `json:"actual-size"`
	FileLength     *int64          `json:"file-length,omitempty"`
	FormatSpecific *formatSpecific `json:"format-specific,omitempty"`
	FullBacking    string          `json:"full-backing-filename,omitempty"` // path where it was found
	BackingError   string          `json:"backing-error,omitempty"`         // why it is not open
	Backing        string          `json:"backing-filename,omitempty"`      // as the image records it
	BackingFormat  string          `json:"backing-filename-format,omitempty"`
	DirtyFlag      bool            `json:"dirty-flag"`
	LostRanges     []lostRange     `json:"lost-ranges,omitempty"`

	disk      disk.Disk
	probedRaw bool   // raw, because no other format matches
	damage    string // a line about the findings of check, or ""
}

type formatSpecific struct {
	Type string      `json:"type"`
	Data description `json:"data"`
}

func (c *cli) runInfo(ctx context.Context, o *infoOptions) (err error) {
	if err := checkOutput(o.output); err != nil {
		return err
	}
	if _, ok := cacheMode(o.cache); !ok {
		return cacheError("cache", o.cache)
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
	if o.chain {
		c.warnParents(d, ref.name)
	}
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
	lines := infoLines{verbose: o.detail}
	for i := range all {
		if i > 0 {
			fmt.Fprintln(c.stdout)
		}
		if c.likeQEMU {
			err = all[i].print(c.stdout)
		} else {
			lines.isParent, lines.parentFollows = i > 0, i < len(all)-1
			all[i].damage = c.damageOf(ctx, &all[i], ref)
			err = all[i].printOwn(c.stdout, &lines)
		}
		if err != nil {
			return err
		}
	}
	return broken
}

// infoOfChain describes an image and its open parents. If the chain breaks, it returns the images
// before the break, and an error.
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

// printInfoJSON prints the output of info in qemu-img's layout.
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

// parentOf returns the parent of a disk, and its file; nil if it has none.
func parentOf(d disk.Disk) (disk.Disk, string) {
	if child, ok := d.(disk.Child); ok {
		return child.Parent(), child.ParentPath()
	}
	return nil, ""
}

// infoOf returns the output of info for one disk.
func (c *cli) infoOf(d disk.Disk, f *format, ref imageRef) (imageInfo, error) {
	st, err := os.Stat(ref.name)
	if err != nil {
		return imageInfo{}, err
	}
	info := imageInfo{disk: d, VirtualSize: d.Size(), Filename: ref.name, Format: f.Name, ActualSize: actualSize(st)}
	info.probedRaw = f == &rawFormat && ref.options.Format == ""
	if b, ok := d.(disk.Blocker); ok {
		info.ClusterSize = b.BlockSize()
	}
	if c.likeQEMU {
		info.Filename = ref.jsonName(f.Name)
	} else {
		length, err := fileLength(ref.name, st)
		if err != nil {
			return imageInfo{}, err
		}
		info.FileLength = &length
		if child, ok := d.(disk.Child); ok {
			info.Backing, _ = child.RecordedParent()
		}
		if f.describe != nil {
			info.FormatSpecific = &formatSpecific{f.Name, f.describe(d, length)}
		}
	}
	return info, nil
}

// fileLength returns the length of a regular file or a block device.
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

// damagePrefix starts the line about damage that makes reads wrong.
const damagePrefix = "damage: "

// damageOf returns a line about the findings of check, or "". The image is the one that ref names,
// or one of its parents.
func (c *cli) damageOf(ctx context.Context, info *imageInfo, ref imageRef) string {
	f, err := formatByName(info.Format)
	if err != nil || f.Check == nil || ref.share { // another process may be writing
		return ""
	}
	file, size, err := disk.OpenFile(info.Filename, false, nil)
	if err != nil {
		return ""
	}
	defer file.Close()
	o := disk.CheckOptions{Device: disk.IsDevice(file), Parents: disk.ParentSearch{None: true}, NoLock: true, Opened: info.disk}
	if info.Filename == ref.name {
		o.Options = ref.options.Options
	}
	checker, err := f.Check(file, size, &o)
	if err != nil {
		return ""
	}
	for _, err := range checker.Findings(ctx) {
		if err != nil { // the image opens, so another part is unreadable
			return damagePrefix + "the check ended with an error: " + withoutPath(err).Error()
		}
	}
	switch n := checker.Counts(); {
	case n.Errors > 0:
		return damagePrefix + english.Plural(int(n.Errors), "error", "") + " ('check' lists what is damaged)"
	case n.Leaked > 0:
		return "leaks: " + english.Plural(int(n.Leaked), "block", "") + " ('check -r leaks' returns the space)"
	}
	return ""
}

// printOwn prints the lines that qemu-img has only in part.
func (i *imageInfo) printOwn(w io.Writer, o *infoLines) error {
	s := ""
	o.damaged = strings.HasPrefix(i.damage, damagePrefix)
	if i.damage != "" {
		s = i.damage + "\n"
	}
	s += fmt.Sprintf("image: %s\nfile format: %s\n", oneLine(i.Filename), i.Format)
	if o.verbose || !o.isParent || i.VirtualSize != o.shownSize {
		s += fmt.Sprintf("virtual size: %s (%d bytes)\n", sizearg.Format(i.VirtualSize), i.VirtualSize)
	}
	o.shownSize = i.VirtualSize
	s += fmt.Sprintf("disk size: %s\n", sizearg.Format(i.ActualSize))
	if i.ClusterSize != 0 && o.verbose {
		s += fmt.Sprintf("cluster_size: %d\n", i.ClusterSize)
	}
	if i.FileLength != nil {
		s += fmt.Sprintf("file length: %s\n", humanSize(*i.FileLength))
	}
	if i.FormatSpecific != nil {
		for _, line := range i.FormatSpecific.Data.lines(o) {
			s += line + "\n"
		}
	}
	if i.FullBacking != "" {
		s += fmt.Sprintf("backing file: %s\n", oneLine(i.FullBacking))
	}
	if i.BackingError != "" {
		s += fmt.Sprintf("backing file: not opened: %s\n", oneLine(i.BackingError))
	}
	s += i.Limits.lines()
	_, err := io.WriteString(w, s)
	return err
}

// print prints qemu-img's lines.
func (i *imageInfo) print(w io.Writer) error {
	s := fmt.Sprintf("image: %s\nfile format: %s\nvirtual size: %s (%d bytes)\ndisk size: %s\n",
		i.Filename, i.Format, sizearg.Format(i.VirtualSize), i.VirtualSize, sizearg.Format(i.ActualSize))
	if i.ClusterSize != 0 {
		s += fmt.Sprintf("cluster_size: %d\n", i.ClusterSize)
	}
	if i.FullBacking != "" {
		s += fmt.Sprintf("backing file: %s\nbacking file format: %s\n", i.FullBacking, i.BackingFormat)
	}
	s += i.Limits.lines()
	for _, child := range i.Children {
		s += child.lines()
	}
	_, err := io.WriteString(w, s)
	return err
}
