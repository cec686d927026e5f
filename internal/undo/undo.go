// Package undo keeps what is about to be overwritten in a file, so that it can
// be put back.
//
// An undo file is a header (a magic, the length of the file it is for, and a
// checksum) and records: a kind, offset and length, and a checksum of these; the
// bytes that were there if they were not all zero; and a checksum of all. Integers are
// big-endian. A record is durable before what it saves is overwritten. Holes that are
// cut off have no record: making the file as long as it was restores them.
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

	"github.com/vhdtool/vhdtool/internal/sparse"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

const (
	magic        = "vhdtool undo 1\n\x00"
	headerSize   = len(magic) + 8 + 4
	recordHeader = 1 + 8 + 8 + 4
	// chunk bounds what is read at a time, and so the length of a record.
	chunk = 1 << 20

	kindData  = 0
	kindZeros = 1
	kindCut   = 2 // the file was cut to the offset; the data that went is in the records before
)

// File is a file that saves what it overwrites. It is for one goroutine.
type File struct {
	disk.File
	length int64 // of the file now
	log    *os.File
}

// Create makes an undo file of that name, which must not exist, for f of length
// bytes.
func Create(name string, f disk.File, length int64) (*File, error) {
	log, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, err
	}
	header := withChecksum(binary.BigEndian.AppendUint64([]byte(magic), uint64(length)))
	if _, err := log.Write(header); err != nil {
		log.Close()
		os.Remove(name)
		return nil, err
	}
	return &File{f, length, log}, nil
}

// Size is the length of the file.
func (f *File) Size() (int64, error) { return disk.FileSize(f.File) }

// FixedLength reports whether the file is a device.
func (f *File) FixedLength() bool { return disk.IsDevice(f.File) }

// Holds is the file itself, so that its holes can be found.
func (f *File) Holds() io.ReaderAt { return f.File }

// WriteAt saves what stands there, and then writes.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	if err := f.save(off, min(off+int64(len(p)), f.length)); err != nil {
		return 0, err
	}
	n, err := f.File.WriteAt(p, off)
	f.length = max(f.length, off+int64(n))
	return n, err
}

// Truncate saves what is cut off, and then cuts.
func (f *File) Truncate(length int64) error {
	if err := f.saveTail(length); err != nil {
		return err
	}
	if err := f.File.Truncate(length); err != nil {
		return err
	}
	f.length = length
	return nil
}

// save appends the bytes [off, end) of the file to the undo file.
func (f *File) save(off, end int64) error {
	if off >= end {
		return nil
	}
	if err := f.record(off, end); err != nil {
		return err
	}
	return f.log.Sync()
}

// saveTail appends what a file that is cut to length loses, but for its holes.
func (f *File) saveTail(length int64) error {
	if length >= f.length {
		return nil
	}
	holes := sparse.NewMap(f.File)
	for off := length; off < f.length; {
		end, data, err := holes.At(off, f.length)
		if err == nil && data {
			err = f.record(off, end)
		}
		if err != nil {
			return err
		}
		off = end
	}
	if err := f.append(kindCut, length, 0, nil); err != nil {
		return err
	}
	return f.log.Sync()
}

// record appends the bytes [off, end) of the file.
func (f *File) record(off, end int64) error {
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

// Close closes the undo file; the file it is for stays open.
func (f *File) Close() error { return f.log.Close() }

// Restore puts back what an undo file has saved of f. It reads the undo file to
// its end before it writes anything; a last record that is cut short belongs to
// a write that was not made.
func Restore(f disk.File, name string) error {
	log, err := os.Open(name)
	if err != nil {
		return err
	}
	defer log.Close()
	st, err := log.Stat()
	if err != nil {
		return err
	}
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(log, header); err != nil || string(header[:len(magic)]) != magic {
		return fmt.Errorf("%s: not an undo file", name)
	}
	if !checked(header) {
		return fmt.Errorf("%s: damaged: the checksum of its header is wrong", name)
	}
	length := int64(binary.BigEndian.Uint64(header[len(magic):]))
	if length < 0 {
		return fmt.Errorf("%s: damaged: a file of %d bytes", name, length)
	}
	places, err := records(log, st.Size())
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for i := len(places) - 1; i >= 0; i-- {
		rec, err := readRecord(io.NewSectionReader(log, places[i], st.Size()-places[i]))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		switch {
		case !rec.cut:
			_, err = f.WriteAt(rec.data, rec.off)
		case !disk.IsDevice(f):
			err = f.Truncate(rec.off)
		}
		if err != nil {
			return err
		}
	}
	if !disk.IsDevice(f) {
		if err := f.Truncate(length); err != nil {
			return err
		}
	}
	return f.Sync()
}

// records returns where the whole records of an undo file of size bytes start.
func records(log io.ReaderAt, size int64) ([]int64, error) {
	var places []int64
	for at := int64(headerSize); at < size; {
		rec, err := readRecord(bufio.NewReader(io.NewSectionReader(log, at, size-at)))
		if errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("record at offset %d: %w", at, err)
		}
		places = append(places, at)
		at += rec.size
	}
	return places, nil
}

type record struct {
	off  int64
	data []byte
	cut  bool  // the file was cut to off
	size int64 // in the undo file
}

func readRecord(r io.Reader) (record, error) {
	b := make([]byte, recordHeader)
	if _, err := io.ReadFull(r, b); err != nil {
		return record{}, io.ErrUnexpectedEOF
	}
	if !checked(b) {
		return record{}, errors.New("damaged: its checksum is wrong")
	}
	off, n := int64(binary.BigEndian.Uint64(b[1:])), binary.BigEndian.Uint64(b[9:])
	if off < 0 || n > chunk || b[0] > kindCut {
		return record{}, errors.New("damaged")
	}
	rec := record{off: off, data: make([]byte, n), cut: b[0] == kindCut, size: recordHeader + 4}
	sum := crc32.ChecksumIEEE(b)
	if b[0] == kindData {
		if _, err := io.ReadFull(r, rec.data); err != nil {
			return record{}, io.ErrUnexpectedEOF
		}
		sum = crc32.Update(sum, crc32.IEEETable, rec.data)
		rec.size += int64(n)
	}
	var want [4]byte
	if _, err := io.ReadFull(r, want[:]); err != nil {
		return record{}, io.ErrUnexpectedEOF
	}
	if sum != binary.BigEndian.Uint32(want[:]) {
		return record{}, errors.New("damaged: its checksum is wrong")
	}
	return rec, nil
}
