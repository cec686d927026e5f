// Package undo saves what a repair overwrites in an undo file, so that [Restore] can
// put it back.
//
// An undo file is a header and records. The header has the length and the identity of
// the file that the undo file belongs to and, once the repair is complete, the length
// of that file after the repair and the length of the undo file itself. Records hold
// the original bytes of whole sectors, each sector once; hashes of what was written
// over them; and changes of length. Header and records end in a checksum. Integers are
// big-endian. A record is durable before what it saves is overwritten. Holes that are
// cut off have no record: making the file as long as it was restores them.
package undo

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

const (
	magic        = "vhdtool undo 2\n\x00"
	headerSize   = len(magic) + 8 + 16 + 8 + 8 + 4
	recordHeader = 1 + 8 + 8 + 4
	// chunk bounds the bytes that a record is about, and that are read at a time.
	chunk      = 1 << 20
	sectorSize = 512
)

// The kinds of records: of n bytes at an offset, these were saved, were zero, became
// what is hashed, or are as hashed when the repair is complete; and the file got the
// offset for its length.
const (
	kindData = iota
	kindZeros
	kindWritten
	kindKept
	kindLength
)

// Span is the bytes [Start, End) of a file.
type Span struct{ Start, End int64 }

// sectorHash is what is kept of a sector that was written.
type sectorHash [8]byte

func hashOf(sector *[sectorSize]byte) sectorHash {
	sum := sha256.Sum256(sector[:])
	return sectorHash(sum[:8])
}

// header is the start of an undo file.
type header struct {
	original int64    // length of the file before the repair
	id       [16]byte // of the image
	after    int64    // length of the file after the repair
	end      int64    // length of the undo file; 0 while the repair goes on
}

func (h *header) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte(magic), uint64(h.original))
	b = append(b, h.id[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.after))
	return withChecksum(binary.BigEndian.AppendUint64(b, uint64(h.end)))
}

// File is a file that saves what it overwrites. It is for one goroutine.
type File struct {
	disk.File
	header

	length int64 // of the file now
	lowest int64 // the shortest length of the file so far
	saved  spans
	log    *os.File
	logged int64 // length of the undo file
}

// Create makes an undo file of that name, which must not exist, for f of length
// bytes, the image with that unique id.
func Create(name string, f disk.File, length int64, id [16]byte) (*File, error) {
	log, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, err
	}
	u := &File{File: f, header: header{original: length, id: id}, length: length, lowest: length, log: log, logged: int64(headerSize)}
	if _, err := log.Write(u.encode()); err != nil {
		log.Close()
		os.Remove(name)
		return nil, err
	}
	return u, nil
}

// Size is the length of the file.
func (f *File) Size() (int64, error) { return disk.FileSize(f.File) }

// FixedLength reports whether the file is a device.
func (f *File) FixedLength() bool { return disk.IsDevice(f.File) }

// Holds is the file itself, so that its holes can be found.
func (f *File) Holds() io.ReaderAt { return f.File }

// WriteAt saves what is overwritten, and then writes.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	written := 0
	for len(p) > 0 {
		n := int(min(int64(len(p)), chunk-off%sectorSize))
		if err := f.saveOverwritten(p[:n], off); err != nil {
			return written, err
		}
		w, err := f.File.WriteAt(p[:n], off)
		f.length = max(f.length, off+int64(w))
		written += w
		if err != nil {
			return written, err
		}
		p, off = p[n:], off+int64(n)
	}
	return written, nil
}

// saveOverwritten appends what p at off replaces, and the hashes of the sectors that
// p makes. Behind the original length there is nothing to save.
func (f *File) saveOverwritten(p []byte, off int64) error {
	end := off + int64(len(p))
	s := Span{roundDown(off), roundUp(end)}
	before := f.logged
	if err := f.saveSpan(s); err != nil {
		return err
	}
	must := f.logged > before || s.Start < f.original
	b := make([]byte, s.End-s.Start)
	for _, edge := range []int64{s.Start, s.End - sectorSize} { // sectors that p covers in part
		if edge < off || edge+sectorSize > end {
			if err := f.readPadded(b[edge-s.Start:][:sectorSize], edge); err != nil {
				return err
			}
		}
	}
	copy(b[off-s.Start:], p)
	if err := f.append(kindWritten, s.Start, len(b), hashes(b)); err != nil || !must {
		return err
	}
	return f.log.Sync()
}

// hashes are those of the sectors of b.
func hashes(b []byte) []byte {
	sums := make([]byte, 0, len(b)/sectorSize*len(sectorHash{}))
	for ; len(b) > 0; b = b[sectorSize:] {
		h := hashOf((*[sectorSize]byte)(b))
		sums = append(sums, h[:]...)
	}
	return sums
}

