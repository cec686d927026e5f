package vhd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/internal/undo"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// A countedFile counts the bytes that are read from and written to a file.
type countedFile struct {
	*os.File
	read, written int64
}

func (f *countedFile) ReadAt(p []byte, off int64) (int, error) {
	f.read += int64(len(p))
	return f.File.ReadAt(p, off)
}

func (f *countedFile) WriteAt(p []byte, off int64) (int, error) {
	f.written += int64(len(p))
	return f.File.WriteAt(p, off)
}

func (f *countedFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (f *countedFile) length(t *testing.T) int64 {
	t.Helper()
	n, err := f.Size()
	must(t, err)
	return n
}

// Holds makes the holes of the file visible.
func (f *countedFile) Holds() io.ReaderAt { return f.File }

// sparseFile writes the parts at their offsets to a new file with holes. The test is skipped if
// holes cannot be detected.
func sparseFile(t *testing.T, parts map[int64][]byte) *countedFile {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "sparse.vhd"))
	must(t, err)
	t.Cleanup(func() { f.Close() })
	last := int64(0)
	for off, b := range parts {
		if _, err := f.WriteAt(b, off); err != nil {
			t.Skipf("no large files here: %v", err)
		}
		last = max(last, off)
	}
	if _, data, err := filesystem.NewHoleMap(f).At(last/2, last); err != nil || data {
		t.Skipf("holes of files are not found here: %v", err)
	}
	return &countedFile{File: f}
}

// tableInHole is an image with that many blocks and BAT entries. Its BAT is in a hole of the
// file, except for the bytes of table.
func tableInHole(t *testing.T, blocks, entries int64, table []byte) *countedFile {
	t.Helper()
	const blockSize = 4 * kib
	c := craft{size: blocks * blockSize, entries: 1, header: []edit{u32(28, uint32(entries))}}
	b := c.bytes()
	return sparseFile(t, map[int64][]byte{0: b[:1536], 1536: table, 1536 + entries*4: b[len(b)-512:]})
}

// A BAT of zeros in a hole of the file costs nothing.
func TestTableOfZeros(t *testing.T) {
	const entries = 32 * mib
	f := tableInHole(t, entries, entries, nil)
	var fs []vhd.Finding
	var n vhd.Counts
	used := allocated(func() {
		var err error
		n, err = checkImage(f, f.length(t), nil, func(f vhd.Finding) { fs = append(fs, f) })
		must(t, err)
	})
	if len(fs) != 1 || fs[0].ID != "bat-over-metadata" || fs[0].Count != entries || fs[0].Field != fmt.Sprintf("BAT entries 0 to %d", entries-1) {
		t.Errorf("findings %+v, want one about %d entries", fs, entries)
	}
	if n.Errors != entries || n.Allocated != entries || n.Fragmented != entries-1 {
		t.Errorf("counts %+v, want %d errors, and as many allocated blocks", n, entries)
	}
	if used > 4*mib || f.read > 64*kib {
		t.Errorf("the check reads %d bytes and allocates %d", f.read, used)
	}
	f.read = 0
	used = allocated(func() {
		_, err := vhd.NewImage(f, f.length(t), nil)
		if err == nil || !strings.Contains(err.Error(), fs[0].String()) {
			t.Errorf("Open: %v, want %v", err, fs[0])
		}
	})
	if used > 4*mib || f.read > 64*kib {
		t.Errorf("Open reads %d bytes and allocates %d", f.read, used)
	}
	for _, o := range []vhd.RepairOptions{{}, {All: true, Deep: true}, {All: true, Deep: true, Force: true}} {
		f.read, f.written = 0, 0
		used = allocated(func() {
			done, err := repaired(context.Background(), f, f.length(t), &o)
			if err != nil || len(done) > 0 {
				t.Errorf("%+v: repaired %v, %v; want nothing", o, done, err)
			}
		})
		if used > 32*mib || f.read > 256*kib || f.written > 0 {
			t.Errorf("%+v: the repair reads %d bytes, writes %d and allocates %d", o, f.read, f.written, used)
		}
	}
}

