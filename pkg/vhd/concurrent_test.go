package vhd_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// Run these tests with the race detector.

// parallel runs f in n goroutines and waits for them.
func parallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

// inFile makes an image in a file of its own. The locks of a file in memory would hide races.
func inFile(t *testing.T, o *vhd.CreateOptions, inPlace bool) (path string, img *vhd.Image) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "disk.vhd")
	img, err := vhd.Create(path, o)
	if err != nil {
		t.Fatal(err)
	}
	if inPlace {
		if err := img.Close(); err != nil {
			t.Fatal(err)
		}
		if img, err = vhd.Open(path, &vhd.OpenOptions{Write: true}); err != nil {
			t.Fatal(err)
		}
	}
	return path, img
}

// closed closes the image and opens its file for reading.
func closed(t *testing.T, path string, img *vhd.Image) []byte {
	t.Helper()
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := vhd.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	return readAll(t, again)
}

// Writers fill their own parts of shared blocks in random order. Meanwhile others read, sync
// and iterate over extents.
func TestConcurrentWriters(t *testing.T) {
	const (
		blockSize = 16 * kib
		piece     = 1536 // does not divide a block
		pieces    = 256
		writers   = 8
	)
	for _, c := range []struct {
		name    string
		typ     vhd.DiskType
		inPlace bool
	}{
		{"new dynamic", vhd.Dynamic, false},
		{"dynamic in place", vhd.Dynamic, true},
		{"fixed in place", vhd.Fixed, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := &vhd.CreateOptions{Type: c.typ, Size: piece * pieces, Exact: true}
			if c.typ == vhd.Dynamic {
				o.BlockSize = blockSize
			}
			path, img := inFile(t, o, c.inPlace)
			var done atomic.Bool
			var busy sync.WaitGroup
			// Every byte is zero or written. (A file system may show parts of a write in
			// progress.)
			busy.Go(func() {
				p := make([]byte, piece)
				for i := 0; !done.Load(); i = (i + 7) % pieces {
					if n, err := img.ReadAt(p, int64(i*piece)); n != piece || err != nil && err != io.EOF {
						t.Errorf("ReadAt: %d, %v", n, err)
						return
					}
					for j, want := range pattern(piece, byte(i)) {
						if p[j] != 0 && p[j] != want {
							t.Errorf("piece %d, byte %d is %#02x, want 0 or %#02x", i, j, p[j], want)
							return
						}
					}
				}
			})
			busy.Go(func() {
				for !done.Load() {
					if c.inPlace {
						if err := img.Sync(); err != nil {
							t.Errorf("Sync: %v", err)
							return
						}
					}
					at := int64(0)
					for e, err := range img.Extents(0, img.Size()) {
						if err != nil || e.Off != at {
							t.Errorf("extent %+v, %v; want one at %d", e, err, at)
							return
						}
						at = e.End()
					}
				}
			})
			parallel(writers, func(w int) {
				rnd := rand.New(rand.NewPCG(uint64(w), 1))
				for _, i := range rnd.Perm(pieces / writers) {
					n := i*writers + w
					write(t, img, pattern(piece, byte(n)), int64(n*piece))
				}
			})
			done.Store(true)
			busy.Wait()
			var want []byte
			for i := range pieces {
				want = append(want, pattern(piece, byte(i))...)
			}
			sameBytes(t, "contents", closed(t, path, img), want)
		})
	}
}

// Many writers use the same unallocated block. It is allocated once.
func TestConcurrentAllocation(t *testing.T) {
	const blockSize, blocks, writers = 4 * kib, 32, 8
	for _, inPlace := range []bool{false, true} {
		t.Run(fmt.Sprint("in place: ", inPlace), func(t *testing.T) {
			path, img := inFile(t, &vhd.CreateOptions{Size: blocks * blockSize, Exact: true, BlockSize: blockSize}, inPlace)
			want := make([]byte, blocks*blockSize)
			for b := range blocks {
				start := make(chan struct{})
				var wg sync.WaitGroup
				for w := range writers {
					p := pattern(sector, byte(b*writers+w))
					off := b*blockSize + w*sector
					copy(want[off:], p)
					wg.Go(func() {
						<-start
						switch w {
						case 0:
							if err := img.Reserve(int64(b*blockSize), blockSize); err != nil {
								t.Error(err)
							}
						case 1:
							if err := img.WriteZeroes(int64(off), sector); err != nil {
								t.Error(err)
							}
						}
						write(t, img, p, int64(off))
					})
				}
				close(start)
				wg.Wait()
			}
			if total, allocated := img.BlockCounts(); total != blocks || allocated != blocks {
				t.Errorf("%d of %d blocks are allocated, want all of %d", allocated, total, blocks)
			}
			sameBytes(t, "contents", closed(t, path, img), want)
			b := firstBytes(t, path, 1536+blocks*4)
			places := map[uint32]bool{}
			for i := range blocks {
				places[be.Uint32(b[1536+i*4:])] = true
			}
			if len(places) != blocks {
				t.Errorf("%d places for %d blocks", len(places), blocks)
			}
		})
	}
}

