package qcow2

import (
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/vhdtool/vhdtool/internal/inflate"
)

// readCompressed reads a part of a compressed cluster. A whole cluster is decompressed into
// p; otherwise the cluster is kept, because the rest of it is probably read next.
func (img *Image) readCompressed(p []byte, part part) error {
	if int64(len(p)) == img.clusterSize {
		return img.unpack(p, part)
	}
	b, err := img.unpacked.get(part.host, func(b []byte) error { return img.unpack(b, part) })
	if err != nil {
		return err
	}
	copy(p, b[part.off&(img.clusterSize-1):])
	return nil
}

// packedBuffers holds buffers for compressed clusters.
var packedBuffers = sync.Pool{New: func() any { return new([]byte) }}

// unpack decompresses a cluster into p, which has the cluster's size.
func (img *Image) unpack(p []byte, part part) error {
	fail := func(got, want string) error {
		return corrupt(part.host, fmt.Sprintf("compressed cluster of disk offset %d", part.off&^(img.clusterSize-1)), got, want)
	}
	if part.host >= img.length {
		return fail("an offset after the end of the file", fmt.Sprintf("data within the file of %d bytes", img.length))
	}
	// The last sector of the range may be cut: only the writer knows where the data ends.
	n := min(part.length, img.length-part.host)
	buf := packedBuffers.Get().(*[]byte)
	defer packedBuffers.Put(buf)
	if int64(cap(*buf)) < n {
		*buf = make([]byte, n)
	}
	b := (*buf)[:n]
	if k, err := img.r.ReadAt(b, part.host); int64(k) < n {
		return readError("compressed cluster", part.host, err)
	}
	if err := img.header.Compression.unpack(p, b); err != nil {
		return fail(err.Error(), fmt.Sprintf("%v data of %d bytes", img.header.Compression, img.clusterSize))
	}
	return nil
}

// unpack fills p with the data that b starts with.
func (c Compression) unpack(p, b []byte) error {
	if c == Zstd {
		return unpackZstd(p, b)
	}
	return unpackDeflate(p, b)
}

// inflaters holds states of the deflate decoder.
var inflaters = sync.Pool{New: func() any { return new(inflate.Decoder) }}

// unpackDeflate fills p with the start of what b holds.
func unpackDeflate(p, b []byte) error {
	d := inflaters.Get().(*inflate.Decoder)
	defer inflaters.Put(d)
	return d.Decode(p, b)
}

// zstdDecoder decodes whole frames for any number of goroutines.
var zstdDecoder = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(1<<maxClusterBits), zstd.WithDecodeAllCapLimit(true))
})

// unpackZstd fills p with the frames at the start of b.
func unpackZstd(p, b []byte) error {
	d, err := zstdDecoder()
	if err != nil {
		return err
	}
	done := p[:0:len(p)]
	for len(done) < len(p) {
		n, err := zstdFrameLength(b)
		if err != nil {
			return err
		}
		if done, err = d.DecodeAll(b[:n], done); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

var errZstdFrame = errors.New("no complete zstd frame")

// zstdFrameLength is the length of the frame at the start of b: other data follows it.
func zstdFrameLength(b []byte) (int, error) {
	var h zstd.Header
	if err := h.Decode(b); err != nil || h.Skippable {
		return 0, errZstdFrame
	}
	at := h.HeaderSize
	for last := false; !last; {
		if len(b)-at < 3 {
			return 0, errZstdFrame
		}
		block := int(b[at]) | int(b[at+1])<<8 | int(b[at+2])<<16
		last = block&1 != 0
		n := block >> 3
		if block>>1&3 == 1 { // a run: one byte
			n = 1
		}
		if at += 3 + n; at > len(b) {
			return 0, errZstdFrame
		}
	}
	if h.HasCheckSum {
		at += 4
	}
	if at > len(b) {
		return 0, errZstdFrame
	}
	return at, nil
}