// Of the entries past the end of the disk only those that are stored in the file are written.
// Zeros in a hole stay there.
func TestExcessInHole(t *testing.T) {
	const entries = 32 * mib
	// Two of these entries belong to blocks of the disk.
	table := bytes.Repeat([]byte{0xff}, 12*kib-1536)
	be.PutUint32(table[5*kib:], 1234)
	be.PutUint32(table[5*kib+40:], 4321)
	f := tableInHole(t, 2, entries, table)
	before := f.length(t)
	check := func() []vhd.Finding {
		t.Helper()
		var fs []vhd.Finding
		_, err := checkImage(f, f.length(t), nil, func(f vhd.Finding) { fs = append(fs, f) })
		must(t, err)
		return slices.DeleteFunc(fs, func(f vhd.Finding) bool { return f.ID != "bat-excess" })
	}
	const inHole = entries - (12*kib-1536)/4
	if fs := check(); len(fs) != 1 || fs[0].Got != fmt.Sprintf("%d in use", inHole+2) || fs[0].Offset != 1536+5*kib {
		t.Fatalf("findings %v, want one about %d entries", fs, inHole+2)
	}
	var done []vhd.Repaired
	used := allocated(func() {
		var err error
		done, err = repaired(context.Background(), f, f.length(t), &vhd.RepairOptions{All: true})
		must(t, err)
	})
	if len(done) != 1 || done[0].ID != "bat-excess" || !strings.HasPrefix(done[0].Text, "2 BAT entries") ||
		done[0].Offset > 1536+5*kib || done[0].Offset+done[0].Length < 1536+5*kib+44 {
		t.Errorf("repaired %+v, want two entries", done)
	}
	if used > 4*mib || f.written > 8*kib || f.read > mib || f.length(t) != before {
		t.Errorf("the repair reads %d bytes, writes %d and allocates %d", f.read, f.written, used)
	}
	if fs := check(); len(fs) != 1 || fs[0].Got != fmt.Sprintf("%d in use", inHole) {
		t.Errorf("after the repair: %v, want %d entries", fs, inHole)
	}
	f.written = 0
	if done, err := repaired(context.Background(), f, f.length(t), &vhd.RepairOptions{All: true}); err != nil || len(done) > 0 || f.written > 0 {
		t.Errorf("the second repair: %v, %v, %d bytes written", done, err, f.written)
	}
}

// A search of leaked space reads the data, not the holes.
func TestLeakInHole(t *testing.T) {
	const gap = 64 * gib
	c := craft{size: 16 * 2 * mib, blockSize: 2 * mib}
	b := c.bytes()
	footer := b[len(b)-512:]
	for _, all := range []bool{false, true} {
		for _, saved := range []bool{false, true} {
			t.Run(fmt.Sprintf("all=%t,backup=%t", all, saved), func(t *testing.T) {
				f := sparseFile(t, map[int64][]byte{0: b[:2048], 2048 + gap: footer})
				o := vhd.RepairOptions{All: all, Saved: saved}
				var file disk.File = f
				var u *undo.File
				backup := filepath.Join(t.TempDir(), "undo")
				if saved {
					var err error
					u, err = undo.Create(backup, f, f.length(t), [16]byte{1})
					must(t, err)
					file = u
				}
				done, err := repaired(context.Background(), file, f.length(t), &o)
				must(t, err)
				if len(done) != 1 || done[0].ID != "leak" || done[0].Length != gap || done[0].Offset != f.length(t) {
					t.Errorf("repaired %+v, want the gap of %d bytes", done, int64(gap))
				}
				if f.read > mib || f.written > mib {
					t.Errorf("the repair reads %d bytes and writes %d", f.read, f.written)
				}
				if !saved {
					return
				}
				must(t, u.Close())
				must(t, undo.Restore(f, backup, [16]byte{1}))
				end := make([]byte, 512)
				if _, err := f.ReadAt(end, 2048+gap); err != nil || !bytes.Equal(end, footer) || f.length(t) != 2048+gap+512 {
					t.Errorf("put back: %d bytes, which end with %x (%v)", f.length(t), end[:8], err)
				}
			})
		}
	}
	// With wrong entries the space is searched for their blocks.
	wrong := bytes.Clone(b[:2048])
	be.PutUint32(wrong[1536:], 2)
	f := sparseFile(t, map[int64][]byte{0: wrong, 2048 + gap/3: pattern(4*kib, 1), 2048 + gap: footer})
	if _, err := repaired(context.Background(), f, f.length(t), &vhd.RepairOptions{All: true}); !errors.Is(err, errOrphans) {
		t.Errorf("Repair: %v, want ErrOrphans", err)
	}
	if f.read > mib || f.written > 0 {
		t.Errorf("the search reads %d bytes, and %d are written", f.read, f.written)
	}
}

