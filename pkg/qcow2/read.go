package qcow2

import (
	"fmt"
	"io"
)

// ReadAt implements [io.ReaderAt]. Errors about the image are a *[FormatError].
func (img *Image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read at negative offset %d", off)
	}
	if off >= img.size {
		return 0, io.EOF
	}
	var atEnd error
	if int64(len(p)) > img.size-off {
		p, atEnd = p[:img.size-off], io.EOF
	}
	done := 0
	for part, err := range img.parts(off, int64(len(p))) {
		if err == nil {
			err = img.readPart(p[done:done+int(part.n)], part)
		}
		if err != nil {
			return done, err
		}
		done += int(part.n)
	}
	return done, atEnd
}

// readPart reads a part of the disk.
func (img *Image) readPart(p []byte, part part) error {
	switch part.kind {
	case stored:
		return img.readStored(p, part)
	case compressed:
		return img.readCompressed(p, part)
	case absent, absentStored:
		return img.readInherited(p, part.off)
	}
	clear(p)
	return nil
}

// readStored reads clusters that are stored as they are. The file may end within the last
// sector of the disk's data.
func (img *Image) readStored(p []byte, part part) error {
	if img.data == nil {
		return img.dataErr
	}
	if part.host >= img.dataLength {
		return img.beyondEnd(part)
	}
	n, err := img.data.ReadAt(p[:min(int64(len(p)), img.dataLength-part.host)], part.host)
	if int64(n) < min(int64(len(p)), img.dataLength-part.host) {
		return readError("guest data", part.host, err)
	}
	if len(p)-n >= int(img.clusterSize) {
		return img.beyondEnd(part)
	}
	clear(p[n:]) // a writer may end the file before the end of its last cluster
	return nil
}

func (img *Image) beyondEnd(p part) error {
	return corrupt(p.host, fmt.Sprintf("cluster of disk offset %d", p.off), fmt.Sprintf("%d bytes at offset %d", p.n, p.host),
		fmt.Sprintf("data within the file of %d bytes", img.dataLength))
}

// readInherited reads from the parent. The disk is zeros after the parent's end, and where
// there is no parent.
func (img *Image) readInherited(p []byte, off int64) error {
	if img.parent == nil {
		if img.header.BackingFile != "" {
			return ErrNoParent
		}
		clear(p)
		return nil
	}
	return readWithin(img.parent, p, off)
}
