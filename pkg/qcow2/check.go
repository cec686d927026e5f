package qcow2

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

var errTooManyClusters = fmt.Errorf("%w: an image with more clusters than can be counted", ErrUnsupported)

// checker is a [disk.Checker] of the image alone.
type checker struct {
	r      io.ReaderAt
	length int64
	header Header
	counts disk.CheckCounts

	stored     *refcounts
	references references
	yield      func(disk.Finding, error) bool
	stopped    bool // yield wants no more
	dirty      bool
}

// NewChecker returns a Checker of the image in the first size bytes of r. It counts the
// references to each cluster, and compares them with the refcounts, as qemu-img check does:
// the numbers of errors and leaks are qemu-img's. A damaged header is the only finding then.
// Parents and an external data file are not checked.
func NewChecker(r io.ReaderAt, size int64) disk.Checker {
	return &checker{r: r, length: size}
}

// Counts implements [disk.Checker].
func (c *checker) Counts() disk.CheckCounts { return c.counts }

// Diagnosis implements [disk.Checker].
func (c *checker) Diagnosis() []string {
	if c.dirty && c.counts.Errors+c.counts.Leaked > 0 {
		return []string{"A program that uses lazy refcounts did not close the image: the refcounts are out of date."}
	}
	return nil
}

// Findings implements [disk.Checker].
func (c *checker) Findings(ctx context.Context) iter.Seq2[disk.Finding, error] {
	return func(yield func(disk.Finding, error) bool) {
		c.yield = yield
		err := c.run(ctx)
		var damaged *FormatError
		if errors.As(err, &damaged) && errors.Is(err, ErrCorrupt) {
			c.report(disk.Finding{ID: "metadata", Severity: disk.Error, Offset: damaged.Offset, Field: damaged.Field, Got: damaged.Got, Want: damaged.Want})
			return
		}
		if err != nil && !c.stopped {
			yield(disk.Finding{}, err)
		}
	}
}

// errStopped ends a check whose caller wants no more findings.
var errStopped = errors.New("stopped")

// report counts a finding and yields it.
func (c *checker) report(f disk.Finding) error {
	switch f.Severity {
	case disk.Error:
		c.counts.Errors += f.Faults()
	case disk.Leak:
		c.counts.Leaked += f.Faults()
	case disk.Warning:
		c.counts.Warnings += f.Faults()
	}
	if c.stopped || !c.yield(f, nil) {
		c.stopped = true
		return errStopped
	}
	return nil
}

func (c *checker) fault(id string, off int64, field string, got, want string) error {
	return c.report(disk.Finding{ID: id, Severity: disk.Error, Offset: off, Field: field, Got: got, Want: want})
}

