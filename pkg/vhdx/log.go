package vhdx

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

const (
	logSector     = 4 << 10
	logEntryStart = 64 // bytes before the first descriptor
	logDescriptor = 32
)

// logEntry is an entry of the log.
//
//	0  4  signature "loge"
//	4  4  checksum
//	8  4  length of the entry
//	12 4  tail: offset in the log of the oldest entry to replay
//	16 8  sequence number
//	24 4  number of descriptors
//	32 16 log GUID
//	48 8  flushed file offset: the file has at least this length
//	56 8  last file offset: the file has this length after the replay
type logEntry struct {
	at          int64 // in the log
	n           int64
	tail        int64
	sequence    uint64
	descriptors int64
	flushed     uint64
	last        uint64
}

// dataStart is the number of bytes before the data sectors of the entry.
func (e *logEntry) dataStart() int64 {
	return roundUp(logEntryStart+e.descriptors*logDescriptor, logSector)
}

// ring reads the log, which continues at its start after its end.
type ring struct {
	r      io.ReaderAt
	off, n int64
}

func (l *ring) read(p []byte, at int64) error {
	at %= l.n
	k := min(int64(len(p)), l.n-at)
	if err := readFull(l.r, p[:k], l.off+at); err != nil {
		return err
	}
	if k == int64(len(p)) {
		return nil
	}
	return readFull(l.r, p[k:], l.off)
}

// entryAt returns the valid entry at an offset of the log, or nil. It reads data sectors only as
// far as they have the signature and the sequence number of the entry. Sectors of a valid entry
// start no other entry, so a search reads each sector a bounded number of times.
func (l *ring) entryAt(at int64, id uuid.UUID) (*logEntry, error) {
	le := binary.LittleEndian
	b := make([]byte, logSector)
	if err := l.read(b, at); err != nil {
		return nil, err
	}
	e := &logEntry{
		at: at, n: int64(le.Uint32(b[8:])), tail: int64(le.Uint32(b[12:])), sequence: le.Uint64(b[16:]),
		descriptors: int64(le.Uint32(b[24:])), flushed: le.Uint64(b[48:]), last: le.Uint64(b[56:]),
	}
	if string(b[:4]) != "loge" || guidAt(b[32:]) != id || e.sequence == 0 || e.n == 0 || e.n%logSector != 0 || e.n > l.n ||
		e.tail%logSector != 0 || e.tail >= l.n || e.dataStart() > e.n {
		return nil, nil
	}
	var zeros [4]byte
	sum := crc32.Update(crc32.Update(crc32.Update(0, castagnoli, b[:4]), castagnoli, zeros[:]), castagnoli, b[8:])
	data := int64(0) // data descriptors
	check := b[logEntryStart:]
	left := e.descriptors
	for pos := int64(logSector); ; pos += logSector {
		for ; left > 0 && len(check) > 0; check = check[logDescriptor:] {
			d := decodeDescriptor(check)
			if !d.valid(e.sequence) {
				return nil, nil
			}
			if !d.zero {
				data++
			}
			left--
		}
		if pos == e.n {
			break
		}
		sector := make([]byte, logSector)
		if err := l.read(sector, at+pos); err != nil {
			return nil, err
		}
		if pos >= e.dataStart() && dataSequence(sector) != e.sequence {
			return nil, nil
		}
		sum = crc32.Update(sum, castagnoli, sector)
		check = sector
	}
	if e.n != e.dataStart()+data*logSector || sum != le.Uint32(b[4:]) {
		return nil, nil
	}
	return e, nil
}

// dataSequence is the sequence number of a data sector, or 0 if it is none.
func dataSequence(b []byte) uint64 {
	if string(b[:4]) != "data" {
		return 0
	}
	return uint64(binary.LittleEndian.Uint32(b[4:]))<<32 | uint64(binary.LittleEndian.Uint32(b[logSector-4:]))
}

// descriptor is one change: 4 KiB of data, or a range of zeros.
//
//	0  4 signature "desc" or "zero"
//	4  4 data: the last bytes of the page
//	8  8 data: the first bytes of the page; zero: length
//	16 8 offset in the file
//	24 8 sequence number
type descriptor struct {
	zero     bool
	known    bool
	trailing [4]byte
	leading  [8]byte
	off, n   uint64
	sequence uint64
}

func decodeDescriptor(b []byte) descriptor {
	le := binary.LittleEndian
	d := descriptor{off: le.Uint64(b[16:]), n: logSector, sequence: le.Uint64(b[24:])}
	copy(d.trailing[:], b[4:])
	copy(d.leading[:], b[8:])
	switch string(b[:4]) {
	case "zero":
		d.zero, d.known, d.n = true, true, le.Uint64(b[8:])
	case "desc":
		d.known = true
	}
	return d
}

