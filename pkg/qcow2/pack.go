package qcow2

import (
	"bytes"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// deflateLevel is where klauspost's encoder is as small as zlib's default with the window
// that qemu sets.
const deflateLevel = 5

// pack appends the compressed p to dst. The result depends on p only.
func (c Compression) pack(dst, p []byte) ([]byte, error) {
	if c == Zstd {
		e, err := zstdEncoder()
		if err != nil {
			return dst, err
		}
		return e.EncodeAll(p, dst), nil
	}
	return packDeflate(dst, p)
}

// zstdEncoder encodes frames for any number of goroutines. The frames have no checksum: qemu
// stops reading at the last byte of the data, and treats a frame that goes on as damaged.
var zstdEncoder = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true), zstd.WithEncoderLevel(zstd.SpeedDefault))
})

// deflaters holds states of the deflate encoder.
var deflaters sync.Pool

func packDeflate(dst, p []byte) ([]byte, error) {
	out := bytes.NewBuffer(dst)
	w, ok := deflaters.Get().(*flate.Writer)
	if ok {
		w.Reset(out)
	} else {
		var err error
		if w, err = flate.NewWriter(out, deflateLevel); err != nil {
			return dst, err
		}
	}
	defer deflaters.Put(w)
	if _, err := w.Write(p); err != nil {
		return dst, err
	}
	if err := w.Close(); err != nil {
		return dst, err
	}
	return out.Bytes(), nil
}