// Writers share partial blocks and their sectors while others sync.
func TestConcurrentPartialBlocks(t *testing.T) {
	const blockSize, blocks, writers = 8 * kib, 8, 8
	c := craft{size: blocks * blockSize, blockSize: blockSize}
	want := make([]byte, blocks*blockSize)
	for i := range blocks {
		data := pattern(blockSize, byte(i))
		c.blocks = append(c.blocks, block{i, int64(4 + i*17), append([]byte{0x0f, 0xf0}, make([]byte, 510)...), data})
		copy(want[i*blockSize+4*sector:], data[4*sector:12*sector])
	}
	path := filepath.Join(t.TempDir(), "disk.vhd")
	writeFile(t, path, c.bytes())
	img, err := vhd.Open(path, &vhd.OpenOptions{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	// Each sector has a part for each writer, and a gap that stays unwritten.
	const part = sector/writers - 4
	for s := range len(want) / sector {
		for w := range writers {
			copy(want[s*sector+w*sector/writers:], pattern(part, byte(s+w)))
		}
	}
	var done atomic.Bool
	var busy sync.WaitGroup
	busy.Go(func() {
		for !done.Load() {
			if err := img.Sync(); err != nil {
				t.Errorf("Sync: %v", err)
				return
			}
		}
	})
	busy.Go(func() {
		p := make([]byte, 3*sector)
		for i := int64(0); !done.Load(); i = (i + 1000) % (blocks*blockSize - int64(len(p))) {
			if n, err := img.ReadAt(p, i); n != len(p) || err != nil {
				t.Errorf("ReadAt: %d, %v", n, err)
				return
			}
		}
	})
	parallel(writers, func(w int) {
		rnd := rand.New(rand.NewPCG(uint64(w), 2))
		for _, s := range rnd.Perm(len(want) / sector) {
			write(t, img, pattern(part, byte(s+w)), int64(s*sector+w*sector/writers))
		}
	})
	done.Store(true)
	busy.Wait()
	sameBytes(t, "contents", closed(t, path, img), want)
}

// A partial write of a sector reads the rest first. It must not undo zeros that another call
// writes to the rest meanwhile.
func TestZeroesBesideAPartialWrite(t *testing.T) {
	m := newMemFile(partialBlock().bytes())
	img := openMem(t, m)
	var zeroing sync.WaitGroup
	m.before = func(c change) (int, error) {
		if bytes.HasPrefix(c.data, []byte("hello")) {
			zeroing.Go(func() {
				if err := img.WriteZeroes(200, 100); err != nil {
					t.Error(err)
				}
			})
			// Let it go on as far as possible: it may have to wait for the write.
			for range 10000 {
				runtime.Gosched()
			}
		}
		return len(c.data), nil
	}
	write(t, img, []byte("hello"), 0)
	zeroing.Wait()
	want := append(pattern(sector, 1), make([]byte, 8*kib-sector)...)
	copy(want, "hello")
	clear(want[200:300])
	sameBytes(t, "contents", readAll(t, img), want)
}

// When Sync returns, writes that precede the call are durable, even if another Sync was
// running.
func TestConcurrentSync(t *testing.T) {
	const blockSize, blocks = 4 * kib, 64
	m := create(t, &vhd.CreateOptions{Size: blocks * blockSize, Exact: true, BlockSize: blockSize})
	img := openMem(t, m)
	parallel(4, func(w int) {
		for b := w; b < blocks; b += 4 {
			p := pattern(blockSize, byte(b))
			write(t, img, p, int64(b*blockSize))
			if err := img.Sync(); err != nil {
				t.Error(err)
			}
			// The entry is in the file and points to the data.
			entry := make([]byte, 4)
			if _, err := m.ReadAt(entry, int64(1536+b*4)); err != nil || be.Uint32(entry) == unused {
				t.Errorf("block %d: entry %x after Sync, %v", b, entry, err)
				return
			}
			got := make([]byte, blockSize)
			if _, err := m.ReadAt(got, int64(be.Uint32(entry))*sector+sector); err != nil || !bytes.Equal(got, p) {
				t.Errorf("block %d: its data is not where its entry says, %v", b, err)
			}
		}
	})
	noErrors(t, m.bytes())
}

// The first Sync of a new image makes it an image that is changed in place. Reads, writes and
// extents continue meanwhile, and nothing is lost.
func TestConcurrentSyncOfNew(t *testing.T) {
	const (
		blockSize = 8 * kib
		blocks    = 24
		piece     = 3 * kib // does not divide a block
		pieces    = blocks * blockSize / piece
		writers   = 4
		images    = 20
	)
	for _, c := range []struct {
		name string
		o    vhd.CreateOptions
	}{
		{"dynamic", vhd.CreateOptions{BlockSize: blockSize}},
		{"dynamic, growing", vhd.CreateOptions{BlockSize: blockSize, Growing: true}},
		{"fixed", vhd.CreateOptions{Type: vhd.Fixed}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range images {
				o := c.o
				o.Size, o.Exact = blocks*blockSize, true
				path, img := inFile(t, &o, false)
				var left atomic.Int64
				left.Store(writers)
				want := make([]byte, 0, blocks*blockSize)
				for i := range pieces {
					want = append(want, pattern(piece, byte(i))...)
				}
				read := func() bool {
					p := make([]byte, len(want))
					if n, err := img.ReadAt(p, 0); n != len(p) || err != nil && err != io.EOF {
						t.Errorf("ReadAt: %d, %v", n, err)
						return false
					}
					for i := range p {
						if p[i] != 0 && p[i] != want[i] {
							t.Errorf("byte %d is %#02x, want 0 or %#02x", i, p[i], want[i])
							return false
						}
					}
					return true
				}
				parallel(writers+3, func(i int) {
					switch {
					case i < writers:
						defer left.Add(-1)
						for n := i; n < pieces; n += writers {
							write(t, img, pattern(piece, byte(n)), int64(n*piece))
						}
					case i == writers:
						for more := true; more; {
							more = left.Load() > 0
							if err := img.Sync(); err != nil {
								t.Errorf("Sync: %v", err)
								return
							}
						}
					case i == writers+1:
						for left.Load() > 0 && read() {
							runtime.Gosched()
						}
					default:
						for left.Load() > 0 {
							at := int64(0)
							for e, err := range img.Extents(0, img.Size()) {
								if err != nil || e.Off != at {
									t.Errorf("extent %+v, %v; want one at %d", e, err, at)
									return
								}
								at = e.End()
							}
							img.BlockCounts()
							runtime.Gosched()
						}
					}
				})
				sameBytes(t, "contents", readAll(t, img), want)
				sameBytes(t, "contents, closed", closed(t, path, img), want)
				f, err := os.ReadFile(path)
				must(t, err)
				noErrors(t, f)
				if t.Failed() {
					return
				}
			}
		})
	}
}

// Many goroutines write to a child, new or in place, also to neighbours of one sector.
// Meanwhile others read, sync and iterate over its extents.
func TestConcurrentChild(t *testing.T) {
	const size, piece, writers = 1 * mib, 700, 8
	for _, inPlace := range []bool{false, true} {
		t.Run(fmt.Sprintf("in place %v", inPlace), func(t *testing.T) {
			base := filepath.Join(t.TempDir(), "base.vhd")
			img, err := vhd.Create(base, &vhd.CreateOptions{Size: size, Exact: true, BlockSize: 64 * kib})
			must(t, err)
			want := pattern(size, 1)
			write(t, img, want, 0)
			must(t, img.Close())
			parent, err := vhd.Open(base, nil)
			must(t, err)
			o := &vhd.CreateOptions{Parent: parent, BlockSize: 32 * kib}
			o.ParentRecord, err = vhd.ParentRecordOf(filepath.Join(t.TempDir(), "x"), base, parent, vhd.PathsAll)
			must(t, err)
			o.ParentRecord.Locators = []vhd.Locator{{Code: "MacX", Path: "file://" + filepath.ToSlash(base)}}
			path, child := filepath.Join(filepath.Dir(base), "child.vhd"), (*vhd.Image)(nil)
			child, err = vhd.Create(path, o)
			must(t, err)
			if inPlace {
				must(t, child.Close())
				child, err = vhd.Open(path, &vhd.OpenOptions{Write: true})
				must(t, err)
			}
			var left atomic.Int64
			left.Store(writers)
			parallel(writers+3, func(i int) {
				switch {
				case i < writers: // every eighth piece
					defer left.Add(-1)
					for off := i * piece; off+piece <= size; off += 2 * writers * piece {
						if off/piece%3 == 0 {
							if err := child.WriteZeroes(int64(off), piece); err != nil {
								t.Error(err)
							}
						} else {
							write(t, child, pattern(piece, byte(i+2)), int64(off))
						}
					}
				case i == writers:
					for left.Load() > 0 {
						if err := child.Sync(); err != nil {
							t.Error(err)
							return
						}
					}
				case i == writers+1:
					p := make([]byte, size)
					for left.Load() > 0 {
						if _, err := child.ReadAt(p, 0); err != nil && err != io.EOF {
							t.Error(err)
							return
						}
					}
				default:
					for left.Load() > 0 {
						for _, err := range child.Extents(0, size) {
							if err != nil {
								t.Error(err)
								return
							}
						}
						runtime.Gosched()
					}
				}
			})
			for i := range writers {
				for off := i * piece; off+piece <= size; off += 2 * writers * piece {
					if off/piece%3 == 0 {
						clear(want[off : off+piece])
					} else {
						copy(want[off:], pattern(piece, byte(i+2)))
					}
				}
			}
			sameBytes(t, "contents", readAll(t, child), want)
			sameBytes(t, "contents, closed", closed(t, path, child), want)
		})
	}
}
