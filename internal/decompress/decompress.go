// Package decompress detects compressed data by its magic number and decompresses it.
package decompress

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// maxWindow limits the memory that a stream can request. It is the largest window of the
// compressors at their highest levels, such as zstd --ultra --long=27 and xz -9e.
const maxWindow = 128 << 20

// MagicSize is the number of bytes that Format needs.
const MagicSize = 10

// Format returns the name of the compression of data that starts with b, or "" if it is not
// compressed.
func Format(b []byte) string {
	switch {
	case bytes.HasPrefix(b, []byte{0x1f, 0x8b, 8}):
		return "gzip"
	// The magic number of bzip2 is followed by a block or the end of the stream.
	case len(b) >= 10 && bytes.HasPrefix(b, []byte("BZh")) && b[3] >= '1' && b[3] <= '9' &&
		(string(b[4:10]) == "1AY&SY" || string(b[4:10]) == "\x17\x72\x45\x38\x50\x90"):
		return "bzip2"
	case bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return "zstd"
	case bytes.HasPrefix(b, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return "xz"
	}
	return ""
}

// NewReader returns a reader of the decompressed data, and the name of the compression. Data
// that is not compressed is returned unchanged, with the name "". Reading damaged or truncated
// data returns an error.
func NewReader(r io.Reader) (io.Reader, string, error) {
	br := bufio.NewReaderSize(r, 1<<16)
	magic, err := br.Peek(MagicSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", err
	}
	name := Format(magic)
	var out io.Reader
	switch name {
	case "gzip":
		out, err = gzip.NewReader(br)
	case "bzip2":
		out = bzip2.NewReader(br)
	case "zstd":
		out, err = zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(2))
	case "xz":
		out, err = xz.NewReader(br, maxWindow)
	default:
		return br, "", nil
	}
	if err != nil {
		return nil, name, streamError(name, err)
	}
	return &reader{out, name}, name, nil
}

// reader adds the name of the compression to errors.
type reader struct {
	io.Reader
	name string
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF { // io.EOF must stay unwrapped
		err = streamError(r.name, err)
	}
	return n, err
}

// streamError adds the name of the compression. It reports truncated data as
// io.ErrUnexpectedEOF.
func streamError(name string, err error) error {
	if errors.Is(err, xz.ErrBuf) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%s data: %w", name, err)
}