// valid reports whether the descriptor is one of an entry with the sequence number.
func (d *descriptor) valid(sequence uint64) bool {
	return d.known && d.sequence == sequence && d.off%logSector == 0 && d.n%logSector == 0 && d.off <= math.MaxInt64-d.n && d.n <= math.MaxInt64
}

// activeSequence returns the entries to replay, in their order. It is empty if the log has no
// complete entry.
func (l *ring) activeSequence(id uuid.UUID) ([]*logEntry, error) {
	var best []*logEntry
	for start := int64(0); start < l.n; {
		var run []*logEntry
		at, total := start, int64(0)
		for total < l.n {
			e, err := l.entryAt(at, id)
			if err != nil {
				return nil, err
			}
			if e == nil || len(run) > 0 && e.sequence != run[len(run)-1].sequence+1 || total+e.n > l.n {
				break
			}
			run = append(run, e)
			total += e.n
			at = (at + e.n) % l.n
		}
		if len(run) == 0 {
			start += logSector
			continue
		}
		head := run[len(run)-1]
		tail := slices.IndexFunc(run, func(e *logEntry) bool { return e.at == head.tail })
		if tail >= 0 && (len(best) == 0 || head.sequence > best[len(best)-1].sequence) {
			best = run[tail:]
		}
		start += total
	}
	return best, nil
}

// patch is a change of the log: 4 KiB of a data sector, or zeros.
type patch struct {
	off, n int64
	order  int
	data   int64 // offset of the data sector in the file; -1: zeros
	edges  [12]byte
}

// readPatches returns the changes of the entries, oldest first.
func (l *ring) readPatches(entries []*logEntry) ([]patch, error) {
	var patches []patch
	for _, e := range entries {
		b := make([]byte, e.dataStart())
		if err := l.read(b, e.at); err != nil {
			return nil, err
		}
		data := e.at + e.dataStart()
		for i := range e.descriptors {
			d := decodeDescriptor(b[logEntryStart+i*logDescriptor:])
			p := patch{off: int64(d.off), n: int64(d.n), order: len(patches), data: -1}
			if !d.zero {
				p.data = l.off + data%l.n
				copy(p.edges[:], d.leading[:])
				copy(p.edges[8:], d.trailing[:])
				data += logSector
			}
			if p.n > 0 {
				patches = append(patches, p)
			}
		}
	}
	return patches, nil
}

// replayed is a file with the changes of its log. Bytes after the end of the file are zeros.
type replayed struct {
	r       io.ReaderAt
	length  int64   // of the file
	size    int64   // with the changes
	patches []patch // ordered by offset, without overlaps
}

// newReplayed returns the file with the changes of the log. A later change replaces an earlier
// one.
func newReplayed(r io.ReaderAt, length, size int64, patches []patch) *replayed {
	return &replayed{r: r, length: length, size: size, patches: flatten(patches)}
}

// flatten cuts overlapping patches, so that only the newest remains at each offset.
func flatten(patches []patch) []patch {
	slices.SortStableFunc(patches, func(a, b patch) int { return cmp.Compare(a.off, b.off) })
	var out []patch
	var open patchHeap
	emit := func(p patch, off, end int64) {
		if end <= off {
			return
		}
		q := p
		q.off, q.n = off, end-off // zeros only are cut, because a data patch has one page
		if k := len(out); k > 0 && out[k-1].order == q.order && out[k-1].off+out[k-1].n == q.off && q.data < 0 {
			out[k-1].n += q.n
			return
		}
		out = append(out, q)
	}
	at := int64(0)
	for i := 0; i < len(patches) || len(open) > 0; {
		limit := int64(math.MaxInt64)
		if i < len(patches) {
			limit = patches[i].off
		}
		for len(open) > 0 && at < limit {
			top := open[0]
			end := min(top.off+top.n, limit)
			emit(top, max(at, top.off), end)
			at = max(at, end)
			for len(open) > 0 && open[0].off+open[0].n <= at {
				open.pop()
			}
		}
		if i == len(patches) {
			break
		}
		at = max(at, limit)
		for i < len(patches) && patches[i].off == limit {
			open.push(patches[i])
			i++
		}
		for len(open) > 0 && open[0].off+open[0].n <= at {
			open.pop()
		}
	}
	return out
}

// patchHeap has the newest patch first.
type patchHeap []patch

func (h *patchHeap) push(p patch) {
	*h = append(*h, p)
	s := *h
	for i := len(s) - 1; i > 0; {
		up := (i - 1) / 2
		if s[up].order >= s[i].order {
			return
		}
		s[up], s[i] = s[i], s[up]
		i = up
	}
}

