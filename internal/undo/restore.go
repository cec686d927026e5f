package undo

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// ErrMismatch: the undo file is not for what the file holds now.
var ErrMismatch = errors.New("the undo file does not belong to the image as it is now")

// Restore makes f, the image with that unique id, what it was before the repair that
// wrote the undo file. It verifies everything before it writes anything: that the undo
// file is whole, and that f is what the repair made of it. A sector that holds what was
// there before the repair is accepted, so that a restore that was interrupted can be
// repeated.
//
// A repair that was killed leaves an undo file without an end. Restore accepts it, since
// the image must hold what the records say.
//
// A file that became longer is cut before anything else is written, and one that became
// shorter gets its tail back before anything is overwritten. If there is no space for
// the tail, f stays as the repair left it.
//
// Errors about the undo file begin with its name. They wrap ErrMismatch if f is another
// image, or was changed since.
func Restore(f disk.File, name string, id [16]byte) error {
	r, err := openUndo(f, name)
	if err != nil {
		return err
	}
	defer r.log.Close()
	if err := r.verify(id); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return r.restore()
}

// restorer is an undo file that was read, and the file it is for.
type restorer struct {
	header

	f       disk.File
	device  bool
	length  int64 // of the file now
	log     *os.File
	saved   []record // by offset after verify
	hashed  []record
	lengths Span  // the shortest and the longest length that the file has had
	lowest  int64 // the shortest length since the repair began
}

// record is a record without its data.
type record struct {
	kind byte
	span Span  // in the file
	data int64 // offset of the data in the undo file
	size int64 // in the undo file
}

// openUndo reads and checks an undo file to its end.
func openUndo(f disk.File, name string) (*restorer, error) {
	log, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	r := &restorer{f: f, device: disk.IsDevice(f), log: log}
	if r.length, err = disk.FileSize(f); err == nil {
		if err = r.read(); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
	}
	if err != nil {
		log.Close()
		return nil, err
	}
	return r, nil
}

// errCut: the undo file ends in a record.
var errCut = errors.New("record is cut short")

func (r *restorer) read() error {
	st, err := r.log.Stat()
	if err != nil {
		return err
	}
	b := make([]byte, headerSize)
	if _, err := io.ReadFull(r.log, b); err != nil || string(b[:len(magic)]) != magic {
		return errors.New("not an undo file")
	}
	if !checked(b) {
		return errors.New("damaged: the checksum of its header is wrong")
	}
	at := b[len(magic):]
	r.original, r.id = int64(binary.BigEndian.Uint64(at)), [16]byte(at[8:])
	r.after, r.end = int64(binary.BigEndian.Uint64(at[24:])), int64(binary.BigEndian.Uint64(at[32:]))
	size := st.Size()
	switch {
	case r.original < 0 || r.after < 0 || r.end < 0:
		return fmt.Errorf("damaged: a file of %d bytes, and %d after the repair", r.original, r.after)
	case r.end > size:
		return fmt.Errorf("cut short: found %d bytes, wanted %d", size, r.end)
	case r.end > 0 && r.end < size:
		return fmt.Errorf("damaged: found %d bytes, wanted %d", size, r.end)
	}
	r.lengths, r.lowest = Span{r.original, r.original}, r.original
	for at := int64(headerSize); at < size; {
		rec, err := readRecord(r.log, at, size)
		if errors.Is(err, errCut) && r.end == 0 {
			break // it belongs to a write that was not made
		}
		if err != nil {
			return fmt.Errorf("record at offset %d: %w", at, err)
		}
		r.note(rec)
		at += rec.size
	}
	return nil
}

// note files a record by its kind, and follows the length of the file.
func (r *restorer) note(rec record) {
	switch rec.kind {
	case kindData, kindZeros:
		r.saved = append(r.saved, rec)
		return
	case kindLength:
		r.lowest = min(r.lowest, rec.span.Start)
	default:
		r.hashed = append(r.hashed, rec)
	}
	r.lengths = Span{min(r.lengths.Start, rec.span.Start), max(r.lengths.End, rec.span.End)}
	r.lengths.Start = min(r.lengths.Start, r.lowest)
}

