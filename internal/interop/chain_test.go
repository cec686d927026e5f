package interop

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/internal/oracle"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// TestChainReadByLibvhdi reads our chains with libvhdi, which has its own code for locators, ids
// and bitmaps.
func TestChainReadByLibvhdi(t *testing.T) {
	oracle.Need(t, "vhdimount")
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		t.Skipf("nothing can be mounted here: %v", err)
	} else {
		f.Close()
	}
	if os.Getuid() != 0 {
		t.Skip("only root can mount")
	}
	for _, c := range []struct {
		name     string
		base     vhd.CreateOptions
		block    int64
		spelling vhd.PathStyle
	}{
		{"dynamic base", vhd.CreateOptions{}, 0, vhd.PathsAll},
		{"dynamic base, as Windows spells", vhd.CreateOptions{Creator: vhd.CreatorWindows, Exact: true}, 512 * kib, vhd.PathsWindows},
		{"fixed base", vhd.CreateOptions{Type: vhd.Fixed, Exact: true}, 2 * mib, vhd.PathsAll},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := newRand(900)
			dir := t.TempDir()
			name := filepath.Join(dir, "0.vhd")
			ourMaker(c.base)(t, name, 7*mib)
			img, err := vhd.Open(name, nil)
			if err != nil {
				t.Fatal(err)
			}
			m := make(model, img.Size())
			img.Close()
			for level := range 4 {
				if level > 0 {
					child := filepath.Join(dir, fmt.Sprintf("%d.vhd", level))
					newChild(t, child, name, c.block, c.spelling)
					name = child
				}
				ws := randomWrites(r, int64(len(m)), 10)
				ours(t, name, ws)
				m.apply(ws)
				same(t, fmt.Sprintf("level %d read by us", level), readOurs(t, name), m)
			}
			same(t, "the chain read by libvhdi", readMounted(t, name), m)
			t.Run("newest", func(t *testing.T) {
				oracle.NeedVHDIMount(t)
				out := filepath.Join(t.TempDir(), "libvhdi.raw")
				oracle.VHDIMount(t, name, t.TempDir(), out)
				b, err := os.ReadFile(out)
				if err != nil {
					t.Fatal(err)
				}
				same(t, "the chain read by the newest libvhdi", b, m)
			})
		})
	}
}

// newChild creates a child of the image parent.
func newChild(t *testing.T, child, parent string, blockSize int64, s vhd.PathStyle) {
	t.Helper()
	p, err := vhd.Open(parent, nil)
	if err != nil {
		t.Fatal(err)
	}
	o := &vhd.CreateOptions{Parent: p, BlockSize: blockSize}
	if o.ParentRecord, err = vhd.ParentRecordOf(child, parent, p, s); err != nil {
		t.Fatal(err)
	}
	img, err := vhd.Create(child, o)
	if err == nil {
		err = img.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// readMounted returns the disk of an image as libvhdi shows it. libvhdi shows a file for each
// level of the chain, the image itself last.
func readMounted(t *testing.T, image string) []byte {
	t.Helper()
	at := t.TempDir()
	cmd := exec.Command("vhdimount", image, at)
	if out, err := cmd.CombinedOutput(); err != nil {
		if bytes.Contains(out, []byte("fuse")) {
			t.Skipf("vhdimount cannot mount here: %s", out)
		}
		t.Fatalf("vhdimount: %v: %s", err, out)
	}
	defer oracle.Run(t, "umount", at)
	files, err := filepath.Glob(filepath.Join(at, "vhdi*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("nothing is mounted: %v", err)
	}
	b, err := os.ReadFile(filepath.Join(at, fmt.Sprintf("vhdi%d", len(files))))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
