package inflate

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

// pack compresses with the standard library.
func pack(t testing.TB, b []byte, level int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, level)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// randomText is n bytes of one of several kinds: skewed letters, repeats at all distances,
// noise, and zeros.
func randomText(r *rand.Rand, n int) []byte {
	b := make([]byte, 0, n)
	for len(b) < n {
		switch k := 1 + r.IntN(2000); r.IntN(5) {
		case 0:
			for range k {
				b = append(b, byte('a'+min(r.IntN(200)*r.IntN(200)/900, 50)))
			}
		case 1:
			for range k {
				b = append(b, byte(r.IntN(256)))
			}
		case 2:
			b = append(b, make([]byte, k)...)
		default:
			if len(b) > 0 {
				back := 1 + r.IntN(min(len(b), 1<<(1+r.IntN(15))))
				for range k {
					b = append(b, b[len(b)-back])
				}
			}
		}
	}
	return b[:n]
}

// TestDecode decodes what the standard library compresses, whole and in part.
func TestDecode(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var d Decoder
	for i := range 400 {
		want := randomText(r, r.IntN(150_000))
		packed := pack(t, want, []int{flate.HuffmanOnly, 0, 1, 5, 9}[i%5])
		// Other data follows, as in an image.
		src := append(bytes.Clone(packed), bytes.Repeat([]byte{0xff}, r.IntN(40))...)
		for _, n := range []int{len(want), r.IntN(len(want) + 1)} {
			got := make([]byte, n)
			if err := d.Decode(got, src); err != nil || !bytes.Equal(got, want[:n]) {
				t.Fatalf("%d: %d of %d bytes: %v", i, n, len(want), err)
			}
		}
		if err := d.Decode(make([]byte, len(want)+1), src); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%d: one byte too many: %v", i, err)
		}
		if cut := r.IntN(len(packed)); len(want) > 0 {
			got := make([]byte, len(want))
			if err := d.Decode(got, packed[:cut]); err == nil && !bytes.Equal(got, want) {
				t.Fatalf("%d: cut to %d of %d bytes: other data and no error", i, cut, len(packed))
			}
		}
	}
}

// TestDamaged: damaged data is an error, or the standard library decodes the same.
func TestDamaged(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		want := randomText(r, 1+r.IntN(3000))
		packed := pack(t, want, 6)
		for range 1 + r.IntN(3) {
			packed[r.IntN(min(len(packed), 1+r.IntN(200)))] ^= 1 << r.IntN(8)
		}
		likeStandard(t, packed, len(want))
	}
}

// likeStandard compares the decoding of n bytes with the standard library's.
func likeStandard(t *testing.T, packed []byte, n int) {
	t.Helper()
	got, want := make([]byte, n), make([]byte, n)
	err := new(Decoder).Decode(got, packed)
	k, werr := io.ReadFull(flate.NewReader(bytes.NewReader(packed)), want)
	if n == 0 {
		return
	}
	if err == nil && !bytes.Equal(got[:k], want[:k]) {
		t.Fatalf("the standard library decodes %d bytes otherwise", k)
	}
	// For every symbol the standard library needs as many bits as the end of a block has. So it
	// reports the end of cut data earlier.
	if errors.Is(werr, io.ErrUnexpectedEOF) {
		return
	}
	// Codes that are not complete are accepted in fewer cases here, as in zlib.
	if err == nil && werr != nil {
		t.Fatalf("decoded, and the standard library: %v", werr)
	}
}

func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, level := range []int{flate.HuffmanOnly, 0, 1, 6, 9} {
		f.Add(pack(f, randomText(r, 2000), level), 2000)
	}
	f.Fuzz(func(t *testing.T, packed []byte, n int) {
		if n < 0 || n > 1<<16 {
			return
		}
		likeStandard(t, packed, n)
	})
}

func BenchmarkDecode(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	want := randomText(r, 64<<10)
	packed := pack(b, want, 6)
	var d Decoder
	b.SetBytes(int64(len(want)))
	for b.Loop() {
		if err := d.Decode(want, packed); err != nil {
			b.Fatal(err)
		}
	}
}
