package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vhdtool/vhdtool/internal/optlist"
	"github.com/vhdtool/vhdtool/internal/picture"
	"github.com/vhdtool/vhdtool/internal/sizearg"
	"github.com/vhdtool/vhdtool/internal/source"
	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/qcow2"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// qcow2Compress is the option of a new image that convert -c sets.
const qcow2Compress = "compress"

var qcow2Format = format{
	Format: &qcow2.Format,
	createOptions: []optionSpec{
		sizeOption,
		{name: "backing_file", kind: textValue, help: "File name of a base image"},
		{name: "backing_fmt", kind: textValue, help: "Image format of the base image"},
		{name: "cluster_size", kind: sizeValue, help: "qcow2 cluster size"},
		{name: "compat", kind: textValue, values: []string{"0.10", "1.1", "v2", "v3"}, help: "Compatibility level (v2 [0.10] or v3 [1.1])"},
		{name: qcow2Compress, kind: boolValue, own: true, help: "Compress the data, as convert -c does"},
		{name: "compression_type", kind: textValue, values: []string{"zlib", "zstd"}, help: "Compression method used for image cluster compression"},
		{name: "extended_l2", kind: boolValue, help: "Extended L2 tables"},
		{name: "lazy_refcounts", kind: boolValue, help: "Postpone refcount updates"},
		{name: "preallocation", kind: textValue, values: []string{"off", "metadata", "falloc", "full"}, help: "Preallocation mode (allowed values: off, metadata, falloc, full)"},
		{name: "refcount_bits", kind: sizeValue, help: "Width of a reference count entry in bits"},
	},
	describe:  describeQCOW2,
	fileSize:  qcow2FileSize,
	stream:    streamQCOW2,
	streamEnd: endQCOW2,
	fileParts: partsOfQCOW2,

	createChild: createQCOW2Child,
}

// createQCOW2Child starts a new image with a parent, which it records by a path relative to
// the image's directory.
func createQCOW2Child(r *childRequest) (disk.Disk, error) {
	qo, err := qcow2.ParseCreateOptions(0, r.options)
	if err != nil {
		return nil, err
	}
	qo.Size, qo.Parent = r.size, r.parent
	qo.BackingFile, qo.BackingFormat = r.parentName, formatNameOf(r.parent)
	if dir, err := filepath.Abs(filepath.Dir(r.name)); err == nil && !filepath.IsAbs(r.parentName) {
		parent, err := filepath.Abs(r.parentName)
		if err != nil {
			return nil, err
		}
		if qo.BackingFile, err = filepath.Rel(dir, parent); err != nil {
			qo.BackingFile = parent
		}
	}
	if qo.Compress {
		return nil, errors.New("a compressed image with a parent is not made; convert it again without the parent")
	}
	w, err := qcow2.Create(r.file, qo)
	if err != nil {
		return nil, err // not w: a nil *Writer is not a nil Disk
	}
	return w, nil
}

// qcow2Details is what info shows of a qcow2 image.
type qcow2Details struct {
	Compat        string `json:"compat"`
	DataFile      string `json:"data-file,omitempty"`
	DataFileRaw   *bool  `json:"data-file-raw,omitempty"`
	Compression   string `json:"compression-type"`
	LazyRefcounts bool   `json:"lazy-refcounts"`
	RefcountBits  int    `json:"refcount-bits"`
	Corrupt       bool   `json:"corrupt"`
	ExtendedL2    bool   `json:"extended-l2"`

	version2 bool
}

// snapshotInfo is an internal snapshot, in the order of qemu-img's JSON.
type snapshotInfo struct {
	Instructions *uint64 `json:"icount,omitempty"`
	ClockNanos   int64   `json:"vm-clock-nsec"`
	Name         string  `json:"name"`
	Seconds      int64   `json:"date-sec"`
	Nanos        int     `json:"date-nsec"`
	ClockSeconds int64   `json:"vm-clock-sec"`
	ID           string  `json:"id"`
	StateSize    uint64  `json:"vm-state-size"`
}

// snapshotInfos are the snapshots of an image.
func snapshotInfos(img *qcow2.Image) []snapshotInfo {
	var list []snapshotInfo
	for _, s := range img.Snapshots() {
		i := snapshotInfo{
			ClockNanos: int64(s.Clock % time.Second), ClockSeconds: int64(s.Clock / time.Second), Name: s.Name,
			Seconds: s.Time.Unix(), Nanos: s.Time.Nanosecond(), ID: s.ID, StateSize: s.StateSize,
		}
		if s.HasInstructions {
			i.Instructions = &s.Instructions
		}
		list = append(list, i)
	}
	return list
}

