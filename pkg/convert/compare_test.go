package convert_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"

	"pgregory.net/rapid"

	"github.com/vhdtool/vhdtool/pkg/convert"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// randomExtents cuts b into extents. Zeros have any state, all other bytes are data. Extents of
// data may have a file.
func randomExtents(r *rand.Rand, b []byte, file io.ReaderAt) []disk.Extent {
	var extents []disk.Extent
	for off := int64(0); off < int64(len(b)); {
		n := min((1+r.Int64N([]int64{3, 40, 3000}[r.IntN(3)]))*512, int64(len(b))-off)
		e := disk.Extent{Off: off, Len: n}
		if isZero(b[off : off+n]) {
			e.State = disk.State(r.IntN(3))
		}
		if file != nil && r.IntN(2) == 0 {
			e.File, e.FileOff = file, off
		}
		if l := len(extents); l > 0 && e.Follows(extents[l-1]) {
			extents[l-1].Len += n
		} else {
			extents = append(extents, e)
		}
		off += n
	}
	return extents
}

func isZero(b []byte) bool { return bytes.Equal(b, make([]byte, len(b))) }

// seeded returns numbers that rapid can replay.
func seeded(t *rapid.T) *rand.Rand {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], rapid.Uint64().Draw(t, "seed of the rest"))
	return rand.New(rand.NewChaCha8(key))
}

// firstDifference returns the offset of the first sector in which two disks differ, or -1. The
// shorter disk is padded with zeros.
func firstDifference(a, b []byte) int64 {
	n := max(len(a), len(b))
	x, y := append(bytes.Clone(a), make([]byte, n-len(a))...), append(bytes.Clone(b), make([]byte, n-len(b))...)
	for off := 0; off < n; off += 512 {
		if !bytes.Equal(x[off:off+512], y[off:off+512]) {
			return int64(off)
		}
	}
	return -1
}

// TestCompareModel compares random disks with copies in which a few bytes and the length may
// differ.
func TestCompareModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := source(t)
		r := seeded(t)
		b := &memory{b: bytes.Clone(a.b), zeroErr: true}
		switch rapid.SampledFrom([]string{"same", "shorter", "longer", "longer with data"}).Draw(t, "size") {
		case "shorter":
			b.b = b.b[:r.IntN(len(b.b)/512+1)*512]
		case "longer":
			b.b = append(b.b, make([]byte, r.IntN(3000)*512)...)
		case "longer with data":
			more := make([]byte, (1+r.IntN(3000))*512)
			more[r.IntN(len(more))] = 1
			b.b = append(b.b, more...)
		}
		for range rapid.SampledFrom([]int{0, 0, 1, 2, 20}).Draw(t, "changes") {
			if len(b.b) > 0 {
				b.b[r.IntN(len(b.b))]++
			}
		}
		b.extents = randomExtents(r, b.b, nil)
		want := firstDifference(a.b, b.b)
		disks := [2]*memory{a, b}
		if rapid.Bool().Draw(t, "swapped") {
			disks = [2]*memory{b, a}
		}
		total := max(a.Size(), b.Size())
		last := int64(0)
		o := &convert.CompareOptions{
			Workers: rapid.SampledFrom([]int{0, 1, 2, 8}).Draw(t, "workers"),
			Progress: func(done, of int64) {
				if done < last || done > total || of != total {
					t.Errorf("progress %d of %d after %d; the larger disk has %d", done, of, last, total)
				}
				last = done
			},
		}
		got, err := convert.Compare(context.Background(), disks[0], disks[1], o)
		if err != nil || got != want {
			t.Fatalf("got %d, %v; want %d", got, err, want)
		}
		if want < 0 && last != total {
			t.Errorf("the last progress was %d, want %d", last, total)
		}
	})
}

// TestCompareFirst compares disks that differ everywhere after the first difference, so that
// workers find later differences earlier.
func TestCompareFirst(t *testing.T) {
	a := plain(8 * mib)
	for _, first := range []int64{0, 511, 512<<10 - 1, 512 << 10, 3*mib + 5000, 8*mib - 1} {
		b := &memory{b: bytes.Clone(a.b), extents: a.extents}
		for i := first; i < b.Size(); i++ {
			b.b[i] ^= 0xff
		}
		for _, workers := range []int{1, 2, 8} {
			got, err := convert.Compare(context.Background(), a, b, &convert.CompareOptions{Workers: workers})
			if want := first / 512 * 512; err != nil || got != want {
				t.Errorf("workers=%d: got %d, %v; want %d", workers, got, err, want)
			}
		}
	}
}

