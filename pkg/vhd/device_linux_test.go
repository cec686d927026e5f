package vhd_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vhdtool/vhdtool/internal/loopdevice"
	"github.com/vhdtool/vhdtool/internal/oracle"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/chain"
)

// These tests run on block devices of the system. model_test.go has devices in memory.

// deviceSizes are sector sizes and device sizes: one that is no multiple of 4 KiB, and one that
// must be.
var deviceSizes = map[int]int64{512: 4*mib + 512, 4096: 4*mib + 4*kib}

// onDevice is an image on a device, and the expected contents of its disk.
type onDevice struct {
	*testing.T
	dev     string
	parents disk.ParentSearch
	want    []byte
}

func (d *onDevice) open(write bool) *vhd.Image {
	d.Helper()
	img, err := vhd.Open(d.dev, &vhd.OpenOptions{Write: write, Parents: d.parents})
	must(d, err)
	return img
}

// holds opens the image again, compares it with the model, and checks it.
func (d *onDevice) holds(what string) {
	d.Helper()
	img := d.open(false)
	sameBytes(d, what, readAll(d, img), d.want)
	checkExtents(d, img, d.want, 0, len(d.want))
	must(d, img.Close())
	d.sound(what)
}

func (d *onDevice) sound(what string) {
	d.Helper()
	f, size, err := disk.OpenFile(d.dev, false, nil)
	must(d, err)
	defer f.Close()
	o := &vhd.CheckOptions{Device: true, Deep: true, Chain: true, Parents: d.parents}
	for f, err := range vhd.NewChecker(f, size, o).Findings(context.Background()) {
		must(d, err)
		if f.Severity == vhd.Error {
			d.Errorf("%s: check: %s: %v", what, f.ID, f)
		}
	}
}

// sameInQEMU compares the disk that qemu-img reads with the model.
func (d *onDevice) sameInQEMU(what string) {
	d.Helper()
	if !qemuInstalled() {
		return
	}
	out := filepath.Join(d.TempDir(), "qemu.raw")
	oracle.QemuImg(d, "convert", "-f", "vpc", "-O", "raw", d.dev, out)
	b, err := os.ReadFile(out)
	must(d, err)
	sameBytes(d, what+", in qemu-img", b, d.want)
}

func qemuInstalled() bool {
	_, err := exec.LookPath("qemu-img")
	return err == nil
}

// scribble writes to the image, and to the model.
func (d *onDevice) scribble(img *vhd.Image, rnd *rand.Rand, writes int) {
	d.Helper()
	for i := range writes {
		off := rnd.IntN(len(d.want))
		n := min(1+rnd.IntN(40*kib), len(d.want)-off)
		if i%4 == 3 {
			must(d, img.WriteZeroes(int64(off), int64(n)))
			clear(d.want[off : off+n])
			continue
		}
		p := pattern(n, byte(rnd.IntN(255)))
		write(d, img, p, int64(off))
		copy(d.want[off:], p)
	}
}

// create makes an image on the device, and writes to it before and after a Sync.
func (d *onDevice) create(o *vhd.CreateOptions, rnd *rand.Rand) {
	d.Helper()
	f, _, err := disk.OpenFile(d.dev, true, nil)
	must(d, err)
	img, err := vhd.CreateIn(f, o)
	must(d, err)
	if o.Parent == nil {
		d.want = make([]byte, img.Size())
	}
	sameBytes(d, "contents of the new image", readAll(d, img), d.want)
	d.scribble(img, rnd, 8)
	syncImage(d, img)
	d.scribble(img, rnd, 8)
	sameBytes(d, "contents before Close", readAll(d, img), d.want)
	must(d, img.Close())
	d.holds("the new image")
}

// inPlace opens the image again and writes to it.
func (d *onDevice) inPlace(rnd *rand.Rand) {
	d.Helper()
	img := d.open(true)
	d.scribble(img, rnd, 8)
	syncImage(d, img)
	d.scribble(img, rnd, 4)
	must(d, img.Close())
	d.holds("written in place")
}

// setFooter changes a field of the footer.
func (d *onDevice) setFooter() {
	d.Helper()
	img := d.open(true)
	f := img.Footer()
	f.Timestamp++
	must(d, img.SetFooter(f))
	must(d, img.Close())
	img = d.open(false)
	if got := img.Footer().Timestamp; got != f.Timestamp {
		d.Errorf("the time is %d, want %d", got, f.Timestamp)
	}
	must(d, img.Close())
	d.holds("with another footer")
}

