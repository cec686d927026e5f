// Package undo saves everything that a repair overwrites in an undo file, so that [Restore] can
// undo the repair.
//
// An undo file is a header and records. The header has the length and the identity of the
// image. When the repair is complete, it also has the length of the image after the repair, and
// the length of the undo file.
//
// Records are of three kinds: original bytes of whole sectors, each sector once; hashes of the
// sectors written over them; and changes of length. Header and records end in a checksum.
// Integers are big-endian.
//
// A record is durable before the bytes that it saves are overwritten. Holes that are cut off
// have no record: extending the file restores them.
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
	// chunk is the maximum number of bytes of a record, and of a read.
	chunk      = 1 << 20
	sectorSize = 512
)

// The kinds of records. Each has an offset in the image and a number of bytes.
const (
	kindData    = iota // original bytes
	kindZeros          // original bytes that are all zeros
	kindWritten        // hashes of sectors that the repair wrote
	kindKept           // hashes of sectors that identify the repaired image
	kindLength         // the image got the offset as its new length
)

// Span is the range [Start, End) of bytes of a file.
type Span struct{ Start, End int64 }

// sectorHash is the hash of a sector, as stored in records.
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
	end      int64    // length of the undo file; 0 during the repair
}

func (h *header) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte(magic), uint64(h.original))
	b = append(b, h.id[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.after))
	return withChecksum(binary.BigEndian.AppendUint64(b, uint64(h.end)))
}

// File saves the bytes that its methods overwrite or cut off. Use it from one goroutine.
type File struct {
	disk.File
	header

	length int64 // current length of the file
	lowest int64 // the shortest length of the file so far
	saved  spans
	log    *os.File
	logged int64 // length of the undo file
}

// Create creates the undo file name, which must not exist, for f. length is the length of f in
// bytes, and id is the unique id of the image in it.
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

// Size returns the length of the file in bytes.
func (f *File) Size() (int64, error) { return disk.FileSize(f.File) }

// FixedLength reports whether the file is a device.
func (f *File) FixedLength() bool { return disk.IsDevice(f.File) }

// Holds returns the underlying file, whose holes can be found.
func (f *File) Holds() io.ReaderAt { return f.File }

// WriteAt saves the bytes that p overwrites, and then writes p.
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

// saveOverwritten appends the bytes that p at off overwrites, and the hashes of the new
// sectors. Past the original length there is nothing to save.
func (f *File) saveOverwritten(p []byte, off int64) error {
	end := off + int64(len(p))
	s := Span{roundDown(off), roundUp(end)}
	before := f.logged
	if err := f.saveSpan(s); err != nil {
		return err
	}
	needsFlush := f.logged > before || s.Start < f.original
	b := make([]byte, s.End-s.Start)
	for _, edge := range []int64{s.Start, s.End - sectorSize} { // sectors that p overwrites partially
		if edge < off || edge+sectorSize > end {
			if err := f.readPadded(b[edge-s.Start:][:sectorSize], edge); err != nil {
				return err
			}
		}
	}
	copy(b[off-s.Start:], p)
	if err := f.append(kindWritten, s.Start, len(b), hashes(b)); err != nil || !needsFlush {
		return err
	}
	return f.log.Sync()
}

// hashes returns the hashes of the sectors of b.
func hashes(b []byte) []byte {
	sums := make([]byte, 0, len(b)/sectorSize*len(sectorHash{}))
	for ; len(b) > 0; b = b[sectorSize:] {
		h := hashOf((*[sectorSize]byte)(b))
		sums = append(sums, h[:]...)
	}
	return sums
}

// readPadded reads p from the file. Bytes past its end are zero.
func (f *File) readPadded(p []byte, off int64) error { return readPadded(f.File, f.length, p, off) }

func readPadded(r io.ReaderAt, length int64, p []byte, off int64) error {
	n := max(0, min(int64(len(p)), length-off))
	clear(p[n:])
	if got, err := r.ReadAt(p[:n], off); int64(got) < n {
		return fmt.Errorf("reading %d bytes at offset %d: %w", n, off, err)
	}
	return nil
}

// Truncate saves the bytes that are cut off, and then truncates the file. Extending a file
// saves nothing.
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

// saveTail appends the bytes of the file from length on, except holes.
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

// saveSpan appends the sectors of s that still have their original bytes and are not saved yet.
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

// withChecksum appends the checksum of b to it.
func withChecksum(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// checked reports whether b ends with its checksum.
func checked(b []byte) bool {
	n := len(b) - 4
	return crc32.ChecksumIEEE(b[:n]) == binary.BigEndian.Uint32(b[n:])
}

// Close completes and closes the undo file. The file that it is for stays open. Restore
// requires the sectors of identify to be unchanged. If nothing was changed, Close removes the
// undo file.
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