func (h *patchHeap) pop() {
	s := *h
	last := len(s) - 1
	s[0] = s[last]
	s = s[:last]
	*h = s
	for i := 0; ; {
		newest := i
		for _, k := range []int{2*i + 1, 2*i + 2} {
			if k < len(s) && s[k].order > s[newest].order {
				newest = k
			}
		}
		if newest == i {
			return
		}
		s[i], s[newest] = s[newest], s[i]
		i = newest
	}
}

// from is the index of the first patch that ends after off.
func (f *replayed) from(off int64) int {
	i, _ := slices.BinarySearchFunc(f.patches, off, func(p patch, off int64) int {
		if p.off+p.n <= off {
			return -1
		}
		return 1
	})
	return i
}

// changes reports whether the log changes bytes in [off, off+n).
func (f *replayed) changes(off, n int64) bool {
	i := f.from(off)
	return i < len(f.patches) && f.patches[i].off < off+n
}

// Size is the length of the file with the changes.
func (f *replayed) Size() int64 { return f.size }

// ReadAt implements [io.ReaderAt].
func (f *replayed) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at negative offset %d", off)
	}
	var atEnd error
	if off >= f.size {
		return 0, io.EOF
	}
	if int64(len(p)) > f.size-off {
		p, atEnd = p[:f.size-off], io.EOF
	}
	stored := max(0, min(int64(len(p)), f.length-off))
	if stored > 0 {
		if err := readFull(f.r, p[:stored], off); err != nil {
			return 0, err
		}
	}
	clear(p[stored:])
	end := off + int64(len(p))
	for i := f.from(off); i < len(f.patches) && f.patches[i].off < end; i++ {
		x := &f.patches[i]
		from, to := max(off, x.off), min(end, x.off+x.n)
		dst := p[from-off : to-off]
		if x.data < 0 {
			clear(dst)
			continue
		}
		var page [logSector]byte
		if err := readFull(f.r, page[:], x.data); err != nil {
			return 0, err
		}
		copy(page[:8], x.edges[:8])
		copy(page[logSector-4:], x.edges[8:])
		copy(dst, page[from-x.off:])
	}
	return len(p), atEnd
}

// logState describes the log of an image.
type logState struct {
	pending int   // entries to replay
	first   int64 // offset of the first one in the file
	size    int64 // of the file after the replay
}

// readLog reads the log that h describes, in a file of size bytes. It returns the file with the
// changes of the log; that is r if there are none.
func readLog(r io.ReaderAt, size int64, h *Header, at int64) (io.ReaderAt, logState, []finding, error) {
	st := logState{size: size}
	if h.LogGUID == uuid.Nil && h.LogLength == 0 {
		return r, st, nil, nil
	}
	if !validRegion(h.LogOffset, uint64(h.LogLength), size) {
		f := newFinding("log-bounds", disk.Error, at+68, "header: log length and offset",
			fmt.Sprintf("multiples of 1 MiB within the file of %d bytes, after the first MiB", size), "%d and %d", h.LogLength, h.LogOffset)
		f.harmless = h.LogGUID == uuid.Nil
		return r, st, []finding{f}, nil
	}
	if h.LogGUID == uuid.Nil {
		return r, st, nil, nil
	}
	if h.LogVersion != 0 {
		f := newFinding("log-version", disk.Error, at+64, "header: log version", "0", "%d", h.LogVersion)
		f.unsupported = true
		return r, st, []finding{f}, nil
	}
	l := &ring{r, int64(h.LogOffset), int64(h.LogLength)}
	entries, err := l.activeSequence(h.LogGUID)
	if err != nil {
		return nil, st, nil, err
	}
	if len(entries) == 0 {
		return r, st, []finding{newFinding("log-empty", disk.Warning, l.off, "log", "an entry with the log GUID of the header", "none: nothing is to be replayed")}, nil
	}
	st.pending, st.first = len(entries), l.off+entries[0].at
	head := entries[len(entries)-1]
	if head.flushed > uint64(size) {
		return r, st, []finding{newFinding("log-flushed", disk.Error, l.off+head.at+48, "log: flushed file offset",
			fmt.Sprintf("at most %d, the length of the file", size), "%d: the end of the file is missing", head.flushed)}, nil
	}
	if head.last > math.MaxInt64 {
		return r, st, []finding{newFinding("log-last", disk.Error, l.off+head.at+56, "log: last file offset", "less than 8 EiB", "%d", head.last)}, nil
	}
	patches, err := l.readPatches(entries)
	if err != nil {
		return nil, st, nil, err
	}
	st.size = max(size, int64(head.last))
	for i := range patches {
		if patches[i].data >= 0 {
			st.size = max(st.size, patches[i].off+patches[i].n)
		}
	}
	found := []finding{newFinding("log-pending", disk.Warning, st.first, "log", "none, as after a clean shutdown", "%d entries to replay", st.pending)}
	return newReplayed(r, size, st.size, patches), st, found, nil
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }
