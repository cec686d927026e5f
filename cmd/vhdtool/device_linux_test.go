package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dustin/go-humanize"

	"github.com/vhdtool/vhdtool/internal/loopdevice"
)

// deviceTest runs commands on a block device. A raw file has the expected contents of the disk.
type deviceTest struct {
	*testing.T
	dir  string
	dev  string
	want string // name of the raw file

	// leaks is true once the image may have unused space between its blocks, which check
	// reports: on a device none is freed.
	leaks bool
}

// run runs vhdtool, which must end with the given status, and returns its output.
func (d *deviceTest) run(status int, args ...string) string {
	d.Helper()
	cmd := exec.Command("vhdtool", args...)
	cmd.Dir = d.dir
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		d.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != status && !(d.leaks && args[0] == "check" && got == 3) {
		d.Errorf("vhdtool %q ends with status %d, want %d\n%s", args, got, status, out)
	}
	return string(out)
}

func (d *deviceTest) path(name string) string { return filepath.Join(d.dir, name) }

// setWant sets the expected contents of the disk.
func (d *deviceTest) setWant(b []byte) {
	d.Helper()
	if err := os.WriteFile(d.path(d.want), b, 0o666); err != nil {
		d.Fatal(err)
	}
}

func (d *deviceTest) wanted() []byte {
	d.Helper()
	b, err := os.ReadFile(d.path(d.want))
	if err != nil {
		d.Fatal(err)
	}
	return b
}

// holds compares the disk with the expected contents, and checks the image. parent is the file of
// its parent, or "".
func (d *deviceTest) holds(parent string) {
	d.Helper()
	var flags []string
	if parent != "" {
		flags = []string{"--parent", parent}
	}
	with := func(args ...string) []string { return append(args, flags...) }
	d.run(0, with("convert", "-f", "vpc", d.dev, "out.raw")...)
	got, err := os.ReadFile(d.path("out.raw"))
	if err != nil {
		d.Fatal(err)
	}
	if want := d.wanted(); !bytes.Equal(got, want) {
		d.Fatalf("the disk (%d bytes) does not hold what it must (%d bytes)", len(got), len(want))
	}
	d.run(0, with("compare", "-f", "vpc", "-F", "raw", d.dev, d.want)...)
	d.run(0, with("check", "-f", "vpc", "--deep", d.dev)...)
	if _, err := exec.LookPath("qemu-img"); err != nil || parent != "" {
		return
	}
	if out, err := exec.Command("qemu-img", "compare", "-f", "vpc", "-F", "raw", d.dev, d.path(d.want)).CombinedOutput(); err != nil {
		d.Errorf("qemu-img compare: %v: %s", err, out)
	}
}

// write overwrites a part of the disk, and of the file, with random bytes.
func (d *deviceTest) write(seed uint64, off, n int, flags ...string) {
	d.Helper()
	p := make([]byte, n)
	rnd := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = io.ReadFull(rnd, p)
	if err := os.WriteFile(d.path("patch"), p, 0o666); err != nil {
		d.Fatal(err)
	}
	d.run(0, append([]string{"dd", "if=patch", "of=" + d.dev, "-O", "vpc", "bs=512", fmt.Sprintf("seek=%d", off/512), "conv=notrunc"}, flags...)...)
	want := d.wanted()
	copy(want[off:], p)
	d.setWant(want)
}

func onLoopDevices(t *testing.T, f func(d *deviceTest, size int64)) {
	for sectorSize, size := range map[int]int64{512: 8<<20 + 512, 4096: 8<<20 + 4096} {
		t.Run(fmt.Sprintf("sectors of %d bytes", sectorSize), func(t *testing.T) {
			f(&deviceTest{t, t.TempDir(), loopdevice.Attach(t, size, sectorSize), "want.raw", false}, size)
		})
	}
}