func (c *checker) run(ctx context.Context) (err error) {
	if c.header, err = readHeader(c.r, c.length); err != nil {
		return err
	}
	h := &c.header
	c.counts.Size = int64(h.Size) &^ (disk.SectorSize - 1)
	c.counts.BlockSize = h.ClusterSize()
	c.counts.Blocks = (c.counts.Size + h.ClusterSize() - 1) >> h.ClusterBits
	if h.Dirty() {
		c.dirty = true
		if err := c.report(disk.Finding{ID: "dirty", Severity: disk.Warning, Offset: 72, Field: "header: incompatible features", Got: "the dirty bit", Want: "an image that was closed"}); err != nil {
			return err
		}
	}
	if h.Corrupt() {
		if err := c.report(disk.Finding{ID: "marked-corrupt", Severity: disk.Warning, Offset: 72, Field: "header: incompatible features", Got: "the corrupt bit", Want: "an image that no writer found damaged"}); err != nil {
			return err
		}
	}
	if c.stored, err = readRefcountTable(c.r, c.length, h); err != nil {
		return err
	}
	c.references = references{pages: map[int64]*[referencePage]uint16{}, max: math.MaxUint64 >> (64 - min(64, 1<<h.RefcountOrder))}
	for _, step := range []func(context.Context) error{c.countTables, c.countRefcountBlocks, c.compare} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// refer counts a reference to n bytes of the file.
func (c *checker) refer(field string, off, n int64) error {
	if n <= 0 {
		return nil
	}
	cluster := c.header.ClusterSize()
	// The file may end within its last cluster.
	if off < 0 || off > c.length || n > c.length-off && n-(c.length-off) >= cluster {
		return c.fault("beyond-end", off, field, fmt.Sprintf("%d bytes at offset %d", n, off), fmt.Sprintf("space within the file of %d bytes", c.length))
	}
	bits := c.header.ClusterBits
	for k := off >> bits; k <= (off+n-1)>>bits; k++ {
		full, err := c.references.add(k)
		if err == nil && full {
			err = c.fault("refcount-width", k<<bits, field, "more references to the cluster than a refcount can count", fmt.Sprintf("at most %d", c.references.max))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// countTables counts what the header, the L1 tables, the snapshots and the bitmaps refer to.
func (c *checker) countTables(ctx context.Context) error {
	h := &c.header
	if err := c.refer("header", 0, h.ClusterSize()); err != nil {
		return err
	}
	if err := c.countL1(ctx, "L1 table", int64(h.L1Offset), int64(h.L1Size), true); err != nil {
		return err
	}
	snapshots, length, err := readSnapshots(c.r, c.length, h)
	if err != nil {
		return err
	}
	for i := range snapshots {
		s := &snapshots[i]
		field := fmt.Sprintf("snapshot %q: L1 table", s.Name)
		switch {
		case int64(s.l1Offset)&(h.ClusterSize()-1) != 0:
			err = c.fault("snapshot", s.at, field, fmt.Sprintf("offset %d", s.l1Offset), "a multiple of the cluster size")
		case s.l1Size > maxL1Bytes/8:
			err = c.fault("snapshot", s.at+8, field, fmt.Sprintf("%d entries", s.l1Size), fmt.Sprintf("at most %d", maxL1Bytes/8))
		default:
			err = c.countL1(ctx, field, int64(s.l1Offset), int64(s.l1Size), false)
		}
		if err != nil {
			return err
		}
	}
	if err := c.refer("snapshot table", int64(h.SnapshotsOffset), length); err != nil {
		return err
	}
	if err := c.refer("refcount table", int64(h.RefcountTableOffset), int64(h.RefcountTableClusters)<<h.ClusterBits); err != nil {
		return err
	}
	return c.countBitmaps()
}

// countL1 counts what an L1 table refers to. The current one, active, has flags that depend
// on the refcounts, and its clusters are those that the counts are about.
func (c *checker) countL1(ctx context.Context, field string, off, n int64, active bool) error {
	if n == 0 {
		return nil
	}
	if err := c.refer(field, off, n*8); err != nil {
		return err
	}
	if off < 0 || off > c.length {
		return nil
	}
	// At most 32 MiB, of which at most the file's length is not zeros.
	b := make([]byte, min(n*8, c.length-off)&^7)
	if err := readPadded(c.r, c.length, b, off); err != nil {
		return fmt.Errorf("%s at offset %d: %w", field, off, err)
	}
	table := make([]byte, c.header.ClusterSize())
	for i := int64(0); i*8 < int64(len(b)); i++ {
		e := binary.BigEndian.Uint64(b[i*8:])
		if e == 0 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.countL2(field, off+i*8, i, e, table, active); err != nil {
			return err
		}
	}
	return nil
}

// countL2 counts what entry i of an L1 table, which is at an offset of the file, refers to.
// table is a buffer.
func (c *checker) countL2(l1 string, at, i int64, e uint64, table []byte, active bool) error {
	h := &c.header
	field := fmt.Sprintf("%s: entry %d", l1, i)
	if e&l1Reserved != 0 {
		if err := c.fault("l1-entry", at, field, fmt.Sprintf("%#016x", e), "reserved bits that are 0"); err != nil {
			return err
		}
	}
	off := int64(e & entryOffset)
	if err := c.refer(field, off, h.ClusterSize()); err != nil {
		return err
	}
	if off&(h.ClusterSize()-1) != 0 {
		if err := c.fault("l1-entry", at, field, fmt.Sprintf("%#016x", e), "an offset that is a multiple of the cluster size"); err != nil {
			return err
		}
	}
	if active && off != 0 {
		if err := c.copied(at, field, e, false); err != nil {
			return err
		}
	}
	if err := readPadded(c.r, c.length, table, off); err != nil {
		return fmt.Errorf("L2 table at offset %d: %w", off, err)
	}
	size := int64(8)
	if h.ExtendedL2() {
		size = 16
	}
	next := int64(0) // offset that continues the cluster before
	for j := int64(0); j < 1<<h.l2Bits(); j++ {
		e := entryAt(table, j, h.ExtendedL2())
		if e.bits == 0 && e.sub == 0 {
			continue
		}
		guest := (i<<h.l2Bits() + j) << h.ClusterBits
		if err := c.countCluster(off+j*size, guest, e, active, &next); err != nil {
			return err
		}
	}
	return nil
}

// countCluster counts what an L2 entry refers to.
func (c *checker) countCluster(at, guest int64, e entry, active bool, next *int64) error {
	h := &c.header
	field := func() string { return fmt.Sprintf("L2 entry of disk offset %d", guest) }
	wrong := func(want string) error {
		got := fmt.Sprintf("%#016x", e.bits)
		if h.ExtendedL2() {
			got += fmt.Sprintf(" with bitmap %#016x", e.sub)
		}
		return c.fault("l2-entry", at, field(), got, want)
	}
	k := h.kindOf(e)
	if k != compressed && e.bits&l2Reserved != 0 {
		if err := wrong("reserved bits that are 0"); err != nil {
			return err
		}
	}
	switch k {
	case compressed:
		if e.bits&entryCopied != 0 {
			if err := wrong("no copied flag of a compressed cluster"); err != nil {
				return err
			}
		}
		if h.HasDataFile() {
			return wrong("no compressed cluster with an external data file")
		}
		if e.sub != 0 {
			return wrong("no subclusters of a compressed cluster")
		}
		off, n := e.compressedRange(h.ClusterBits)
		if active {
			c.counts.Allocated++
			c.counts.Compressed++
			c.counts.Fragmented++ // none can be read without its neighbours
		}
		return c.refer(field(), off, n)
	case stored, zeroStored:
		if e.sub>>32&e.sub != 0 {
			return wrong("no subcluster that is both allocated and zeros")
		}
		if e.offset()&(h.ClusterSize()-1) != 0 {
			if err := wrong("an offset that is a multiple of the cluster size"); err != nil {
				return err
			}
		}
		if active {
			c.counts.Allocated++
			if *next != 0 && e.offset() != *next {
				c.counts.Fragmented++
			}
			*next = e.offset() + h.ClusterSize()
			if err := c.copied(at, field(), e.bits, h.HasDataFile()); err != nil {
				return err
			}
		}
		if !h.HasDataFile() {
			return c.refer(field(), e.offset(), h.ClusterSize())
		}
	case absent:
		if e.sub&math.MaxUint32 != 0 {
			return wrong("no allocated subcluster without an offset")
		}
	}
	return nil
}

// copied checks the flag of an L1 or L2 entry that says that the refcount is 1. The clusters
// of a data file have no refcount, and always the flag.
func (c *checker) copied(at int64, field string, e uint64, inDataFile bool) error {
	n, ok := uint64(1), true
	if !inDataFile {
		var err error
		if n, ok, err = c.stored.of(int64(e&entryOffset) >> c.header.ClusterBits); err != nil {
			return err
		}
	}
	if !ok || (n == 1) == (e&entryCopied != 0) {
		return nil
	}
	got, want := "no copied flag", "one, as the refcount is 1"
	if n != 1 {
		got, want = "the copied flag", fmt.Sprintf("none, as the refcount is %d", n)
	}
	return c.fault("copied-flag", at, field, got, want)
}

// countBitmaps counts what the bitmaps of the disk refer to.
func (c *checker) countBitmaps() error {
	h := &c.header
	if h.Autoclear&autoclearBitmaps == 0 || len(h.bitmaps) < 24 {
		return nil
	}
	count := binary.BigEndian.Uint32(h.bitmaps)
	n, off := binary.BigEndian.Uint64(h.bitmaps[8:]), binary.BigEndian.Uint64(h.bitmaps[16:])
	if count == 0 {
		return nil
	}
	if n > maxSnapshotBytes || off > uint64(c.length) || n > uint64(c.length)-off {
		return c.fault("bitmap", int64(h.HeaderLength), "bitmap directory", fmt.Sprintf("%d bytes at offset %d", n, off), fmt.Sprintf("a directory within the file of %d bytes", c.length))
	}
	if err := c.refer("bitmap directory", int64(off), int64(n)); err != nil {
		return err
	}
	dir := make([]byte, n)
	if err := readPadded(c.r, c.length, dir, int64(off)); err != nil {
		return fmt.Errorf("bitmap directory at offset %d: %w", off, err)
	}
	for i := range count {
		if len(dir) < 24 {
			return c.fault("bitmap", int64(off), fmt.Sprintf("bitmap directory: entry %d", i), "the end of the directory", "an entry")
		}
		table, entries := int64(binary.BigEndian.Uint64(dir)), int64(binary.BigEndian.Uint32(dir[8:]))
		length := 24 + int64(binary.BigEndian.Uint16(dir[18:])) + int64(binary.BigEndian.Uint32(dir[20:]))
		dir = dir[min(int64(len(dir)), (length+7)&^7):]
		field := fmt.Sprintf("bitmap %d: table", i)
		if err := c.refer(field, table, entries*8); err != nil {
			return err
		}
		if table < 0 || table > c.length || entries > maxL1Bytes/8 {
			continue
		}
		b := make([]byte, min(entries*8, c.length-table)&^7)
		if err := readPadded(c.r, c.length, b, table); err != nil {
			return fmt.Errorf("%s at offset %d: %w", field, table, err)
		}
		for ; len(b) >= 8; b = b[8:] {
			if off := int64(binary.BigEndian.Uint64(b) & entryOffset); off != 0 {
				if err := c.refer(field, off, h.ClusterSize()); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// countRefcountBlocks counts the references of the refcount table.
func (c *checker) countRefcountBlocks(context.Context) error {
	h := &c.header
	for i, e := range c.stored.table {
		at := int64(h.RefcountTableOffset) + int64(i)*8
		field := fmt.Sprintf("refcount table: entry %d", i)
		off := int64(e &^ refReserved)
		want := ""
		switch {
		case e&refReserved != 0:
			want = "reserved bits that are 0"
		case off&(h.ClusterSize()-1) != 0:
			want = "an offset that is a multiple of the cluster size"
		case off < 0 || off >= c.length:
			want = fmt.Sprintf("a block within the file of %d bytes", c.length)
		case off == 0:
			continue
		}
		if want != "" {
			if err := c.fault("refcount-table", at, field, fmt.Sprintf("%#016x", e), want); err != nil {
				return err
			}
			continue
		}
		if err := c.refer(field, off, h.ClusterSize()); err != nil {
			return err
		}
		if n := c.references.count(off >> h.ClusterBits); n != 1 {
			if err := c.fault("refcount-block", at, field, fmt.Sprintf("a block with %d references", n), "1"); err != nil {
				return err
			}
		}
	}
	return nil
}

// compare compares the refcounts with the references. Neighbours with the same difference
// are one finding.
func (c *checker) compare(ctx context.Context) error {
	var held disk.Finding
	flush := func() error {
		f := held
		held = disk.Finding{}
		if f.Count == 0 {
			return nil
		}
		f.Bytes = f.Count << c.header.ClusterBits
		return c.report(f)
	}
	last := int64(0)
	for cluster, err := range c.countedClusters(ctx) {
		if err != nil {
			return err
		}
		n, ok, err := c.stored.of(cluster)
		if err != nil {
			return err
		}
		want := c.references.count(cluster)
		if !ok || n == 0 && want == 0 {
			continue
		}
		last = cluster
		if n == want || want == math.MaxUint16 && n > want {
			continue
		}
		f := disk.Finding{
			ID: "refcount", Severity: disk.Error, Offset: cluster << c.header.ClusterBits, Field: "refcount of the cluster",
			Got: fmt.Sprint(n), Want: fmt.Sprintf("%d, the number of its references", want), Count: 1,
		}
		if n > want {
			f.ID, f.Severity = "leak", disk.Leak
		}
		if held.Count > 0 && held.ID == f.ID && held.Got == f.Got && held.Want == f.Want && held.Offset+held.Count<<c.header.ClusterBits == f.Offset {
			held.Count++
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		held = f
	}
	if err := flush(); err != nil {
		return err
	}
	c.counts.End = (last + 1) << c.header.ClusterBits
	return nil
}

// countedClusters yields, in order, the clusters of the file that may have a refcount or a
// reference.
func (c *checker) countedClusters(ctx context.Context) iter.Seq2[int64, error] {
	return func(yield func(int64, error) bool) {
		bits := c.header.ClusterBits
		end := (c.length + 1<<bits - 1) >> bits
		span := func(from, to int64) bool {
			for k := from; k < min(to, end); k++ {
				if k%referencePage == 0 && ctx.Err() != nil {
					yield(0, ctx.Err())
					return false
				}
				if !yield(k, nil) {
					return false
				}
			}
			return true
		}
		pages := make([]int64, 0, len(c.references.pages))
		for page := range c.references.pages {
			pages = append(pages, page)
			end = max(end, c.lastReference(page)+1)
		}
		slices.Sort(pages)
		per := c.stored.perBlock()
		done := int64(0)
		for i := range c.stored.table {
			from, to := int64(i)<<per, int64(i+1)<<per
			for len(pages) > 0 && pages[0]*referencePage < to { // without a block for them
				if !span(max(done, pages[0]*referencePage), min(from, (pages[0]+1)*referencePage)) {
					return
				}
				done = max(done, min(from, (pages[0]+1)*referencePage))
				if (pages[0]+1)*referencePage > from {
					break
				}
				pages = pages[1:]
			}
			if off, valid := c.stored.blockOffset(from); off == 0 || !valid {
				continue
			}
			if !span(max(done, from), to) {
				return
			}
			if done = max(done, to); done >= end {
				return
			}
		}
		for _, page := range pages {
			if !span(max(done, page*referencePage), (page+1)*referencePage) {
				return
			}
		}
	}
}

// lastReference is the last cluster of a page that has a reference; -1 if none has.
func (c *checker) lastReference(page int64) int64 {
	p := c.references.pages[page]
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] != 0 {
			return page*referencePage + int64(i)
		}
	}
	return -1
}

func checkFormat(r io.ReaderAt, size int64, o *disk.CheckOptions) (disk.Checker, error) {
	if o == nil {
		o = &disk.CheckOptions{}
	}
	if _, err := ParseOpenOptions(&disk.OpenOptions{Options: o.Options}); err != nil {
		return nil, err
	}
	return NewChecker(r, size), nil
}