// Deep reads each part of the file once, however many entries point to it.
func TestDeepReadsOnce(t *testing.T) {
	const blockSize, n = 64 * kib, 200
	clearBits := make([]byte, 512)
	for name, bat := range map[string]func(i int) uint32{
		"all entries at one block":   func(int) uint32 { return 8 },
		"each a sector further":      func(i int) uint32 { return uint32(8 + i%100) },
		"two and two at one block":   func(i int) uint32 { return uint32(8 + i/2%4*129) },
		"all entries over the table": func(int) uint32 { return 3 },
	} {
		t.Run(name, func(t *testing.T) {
			c := craft{size: n * blockSize, blockSize: blockSize, bat: map[int]uint32{}}
			for k := range 4 {
				c.blocks = append(c.blocks, block{k, int64(8 + 129*k), clearBits, nil})
			}
			for i := range n {
				c.bat[i] = bat(i)
			}
			file := c.bytes()
			m := newMemFile(file)
			read := 0
			m.reading = func(_ int64, n int) { read += n }
			last, total := int64(0), int64(0)
			o := &vhd.CheckOptions{Deep: true, Progress: func(done, of int64) {
				if done <= last || done > of {
					t.Errorf("progress %d of %d after %d", done, of, last)
				}
				last, total = done, of
			}}
			if _, err := checkImage(m, m.size(), o, func(vhd.Finding) {}); err != nil {
				t.Fatal(err)
			}
			if last != total {
				t.Errorf("the last progress is %d of %d", last, total)
			}
			most := len(file) + 8*kib
			if name == "all entries over the table" { // it searches for their blocks
				most += len(file)
			}
			if read > most {
				t.Errorf("%d bytes are read of a file of %d, want at most %d", read, len(file), most)
			}
		})
	}
}

// manyOverlaps is a packed image in which two entries point to each of n blocks. The space
// after them has copies of the first begun blocks. With alike, all blocks start with the same
// data.
func manyOverlaps(n, begun int, alike bool) []byte {
	const blockSize, stored = 16 * kib, 33 * sector
	c := craft{size: int64(2*n) * blockSize, blockSize: blockSize, bat: map[int]uint32{}}
	start := int64(1536+2*n*4+511) / sector
	for k := range n {
		at := start + int64(k)*stored/sector
		c.blocks = append(c.blocks, block{2 * k, at, nil, noise(blockSize, byte(k))})
		if alike {
			copy(c.blocks[k].data, cycle[:sector])
		}
		c.bat[2*k+1] = uint32(at)
	}
	end := start*sector + int64(n)*stored
	c.end = end + int64(begun+1)*(blockSize+4096)
	b := c.bytes()
	for k := range int64(begun) {
		part := stored - k%8*sector // the last ones are unwritten
		copy(b[end:], b[start*sector+k*stored:][:part])
		end += stored
	}
	return b
}

// The reads of a repair grow with the size of the file, not with the square of the number of
// faults.
func TestRepairReadsInProportion(t *testing.T) {
	for _, x := range []struct {
		begun int
		alike bool
		err   error
	}{{0, false, nil}, {100, false, nil}, {100, true, errOrphans}} {
		t.Run(fmt.Sprintf("%d copies begun, alike=%t", x.begun, x.alike), func(t *testing.T) {
			file := manyOverlaps(100, x.begun, x.alike)
			m := newMemFile(file)
			read := 0
			m.reading = func(_ int64, n int) { read += n }
			done, err := repaired(context.Background(), m, m.size(), &vhd.RepairOptions{All: true})
			if limit := 8*len(file) + mib; read > limit {
				t.Errorf("%d bytes are read of a file of %d, want at most %d", read, len(file), limit)
			}
			if !errors.Is(err, x.err) {
				t.Fatalf("Repair: %v, want %v", err, x.err)
			}
			if err != nil {
				return
			}
			if len(done) < 100 {
				t.Errorf("%d repairs, want 100 blocks", len(done))
			}
			noErrors(t, m.bytes())
			sameBytes(t, "disk", readAll(t, openBytes(t, m.bytes(), nil)), guest(file, 512, 200*16*kib))
		})
	}
}