// snapshotTable lists snapshots as a release of qemu-img does.
func snapshotTable(list []snapshotInfo, v qemuVersion) string {
	if len(list) == 0 {
		return ""
	}
	head, row, clock, none := []any{"ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT"}, "%-10s%-17s%8s%20s%13s%11s\n", "%02d:%02d:%02d.%03d", ""
	if v >= qemuChildren {
		head, row, clock, none = []any{"ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"}, "%-7s %-16s %8s %19s %15s %10s\n", "%04d:%02d:%02d.%03d", "--"
	}
	s := "Snapshot list:\n" + fmt.Sprintf(row, head...)
	for _, x := range list {
		count := none
		if x.Instructions != nil {
			count = fmt.Sprint(*x.Instructions)
		}
		s += fmt.Sprintf(row, x.ID, x.Name, sizearg.Format(int64(x.StateSize)), time.Unix(x.Seconds, 0).Format(time.DateTime),
			fmt.Sprintf(clock, x.ClockSeconds/3600, x.ClockSeconds/60%60, x.ClockSeconds%60, x.ClockNanos/1_000_000), count)
	}
	return s
}

func describeQCOW2(d disk.Disk, _ int64) description {
	img := d.(*qcow2.Image)
	h := img.Header()
	v := &qcow2Details{
		Compat: "1.1", Compression: h.Compression.String(), LazyRefcounts: h.LazyRefcounts(), RefcountBits: h.RefcountBits(),
		Corrupt: h.Corrupt(), ExtendedL2: h.ExtendedL2(), version2: h.Version == 2,
	}
	if v.version2 {
		v.Compat = "0.10"
	}
	if h.HasDataFile() {
		raw := h.RawDataFile()
		v.DataFile, v.DataFileRaw = h.DataFile, &raw
	}
	return v
}

// lines implements description.
func (v *qcow2Details) lines(*infoLines) []string {
	out := []string{"compat: " + v.Compat, "compression type: " + v.Compression}
	if !v.version2 {
		out = append(out, fmt.Sprintf("lazy refcounts: %t", v.LazyRefcounts))
	}
	out = append(out, fmt.Sprintf("refcount bits: %d", v.RefcountBits))
	if v.DataFileRaw != nil {
		out = append(out, "data file: "+v.DataFile, fmt.Sprintf("data file raw: %t", *v.DataFileRaw))
	}
	if !v.version2 {
		out = append(out, fmt.Sprintf("corrupt: %t", v.Corrupt), fmt.Sprintf("extended l2: %t", v.ExtendedL2))
	}
	return out
}

func qcow2FileSize(size int64, o disk.Options) (fileSize, error) {
	qo, err := qcow2.ParseCreateOptions(size, o)
	if err != nil {
		return fileSize{}, err
	}
	n, clusterSize := qo.Blocks()
	return fileSize{qo.VirtualSize(), n, clusterSize, func(allocated int64) (int64, error) { return qo.FileLength(allocated), nil }}, nil
}

// streamQCOW2 writes a new image to a pipe. It reads the source twice.
func streamQCOW2(ctx context.Context, w io.Writer, src disk.Disk, o disk.Options, co *convert.Options) error {
	qo, err := qcow2.ParseCreateOptions(src.Size(), o)
	if err != nil {
		return err
	}
	if err := qo.Streamable(); err != nil {
		return err
	}
	n, clusterSize := qo.Blocks()
	used, writing, err := streamedBlocks(ctx, src, n, clusterSize, co)
	if err != nil {
		return err
	}
	return qcow2.WriteStream(ctx, w, qo, src, used, writing)
}

// endQCOW2 refuses to write an image after a stream: its metadata comes first.
func endQCOW2(io.Writer, int64, disk.Options) error {
	return errors.New("a qcow2 image starts with tables for its size, so it cannot be written to a pipe while its source is one")
}

