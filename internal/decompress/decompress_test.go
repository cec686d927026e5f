package decompress_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/vhdtool/vhdtool/internal/decompress"
	"github.com/vhdtool/vhdtool/internal/oracle"
)

// decompressed reads r to its end.
func decompressed(r io.Reader) (data []byte, name string, err error) {
	d, name, err := decompress.NewReader(r)
	if err != nil {
		return nil, name, err
	}
	data, err = io.ReadAll(d)
	return data, name, err
}

// TestSamples decompresses output of the programs themselves, read in pieces of all kinds.
func TestSamples(t *testing.T) {
	for name, s := range samples {
		for kind, reader := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader,
			"halves": iotest.HalfReader, "EOF at once": iotest.DataErrReader,
		} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				got, gotName, err := decompressed(reader(strings.NewReader(s)))
				if err != nil || gotName != name || !bytes.Equal(got, sample) {
					t.Errorf("%d bytes of %q, %v; want the %d of %s", len(got), gotName, err, len(sample), name)
				}
			})
		}
	}
}

// TestEmpty decompresses the output of the programs for empty input.
func TestEmpty(t *testing.T) {
	for name, s := range empties {
		t.Run(name, func(t *testing.T) {
			got, gotName, err := decompressed(strings.NewReader(s))
			if err != nil || gotName != name || len(got) != 0 {
				t.Errorf("%d bytes of %q, %v; want none of %s", len(got), gotName, err, name)
			}
		})
	}
}

// TestLarge decompresses more than any window, random data and zeros. Libraries compress it, and
// the programs if they are installed.
func TestLarge(t *testing.T) {
	data := make([]byte, 2<<20)
	r := rand.NewChaCha8([32]byte{})
	_, _ = r.Read(data[1<<20:][:300_000])
	_, _ = r.Read(data[len(data)-1000:])
	for name, compressor := range map[string]func(io.Writer) (io.WriteCloser, error){
		"gzip": func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
		"zstd": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
		"xz":   func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			w, err := compressor(&b)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(data); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			got, gotName, err := decompressed(&b)
			if err != nil || gotName != name || !bytes.Equal(got, data) {
				t.Errorf("%d bytes of %q, %v; want the %d of %s", len(got), gotName, err, len(data), name)
			}
		})
	}
	for _, line := range []string{
		"gzip -9", "bzip2 -9", "zstd -q -1", "zstd -q -3 --long=27", "zstd -q -T2 --no-check", "xz -0", "xz -T2 --block-size=512KiB",
		"xz --check=sha256", "xz --check=crc32 --x86 --lzma2=preset=6", "xz --check=none --delta=dist=4 --lzma2=preset=1",
	} {
		t.Run("program "+line, func(t *testing.T) {
			args := strings.Fields(line)
			oracle.Need(t, args[0])
			cmd := exec.Command(args[0], args[1:]...)
			cmd.Stdin = bytes.NewReader(data)
			b, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			got, name, err := decompressed(bytes.NewReader(b))
			if err != nil || name != args[0] || !bytes.Equal(got, data) {
				t.Errorf("%d bytes of %q, %v; want the %d of %s", len(got), name, err, len(data), args[0])
			}
		})
	}
}

// TestMembers decompresses concatenated streams.
func TestMembers(t *testing.T) {
	for name, s := range samples {
		got, gotName, err := decompressed(strings.NewReader(s + s + s))
		if want := bytes.Repeat(sample, 3); err != nil || gotName != name || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(want))
		}
	}
}

// TestPlain: data that is not compressed, or only looks so, is returned unchanged.
func TestPlain(t *testing.T) {
	for _, s := range []string{
		"", "x", "123456789", "1234567890", strings.Repeat("disk", 100_000),
		"\x1f\x8b", "\x1f\x8b\x07" + strings.Repeat("x", 600), // gzip knows only method 8
		"BZh", "BZh9", "BZh9 is a word", "BZh01AY&SY" + strings.Repeat("x", 600), "BZhx1AY&SY",
		"\x28\xb5\x2f\xfe" + strings.Repeat("x", 600), "\xfd7zXZ\x01" + strings.Repeat("x", 600), "\xfd7zXZ",
		"PK\x03\x04 no zip", "\x00" + samples["gzip"],
	} {
		got, name, err := decompressed(strings.NewReader(s))
		if err != nil || name != "" || string(got) != s {
			t.Errorf("%.20q: %d bytes of %q, %v; want the %d as they are", s, len(got), name, err, len(s))
		}
	}
}

func TestFormat(t *testing.T) {
	for name, s := range samples {
		if got := decompress.Format([]byte(s)[:decompress.MagicSize]); got != name {
			t.Errorf("the first %d bytes of %s data are of %q", decompress.MagicSize, name, got)
		}
	}
	if got := decompress.Format(nil); got != "" {
		t.Errorf("nothing is of %q", got)
	}
}