func readRecord(log io.ReaderAt, at, size int64) (record, error) {
	in := bufio.NewReader(io.NewSectionReader(log, at, size-at))
	b := make([]byte, recordHeader)
	if _, err := io.ReadFull(in, b); err != nil {
		return record{}, errCut
	}
	if !checked(b) {
		return record{}, errors.New("damaged: its checksum is wrong")
	}
	off, n := int64(binary.BigEndian.Uint64(b[1:])), int64(binary.BigEndian.Uint64(b[9:]))
	if off < 0 || n < 0 || n > chunk+sectorSize || off > 1<<62 || b[0] > kindLength {
		return record{}, errors.New("damaged")
	}
	rec := record{kind: b[0], span: Span{off, off + n}, data: at + recordHeader}
	data := int64(0)
	switch rec.kind {
	case kindData:
		data = n
	case kindWritten, kindKept:
		if off%sectorSize != 0 || n%sectorSize != 0 {
			return record{}, errors.New("damaged")
		}
		data = n / sectorSize * int64(len(sectorHash{}))
	}
	sum := crc32.NewIEEE()
	_, _ = sum.Write(b)
	if m, err := io.CopyN(sum, in, data); m < data {
		if errors.Is(err, io.EOF) {
			err = errCut
		}
		return record{}, err
	}
	var want [4]byte
	if _, err := io.ReadFull(in, want[:]); err != nil {
		return record{}, errCut
	}
	if sum.Sum32() != binary.BigEndian.Uint32(want[:]) {
		return record{}, errors.New("damaged: its checksum is wrong")
	}
	rec.size = recordHeader + data + 4
	return rec, nil
}

// verify compares the file with what the repair left.
func (r *restorer) verify(id [16]byte) error {
	if id != r.id {
		return fmt.Errorf("%w: it is for the image with unique id %v, found %v", ErrMismatch, uuid.UUID(r.id), uuid.UUID(id))
	}
	complete := r.end > 0
	switch {
	case r.device && r.length < r.original,
		!r.device && complete && r.length != r.after && r.length != r.original:
		return fmt.Errorf("%w: found %d bytes, wanted %d as after the repair", ErrMismatch, r.length, r.after)
	case !r.device && !complete && (r.length < r.lengths.Start || r.length > r.lengths.End):
		return fmt.Errorf("%w: found %d bytes, wanted %d to %d as during the repair", ErrMismatch, r.length, r.lengths.Start, r.lengths.End)
	}
	var touched spans
	for _, rec := range slices.Concat(r.hashed, r.saved) {
		touched.add(Span{roundDown(rec.span.Start), roundUp(rec.span.End)})
	}
	known := newSectorSet(touched)
	for _, rec := range r.hashed {
		sums := make([]byte, (rec.span.End-rec.span.Start)/sectorSize*int64(len(sectorHash{})))
		if _, err := r.log.ReadAt(sums, rec.data); err != nil {
			return err
		}
		err := r.compare(rec.span, known, func(i int64, b *[sectorSize]byte) bool {
			h := hashOf(b)
			return bytes.Equal(h[:], sums[i*int64(len(h)):][:len(h)])
		})
		if err != nil {
			return err
		}
	}
	for _, rec := range r.saved {
		b, err := r.data(rec)
		if err != nil {
			return err
		}
		err = r.compare(rec.span, known, func(i int64, now *[sectorSize]byte) bool {
			// Of the last sector of a torn file, what follows is not the original's.
			return bytes.HasPrefix(now[:], b[i*sectorSize:min(int64(len(b)), (i+1)*sectorSize)])
		})
		if err != nil {
			return err
		}
	}
	// What was cut off, or is behind the original length, may be zero.
	err := r.compareAll(known, Span{roundUp(r.lowest), r.length}, func(b *[sectorSize]byte) bool { return *b == [sectorSize]byte{} })
	if err != nil {
		return err
	}
	for at := range known.unknown(Span{0, r.length}) {
		return changedSince(at)
	}
	if !complete || r.device {
		return nil // what was written behind the end may not be recorded
	}
	return r.nothingElse(touched)
}