func onDevices(t *testing.T, f func(d *onDevice, size int64, rnd *rand.Rand)) {
	for sectorSize, size := range deviceSizes {
		t.Run(fmt.Sprintf("sectors of %d bytes", sectorSize), func(t *testing.T) {
			f(&onDevice{T: t, dev: loopdevice.Attach(t, size, sectorSize)}, size, rand.New(rand.NewPCG(uint64(sectorSize), 1)))
		})
	}
}

func TestDeviceFixed(t *testing.T) {
	onDevices(t, func(d *onDevice, size int64, rnd *rand.Rand) {
		for _, n := range []int64{size - sector, 1*mib + 3*sector} { // the whole device, or less
			d.create(&vhd.CreateOptions{Type: vhd.Fixed, Size: n, Exact: true}, rnd)
			d.inPlace(rnd)
			d.setFooter()
			d.sameInQEMU("a fixed disk")
			img := d.open(true)
			for _, to := range []int64{n - sector, n / 2 / sector * sector} {
				if err := img.Resize(context.Background(), to, nil); !errors.Is(err, vhd.ErrUnsupported) {
					t.Errorf("resizing a fixed disk on a device: %v, want ErrUnsupported", err)
				}
			}
			must(d, img.Close())
			d.holds("not resized")
		}
	})
}

func TestDeviceDynamic(t *testing.T) {
	onDevices(t, func(d *onDevice, size int64, rnd *rand.Rand) {
		d.create(&vhd.CreateOptions{Size: 1*mib + 5*sector, Exact: true, BlockSize: 64 * kib}, rnd)
		d.inPlace(rnd)
		d.setFooter()
		d.sameInQEMU("a dynamic disk")
		// The last size needs a BAT larger than the space before the blocks.
		for _, n := range []int64{1*mib + 9*sector, 2 * mib, 700 * kib, 300*kib + sector, 1 * mib, 64 * mib, 512 * kib} {
			img := d.open(true)
			must(d, img.Resize(context.Background(), n, nil))
			d.want = append(d.want, make([]byte, max(0, int(n)-len(d.want)))...)[:n]
			sameBytes(d, "contents after a resize", readAll(d, img), d.want)
			d.scribble(img, rnd, 3)
			must(d, img.Close())
			what := fmt.Sprintf("resized to %d bytes", n)
			d.holds(what)
			d.sameInQEMU(what)
		}
		img := d.open(true)
		must(d, img.Empty(context.Background(), nil))
		must(d, img.Close())
		clear(d.want)
		d.holds("emptied")
	})
}

// deviceBase makes a dynamic image in a file, and returns its contents.
func deviceBase(t *testing.T, name string, size int64, seed byte) []byte {
	t.Helper()
	img, err := vhd.Create(name, &vhd.CreateOptions{Size: size, Exact: true, BlockSize: 64 * kib})
	must(t, err)
	want := make([]byte, size)
	for off := 0; off+90*kib < len(want); off += 300 * kib {
		copy(want[off:], pattern(90*kib, seed))
		write(t, img, want[off:off+90*kib], int64(off))
	}
	must(t, img.Close())
	return want
}

// A child on a device is written, resized, merged into its parent, and moved to other parents,
// which are files.
func TestDeviceChild(t *testing.T) {
	onDevices(t, func(d *onDevice, size int64, rnd *rand.Rand) {
		dir := d.TempDir()
		base, other, moved := filepath.Join(dir, "base.vhd"), filepath.Join(dir, "other.vhd"), filepath.Join(dir, "moved.vhd")
		d.want = deviceBase(d.T, base, 1*mib, 1)
		deviceBase(d.T, other, 1*mib, 2)
		rawWant := pattern(600*kib, 3)
		writeFile(d.T, filepath.Join(dir, "base.raw"), rawWant)
		parent, err := vhd.Open(base, nil)
		must(d, err)
		record, err := vhd.ParentRecordOf(d.dev, base, parent, vhd.PathsAll)
		must(d, err)
		d.parents.Files = []string{base}
		d.create(&vhd.CreateOptions{Parent: parent, ParentRecord: record}, rnd)
		d.inPlace(rnd)
		d.setFooter()

		img := d.open(true)
		must(d, img.Resize(context.Background(), 1*mib+100*kib, nil))
		d.want = append(d.want, make([]byte, 100*kib)...)
		must(d, img.Close())
		d.holds("resized")

		open := func() vhd.OpenOptions { return vhd.OpenOptions{Parents: d.parents} }
		must(d, chain.Commit(context.Background(), d.dev, &chain.CommitOptions{Open: open()}))
		d.holds("committed")
		baseImage, err := vhd.Open(base, nil)
		must(d, err)
		sameBytes(d, "the parent after a commit", readAll(d, baseImage), d.want)
		must(d, baseImage.Close())
		d.inPlace(rnd)

		must(d, os.Rename(base, moved))
		must(d, chain.Rebase(context.Background(), d.dev, &chain.RebaseOptions{Parent: moved, Unsafe: true, Open: open()}))
		d.parents.Files = []string{moved}
		d.holds("with its parent moved")
		must(d, chain.Rebase(context.Background(), d.dev, &chain.RebaseOptions{Parent: other, Open: open()}))
		d.parents.Files = []string{other}
		d.holds("with another parent")
		must(d, chain.Rebase(context.Background(), d.dev, &chain.RebaseOptions{Parent: filepath.Join(dir, "base.raw"), Raw: true, Open: open()}))
		d.parents.Files = []string{filepath.Join(dir, "base.raw")}
		d.holds("with a raw parent")
		d.inPlace(rnd)
		must(d, chain.Rebase(context.Background(), d.dev, &chain.RebaseOptions{Open: open()}))
		d.parents.Files = nil
		d.holds("without a parent")
		d.sameInQEMU("without a parent")
		d.inPlace(rnd)
	})
}

