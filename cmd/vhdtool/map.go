package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"

	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/internal/sizearg"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

type mapOptions struct {
	source    sourceFlags
	salvage   salvageFlags
	output    string
	start     string
	maxLength string
	plot      string // picture file
	draw      bool   // draw in letters
	listed    bool   // the list was requested
	args      []string
}

func (c *cli) newMapCmd() *cobra.Command {
	var o mapOptions
	cmd := &cobra.Command{
		Use:   "map [-f FORMAT] [--output=human|json] [-s OFFSET] [-l LENGTH] [--draw] [--plot PICTURE] FILE",
		Short: "Show which parts of a disk are allocated, and where",
		Long: `map lists the extents of a disk that hold data, with their offsets in
the file. JSON also lists zeros and unallocated extents.

On a terminal, and with --draw or --plot, map draws two strips instead: the
disk, and the file with its metadata, data, padding and leaks (unreferenced
space). Data is coloured by its position on the disk, and --draw uses the digits 0
to 9 for colours. In an unfragmented file both strips show the same gradient. With
--output, -s or -l, map prints the list on a terminal, too.` + salvageHelp,
		Example: "  vhdtool map disk.vhd\n" +
			"  vhdtool map --output=json disk.vhd\n" +
			"  vhdtool map --plot disk.svg disk.vhd",
		Annotations: onlyReads,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			fl := cmd.Flags()
			o.listed = fl.Changed("output") || fl.Changed("start-offset") || fl.Changed("max-length")
			return c.runMap(cmd.Context(), &o)
		},
	}
	o.source.add(cmd, "format")
	o.salvage.add(cmd, "open a damaged image as far as it can be read")
	addOutputFlag(cmd, &o.output)
	cmd.Flags().StringVarP(&o.start, "start-offset", "s", "", "start at `OFFSET` of the disk")
	cmd.Flags().StringVarP(&o.maxLength, "max-length", "l", "", "stop after `LENGTH` bytes")
	cmd.Flags().BoolVar(&o.draw, "draw", false, "draw the disk and its file in letters, as wide as the terminal")
	cmd.Flags().StringVar(&o.plot, "plot", "", "draw the disk and its file into `PICTURE`, .svg or .png")
	_ = cmd.MarkFlagFilename("plot", "svg", "png")
	return cmd
}

func (c *cli) runMap(ctx context.Context, o *mapOptions) error {
	if err := checkOutput(o.output); err != nil {
		return err
	}
	if err := o.salvage.check(); err != nil {
		return err
	}
	o.source.salvage = o.salvage.on
	if !o.listed && o.plot == "" && !c.likeQEMU && isTerminal(c.stdout) {
		o.draw = true
	}
	if o.draw || o.plot != "" {
		return c.runMapPicture(ctx, o)
	}
	start, length := int64(0), int64(-1)
	var err error
	if o.start != "" {
		if start, err = sizearg.Parse(o.start); err != nil {
			return sizeError("start offset", o.start, err)
		}
	}
	if o.maxLength != "" {
		if length, err = sizearg.Parse(o.maxLength); err != nil {
			return sizeError("max length", o.maxLength, err)
		}
	}
	ref, d, _, err := c.openOne(&o.source, o.args)
	if err != nil {
		return err
	}
	defer d.Close()
	c.warnParents(d, ref.name)
	n := max(0, d.Size()-start)
	if length >= 0 {
		n = min(n, length)
	}
	w := bufio.NewWriter(c.stdout)
	print, lost := printMapHuman, knownLost(d)
	if o.output == "json" {
		compressed := ""
		if c.qemu >= qemuCompress {
			compressed = `, "compressed": false`
		}
		print = func(ctx context.Context, w *bufio.Writer, d disk.Disk, start, n int64, names []string) error {
			return printMapJSON(ctx, w, d, start, n, names, compressed, lost)
		}
	}
	names := fileNames(d, ref.name)
	if o.output != "json" {
		for i, name := range names {
			names[i] = c.printedName(name)
		}
	}
	progress := c.newProgress(false, isTerminal(c.stdout), false, 1)
	err = print(ctx, w, &reportingDisk{d, start, n, progress.update}, start, n, names)
	progress.finish(err == nil)
	if err != nil {
		return c.openError(ref, err)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return c.reportLost(&o.salvage, ref.name, d.Size(), knownLost(d), false)
}

// reportingDisk calls progress when its extents advance over the n bytes from start.
type reportingDisk struct {
	disk.Disk
	start, n int64
	progress disk.Progress
}

// Extents implements [disk.Disk].
func (d *reportingDisk) Extents(off, n int64) iter.Seq2[disk.Extent, error] {
	return func(yield func(disk.Extent, error) bool) {
		for e, err := range d.Disk.Extents(off, n) {
			if !yield(e, err) {
				return
			}
			d.progress(e.End()-d.start, d.n)
		}
	}
}

func printMapHuman(ctx context.Context, w *bufio.Writer, d disk.Disk, start, n int64, names []string) error {
	fmt.Fprintf(w, "%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File")
	for e, err := range d.Extents(start, n) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if e.State == disk.Data && e.File != nil {
			fmt.Fprintf(w, "%-16s%-16s%-16s%s\n", cHex(e.Off), cHex(e.Len), cHex(e.FileOff), names[e.Depth])
		}
	}
	return nil
}