func TestDeviceFixed(t *testing.T) {
	t.Parallel()
	onLoopDevices(t, func(d *deviceTest, size int64) {
		d.run(0, "create", "-f", "vpc", "-o", "subformat=fixed,force_size", d.dev, "3M")
		d.setWant(make([]byte, 3<<20))
		d.holds("")
		d.write(1, 1<<20, 70000/512*512)
		d.write(2, 3<<20-512, 512)
		d.holds("")
		d.run(1, "resize", "-f", "vpc", d.dev, "4M")
		d.run(1, "resize", "-f", "vpc", "--shrink", d.dev, "1M")
		d.holds("")
		d.run(0, "set", "--creator", "win ", d.dev)
		d.holds("")

		// The whole device, from a raw disk and back.
		whole := make([]byte, size-512)
		_, _ = io.ReadFull(rand.NewChaCha8([32]byte{3}), whole)
		d.setWant(whole)
		d.run(0, "convert", "-f", "raw", "-O", "vpc", "-o", "subformat=fixed,force_size", d.want, d.dev)
		d.holds("")
		d.run(1, "create", "-f", "vpc", "-o", "subformat=fixed,force_size", d.dev, fmt.Sprint(size))
	})
}

func TestDeviceDynamic(t *testing.T) {
	t.Parallel()
	onLoopDevices(t, func(d *deviceTest, size int64) {
		d.run(0, "create", "-f", "vpc", "-o", "force_size,block_size=64k", d.dev, "3M")
		d.setWant(make([]byte, 3<<20))
		d.holds("")
		d.write(1, 1<<20, 200<<10)
		d.write(2, 3<<20-512, 512)
		d.write(3, 0, 512)
		d.holds("")
		for _, n := range []int{3<<20 + 512, 5 << 20, 32 << 20, 4 << 20, 1<<20 + 100<<10, 2 << 20} {
			d.run(0, "resize", "-f", "vpc", "--shrink", d.dev, fmt.Sprint(n))
			want := d.wanted()
			d.leaks = d.leaks || n < len(want)
			d.setWant(append(want, make([]byte, max(0, n-len(want)))...)[:n])
			d.holds("")
			d.write(uint64(n), n-1024, 1024)
			d.holds("")
		}
		d.run(0, "set", "--creator", "win ", d.dev)
		d.holds("")
		d.run(0, "check", "-f", "vpc", "-r", "all", d.dev)
		d.holds("")

		// Each footer is destroyed in turn.
		for _, at := range []int64{0, size - 512} {
			f, err := os.OpenFile(d.dev, os.O_RDWR, 0)
			if err != nil {
				d.Fatal(err)
			}
			if _, err := f.WriteAt(make([]byte, 512), at); err != nil {
				d.Fatal(err)
			}
			if err := f.Close(); err != nil {
				d.Fatal(err)
			}
			d.run(0, "check", "-f", "vpc", "-r", "all", d.dev)
			d.holds("")
		}

		// From a raw disk, and in place.
		d.leaks = false
		disk := make([]byte, 4<<20)
		_, _ = io.ReadFull(rand.NewChaCha8([32]byte{4}), disk[1<<20:2<<20])
		d.setWant(disk)
		d.run(0, "convert", "-f", "raw", "-O", "vpc", "-o", "force_size,block_size=64k", d.want, d.dev)
		d.holds("")
		clear(disk)
		copy(disk[3<<20:], "at 3 MiB")
		d.setWant(disk)
		d.run(0, "convert", "-n", "-f", "raw", "-O", "vpc", d.want, d.dev)
		d.holds("")
		d.run(1, "convert", "-f", "raw", "-O", "vpc", "-S", "0", "-o", "force_size,block_size=64k", d.bigRaw(), d.dev)
	})
}

// bigRaw makes a raw disk that does not fit on the device.
func (d *deviceTest) bigRaw() string {
	d.Helper()
	if err := os.WriteFile(d.path("big.raw"), bytes.Repeat([]byte{1}, 9<<20), 0o666); err != nil {
		d.Fatal(err)
	}
	return "big.raw"
}