// TestCompareErrors: if one disk fails, the error names the side and the offset, and all
// goroutines end.
func TestCompareErrors(t *testing.T) {
	broken := errors.New("broken")
	const size = 4 * mib
	good := plain(size)
	for side := range 2 {
		for _, bad := range []int64{0, 512<<10 + 512, size - 512} {
			for _, workers := range []int{1, 2, 8} {
				t.Run(fmt.Sprintf("side=%d/%d/workers=%d", side, bad, workers), func(t *testing.T) {
					failing := plain(size)
					failing.readErr = func(off, n int64) error {
						if off <= bad && bad < off+n {
							return broken
						}
						return nil
					}
					disks := [2]disk.Disk{good, good}
					disks[side] = failing
					before := runtime.NumGoroutine()
					_, err := convert.Compare(context.Background(), disks[0], disks[1], &convert.CompareOptions{Workers: workers})
					var se *convert.SideError
					if !errors.As(err, &se) || !errors.Is(err, broken) {
						t.Fatalf("got %v, want a SideError of a broken disk", err)
					}
					if want := bad / (512 << 10) * (512 << 10); se.Side != side || se.Off != want || se.Op != "reading" {
						t.Errorf("got %s at %d of side %d, want reading at %d of side %d", se.Op, se.Off, se.Side, want, side)
					}
					// A leaked goroutine makes the test time out, and the dump shows it.
					for runtime.NumGoroutine() > before {
						runtime.Gosched()
					}
				})
			}
		}
	}
	t.Run("short", func(t *testing.T) {
		short := &shrunk{memory: plain(size), at: 2*mib + 700}
		_, err := convert.Compare(context.Background(), good, short, nil)
		var se *convert.SideError
		if !errors.As(err, &se) || se.Side != 1 || se.Off != short.at || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("got %v, want a SideError of side 1 at %d", err, short.at)
		}
	})
	t.Run("extents", func(t *testing.T) {
		_, err := convert.Compare(context.Background(), good, &untold{memory: plain(size), err: broken}, nil)
		var se *convert.SideError
		if !errors.As(err, &se) || se.Side != 1 || se.Off != mib || !errors.Is(err, broken) {
			t.Errorf("got %v, want a SideError of side 1 at %d", err, mib)
		}
	})
}

// TestCompareDifferenceBeforeError: a difference before an unreadable sector is reported. A
// sequential reader would never reach that sector.
func TestCompareDifferenceBeforeError(t *testing.T) {
	const size = 4 * mib
	a, b := plain(size), plain(size)
	a.b[5] ^= 1
	b.readErr = func(off, n int64) error {
		if off+n > mib {
			return errors.New("broken")
		}
		return nil
	}
	for _, workers := range []int{1, 2, 8} {
		for range 50 {
			if at, err := convert.Compare(context.Background(), a, b, &convert.CompareOptions{Workers: workers}); at != 0 || err != nil {
				t.Fatalf("workers=%d: got %d, %v; want the difference at 0", workers, at, err)
			}
		}
	}
}

func TestCompareCancel(t *testing.T) {
	a, b := plain(8*mib), plain(8*mib)
	for _, workers := range []int{1, 8} {
		ctx, cancel := context.WithCancel(context.Background())
		_, err := convert.Compare(ctx, a, b, &convert.CompareOptions{Workers: workers, Progress: func(done, total int64) { cancel() }})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("workers=%d: got %v, want %v", workers, err, context.Canceled)
		}
	}
}

// TestCompareAllocation compares random extents with other extents of the same bytes, sector by
// sector.
func TestCompareAllocation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := source(t)
		r := seeded(t)
		a.extents = randomExtents(r, a.b, a)
		b := &memory{b: a.b, extents: a.extents}
		if rapid.Bool().Draw(t, "other extents") {
			b.extents = randomExtents(r, a.b, a)
		} else if rapid.Bool().Draw(t, "cut") { // the same, cut differently
			b.extents = nil
			for _, e := range a.extents {
				if at := e.Len / 1024 * 512; at > 0 {
					b.extents = append(b.extents, e.Clip(e.Off, e.Off+at))
					e = e.Clip(e.Off+at, e.End())
				}
				b.extents = append(b.extents, e)
			}
		}
		want := int64(-1)
		x, y := sectors(a.extents), sectors(b.extents)
		for i := range x {
			if x[i] != y[i] {
				want = int64(i) * 512
				break
			}
		}
		if got, err := convert.CompareAllocation(a, b); err != nil || got != want {
			t.Fatalf("got %d, %v; want %d", got, err, want)
		}
	})
	broken := errors.New("broken")
	if at, err := convert.CompareAllocation(plain(4*mib), &untold{memory: plain(4 * mib), err: broken}); !errors.Is(err, broken) {
		t.Errorf("got %d, %v; want %v", at, err, broken)
	}
}

// sectorState is the state of a sector in its extent.
type sectorState struct {
	state  disk.State
	placed bool
}

func sectors(extents []disk.Extent) []sectorState {
	var all []sectorState
	for _, e := range extents {
		for range e.Len / 512 {
			all = append(all, sectorState{e.State, e.File != nil})
		}
	}
	return all
}
