package interop

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/internal/oracle"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhdx"
)

// readVHDX compares the contents and the extents of an image with want, and returns the findings
// of its check by name.
func readVHDX(t *testing.T, image string, want []byte) map[string]int {
	t.Helper()
	before, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	img, err := vhdx.Open(image, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	got := make([]byte, img.Size())
	if n, err := img.ReadAt(got, 0); n != len(want) || err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(got, want) {
		t.Fatalf("the contents are wrong: %d bytes, %v; want %d", n, err, len(want))
	}
	next := int64(0)
	for e, err := range img.Extents(0, img.Size()) {
		if err != nil || e.Off != next {
			t.Fatalf("extent at %d, want %d; %v", e.Off, next, err)
		}
		next = e.End()
		b := make([]byte, e.Len)
		if e.State == disk.Data {
			if _, err := e.File.ReadAt(b, e.FileOff); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(b, want[e.Off:e.End()]) {
			t.Fatalf("extent %d+%d (%v) differs from the disk", e.Off, e.Len, e.State)
		}
	}
	if next != img.Size() {
		t.Fatalf("the extents end at %d, want %d", next, img.Size())
	}
	ids := map[string]int{}
	c := vhdx.NewChecker(bytes.NewReader(before), int64(len(before)), nil)
	for f, err := range c.Findings(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if f.Severity == disk.Error {
			t.Errorf("finding %v", f)
		}
		ids[f.ID]++
	}
	after, err := os.ReadFile(image)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("reading changed the file: %v", err)
	}
	return ids
}

// TestRandomVHDX reads images that each release of qemu creates and writes with random options.
// For every second image, a write to the BAT fails after it is logged, and qemu-io is killed. The
// log is then left to be replayed. VHDTOOL_TORTURE runs more of them.
func TestRandomVHDX(t *testing.T) {
	releases := oracle.QEMUs(t)
	n := 20
	if os.Getenv("VHDTOOL_TORTURE") != "" {
		n = 300
	}
	dirty := 0
	for seed := range n {
		q := releases[seed%len(releases)]
		t.Run(fmt.Sprintf("%d qemu %s", seed, q.Version), func(t *testing.T) {
			if randomVHDX(t, q, uint64(seed)) {
				dirty++
			}
		})
	}
	if dirty < n/5 {
		t.Errorf("%d of %d images have a log to replay, want at least %d", dirty, n, n/5)
	}
}

// randomVHDX tests one image, and reports whether its log had to be replayed.
func randomVHDX(t *testing.T, q oracle.QEMU, seed uint64) bool {
	rnd := rand.New(rand.NewPCG(seed, 16))
	image := filepath.Join(t.TempDir(), "image.vhdx")
	block := int64(mib) << rnd.IntN(9)
	size := (1 + rnd.Int64N(96*mib/512)) * 512
	options := fmt.Sprintf("block_size=%d,log_size=%d,block_state_zero=%s", block, (1+rnd.Int64N(4))*mib, []string{"on", "off"}[rnd.IntN(2)])
	if rnd.IntN(4) == 0 {
		options += ",subformat=fixed"
	}
	q.Img(t, "create", "-q", "-f", "vhdx", "-o", options, image, fmt.Sprint(size))
	if got := q.VirtualSize(t, "vhdx", image); got != size {
		size = got
	}
	random := func() string {
		off := rnd.Int64N(size/512) * 512
		n := (1 + rnd.Int64N(min((size-off)/512, 6*mib/512))) * 512
		return fmt.Sprintf("write -P %d %d %d", 1+rnd.IntN(255), off, n)
	}
	var commands []string
	for range rnd.IntN(6) {
		commands = append(commands, random())
	}
	q.IO(t, "vhdx", image, append(commands, "flush")...)
	if seed%2 == 1 {
		// Sectors of the BAT can be read and logged, but not written.
		options := fmt.Sprintf("driver=vhdx,file.driver=blkdebug,file.image.driver=file,file.image.filename=%s,"+
			"file.inject-error.0.event=none,file.inject-error.0.iotype=write,file.inject-error.0.sector=%d", image, vhdxBAT(t, image)/512)
		q.Try(t, "qemu-io", "-c", random(), "-c", random(), "-c", random(), "-c", "sigraise 9", "--image-opts", options)
	}
	raw := image + ".raw"
	copied := image + ".copy"
	b, err := os.ReadFile(image)
	if err == nil {
		err = os.WriteFile(copied, b, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	q.Img(t, "check", "-q", "-f", "vhdx", "-r", "all", copied) // replays the log in the file
	q.Img(t, "convert", "-f", "vhdx", "-O", "raw", copied, raw)
	want, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	ids := readVHDX(t, image, want)
	if ids["region-optional"] != 2 {
		t.Errorf("findings %v, want region-optional twice: qemu creates optional regions", ids)
	}
	return ids["log-pending"] > 0
}

// vhdxBAT returns the offset of the BAT, which is the first region that qemu writes.
func vhdxBAT(t *testing.T, image string) int64 {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 32)
	if _, err := f.ReadAt(b, 192<<10+16); err != nil {
		t.Fatal(err)
	}
	return int64(binary.LittleEndian.Uint64(b[16:]))
}

// newVHDX writes an image of a disk, and returns its path.
func newVHDX(t *testing.T, o *vhdx.CreateOptions, content []byte) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image.vhdx")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := vhdx.CreateIn(f, o)
	if err != nil {
		t.Fatal(err)
	}
	const piece = 64 << 10
	for off := 0; off < len(content); off += piece {
		p := content[off:min(len(content), off+piece)]
		if bytes.Equal(p, make([]byte, len(p))) {
			continue
		}
		if _, err := d.WriteAt(p, int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return image
}

// newVHDXs are options for new images, by name.
var newVHDXs = map[string]vhdx.CreateOptions{
	"default":     {},
	"fixed":       {Fixed: true, BlockSize: mib},
	"1 MiB":       {BlockSize: mib, LogSize: 4 * mib},
	"256 MiB":     {BlockSize: 256 * mib},
	"growing":     {Growing: true},
	"4096 sector": {LogicalSectorSize: 4096},
}

// vhdxContents is a disk with data at its start, its end and between.
func vhdxContents() []byte {
	b := make([]byte, 100*mib)
	rnd := rand.NewChaCha8([32]byte{16})
	for _, off := range []int{0, 31 * mib, 33 * mib, 63*mib + 512, 100*mib - 4096} {
		_, _ = rnd.Read(b[off:min(len(b), off+2*mib)])
	}
	return b
}

// TestWriteVHDX: each release of qemu, VirtualBox and libvhdi read new images.
func TestWriteVHDX(t *testing.T) {
	content := vhdxContents()
	for name, o := range newVHDXs {
		t.Run(name, func(t *testing.T) {
			o.Size = int64(len(content))
			image := newVHDX(t, &o, content)
			if ids := readVHDX(t, image, content); len(ids) > 0 {
				t.Errorf("findings %v, want none", ids)
			}
			raw := image + ".raw"
			same := func(program string) {
				t.Helper()
				got, err := os.ReadFile(raw)
				if err != nil || !bytes.Equal(got, content) {
					t.Errorf("%s reads other contents: %d bytes, %v", program, len(got), err)
				}
				os.Remove(raw)
			}
			if o.LogicalSectorSize != 4096 { // qemu supports 512 only
				for _, q := range oracle.QEMUs(t) {
					if out, code := q.Try(t, "qemu-img", "check", "-f", "vhdx", image); code != 0 {
						t.Errorf("qemu-img %s check: exit status %d: %s", q.Version, code, out)
					}
					q.Img(t, "convert", "-f", "vhdx", "-O", "raw", image, raw)
					same("qemu-img " + q.Version)
				}
			}
			t.Run("vhdiinfo", func(t *testing.T) {
				oracle.Need(t, "vhdiinfo")
				if got := oracle.VHDInfoSize(t, image); got != o.Size {
					t.Errorf("size %d, want %d", got, o.Size)
				}
			})
			t.Run("VirtualBox", func(t *testing.T) {
				oracle.NeedVirtualBox(t).Img(t, "convert", "--srcfilename", image, "--srcformat", "VHDX", "--dstfilename", raw, "--dstformat", "RAW")
				same("VirtualBox")
			})
			t.Run("vhdimount", func(t *testing.T) {
				oracle.NeedVHDIMount(t)
				on := t.TempDir()
				oracle.VHDIMount(t, image, on, raw)
				same("vhdimount")
			})
		})
	}
}

// TestWriteVHDXWithQEMU: qemu writes to new images, which stay free of faults.
func TestWriteVHDXWithQEMU(t *testing.T) {
	for _, q := range oracle.QEMUs(t) {
		for name, o := range newVHDXs {
			if o.LogicalSectorSize == 4096 {
				continue
			}
			t.Run(q.Version+" "+name, func(t *testing.T) {
				content := vhdxContents()
				o.Size = int64(len(content))
				image := newVHDX(t, &o, content)
				q.IO(t, "vhdx", image, "write -P 7 20M 15M", "write -P 8 90M 1M")
				for i := range content[20*mib : 35*mib] {
					content[20*mib+i] = 7
				}
				for i := range content[90*mib : 91*mib] {
					content[90*mib+i] = 8
				}
				if ids := readVHDX(t, image, content); len(ids) > 0 {
					t.Errorf("findings %v, want none", ids)
				}
			})
		}
	}
}
