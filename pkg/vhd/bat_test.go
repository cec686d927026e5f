package vhd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// tableBytes is the encoded table, from entry first on.
func tableBytes(t bat, first int64) []byte {
	b := bytes.Repeat([]byte{0x55}, int(batBytes(t.len())))
	_ = t.encode(first, func(p []byte, off int64) error {
		copy(b[off:], p)
		return nil
	})
	return b
}

// TestBATModel compares random changes of tables with a plain slice of entries. The tables
// start empty or are read, have few used entries or many, and grow and shrink.
func TestBATModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(1, 1000).Draw(t, "entries")
		model := slices.Repeat([]uint32{unused}, int(n))
		table := newBAT(n)
		entry := rapid.OneOf(rapid.Just(uint32(unused)), rapid.Uint32())
		if rapid.Bool().Draw(t, "read") {
			density := rapid.IntRange(1, 100).Draw(t, "one in")
			for i := range model {
				if rapid.IntRange(0, density-1).Draw(t, "used") == 0 {
					model[i] = entry.Draw(t, "entry")
				}
			}
			for range rapid.IntRange(0, 3).Draw(t, "runs") { // runs of equal entries
				from := rapid.IntRange(0, len(model)-1).Draw(t, "from")
				e := rapid.Uint32Range(0, 2).Draw(t, "equal")
				for i := from; i < min(len(model), from+rapid.IntRange(0, 400).Draw(t, "run")); i++ {
					model[i] = e
				}
			}
			var file []byte
			for _, e := range model {
				file = binary.BigEndian.AppendUint32(file, e)
			}
			var err error
			if table, err = readBAT(bytes.NewReader(append(make([]byte, 12), file...)), 12, n); err != nil {
				t.Fatal(err)
			}
		}
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				for more := rapid.IntRange(0, 300).Draw(t, "more"); more > 0; more-- {
					model = append(model, unused)
				}
				table = table.resized(int64(len(model)))
			case 1:
				keep := rapid.IntRange(0, len(model)).Draw(t, "keep")
				for i := keep; i < len(model); i++ {
					table.store(int64(i), unused)
				}
				model = model[:keep]
				table = table.resized(int64(keep))
			default:
				if len(model) > 0 {
					i := rapid.IntRange(0, len(model)-1).Draw(t, "block")
					model[i] = entry.Draw(t, "entry")
					table.store(int64(i), model[i])
				}
			}
		}
		want := map[int64]uint32{}
		for i, e := range model {
			if got := table.load(int64(i)); got != e {
				t.Fatalf("entry %d is %#x, want %#x", i, got, e)
			}
			if e != unused {
				want[int64(i)] = e
			}
		}
		if got := maps.Collect(table.used()); !maps.Equal(got, want) || table.count() != int64(len(want)) {
			t.Fatalf("used: %v (%d), want %v", got, table.count(), want)
		}
		for i := int64(0); i < table.len(); i++ {
			if table.load(i) != unused {
				continue
			}
			next := table.nextUsed(i, table.len())
			if next <= i {
				t.Fatalf("behind %d comes %d", i, next)
			}
			for ; i+1 < min(next, table.len()); i++ {
				if model[i+1] != unused {
					t.Fatalf("block %d is used, and passed over", i+1)
				}
			}
		}
		once := map[int64]uint32{}
		for i, e := range table.usedOnce() {
			for k := range table.alike(i) {
				once[i+k] = e
			}
		}
		if !maps.Equal(once, want) {
			t.Fatalf("used, with what is alike: %v, want %v", once, want)
		}
		last := int64(-1)
		for i := range table.used() {
			if i <= last {
				t.Fatalf("block %d comes after %d", i, last)
			}
			last = i
		}
		if table.len() != int64(len(model)) {
			t.Fatalf("%d entries, want %d", table.len(), len(model))
		}
		first := rapid.IntRange(0, len(model)).Draw(t, "first")
		file := bytes.Repeat([]byte{0x55}, first*4)
		for _, e := range model[first:] {
			file = binary.BigEndian.AppendUint32(file, e)
		}
		for len(file)%SectorSize != 0 {
			file = append(file, 0xff)
		}
		if got := tableBytes(table, int64(first)); !bytes.Equal(got, file) {
			t.Fatalf("encoded from %d: %x, want %x", first, got, file)
		}
	})
}