// readPadded reads p from the file; what is behind the end is zero.
func (f *File) readPadded(p []byte, off int64) error { return readPadded(f.File, f.length, p, off) }

func readPadded(r io.ReaderAt, length int64, p []byte, off int64) error {
	n := max(0, min(int64(len(p)), length-off))
	clear(p[n:])
	if got, err := r.ReadAt(p[:n], off); int64(got) < n {
		return fmt.Errorf("reading %d bytes at offset %d: %w", n, off, err)
	}
	return nil
}

// Truncate saves what is cut off, and then cuts. A file that becomes longer loses
// nothing.
func (f *File) Truncate(length int64) error {
	if length < f.length {
		if err := f.saveTail(length); err != nil {
			return err
		}
	}
	if err := f.append(kindLength, length, 0, nil); err != nil {
		return err
	}
	if err := f.log.Sync(); err != nil {
		return err
	}
	if err := f.File.Truncate(length); err != nil {
		return err
	}
	f.length, f.lowest = length, min(f.lowest, length)
	return nil
}

// saveTail appends what a file that is cut to length loses, but for its holes.
func (f *File) saveTail(length int64) error {
	if edge := roundDown(length); edge < length {
		if err := f.saveSpan(Span{edge, edge + sectorSize}); err != nil {
			return err
		}
		var b [sectorSize]byte
		if err := f.readPadded(b[:length-edge], edge); err != nil {
			return err
		}
		if err := f.append(kindWritten, edge, sectorSize, hashes(b[:])); err != nil {
			return err
		}
	}
	holes := filesystem.NewHoleMap(f.File)
	limit := min(f.length, f.original)
	for off := length; off < limit; {
		end, data, err := holes.At(off, limit)
		if err == nil && data {
			err = f.saveSpan(Span{roundDown(off), roundUp(end)})
		}
		if err != nil {
			return err
		}
		off = end
	}
	return nil
}

// saveSpan appends the bytes of whole sectors that are still those of the original file
// and are not saved yet.
func (f *File) saveSpan(s Span) error {
	s.End = min(s.End, roundUp(min(f.original, f.lowest)))
	for _, gap := range f.saved.missing(s) {
		if err := f.saveBytes(gap.Start, min(gap.End, f.original)); err != nil {
			return err
		}
		f.saved.add(gap)
	}
	return nil
}

// saveBytes appends the bytes [off, end) of the file.
func (f *File) saveBytes(off, end int64) error {
	buf := make([]byte, min(end-off, chunk))
	for ; off < end; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), end-off)]
		if n, err := f.File.ReadAt(buf, off); n < len(buf) {
			return fmt.Errorf("saving %d bytes at offset %d: %w", len(buf), off, err)
		}
		kind, data := byte(kindZeros), []byte(nil)
		if len(bytes.TrimLeft(buf, "\x00")) > 0 {
			kind, data = kindData, buf
		}
		if err := f.append(kind, off, len(buf), data); err != nil {
			return err
		}
	}
	return nil
}

// append writes a record to the undo file.
func (f *File) append(kind byte, off int64, n int, data []byte) error {
	rec := binary.BigEndian.AppendUint64([]byte{kind}, uint64(off))
	rec = withChecksum(binary.BigEndian.AppendUint64(rec, uint64(n)))
	rec = withChecksum(append(rec, data...))
	if _, err := f.log.Write(rec); err != nil {
		return fmt.Errorf("%s: %w", f.log.Name(), err)
	}
	f.logged += int64(len(rec))
	return nil
}

// withChecksum appends the checksum of all that is before it.
func withChecksum(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// checked reports whether b ends in its checksum.
func checked(b []byte) bool {
	n := len(b) - 4
	return crc32.ChecksumIEEE(b[:n]) == binary.BigEndian.Uint32(b[n:])
}

// Close completes the undo file and closes it; the file it is for stays open. The
// sectors of identify are what tells the repaired image from others: Restore wants
// them to be unchanged. If nothing was changed, Close removes the undo file.
func (f *File) Close(identify ...Span) error {
	if f.logged == int64(headerSize) {
		f.log.Close()
		return os.Remove(f.log.Name())
	}
	err := f.complete(identify)
	if cerr := f.log.Close(); err == nil {
		err = cerr
	}
	return err
}

func (f *File) complete(identify []Span) error {
	for _, s := range identify {
		b := make([]byte, roundUp(s.End)-roundDown(s.Start))
		if err := f.readPadded(b, roundDown(s.Start)); err != nil {
			return err
		}
		if err := f.append(kindKept, roundDown(s.Start), len(b), hashes(b)); err != nil {
			return err
		}
	}
	if err := f.log.Sync(); err != nil {
		return err
	}
	f.after, f.end = f.length, f.logged
	if _, err := f.log.WriteAt(f.encode(), 0); err != nil {
		return err
	}
	return f.log.Sync()
}