// A dynamic image whose BAT does not fit is refused, and one that just fits opens.
func TestDeviceTooSmallForTheBAT(t *testing.T) {
	t.Parallel()
	const length, entries = 64 << 10, (64<<10 - 2048) / 4
	d := &deviceTest{T: t, dir: t.TempDir(), want: "want.raw"}
	d.dev = loopdevice.Attach(t, length, 512)
	const options = "force_size,block_size=4k"
	for _, n := range []int{entries + 1, entries + 128, 10 * entries} {
		d.run(1, "create", "-f", "vpc", "-o", options, d.dev, fmt.Sprint(n<<12))
	}
	d.run(0, "create", "-f", "vpc", "-o", options, d.dev, fmt.Sprint(entries<<12))
	if out := d.run(0, "info", "-f", "vpc", d.dev); !strings.Contains(out, fmt.Sprintf("blocks in use: 0 of %s\n", humanize.Comma(int64(entries)))) {
		t.Errorf("info prints\n%s", out)
	}
	d.run(0, "check", "-f", "vpc", d.dev)

	// A source whose size is known only when the image is complete.
	for _, n := range []int{entries + 1, 10 * entries} {
		cmd := exec.Command("vhdtool", "convert", "-f", "raw", "-O", "vpc", "-o", options, "-", d.dev)
		cmd.Stdin = io.LimitReader(zeroReader{}, int64(n)<<12)
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Errorf("convert of a pipe whose BAT does not fit ends with status 0, and the image: %s", d.run(0, "info", "-f", "vpc", d.dev))
		} else if !bytes.Contains(out, []byte(d.dev)) {
			t.Errorf("convert of a pipe whose BAT does not fit: %v: %s", err, out)
		}
	}
}

func TestDeviceChild(t *testing.T) {
	t.Parallel()
	onLoopDevices(t, func(d *deviceTest, size int64) {
		disk := make([]byte, 2<<20)
		_, _ = io.ReadFull(rand.NewChaCha8([32]byte{5}), disk[300<<10:700<<10])
		d.setWant(disk)
		for _, name := range []string{"base.vhd", "same.vhd"} {
			d.run(0, "convert", "-f", "raw", "-O", "vpc", "-o", "force_size,block_size=64k", d.want, name)
		}
		other := bytes.Clone(disk)
		copy(other[1<<20:], "another disk")
		if err := os.WriteFile(d.path("other.raw"), other, 0o666); err != nil {
			t.Fatal(err)
		}
		d.run(0, "convert", "-f", "raw", "-O", "vpc", "-o", "force_size", "other.raw", "other.vhd")

		// The parent record is replaced several times.
		d.run(0, "create", "-q", "-f", "vpc", "-b", "base.vhd", d.dev)
		d.holds("base.vhd")
		for _, parent := range []string{"same.vhd", "base.vhd"} {
			// The new parent has another unique id, and the same contents.
			d.run(0, "rebase", "-q", "-u", "-b", parent, d.dev)
			d.holds(parent)
		}
		d.leaks = true // former blocks and parent records
		d.write(6, 400<<10, 150<<10, "--parent", "base.vhd")
		d.holds("base.vhd")
		d.run(0, "rebase", "-q", "-u", "-b", "same.vhd", d.dev)
		d.holds("same.vhd")
		d.run(0, "commit", "-q", "--parent", "same.vhd", d.dev)
		d.holds("same.vhd")
		d.run(0, "compare", "-f", "vpc", "-F", "raw", "same.vhd", d.want)
		d.write(7, 900<<10, 50<<10, "--parent", "same.vhd")
		d.run(0, "rebase", "-q", "--parent", "same.vhd", "-b", "other.vhd", d.dev)
		d.holds("other.vhd")
		d.run(0, "rebase", "-q", "--parent", "other.vhd", "-F", "raw", "-b", "other.raw", d.dev)
		d.holds("other.raw")
		d.run(0, "set", "--creator", "win ", d.dev)
		d.run(0, "check", "-f", "vpc", "-r", "all", "--parent", "other.raw", d.dev)
		d.holds("other.raw")
		d.run(0, "rebase", "-q", "--parent", "other.raw", "-b", "", d.dev)
		d.holds("")

		// The device as the parent of an image in a file.
		d.run(0, "create", "-q", "-f", "vpc", "-b", d.dev, "child.vhd")
		p := deviceTest{d.T, d.dir, "child.vhd", d.want, false}
		p.write(8, 100<<10, 300<<10, "--parent", d.dev)
		d.run(0, "compare", "-f", "vpc", "-F", "raw", "--parent", d.dev, "child.vhd", d.want)
		d.run(0, "commit", "-q", "--parent", d.dev, "child.vhd")
		d.holds("")
		d.run(0, "compare", "-f", "vpc", "-F", "raw", "--parent", d.dev, "child.vhd", d.want)
	})
}