// TestBATLarge: a table of half a billion entries needs no time and no memory for unused
// entries, and its pieces are written in order.
func TestBATLarge(t *testing.T) {
	const n = 2040 << 30 / 4096
	table := newBAT(n)
	for _, i := range []int64{0, n / 2, n - 1} {
		table.store(i, uint32(i))
	}
	if got := slices.Collect(maps.Keys(maps.Collect(table.used()))); len(got) != 3 || table.count() != 3 {
		t.Errorf("%v are used, want three", got)
	}
	if table.load(1) != unused || table.load(n-1) != n-1 {
		t.Errorf("entries 1 and %d are %#x and %#x", n-1, table.load(1), table.load(n-1))
	}
	stop := errors.New("enough")
	next := int64(0)
	err := table.encode(0, func(b []byte, off int64) error {
		if off != next || len(b) == 0 {
			t.Fatalf("%d bytes at %d, want some at %d", len(b), off, next)
		}
		if next += int64(len(b)); next > 1<<20 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}

// TestBATShort: a file that ends in the table is an error.
func TestBATShort(t *testing.T) {
	if _, err := readBAT(bytes.NewReader(make([]byte, 100)), 0, 26); err == nil {
		t.Error("104 bytes were read from 100")
	}
}

// TestBATReaders reads entries while others are set. Each has its old or its new value, and
// untouched entries stay (run with -race).
func TestBATReaders(t *testing.T) {
	const n = 256
	file := bytes.Repeat([]byte{0xff}, n*4)
	for i := 0; i < n; i += 16 {
		binary.BigEndian.PutUint32(file[i*4:], uint32(i))
	}
	table, err := readBAT(bytes.NewReader(file), 0, n)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				for i := range int64(n) {
					if e := table.load(i); e != uint32(i) && (e != unused || i%16 == 0) {
						t.Errorf("entry %d is %#x", i, e)
						return
					}
				}
				for i, e := range table.used() {
					if e != uint32(i) {
						t.Errorf("block %d is at %#x", i, e)
						return
					}
				}
			}
		})
	}
	for i := range int64(n) {
		table.store(i, uint32(i))
	}
	wg.Wait()
	if table.count() != n {
		t.Errorf("%d are used, want %d", table.count(), n)
	}
}

// A table in a hole of the file reads as zeros, and entries between holes are found. Setting
// one of several equal entries leaves the others.
func TestReadBATWithHoles(t *testing.T) {
	const n = 4 << 20
	f, err := os.Create(filepath.Join(t.TempDir(), "table"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const off = 1536
	model := map[int64]uint32{5: 1, 4095: 2, 4096: 3, 1 << 20: 4, 1<<20 + 1: unused, n - 1: 5}
	for i, e := range model {
		if _, err := f.WriteAt(binary.BigEndian.AppendUint32(nil, e), off+i*4); err != nil {
			t.Fatal(err)
		}
	}
	table, err := readBAT(f, off, n)
	if err != nil {
		t.Fatal(err)
	}
	set := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		i, e := set.Int64N(n), set.Uint32()
		if e%3 == 0 {
			e = unused
		}
		table.store(i, e)
		model[i] = e
	}
	used := int64(n)
	for i := range int64(n) {
		want := model[i]
		if got := table.load(i); got != want {
			t.Fatalf("entry %d is %#x, want %#x", i, got, want)
		}
		if want == unused {
			used--
		}
	}
	if got := table.count(); got != used {
		t.Errorf("%d entries are used, want %d", got, used)
	}
	// A hole that a truncation has cut off is no hole of the table.
	if err := f.Truncate(off + 2*n); err != nil {
		t.Fatal(err)
	}
	if _, err := readBAT(f, off, n); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a table that is cut off: %v, want ErrUnexpectedEOF", err)
	}
}

// benchmarkBAT is the table of a disk of 2040 GiB with one used block in a hundred.
func benchmarkBAT() bat {
	t := newBAT(2040 << 30 / DefaultBlockSize)
	for i := int64(0); i < t.len(); i += 101 {
		t.store(i, uint32(i))
	}
	return t
}

func BenchmarkBATLookup(b *testing.B) {
	t := benchmarkBAT()
	b.ReportAllocs()
	i := int64(0)
	for b.Loop() {
		if e := t.load(i); e != unused && e != uint32(i) {
			b.Fatal(e)
		}
		i = (i + 7919) % t.len()
	}
}

// BenchmarkBATScan iterates over the used entries.
func BenchmarkBATScan(b *testing.B) {
	t := benchmarkBAT()
	b.ReportAllocs()
	for b.Loop() {
		if t.count() != (t.len()+100)/101 || t.end(0) == 0 {
			b.Fatal("not all are found")
		}
	}
}

// BenchmarkReadBAT reads the table of a disk of 2040 GiB.
func BenchmarkReadBAT(b *testing.B) {
	t := benchmarkBAT()
	file := tableBytes(t, 0)
	b.SetBytes(int64(len(file)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := readBAT(bytes.NewReader(file), 0, t.len()); err != nil {
			b.Fatal(err)
		}
	}
}
