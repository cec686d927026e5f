package vhd

import (
	"errors"
	"io"

	"github.com/google/uuid"
)

// Identity identifies an image, and distinguishes its versions before and after a change.
type Identity struct {
	UniqueID uuid.UUID
	// Metadata has the offsets [start, end) in the file of the footers and the header.
	Metadata [][2]int64
}

// Identify returns the identity of the image in a file of size bytes. It accepts a damaged
// image with at least one footer. For other files the error is ErrNotVHD or a [FormatError].
func Identify(r io.ReaderAt, size int64) (Identity, error) {
	fs, err := locateFooters(r, size)
	if err != nil {
		return Identity{}, err
	}
	footer, err := fs.ignoringChecksum()
	if errors.Is(err, ErrNotVHD) {
		l, err := findLostFixed(r, size)
		if err == nil && l == nil {
			err = ErrNotVHD
		}
		if err != nil {
			return Identity{}, err
		}
		return l.identity(r)
	}
	if err != nil {
		return Identity{}, err
	}
	id := Identity{UniqueID: footer.UniqueID}
	for _, c := range []*footerCopy{&fs.leading, &fs.trailing} {
		if c.marked() {
			id.Metadata = append(id.Metadata, [2]int64{c.off, min(c.off+footerSize, size)})
		}
	}
	if at := footer.DataOffset; footer.Type != Fixed && size > headerSize && at <= uint64(size-headerSize) {
		id.Metadata = append(id.Metadata, [2]int64{int64(at), int64(at) + headerSize})
	}
	return id, nil
}