// fileNames are the files of a disk and its parents, by depth.
func fileNames(d disk.Disk, name string) []string {
	names := []string{name}
	for d, name = parentOf(d); d != nil; d, name = parentOf(d) {
		names = append(names, name)
	}
	return names
}

// cHex formats as C's %#x, which prints 0 without 0x.
func cHex(n int64) string {
	if n == 0 {
		return "0"
	}
	return fmt.Sprintf("%#x", n)
}

// printMapJSON prints the extents as JSON. Each has the keys more after the first ones, and its
// lost ranges.
func printMapJSON(ctx context.Context, w *bufio.Writer, d disk.Disk, start, n int64, names []string, more string, lost []disk.LostRange) error {
	item := func(open string, e disk.Extent, present bool) {
		fmt.Fprintf(w, "%s{ \"start\": %d, \"length\": %d, \"depth\": %d, \"present\": %t, \"zero\": %t, \"data\": %t",
			open, e.Off, e.Len, e.Depth, present, present && e.State != disk.Data, present && e.State != disk.Unallocated)
		w.WriteString(more)
		if lost := lostWithin(lost, e.Off, e.Len); len(lost) > 0 {
			b, _ := json.Marshal(lostRanges(lost)) // plain fields marshal without errors
			fmt.Fprintf(w, ", \"lost-ranges\": %s", b)
		}
		if present && e.File != nil {
			fmt.Fprintf(w, ", \"offset\": %d", e.FileOff)
			if e.Depth > 0 {
				fmt.Fprintf(w, ", \"filename\": %s", jsonString(names[e.Depth]))
			}
		}
		w.WriteString("}")
	}
	open := "["
	for e, err := range d.Extents(start, n) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		item(open, e, true)
		open = ",\n"
	}
	if n == 0 {
		item(open, disk.Extent{Off: start}, false)
	}
	_, err := w.WriteString("]\n")
	return err
}

// lostWithin returns the parts of the lost ranges within n bytes at off. The ranges are in order.
func lostWithin(lost []disk.LostRange, off, n int64) []disk.LostRange {
	first, _ := slices.BinarySearchFunc(lost, off, func(r disk.LostRange, off int64) int {
		if r.Off+r.N <= off {
			return -1
		}
		return 1
	})
	var within []disk.LostRange
	for _, r := range lost[first:] {
		if r.Off >= off+n {
			break
		}
		end := min(r.Off+r.N, off+n)
		r.Off = max(r.Off, off)
		r.N = end - r.Off
		within = append(within, r)
	}
	return within
}

// jsonString returns a string as JSON.
func jsonString(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		return `""`
	}
	return string(b)
}

// runMapPicture draws the map instead of listing it.
func (c *cli) runMapPicture(ctx context.Context, o *mapOptions) error {
	if o.output != "human" || o.start != "" || o.maxLength != "" {
		return usagef("--draw and --plot show the whole disk, and go without --output, -s and -l")
	}
	if o.plot != "" {
		if _, err := pictureWriter(o.plot); err != nil {
			return err
		}
	}
	ref, d, f, err := c.openOne(&o.source, o.args)
	if err != nil {
		return err
	}
	defer d.Close()
	c.warnParents(d, ref.name)
	p, err := drawDisk(ctx, ref, d, f)
	if err != nil {
		return c.openError(ref, err)
	}
	if o.draw {
		if err := p.Text(c.stdout, columnsOf(c.stdout)); err != nil {
			return err
		}
	}
	if o.plot != "" {
		if err := c.plot(p, o.plot); err != nil {
			return err
		}
	}
	return c.reportLost(&o.salvage, ref.name, d.Size(), knownLost(d), false)
}
