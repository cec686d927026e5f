package decompress

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/ulikunitz/xz"
)

// xzReader reads xz streams one by one. The package that decompresses them
// takes a stream that is cut in the wrong place for one that has ended, and
// gives every stream the memory it asks for: so both are looked at here, between
// streams. (The .xz File Format, sections 2.1 and 2.2.)
type xzReader struct {
	in *tailReader
	r  *xz.Reader
}

func newXZReader(br *bufio.Reader) (*xzReader, error) {
	x := &xzReader{in: &tailReader{Reader: br}}
	return x, x.nextStream()
}

// nextStream starts with the stream that begins here.
func (x *xzReader) nextStream() error {
	if err := checkXZWindow(x.in.Reader); err != nil {
		return err
	}
	var err error
	x.r, err = xz.ReaderConfig{SingleStream: true}.NewReader(x.in)
	return err
}

// moreData is what the decompressor says when it has read a byte behind the end
// of its stream.
const moreData = "xz: unexpected data after stream"

// Read implements [io.Reader].
func (x *xzReader) Read(p []byte) (int, error) {
	n, err := x.r.Read(p)
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		// A last read that got less than it asked for ran into the end.
		if !x.in.endedStream(0) || x.in.short {
			return n, io.ErrUnexpectedEOF
		}
		return n, io.EOF
	case err.Error() != moreData:
		return n, err
	}
	if !x.in.endedStream(1) {
		return n, errors.New("damaged: a stream ends before its footer")
	}
	if err := x.in.UnreadByte(); err != nil {
		return n, err
	}
	for { // padding
		b, err := x.in.Peek(4)
		if errors.Is(err, io.EOF) && len(b) == 0 {
			return n, io.EOF
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return n, err
		}
		if !bytes.Equal(b, make([]byte, 4)) {
			return n, x.nextStream()
		}
		if _, err := x.in.Discard(4); err != nil {
			return n, err
		}
	}
}

// tailReader remembers the last bytes that it has read.
type tailReader struct {
	*bufio.Reader
	last  [3]byte
	short bool // the last read that got anything got less than it asked for
}

func (t *tailReader) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	if n > 0 {
		t.short = n < len(p)
	}
	tail := append(t.last[:], p[:n]...)
	copy(t.last[:], tail[len(tail)-len(t.last):])
	return n, err
}

func (t *tailReader) ReadByte() (byte, error) {
	b, err := t.Reader.ReadByte()
	if err == nil {
		t.last = [3]byte{t.last[1], t.last[2], b}
	}
	return b, err
}

// endedStream reports whether the footer of a stream was read before the last
// few bytes.
func (t *tailReader) endedStream(before int) bool {
	end := len(t.last) - before
	return string(t.last[end-2:end]) == "YZ"
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