// TestTruncated truncates the data after each byte. There must be an error that says so, unless
// the compression cannot be detected.
func TestTruncated(t *testing.T) {
	for name, s := range samples {
		for n := range len(s) {
			got, gotName, err := decompressed(strings.NewReader(s[:n]))
			switch {
			case gotName == "":
				if err != nil || string(got) != s[:n] || n >= decompress.MagicSize {
					t.Errorf("%s, %d bytes of %d: %d bytes as they are, %v", name, n, len(s), len(got), err)
				}
			case !errors.Is(err, io.ErrUnexpectedEOF) || !strings.HasPrefix(err.Error(), name+" data: "):
				t.Errorf("%s, %d bytes of %d: %v; want that it ends too early", name, n, len(s), err)
			}
		}
	}
}

// TestTruncatedBlocks truncates xz data of several blocks, as xz writes it with several threads,
// after each byte. No block is missing without an error.
func TestTruncatedBlocks(t *testing.T) {
	var b bytes.Buffer
	w, err := xz.WriterConfig{BlockSize: 100, DictCap: 4096}.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 250)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s := b.String()
	if got, _, err := decompressed(strings.NewReader(s)); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v; want %d", len(got), err, len(data))
	}
	for n := decompress.MagicSize; n < len(s); n++ {
		if got, _, err := decompressed(strings.NewReader(s[:n])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes of %d: %d bytes of %d, %v; want that it ends too early", n, len(s), len(got), len(data), err)
		}
	}
}

// TestDamaged inverts each byte. The data is unchanged, or there is an error.
func TestDamaged(t *testing.T) {
	for name, s := range samples {
		for i := range len(s) {
			b := []byte(s)
			b[i] ^= 0xff
			got, gotName, err := decompressed(bytes.NewReader(b))
			switch {
			case gotName == "":
				if err != nil || !bytes.Equal(got, b) || i >= decompress.MagicSize {
					t.Errorf("%s with byte %d inverted: %d bytes as they are, %v", name, i, len(got), err)
				}
			case err == nil && !bytes.Equal(got, sample):
				t.Errorf("%s with byte %d inverted: %d other bytes, and no error", name, i, len(got))
			case err != nil && !strings.HasPrefix(err.Error(), name+" data: "):
				t.Errorf("%s with byte %d inverted: %v, which does not name the compression", name, i, err)
			}
		}
	}
}

// TestTrailing: other data after the compressed data is an error.
func TestTrailing(t *testing.T) {
	for name, s := range samples {
		if got, _, err := decompressed(strings.NewReader(s + "something else after it")); err == nil {
			t.Errorf("%s: %d bytes, and no error", name, len(got))
		}
	}
}

// withDictionary returns xzDictionary with another dictionary size, in xz's encoding.
func withDictionary(bits byte) string {
	b := []byte(xzDictionary)
	const header, size = 12, 12 // of the first block
	b[header+4] = bits
	binary.LittleEndian.PutUint32(b[header+size-4:], crc32.ChecksumIEEE(b[header:header+size-4]))
	return string(b)
}

// TestHostile: streams that request more memory than any preset are refused.
func TestHostile(t *testing.T) {
	for bits, want := range map[byte]bool{
		0:  true,  // 4 KiB
		28: true,  // 64 MiB, xz -9
		30: true,  // 128 MiB
		31: false, // 192 MiB
		37: false, // 1536 MiB
		40: false, // 4 GiB
		41: false, // undefined
		63: false,
	} {
		got, name, err := decompressed(strings.NewReader(withDictionary(bits)))
		if name != "xz" || want != (err == nil && string(got) == "x") {
			t.Errorf("xz with dictionary of size %d: %q of %q, %v; want that it is taken: %v", bits, got, name, err, want)
		}
	}
	if got, name, err := decompressed(strings.NewReader(zstdWindow)); err == nil || name != "zstd" {
		t.Errorf("zstd with a window of 2 GiB: %d bytes of %q, %v; want an error", len(got), name, err)
	}
	// The limit also applies to the second stream.
	for name, hostile := range map[string]string{"xz": withDictionary(37), "zstd": zstdWindow} {
		if got, _, err := decompressed(strings.NewReader(samples[name] + hostile)); err == nil {
			t.Errorf("%s with a hostile second stream: %d bytes, and no error", name, len(got))
		}
	}
}

// TestReadErrors: errors of the underlying reader are returned.
func TestReadErrors(t *testing.T) {
	broken := errors.New("broken")
	for _, s := range []string{"", "a plain disk", samples["gzip"][:50], samples["bzip2"][:50], samples["zstd"][:20], samples["xz"][:60]} {
		t.Run(fmt.Sprintf("%.4q", s), func(t *testing.T) {
			if _, _, err := decompressed(io.MultiReader(strings.NewReader(s), iotest.ErrReader(broken))); !errors.Is(err, broken) {
				t.Errorf("got %v, want %v", err, broken)
			}
		})
	}
}

// FuzzReader searches for data that makes a decompressor panic.
func FuzzReader(f *testing.F) {
	for _, s := range samples {
		f.Add([]byte(s))
	}
	f.Add([]byte(xzDictionary))
	f.Add([]byte(zstdWindow))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, _, err := decompress.NewReader(bytes.NewReader(b))
		if err != nil {
			return
		}
		_, _ = io.CopyN(io.Discard, d, 1<<20)
	})
}