func changedSince(at int64) error {
	return fmt.Errorf("%w: the sector at offset %d was changed after the repair", ErrMismatch, at)
}

// compare adds the sectors of s for which same returns true to known; i counts them
// from the start of s.
func (r *restorer) compare(s Span, known *sectorSet, same func(i int64, b *[sectorSize]byte) bool) error {
	b := make([]byte, roundUp(s.End)-roundDown(s.Start))
	if err := readPadded(r.f, r.length, b, s.Start); err != nil {
		return err
	}
	for i := int64(0); len(b) > 0; i, b = i+1, b[sectorSize:] {
		if same(i, (*[sectorSize]byte)(b)) {
			known.add(s.Start + i*sectorSize)
		}
	}
	return nil
}

// compareAll is compare for the sectors of the set in s that are not known yet.
func (r *restorer) compareAll(known *sectorSet, s Span, same func(b *[sectorSize]byte) bool) error {
	for at := range known.unknown(s) {
		err := r.compare(Span{at, at + sectorSize}, known, func(_ int64, b *[sectorSize]byte) bool { return same(b) })
		if err != nil {
			return err
		}
	}
	return nil
}

// nothingElse returns an error if there is data behind the original length that the
// repair has not written: cutting the file would lose it.
func (r *restorer) nothingElse(touched spans) error {
	holes := filesystem.NewHoleMap(r.f)
	buf := make([]byte, 64<<10)
	for _, gap := range touched.missing(Span{roundUp(r.original), r.length}) {
		for off := gap.Start; off < gap.End; {
			end, data, err := holes.At(off, gap.End)
			if err != nil {
				return err
			}
			if !data {
				off = end
				continue
			}
			b := buf[:min(int64(len(buf)), end-off)]
			if err := readPadded(r.f, r.length, b, off); err != nil {
				return err
			}
			if rest := bytes.TrimLeft(b, "\x00"); len(rest) > 0 {
				return changedSince(roundDown(off + int64(len(b)-len(rest))))
			}
			off += int64(len(b))
		}
	}
	return nil
}

// data reads what a record has saved.
func (r *restorer) data(rec record) ([]byte, error) {
	b := make([]byte, rec.span.End-rec.span.Start)
	if rec.kind == kindZeros {
		return b, nil
	}
	_, err := r.log.ReadAt(b, rec.data)
	return b, err
}

// restore puts everything back.
func (r *restorer) restore() error {
	slices.SortFunc(r.saved, func(a, b record) int { return int(min(1, max(-1, a.span.Start-b.span.Start))) })
	if n := len(r.saved); n > 0 && r.length > r.original && r.saved[n-1].span.End%sectorSize != 0 {
		// A cut through a sector would leave one that verify does not know.
		if err := r.put(r.saved[n-1]); err != nil {
			return err
		}
	}
	if !r.device && r.length != r.original {
		if err := r.f.Truncate(r.original); err != nil {
			return err
		}
	}
	for _, rec := range r.saved {
		if rec.span.Start < r.length {
			continue
		}
		if err := r.put(rec); err != nil {
			if r.length < r.original {
				_ = r.f.Truncate(r.length)
			}
			return err
		}
	}
	var saved spans
	for _, rec := range r.saved {
		saved.add(rec.span)
		if rec.span.Start < r.length {
			if err := r.put(rec); err != nil {
				return err
			}
		}
	}
	if !r.device { // holes that were cut off, and written over
		for _, hole := range saved.missing(Span{r.lowest, min(r.length, r.original)}) {
			if err := filesystem.Zero(r.f, hole.Start, hole.End-hole.Start); err != nil {
				return err
			}
		}
	}
	return r.f.Sync()
}

// put writes what a record has saved. Zeros become a hole where the system allows it.
func (r *restorer) put(rec record) error {
	if rec.kind == kindZeros {
		return filesystem.Zero(r.f, rec.span.Start, rec.span.End-rec.span.Start)
	}
	b, err := r.data(rec)
	if err != nil {
		return err
	}
	_, err = r.f.WriteAt(b, rec.span.Start)
	return err
}
