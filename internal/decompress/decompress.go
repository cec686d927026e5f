// Package decompress recognises compressed data by its magic and decompresses
// it on the way.
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

// maxWindow bounds the memory that a stream can ask for: the largest windows
// that the compressors use at their highest levels, zstd's --ultra --long=27
// and xz -9e among them.
const maxWindow = 128 << 20

// MagicSize is how many bytes Format needs to see.
const MagicSize = 10

// Format returns the name of the compression that data starting with b has, or
// "" for none.
func Format(b []byte) string {
	switch {
	case bytes.HasPrefix(b, []byte{0x1f, 0x8b, 8}):
		return "gzip"
	case len(b) >= 10 && bytes.HasPrefix(b, []byte("BZh")) && b[3] >= '1' && b[3] <= '9' &&
		(string(b[4:10]) == "1AY&SY" || string(b[4:10]) == "\x17\x72\x45\x38\x50\x90"): // a block, or none
		return "bzip2"
	case bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return "zstd"
	case bytes.HasPrefix(b, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return "xz"
	}
	return ""
}

// NewReader returns a reader of the decompressed data, and the name of the
// compression; data that is not compressed is passed on as it is. Reading fails
// where the data is damaged, or ends too early.
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

// reader names the compression in errors.
type reader struct {
	io.Reader
	name string
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF { // EOF itself ends the data
		err = streamError(r.name, err)
	}
	return n, err
}

// streamError names the compression, and calls an early end by its name.
func streamError(name string, err error) error {
	if errors.Is(err, xz.ErrBuf) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%s data: %w", name, err)
}
