package interop

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vhdtool/vhdtool/internal/oracle"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/chain"
	"github.com/vhdtool/vhdtool/pkg/vhd/product"
)

// VirtualBox's compact assumes that blocks follow each other without gaps, from the first one on.
// It moves data of other images wrongly. The tests here compact every image that the engine
// creates or changes, because no reader is stricter about layouts.

const vboxSize = 40 * mib

// scattered are writes to a disk of vboxSize that allocate blocks out of order. compact frees
// some of them and moves others.
var scattered = []write{
	{off: 30 * mib, n: 5 * mib, value: 1},
	{off: 4 * mib, n: 2 * mib, value: 2},
	{off: 8*mib - 700, n: 3 * mib, value: 3},
	{off: 30*mib + 4096, n: 512, value: 4},
	{off: vboxSize - 4096, n: 4096, value: 5},
	{off: 16 * mib, n: 4 * mib, value: 6},
	{off: 4 * mib, n: 2 * mib, value: 0},
	{off: 32 * mib, n: 2 * mib, value: 0},
	{off: 0, n: 512, value: 7},
	{off: 24*mib + 512, n: 3 * mib, value: 8},
}

// writeData writes zeros as data, too, so that they are allocated.
func writeData(t *testing.T, img *vhd.Image, ws []write) {
	t.Helper()
	for _, w := range ws {
		if _, err := img.WriteAt(bytes.Repeat([]byte{w.value}, int(w.n)), w.off); err != nil {
			t.Fatalf("%+v: %v", w, err)
		}
	}
}

