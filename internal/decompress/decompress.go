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
	"github.com/ulikunitz/xz"
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
	case len(b) >= 10 && bytes.HasPrefix(b, []byte("BZh")) && b[3] >= '1' && b[3] <= '9' && string(b[4:10]) == "1AY&SY":
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
		if err = checkXZWindow(br); err == nil {
			out, err = xz.NewReader(br)
		}
	default:
		return br, "", nil
	}
	if err != nil {
		return nil, name, fmt.Errorf("%s data: %w", name, err)
	}
	return &reader{out, name}, name, nil
}

// checkXZWindow refuses streams whose first block wants a larger dictionary
// than any preset of xz does: it would be allocated before anything is read.
// (The .xz File Format, sections 2.1.1, 3.1 and 5.3.1.)
func checkXZWindow(br *bufio.Reader) error {
	const streamHeader, lzma2 = 12, 0x21
	b, err := br.Peek(streamHeader + 2)
	if err != nil || b[streamHeader] == 0 {
		return nil // truncated, or without blocks: the decoder will say
	}
	b, err = br.Peek(streamHeader + (int(b[streamHeader])+1)*4)
	if err != nil {
		return nil // as above
	}
	header := b[streamHeader:]
	i := bytes.Index(header[2:], []byte{lzma2, 1})
	if i < 0 || 2+i+2 >= len(header) {
		return nil
	}
	bits := header[2+i+2]
	if size := int64(2|bits&1) << (bits/2 + 11); bits > 40 || size > maxWindow {
		return fmt.Errorf("dictionary of more than %d MiB", maxWindow>>20)
	}
	return nil
}

// reader names the compression in errors, and calls an early end by its name.
type reader struct {
	io.Reader
	name string
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF { // EOF itself ends the data
		err = fmt.Errorf("%s data: %w", r.name, err)
	}
	return n, err
}