// An unsafe rebase of an image on a device changes only the parent record. It does so with and
// without unused space between the blocks for the new record.
func TestDeviceUnsafeRebase(t *testing.T) {
	onDevices(t, func(d *onDevice, size int64, rnd *rand.Rand) {
		dir := d.TempDir()
		name := filepath.Join(dir, "base.vhd")
		contents := deviceBase(d.T, name, 1*mib, 1)
		for blocks := range 3 {
			parent, err := vhd.Open(name, nil)
			must(d, err)
			record, err := vhd.ParentRecordOf(d.dev, name, parent, vhd.PathsAll)
			must(d, err)
			f, _, err := disk.OpenFile(d.dev, true, nil)
			must(d, err)
			img, err := vhd.CreateIn(f, &vhd.CreateOptions{Parent: parent, ParentRecord: record})
			must(d, err)
			d.want = slices.Clone(contents)
			for b := range blocks {
				p := pattern(64*kib, byte(b+50))
				write(d, img, p, int64(b*3*64*kib))
				copy(d.want[b*3*64*kib:], p)
			}
			must(d, img.Close())
			for i := range 5 {
				moved := filepath.Join(dir, strings.Repeat("x", 1+i*50)+".vhd")
				must(d, os.Rename(name, moved))
				name = moved
				d.parents.Files = []string{name}
				before := bytesAt(d, d.dev, size-sector, sector)
				if err := chain.Rebase(context.Background(), d.dev, &chain.RebaseOptions{Parent: name, Unsafe: true}); err != nil {
					d.Errorf("rebase %d of an image with %d blocks: %v", i, blocks, err)
				}
				sameBytes(d, "the trailing footer", bytesAt(d, d.dev, size-sector, sector), before)
				d.holds(fmt.Sprintf("an image with %d blocks after rebase %d", blocks, i))
			}
		}
	})
}

// An image on a device is the parent of one in a file, which is merged into it.
func TestDeviceParent(t *testing.T) {
	onDevices(t, func(d *onDevice, size int64, rnd *rand.Rand) {
		for _, o := range []vhd.CreateOptions{
			{Size: 1 * mib, Exact: true, BlockSize: 64 * kib}, {Size: 1 * mib, Exact: true, Type: vhd.Fixed},
		} {
			d.create(&o, rnd)
			child := onDevice{T: d.T, dev: filepath.Join(d.TempDir(), "child.vhd"), parents: disk.ParentSearch{Files: []string{d.dev}}, want: slices.Clone(d.want)}
			parent := d.open(false)
			img, err := vhd.Create(child.dev, &vhd.CreateOptions{Parent: parent, ParentRecord: vhd.ParentRecord{Name: "device"}})
			must(d, err)
			child.scribble(img, rnd, 8)
			must(d, img.Close())
			must(d, chain.Commit(context.Background(), child.dev, &chain.CommitOptions{Open: vhd.OpenOptions{Parents: child.parents}}))
			d.want = child.want
			d.holds("the parent after a commit")
			img = child.open(false)
			sameBytes(d, "the child after a commit", readAll(d, img), d.want)
			must(d, img.Close())
		}
	})
}

// Damage by a crash or a careless program on a device is repaired there.
func TestDeviceRepair(t *testing.T) {
	onDevices(t, func(d *onDevice, size int64, rnd *rand.Rand) {
		d.create(&vhd.CreateOptions{Size: 1 * mib, Exact: true, BlockSize: 64 * kib}, rnd)
		for name, at := range map[string]int64{"leading footer": 0, "trailing footer": size - sector} {
			f, _, err := disk.OpenFile(d.dev, true, nil)
			must(d, err)
			_, err = f.WriteAt(make([]byte, sector), at)
			must(d, err)
			_, err = repaired(context.Background(), f, size, &vhd.RepairOptions{All: true})
			must(d, err)
			must(d, f.Close())
			d.holds("with its " + name + " repaired")
			for _, at := range []int64{0, size - sector} {
				if b := bytesAt(d, d.dev, at, 8); string(b) != "conectix" {
					t.Errorf("%s repaired: %q at offset %d", name, b, at)
				}
			}
		}
	})
}