// writeSessions does the writes in place, two after each open, with a Sync after each write.
func writeSessions(t *testing.T, image string, ws []write) {
	t.Helper()
	for len(ws) > 0 {
		img, err := vhd.Open(image, &vhd.OpenOptions{Write: true})
		if err != nil {
			t.Fatal(err)
		}
		session := ws[:min(2, len(ws))]
		ws = ws[len(session):]
		for _, w := range session {
			writeData(t, img, []write{w})
			if err := img.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		if err := img.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// createWritten creates an image, does the writes, and returns its disk.
func createWritten(t *testing.T, image string, o vhd.CreateOptions, ws []write) model {
	t.Helper()
	img, err := vhd.Create(image, &o)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Discard()
	writeData(t, img, ws)
	m := make(model, img.Size())
	m.apply(ws)
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	return m
}

// optionsFor returns the options of an image for a product.
func optionsFor(t *testing.T, name string, size int64) vhd.CreateOptions {
	t.Helper()
	p, err := product.Find(name)
	if err != nil {
		t.Fatal(err)
	}
	o, err := p.CreateOptions(size)
	if err != nil {
		t.Fatal(err)
	}
	return *o
}

// createChild creates a differencing image for VirtualBox, whose parent has the disk m. It does
// the writes and returns the disk.
func createChild(t *testing.T, image, parent string, size int64, m model, ws []write) model {
	t.Helper()
	p, err := vhd.Open(parent, nil)
	if err != nil {
		t.Fatal(err)
	}
	o := optionsFor(t, "virtualbox", size)
	o.Parent, o.DataAlign = p, 512
	if o.ParentRecord, err = vhd.ParentRecordOf(image, parent, p, vhd.PathsAll); err != nil {
		t.Fatal(err)
	}
	createWritten(t, image, o, ws)
	m = append(bytes.Clone(m), make([]byte, max(0, size-int64(len(m))))...)
	m.apply(ws)
	return m
}

// refusedFor returns the rules of a product that an image breaks.
func refusedFor(t *testing.T, name, image string) []product.BrokenRule {
	t.Helper()
	p, err := product.Find(name)
	if err != nil {
		t.Fatal(err)
	}
	img, err := vhd.Open(image, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	st, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	return p.Examine(img, product.Examination{Length: st.Size(), Dir: filepath.Dir(image), Now: time.Now()})
}

// register adds an image to the registry of VirtualBox, so that it can be a parent.
func register(t *testing.T, v *oracle.VirtualBox, image string) {
	t.Helper()
	// Creating a child registers its parent.
	v.Manage(t, "createmedium", "disk", "--filename", filepath.Join(t.TempDir(), "unused.vhd"), "--diffparent", image, "--format", "VHD")
}

// child reports whether an image is a differencing image. Only VBoxManage opens those; vbox-img
// is ten times faster.
func child(t *testing.T, image string) bool {
	t.Helper()
	img, err := vhd.Open(image, &vhd.OpenOptions{Parents: disk.ParentSearch{None: true}})
	if err != nil {
		return false // let VirtualBox report the error
	}
	defer img.Close()
	return img.Type() == vhd.Differencing
}

// readVirtualBox returns the disk as VirtualBox reads it. The parents must be registered.
func readVirtualBox(t *testing.T, v *oracle.VirtualBox, image string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "virtualbox.raw")
	if child(t, image) {
		v.Manage(t, "clonemedium", image, out, "--format", "RAW")
	} else {
		v.Img(t, "convert", "--srcfilename", image, "--srcformat", "VHD", "--dstfilename", out, "--dstformat", "RAW")
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// compact compacts an image without a parent with VirtualBox.
func compact(t *testing.T, v *oracle.VirtualBox, image string) {
	t.Helper()
	v.Img(t, "compact", "--filename", image)
}

// checkReadable fails the test if Check finds an error. VirtualBox leaves leaks when it compacts,
// and a geometry that differs from the current size when it resizes.
func checkReadable(t *testing.T, image string) {
	t.Helper()
	f, size, err := disk.OpenFile(image, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for x, err := range vhd.NewChecker(f, size, nil).Findings(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if x.Severity == vhd.Error {
			t.Errorf("%s: %v", image, x)
		}
	}
}

// sameEverywhere compares m with the disk that the engine, VirtualBox and every qemu-img read.
// qemu-img cannot read children. Releases that use the geometry as the size see a shorter disk
// if VirtualBox rewrote the geometry. The parents must be registered.
func sameEverywhere(t *testing.T, v *oracle.VirtualBox, image string, m model) {
	t.Helper()
	checkReadable(t, image)
	same(t, "read by us", readOurs(t, image), m)
	same(t, "read by VirtualBox", readVirtualBox(t, v, image), m)
	img, err := vhd.Open(image, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	if img.Type() == vhd.Differencing {
		return
	}
	for _, q := range oracle.QEMUs(t) {
		out := filepath.Join(t.TempDir(), "qemu.raw")
		q.Img(t, "convert", "-O", "raw", "--image-opts", "driver=vpc,force_size_calc=current_size,file.filename="+image, out)
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "read by qemu "+q.Version, b, m)
	}
}

// TestVirtualBoxChanges changes, copies and extends our images with VirtualBox. The disk stays
// the same, unless a product rule reports that VirtualBox does not accept the image.
func TestVirtualBoxChanges(t *testing.T) {
	oracle.NeedVirtualBox(t)
	for _, i := range []struct {
		name     string
		create   func(t *testing.T, v *oracle.VirtualBox, image string) model
		accepted bool // it must keep all rules
	}{
		{"packed", func(t *testing.T, _ *oracle.VirtualBox, image string) model {
			return createWritten(t, image, vhd.CreateOptions{Size: vboxSize, DataAlign: 512}, scattered)
		}, false},
		{"blocks of 512 KiB", func(t *testing.T, _ *oracle.VirtualBox, image string) model {
			o := optionsFor(t, "virtualbox", vboxSize)
			o.BlockSize, o.DataAlign = 512*kib, 512
			return createWritten(t, image, o, scattered)
		}, false},
		{"for xen", func(t *testing.T, _ *oracle.VirtualBox, image string) model {
			return createWritten(t, image, optionsFor(t, "xen", vboxSize), scattered)
		}, false},
		{"for hyperv", func(t *testing.T, _ *oracle.VirtualBox, image string) model {
			return createWritten(t, image, optionsFor(t, "hyperv", vboxSize), scattered)
		}, false},
		{"for virtualbox", func(t *testing.T, _ *oracle.VirtualBox, image string) model {
			return createWritten(t, image, optionsFor(t, "virtualbox", vboxSize), scattered)
		}, true},
		{"child", func(t *testing.T, v *oracle.VirtualBox, image string) model {
			base := filepath.Join(filepath.Dir(image), "base.vhd")
			m := createWritten(t, base, optionsFor(t, "virtualbox", vboxSize), scattered)
			register(t, v, base)
			return createChild(t, image, base, 0, m, []write{{off: 30 * mib, n: 4 * mib, value: 11}, {off: 3 * mib, n: 700, value: 12}})
		}, true},
	} {
		for _, o := range []struct {
			name string
			run  func(t *testing.T, v *oracle.VirtualBox, image, to string) (out string, code int)
		}{
			{"convert", func(t *testing.T, v *oracle.VirtualBox, image, to string) (string, int) {
				return v.TryImg(t, "convert", "--srcfilename", image, "--dstfilename", to, "--srcformat", "VHD", "--dstformat", "VHD")
			}},
			{"resize", func(t *testing.T, v *oracle.VirtualBox, image, _ string) (string, int) {
				if !child(t, image) {
					return v.TryImg(t, "resize", "--filename", image, "--size", fmt.Sprint(3*vboxSize/2))
				}
				return v.TryManage(t, "modifymedium", "disk", image, "--resizebyte", fmt.Sprint(3*vboxSize/2))
			}},
			{"compact", func(t *testing.T, v *oracle.VirtualBox, image, _ string) (string, int) {
				if !child(t, image) {
					return v.TryImg(t, "compact", "--filename", image)
				}
				return v.TryManage(t, "modifymedium", "disk", image, "--compact")
			}},
			{"clonemedium", func(t *testing.T, v *oracle.VirtualBox, image, to string) (string, int) {
				return v.TryManage(t, "clonemedium", image, to, "--format", "VHD")
			}},
			{"diffparent", func(t *testing.T, v *oracle.VirtualBox, image, to string) (string, int) {
				return v.TryManage(t, "createmedium", "disk", "--filename", to, "--diffparent", image, "--format", "VHD")
			}},
		} {
			t.Run(i.name+"/"+o.name, func(t *testing.T) {
				t.Parallel()
				v := oracle.NeedVirtualBox(t)
				dir := t.TempDir()
				image, to := filepath.Join(dir, "image.vhd"), filepath.Join(dir, "to.vhd")
				m := i.create(t, v, image)
				if found := refusedFor(t, "virtualbox", image); len(found) > 0 {
					if i.accepted {
						t.Fatalf("not accepted: %v", found)
					}
					for _, x := range found {
						if !strings.HasPrefix(x.Name, "virtualbox-") {
							t.Errorf("%v has the name %q, want one of a rule for VirtualBox", x, x.Name)
						}
					}
					return
				}
				out, code := o.run(t, v, image, to)
				if code != 0 {
					// vbox-img opens no child, and the server of VBoxManage crashes when it
					// compacts any child. The disk must be unchanged.
					if i.name != "child" || o.name != "convert" && o.name != "compact" {
						t.Fatalf("exit status %d: %s", code, out)
					}
					sameEverywhere(t, v, image, m)
					return
				}
				if o.name == "resize" || o.name == "compact" {
					to = image
				}
				if o.name == "resize" {
					m = append(m, make([]byte, 3*vboxSize/2-len(m))...)
					if i.name == "child" {
						// VirtualBox reads no child larger than its parent, not even of its own.
						checkReadable(t, image)
						same(t, "read by us", readOurs(t, image), m)
						return
					}
				}
				sameEverywhere(t, v, to, m)
				if o.name == "diffparent" {
					more := []write{{off: 5*mib + 512, n: 3 * mib, value: 13}, {off: 0, n: 100, value: 14}}
					writeSessions(t, to, more)
					m.apply(more)
					sameEverywhere(t, v, to, m)
				}
			})
		}
	}
}

// TestVirtualBoxRules: VirtualBox fails on images that break its rules, and the rules report
// them.
func TestVirtualBoxRules(t *testing.T) {
	oracle.NeedVirtualBox(t)
	aligned := optionsFor(t, "virtualbox", vboxSize)
	aligned.DataAlign = 4096
	for _, c := range []struct {
		name    string
		options func() vhd.CreateOptions
		opens   bool
	}{
		{"aligned blocks", func() vhd.CreateOptions { return aligned }, true},
		{"aligned blocks and length", func() vhd.CreateOptions { o := aligned; o.FileAlign = 4096; return o }, true},
		{"blocks of 4 KiB", func() vhd.CreateOptions { o := aligned; o.DataAlign, o.BlockSize = 512, 4*kib; return o }, false},
		{"blocks of 64 KiB", func() vhd.CreateOptions { o := aligned; o.DataAlign, o.BlockSize = 512, 64*kib; return o }, false},
		{"blocks of 512 KiB", func() vhd.CreateOptions { o := aligned; o.DataAlign, o.BlockSize = 512, 512*kib; return o }, true},
		{"blocks of 1 MiB", func() vhd.CreateOptions { o := aligned; o.DataAlign, o.BlockSize = 512, mib; return o }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := oracle.NeedVirtualBox(t)
			image := filepath.Join(t.TempDir(), "image.vhd")
			m := createWritten(t, image, c.options(), scattered)
			if len(refusedFor(t, "virtualbox", image)) == 0 {
				t.Error("no rule for VirtualBox refuses it")
			}
			out, code := v.TryImg(t, "compact", "--filename", image)
			if !c.opens {
				if code == 0 {
					t.Errorf("VirtualBox opens it now, and the rule can go: %s", out)
				}
				return
			}
			img, err := vhd.Open(image, nil)
			if err != nil {
				return // it is destroyed
			}
			defer img.Close()
			b := make([]byte, img.Size())
			if n, _ := img.ReadAt(b, 0); code == 0 && bytes.Equal(b[:n], m) {
				t.Error("VirtualBox compacts it rightly now, and the rule can go")
			}
		})
	}
	t.Run("a child larger than its parent", func(t *testing.T) {
		t.Parallel()
		v := oracle.NeedVirtualBox(t)
		dir := t.TempDir()
		image, base := filepath.Join(dir, "image.vhd"), filepath.Join(dir, "base.vhd")
		m := createWritten(t, base, optionsFor(t, "virtualbox", vboxSize), scattered)
		register(t, v, base)
		createChild(t, image, base, 2*vboxSize, m, nil)
		if len(refusedFor(t, "virtualbox", image)) == 0 {
			t.Error("no rule for VirtualBox refuses it")
		}
		if out, code := v.TryManage(t, "clonemedium", image, filepath.Join(dir, "to.raw"), "--format", "RAW"); code == 0 {
			t.Errorf("VirtualBox reads it now, and the rule can go: %s", out)
		}
	})
}

// TestPackedImagesStayPacked changes packed images of VirtualBox, qemu-img and vhdtool in place,
// by every command. Then VirtualBox compacts and grows them, and reads the same disk.
func TestPackedImagesStayPacked(t *testing.T) {
	oracle.NeedVirtualBox(t)
	makers := []struct {
		name   string
		create func(t *testing.T, v *oracle.VirtualBox, image string)
	}{
		{"VirtualBox", func(t *testing.T, v *oracle.VirtualBox, image string) {
			vboxCreate(t, v, image, vboxSize, "Standard")
		}},
		{"qemu", func(t *testing.T, _ *oracle.VirtualBox, image string) {
			oracle.QemuImg(t, "create", "-q", "-f", "vpc", "-o", "force_size", image, fmt.Sprint(vboxSize))
		}},
		{"us", func(t *testing.T, _ *oracle.VirtualBox, image string) {
			ourMaker(vhd.CreateOptions{DataAlign: 512, Exact: true})(t, image, vboxSize)
		}},
	}
	grow := func(sizes ...int64) func(t *testing.T, image string, m model) model {
		return func(t *testing.T, image string, m model) model {
			t.Helper()
			for _, size := range sizes {
				got := resize(t, image, size)
				m = append(m[:min(got, int64(len(m)))], make([]byte, max(0, got-int64(len(m))))...)
				ws := []write{{off: got - 700, n: 700, value: 21}, {off: got / 2, n: 3 * mib, value: 22}}
				if got > 24*mib { // a block that remains when the disk has shrunk
					ws = append(ws, write{off: 22 * mib, n: 5000, value: 23})
				}
				writeSessions(t, image, ws)
				m.apply(ws)
			}
			return m
		}
	}
	commit := func(size int64) func(t *testing.T, image string, m model) model {
		return func(t *testing.T, image string, m model) model {
			t.Helper()
			child := filepath.Join(filepath.Dir(image), "child.vhd")
			m = createChild(t, child, image, size, m, []write{{off: 11 * mib, n: 4 * mib, value: 31}, {off: size - mib, n: mib, value: 32}})
			if err := chain.Commit(context.Background(), child, nil); err != nil {
				t.Fatal(err)
			}
			return m
		}
	}
	changes := []struct {
		name   string
		change func(t *testing.T, image string, m model) model
	}{
		{"written", func(_ *testing.T, _ string, m model) model { return m }},
		{"discarded", func(t *testing.T, image string, m model) model {
			ws := []write{{off: 8 * mib, n: 2 * mib, value: 0}, {off: 31 * mib, n: 4 * mib, value: 0}}
			ours(t, image, ws)
			m.apply(ws)
			return m
		}},
		{"grown", grow(60 * mib)},
		// Beyond 128 blocks the BAT needs a second sector, for which there is no space
		// before the blocks.
		{"grown beyond the BAT", grow(260 * mib)},
		{"grown beyond the BAT and shrunk", grow(260*mib, 30*mib)},
		{"shrunk", grow(20 * mib)},
		{"emptied", func(t *testing.T, image string, m model) model {
			img, err := vhd.Open(image, &vhd.OpenOptions{Write: true})
			if err != nil {
				t.Fatal(err)
			}
			err = img.Empty(context.Background(), nil)
			if cerr := img.Close(); err == nil {
				err = cerr
			}
			if err != nil {
				t.Fatal(err)
			}
			clear(m)
			writeSessions(t, image, scattered[4:])
			m.apply(scattered[4:])
			return m
		}},
		{"parent of a commit", commit(vboxSize)},
		{"parent of a larger commit", commit(260 * mib)},
		{"child without its parent", func(t *testing.T, image string, m model) model {
			base := filepath.Join(filepath.Dir(image), "base.vhd")
			if err := os.Rename(image, base); err != nil {
				t.Fatal(err)
			}
			m = createChild(t, image, base, 0, m, []write{{off: 11 * mib, n: 4 * mib, value: 31}})
			if err := chain.Rebase(context.Background(), image, nil); err != nil {
				t.Fatal(err)
			}
			return m
		}},
		{"child of another parent, then without one", func(t *testing.T, image string, m model) model {
			dir := filepath.Dir(image)
			// The locators of a long path need more space than those of a short one.
			base, other := filepath.Join(dir, "base.vhd"), filepath.Join(dir, strings.Repeat("long", 50), strings.Repeat("name", 50)+".vhd")
			if err := os.Rename(image, base); err != nil {
				t.Fatal(err)
			}
			m = createChild(t, image, base, 0, m, []write{{off: 11 * mib, n: 4 * mib, value: 31}})
			if err := os.Mkdir(filepath.Dir(other), 0o777); err != nil {
				t.Fatal(err)
			}
			copyFile(t, other, base)
			ours(t, other, []write{{off: 37 * mib, n: mib, value: 32}, {off: 0, n: mib, value: 33}})
			if err := chain.Rebase(context.Background(), image, &chain.RebaseOptions{Parent: other}); err != nil {
				t.Fatal(err)
			}
			same(t, "read by us, with the other parent", readOurs(t, image), m)
			ws := []write{{off: 5 * mib, n: 2 * mib, value: 34}, {off: 22 * mib, n: 700, value: 35}}
			writeSessions(t, image, ws)
			m.apply(ws)
			if err := chain.Rebase(context.Background(), image, nil); err != nil {
				t.Fatal(err)
			}
			return m
		}},
	}
	for _, k := range makers {
		for _, c := range changes {
			t.Run(k.name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				image := filepath.Join(t.TempDir(), "image.vhd")
				v := oracle.NeedVirtualBox(t)
				k.create(t, v, image)
				m := make(model, vboxSize)
				if c.name != "written" {
					theirs(t, image, scattered[:4])
					m.apply(scattered[:4])
				}
				writeSessions(t, image, scattered)
				m.apply(scattered)
				m = c.change(t, image, m)
				checkClean(t, image)
				same(t, "read by us", readOurs(t, image), m)

				before := layout(t, image)
				defer func() {
					if t.Failed() {
						t.Logf("layout before VirtualBox changed it:\n%s\nand after:\n%s", before, layout(t, image))
					}
				}()
				compact(t, v, image)
				same(t, "after compact, read by us", readOurs(t, image), m)
				m = append(m, make([]byte, 24*mib)...)
				v.Img(t, "resize", "--filename", image, "--size", fmt.Sprint(len(m)))
				same(t, "after compact and resize, read by us", readOurs(t, image), m)
				compact(t, v, image)
				checkReadable(t, image)
				same(t, "after compact, resize and compact, read by us", readOurs(t, image), m)
				same(t, "read by VirtualBox", readVirtualBox(t, v, image), m)
			})
		}
	}
}

// TestRepairAfterCompact reclaims the leaks of VirtualBox's compact. Then VirtualBox compacts
// the image again.
func TestRepairAfterCompact(t *testing.T) {
	v := oracle.NeedVirtualBox(t)
	image := filepath.Join(t.TempDir(), "image.vhd")
	m := createWritten(t, image, vhd.CreateOptions{Size: vboxSize, DataAlign: 512, Exact: true}, scattered)
	for range 3 {
		compact(t, v, image)
		f, size, err := disk.OpenFile(image, true, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := vhd.Repair(t.Context(), f, size, nil); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		same(t, "after the repair, read by us", readOurs(t, image), m)
		checkClean(t, image)
		// Blocks of zeros and others, for the next time.
		ws := []write{{off: 4 * mib, n: 2 * mib, value: 0}, {off: 20 * mib, n: 2 * mib, value: 9}, {off: 32 * mib, n: 2 * mib, value: 0}, {off: 28 * mib, n: 2 * mib, value: 9}, {off: 20 * mib, n: 2 * mib, value: 0}}
		img, err := vhd.Open(image, &vhd.OpenOptions{Write: true})
		if err != nil {
			t.Fatal(err)
		}
		writeData(t, img, ws)
		if err := img.Close(); err != nil {
			t.Fatal(err)
		}
		m.apply(ws)
	}
	sameEverywhere(t, v, image, m)
}

// TestCompactStreams compacts packed images created from a pipe, or written to one, with
// VirtualBox.
func TestCompactStreams(t *testing.T) {
	v := oracle.NeedVirtualBox(t)
	for name, source := range sources(t) {
		for way, make := range map[string]func(*testing.T, string, string, vhd.CreateOptions){"in": streamIn, "out": streamOut} {
			t.Run(way+"/"+name, func(t *testing.T) {
				image := filepath.Join(t.TempDir(), "image.vhd")
				make(t, image, source, vhd.CreateOptions{DataAlign: 512, Exact: true})
				m := model(readOurs(t, image))
				ws := []write{{off: 2 * mib, n: mib, value: 1}, {off: 0, n: 512, value: 2}}
				writeSessions(t, image, ws)
				m.apply(ws)
				compact(t, v, image)
				sameEverywhere(t, v, image, m)
			})
		}
	}
}

// TestCompactGrowing compacts a packed image that outgrew its reserved BAT while it was created,
// with VirtualBox.
func TestCompactGrowing(t *testing.T) {
	v := oracle.NeedVirtualBox(t)
	image := filepath.Join(t.TempDir(), "image.vhd")
	img, err := vhd.Create(image, &vhd.CreateOptions{DataAlign: 512, Exact: true, Growing: true})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Discard()
	var written []write
	for i, size := range []int64{6 * mib, 200 << 30, 300 << 30} {
		if err := img.Resize(context.Background(), size, nil); err != nil {
			t.Fatal(err)
		}
		ws := []write{{off: size - 2*mib, n: 2 * mib, value: 0}, {off: size - 6*mib, n: 4 * mib, value: byte(i + 1)}}
		writeData(t, img, ws)
		written = append(written, ws...)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	checkClean(t, image)
	before := layout(t, image)
	compact(t, v, image)
	checkReadable(t, image)
	defer func() {
		if t.Failed() {
			t.Logf("layout before VirtualBox changed it:\n%s\nand after:\n%s", before, layout(t, image))
		}
	}()
	img, err = vhd.Open(image, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	for _, w := range written {
		b, want := make([]byte, w.n), make(model, w.n)
		want.apply([]write{{n: w.n, value: w.value}})
		if n, _ := img.ReadAt(b, w.off); n != len(b) {
			t.Fatalf("read of %d bytes at %d: %d", w.n, w.off, n)
		}
		same(t, fmt.Sprintf("read at %d", w.off), b, want)
	}
}

// layout returns the offsets of the blocks of an image, which may be damaged.
func layout(t *testing.T, image string) string {
	t.Helper()
	b, err := os.ReadFile(image)
	if err != nil {
		return err.Error()
	}
	var s strings.Builder
	be32 := func(off int) int { return int(b[off])<<24 | int(b[off+1])<<16 | int(b[off+2])<<8 | int(b[off+3]) }
	bat, n := be32(512+20), be32(512+28)
	fmt.Fprintf(&s, "file of %d sectors, BAT of %d entries at sector %d:", len(b)/512, n, bat/512)
	for i := range n {
		if e := be32(bat + 4*i); e != 0xffffffff {
			fmt.Fprintf(&s, " %d@%d", i, e)
		}
	}
	return s.String()
}