// partsOfQCOW2 yields what the parts of a file are for: data that is not compressed, and the
// rest as metadata.
func partsOfQCOW2(d disk.Disk, length int64) iter.Seq2[filePart, error] {
	return func(yield func(filePart, error) bool) {
		var parts []filePart
		for e, err := range d.Extents(0, d.Size()) {
			if err != nil {
				yield(filePart{}, err)
				return
			}
			if e.Depth == 0 && e.File != nil && e.State != disk.Absent {
				parts = append(parts, filePart{off: e.FileOff, n: e.Len, kind: picture.Data, place: e.Off})
			}
		}
		slices.SortFunc(parts, func(a, b filePart) int { return cmp.Compare(a.off, b.off) })
		off := int64(0)
		for _, p := range parts {
			if p.off < off || p.off+p.n > length { // of another file, or cut
				continue
			}
			if p.off > off && !yield(filePart{off: off, n: p.off - off, kind: picture.Metadata}, nil) || !yield(p, nil) {
				return
			}
			off = p.off + p.n
		}
		if off < length {
			yield(filePart{off: off, n: length - off, kind: picture.Metadata}, nil)
		}
	}
}

// options are those that open the snapshot that -l names.
func (s *snapshotFlag) options() (disk.Options, error) {
	if !strings.HasPrefix(s.value, "snapshot.") {
		return disk.Options{"snapshot": s.value}, nil
	}
	opts, err := optlist.Parse(s.value)
	if err != nil {
		return nil, err
	}
	o := disk.Options{}
	for _, opt := range opts {
		o[opt.Key] = opt.Value
	}
	return o, nil
}

// openSnapshot opens the snapshot that -l names of the source that in has open, which it
// closes. Without -l it returns in. After an error nothing is open.
func (c *cli) openSnapshot(ctx context.Context, in *input, s *snapshotFlag, flags *sourceFlags, o *source.Options, args []string) (*input, error) {
	if !s.given || len(in.formats) == 0 {
		return in, nil
	}
	in.Close()
	if len(in.formats) > 1 {
		return nil, qemuErrorf("No support for concatenating multiple snapshot")
	}
	if in.formats[0] != qcow2Format.Name {
		return nil, s.load(in.formats[0])
	}
	own := *flags
	var err error
	if own.snapshot, err = s.options(); err != nil {
		return nil, err
	}
	if in, err = c.openInputs(ctx, &own, args, o); errors.Is(err, qcow2.ErrNoSnapshot) && c.likeQEMU {
		err = qemuErrorf("Failed to load snapshot: Can't find snapshot")
	}
	return in, err
}

// addBacking adds what qemu-img shows of the parent of an image in the file name.
func (i *imageInfo) addBacking(h *qcow2.Header, name string) {
	if h.BackingFile == "" {
		return
	}
	i.Backing, i.BackingFormat, i.FullBacking = h.BackingFile, h.BackingFormat, h.BackingFile
	if path := fileName(h.BackingFile); !filepath.IsAbs(path) && !strings.Contains(path, ":") {
		i.FullBacking = filepath.Join(filepath.Dir(name), path)
	}
}

// qemuLines are the lines that qemu-img prints of a qcow2 image after its file's.
func (i *imageInfo) qemuLines() string {
	s := ""
	if i.DirtyFlag {
		s += "cleanly shut down: no\n"
	}
	if i.Backing != "" {
		s += "backing file: " + i.Backing
		if i.FullBacking != i.Backing {
			s += fmt.Sprintf(" (actual path: %s)", i.FullBacking)
		}
		s += "\n"
	}
	if i.BackingFormat != "" {
		s += fmt.Sprintf("backing file format: %s\n", i.BackingFormat)
	}
	s += snapshotTable(i.Snapshots, i.likeQEMU) + "Format specific information:\n"
	for _, line := range i.FormatSpecific.Data.lines(nil) {
		s += "    " + line + "\n"
	}
	return s
}

// keepsBitmaps reports whether an image has a format in which qemu keeps bitmaps.
func keepsBitmaps(d disk.Disk) bool {
	img, ok := d.(*qcow2.Image)
	if !ok {
		return false
	}
	h := img.Header()
	return h.Version >= 3
}

// qcow2ParentHint is the way out of a chain that breaks, for the image in the file that the
// command line names.
func qcow2ParentHint(err error, image string) string {
	var e *qcow2.ParentError
	if !errors.As(err, &e) {
		return ""
	}
	var give strings.Builder
	child := image
	for _, path := range e.Opened {
		give.WriteString("--parent " + quoteArg(path) + " ")
		child = path
	}
	hint := give.String() + "--parent FILE gives the parent of " + quoteArg(child)
	if errors.Is(err, vhd.ErrParentRefused) {
		return "--trust-parents follows the path; " + hint
	}
	return hint + ", --parent-dir DIR searches for it"
}