func bytesAt(t tb, name string, off int64, n int) []byte {
	t.Helper()
	f, err := os.Open(name)
	must(t, err)
	defer f.Close()
	b := make([]byte, n)
	_, err = f.ReadAt(b, off)
	must(t, err)
	return b
}

// A dynamic image is refused if its header, BAT and footers do not fit on the device. If these
// just fit, the image is made and opens, and its blocks are refused.
func TestDeviceTooSmallForTheBAT(t *testing.T) {
	for _, sectorSize := range []int{512, 4096} {
		t.Run(fmt.Sprintf("sectors of %d bytes", sectorSize), func(t *testing.T) {
			const length = 64 * kib
			const entries = (length - 512 - 1024 - 512) / 4 // footer, header, footer
			dev := loopdevice.Attach(t, length, sectorSize)
			options := func(n int64) *vhd.CreateOptions {
				return &vhd.CreateOptions{Size: n * 64 * kib, Exact: true, BlockSize: 64 * kib}
			}
			device := func() *os.File {
				f, _, err := disk.OpenFile(dev, true, nil)
				must(t, err)
				return f
			}
			for _, n := range []int64{entries + 1, entries + 128, 2 * entries, 10 * entries} {
				f := device()
				before := bytesAt(t, dev, 0, length)
				img, err := vhd.CreateIn(f, options(n))
				if img != nil || !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("an image of %d BAT entries, of which %d fit: an image (%t), and %v; want none, and ENOSPC", n, entries, img != nil, err)
				}
				sameBytes(t, "the device", bytesAt(t, dev, 0, length), before)
				must(t, f.Close())
			}
			img, err := vhd.CreateIn(device(), options(entries))
			must(t, err)
			must(t, img.Close())
			d := onDevice{T: t, dev: dev}
			img = d.open(true)
			if n, _ := img.BlockCounts(); n != entries {
				t.Errorf("the image has %d blocks, want %d", n, entries)
			}
			if _, err := img.WriteAt([]byte("x"), 0); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("a block was written that has no space: %v, want ENOSPC", err)
			}
			must(t, img.Close())
			d.sound("after a block that did not fit")

			// The size is set later.
			o := options(1)
			o.Growing = true
			for _, n := range []int64{entries + 1, 10 * entries} {
				img, err := vhd.CreateIn(device(), o)
				if err == nil {
					err = img.Resize(context.Background(), n*64*kib, nil)
					if cerr := img.Close(); err == nil {
						err = cerr
					}
				}
				if err == nil {
					again, err := vhd.Open(dev, nil)
					if err != nil {
						t.Errorf("a growing image of %d BAT entries, of which %d fit, was made without an error, and does not open: %v", n, entries, err)
						continue
					}
					t.Errorf("a growing image of %d BAT entries, of which %d fit, was made without an error", n, entries)
					must(t, again.Close())
				}
			}
		})
	}
}

// On a full device the written data stays, and can be overwritten.
func TestDeviceFull(t *testing.T) {
	onDevices(t, func(d *onDevice, size int64, rnd *rand.Rand) {
		f, _, err := disk.OpenFile(d.dev, true, nil)
		must(d, err)
		img, err := vhd.CreateIn(f, &vhd.CreateOptions{Size: 16 * mib, Exact: true, BlockSize: 64 * kib})
		must(d, err)
		d.want = make([]byte, 16*mib)
		for _, reopen := range []bool{false, true} {
			if reopen {
				must(d, img.Close())
				d.holds("the device full")
				img = d.open(true)
			}
			full := false
			for off := 0; off < len(d.want); off += 64 * kib {
				p := pattern(64*kib, byte(off>>16))
				n, err := img.WriteAt(p, int64(off))
				copy(d.want[off:], p[:n])
				if err != nil && !errors.Is(err, syscall.ENOSPC) {
					d.Fatalf("a write to a device that is full: %v, want ENOSPC", err)
				}
				full = full || err != nil
				if err == nil && full && off >= 8*mib {
					d.Errorf("a block at %d was written after the device was full", off)
				}
			}
			if !full {
				d.Error("the device was never full")
			}
			syncImage(d, img)
		}
		must(d, img.Close())
		d.holds("the device full, written again")
	})
}
