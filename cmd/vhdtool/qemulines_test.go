package main

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/vhdtool/vhdtool/internal/oracle"
)

// piece is random data in a sparse file.
type piece struct{ off, n int64 }

// sparseFile creates a file of size bytes. It is a hole except for the pieces.
func sparseFile(t *testing.T, name string, size int64, pieces ...piece) string {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	r := rand.NewChaCha8([32]byte{1})
	for _, p := range pieces {
		b := make([]byte, p.n)
		_, _ = r.Read(b)
		if _, err := f.WriteAt(b, p.off); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

// lineFiles are the files that the lines of the tests below name.
func lineFiles(t *testing.T, dir string) {
	t.Helper()
	const size = 6 << 20
	name := func(s string) string { return filepath.Join(dir, s) }
	data := []piece{{0, 5000}, {3 << 20, 100_000}, {size - 512, 512}}
	a := sparseFile(t, name("a.raw"), size, data...)
	sparseFile(t, name("a2.raw"), size, data...)
	sparseFile(t, name("b.raw"), size, append(data, piece{3_100_001, 1})...)
	sparseFile(t, name("long.raw"), 8<<20, data...)
	sparseFile(t, name("long2.raw"), 8<<20, append(data, piece{7_000_000, 1})...)
	sparseFile(t, name("odd.raw"), 6_200_001, data[:2]...)
	sparseFile(t, name("k.raw"), 1000, piece{0, 1000})
	sparseFile(t, name("hole.raw"), 3<<20)
	sparseFile(t, name("empty.raw"), 0)
	oracle.QemuImg(t, "convert", "-S", "0", "-O", "raw", a, name("full.raw"))
	oracle.QemuImg(t, "convert", "-S", "0", "-O", "vpc", a, name("full.vhd"))
	oracle.QemuImg(t, "convert", "-O", "vpc", a, name("chs.vhd"))
	oracle.QemuImg(t, "convert", "-O", "vpc", "-o", "force_size", a, name("d.vhd"))
	oracle.QemuImg(t, "convert", "-O", "vpc", "-o", "force_size,subformat=fixed", a, name("f.vhd"))
	oracle.QemuImg(t, "create", "-q", "-f", "vpc", name("e.vhd"), "3M")
	oracle.QemuImg(t, "create", "-q", "-f", "vpc", "-o", "subformat=fixed", name("ef.vhd"), "3M")
}

// needQEMU7 skips the test if qemu-img has another release, whose output differs.
func needQEMU7(t *testing.T) {
	t.Helper()
	oracle.Need(t, "qemu-img")
	if !qemu7() {
		t.Skip("other releases than qemu 7 print other lines")
	}
}

// qemuSays returns what qemu-img prints in a directory, and its exit status.
func qemuSays(dir, line string) (string, error) {
	cmd := exec.Command("qemu-img", strings.Fields(line)...)
	cmd.Dir = dir
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		return "", err
	}
	return transcript(cmd.ProcessState.ExitCode(), &stdout, &stderr), nil
}

// weSay returns what this program prints in the current directory when called as qemu-img. It
// runs in this process, which is faster.
func weSay(t *testing.T, line string) string {
	t.Helper()
	var stdout, stderr strings.Builder
	c := &cli{name: "qemu-img", likeQEMU: true, stdin: os.Stdin, stdout: &stdout, stderr: &stderr}
	return transcript(c.execute(t.Context(), strings.Fields(line)), &stdout, &stderr)
}

func transcript(status int, stdout, stderr fmt.Stringer) string {
	return fmt.Sprintf("exit status %d, stdout:\n%sstderr:\n%s", status, stdout, stderr)
}

// TestReadLikeQEMU runs commands that change nothing, with qemu-img and under its name. All output
// and the status must be equal.
func TestReadLikeQEMU(t *testing.T) {
	needQEMU7(t)
	dir := t.TempDir()
	lineFiles(t, dir)
	lines := []string{
		"compare",
		"compare a.raw",
		"compare a.raw a2.raw b.raw",
		"compare a.raw a2.raw",
		"compare -s a.raw a2.raw",
		"compare -q a.raw a2.raw",
		"compare -p -q a.raw a2.raw",
		"compare -U -T none a.raw a2.raw",
		"compare -T zz a.raw a2.raw",
		"compare a.raw b.raw",
		"compare -s a.raw b.raw",
		"compare -q a.raw b.raw",
		"compare a.raw long.raw",
		"compare long.raw a.raw",
		"compare -s a.raw long.raw",
		"compare -q -s a.raw long.raw",
		"compare a.raw long2.raw",
		"compare long2.raw a.raw",
		"compare long.raw long2.raw",
		"compare odd.raw a.raw",
		"compare hole.raw empty.raw",
		"compare empty.raw a.raw",
		"compare empty.raw empty.raw",
		"compare full.raw a.raw",
		"compare -f vpc -F raw d.vhd a.raw",
		"compare -f raw -F vpc a.raw d.vhd",
		"compare -s -f raw -F vpc a.raw d.vhd",
		"compare -s -f vpc -F raw f.vhd a.raw",
		"compare -f vpc -F vpc d.vhd f.vhd",
		"compare -s -f vpc -F vpc d.vhd f.vhd",
		"compare -s -f vpc -F vpc f.vhd d.vhd",
		"compare -f vpc -F vpc d.vhd chs.vhd",
		"compare -s -f vpc -F vpc d.vhd d.vhd",
		"compare -s -f vpc -F vpc full.vhd chs.vhd",
		"compare -f vpc -F vpc full.vhd chs.vhd",
		"compare -f vpc -F vpc e.vhd ef.vhd",
		"compare -f raw -F raw d.vhd d.vhd",
		"compare -f vpc -F raw d.vhd b.raw",
		"compare -f vpc -F raw f.vhd long2.raw",
		"compare a.raw missing",
		"compare missing a.raw",
		"compare -f bogus a.raw b.raw",
		"compare -F bogus a.raw b.raw",
		"compare -f vpc a.raw a.raw",
		"compare --image-opts driver=raw,file.filename=a.raw driver=vpc,file.filename=d.vhd",
		"compare --image-opts driver=raw,file.filename=a.raw driver=vpc",
		"compare --image-opts -f raw a.raw b.raw",
		"compare -Z a.raw b.raw",
		"map",
		"map a.raw b.raw",
		"map -s x a.raw",
		"map -l x a.raw",
		"map -s -1 a.raw",
		"map -s 9E a.raw",
		"map --output=xml a.raw",
		"map missing",
		"map -f bogus a.raw",
		"map -f vpc a.raw",
		"map --image-opts -f raw a.raw",
		"map --image-opts driver=vpc,file.filename=d.vhd",
		"map --output=json --image-opts driver=vpc,file.filename=d.vhd",
		"map -U d.vhd",
		"measure",
		"measure a.raw",
		"measure -f raw -O raw a.raw",
		"measure -U k.raw",
		"measure --output=json a.raw",
		"measure -f vpc f.vhd",
		"measure d.vhd",
		"measure --size 10M",
		"measure --size 0",
		"measure -O raw --size 1000",
		"measure --output=json -O raw --size 10M",
		"measure --size 1X",
		"measure --size 9E",
		"measure --size 10M a.raw",
		"measure a.raw d.vhd",
		"measure -f raw",
		"measure -f raw --size 10M",
		"measure --image-opts",
		"measure -O bogus --size 1M",
		"measure -O raw -o bogus --size 1M",
		"measure -O raw -o size=3M --size 10M",
		"measure -f bogus a.raw",
		"measure --output=xml a.raw",
		"measure missing",
	}
	for _, image := range []string{
		"a.raw", "full.raw", "odd.raw", "k.raw", "hole.raw", "empty.raw", "-f raw d.vhd",
		"d.vhd", "chs.vhd", "full.vhd", "e.vhd", "-f vpc f.vhd", "-f vpc ef.vhd",
	} {
		for _, part := range []string{"", "--output=json", "--output=json -s 3000000 -l 1M"} {
			lines = append(lines, fmt.Sprintf("map %s %s", image, part))
		}
	}
	for _, image := range []string{"a.raw", "d.vhd", "-f vpc f.vhd"} {
		for _, part := range []string{"-s 2097151 -l 2", "-s 511 -l 700", "-s 100G", "-l 0", "-s 5M -l 100G"} {
			lines = append(lines, fmt.Sprintf("map --output=json %s %s", image, part))
		}
		lines = append(lines, fmt.Sprintf("map -s 1M -l 3M %s", image))
	}
	want := make([]string, len(lines))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, line := range lines {
		group.Go(func() (err error) {
			want[i], err = qemuSays(dir, line)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for i, line := range lines {
		t.Run(line, func(t *testing.T) {
			if got := weSay(t, line); got != want[i] {
				t.Errorf("got %s\nqemu-img: %s", got, want[i])
			}
		})
	}
}

// TestResizeLikeQEMU resizes raw disks, with qemu-img and under its name. The output, the status
// and the file must be equal.
func TestResizeLikeQEMU(t *testing.T) {
	needQEMU7(t)
	for _, line := range []string{
		"resize",
		"resize r.raw",
		"resize -f raw r.raw",
		"resize r.raw 7M",
		"resize -f raw r.raw 7M",
		"resize -q -f raw r.raw 7M",
		"resize -f raw r.raw 3M",
		"resize -f raw r.raw +0",
		"resize -f raw r.raw +1M",
		"resize -f raw r.raw +1.5k",
		"resize -f raw r.raw 4194304.0",
		"resize -f raw r.raw -1M",
		"resize -f raw r.raw -- -1M",
		"resize -f raw --shrink r.raw -1M",
		"resize --shrink -f raw r.raw -1G",
		"resize -f raw r.raw 1M",
		"resize -f raw --shrink r.raw 1M",
		"resize --shrink -q r.raw 512",
		"resize -f raw r.raw 0",
		"resize -f raw --shrink r.raw 0",
		"resize -f raw r.raw x",
		"resize -f raw r.raw +-1M",
		"resize -f raw r.raw 7M extra",
		"resize -f bogus r.raw 7M",
		"resize -f vpc r.raw 7M",
		"resize missing 7M",
		"resize --image-opts driver=raw,file.filename=r.raw 7M",
		"resize --image-opts -f raw r.raw 7M",
		"resize --preallocation=off -f raw r.raw 7M",
		"resize --preallocation=bogus -f raw r.raw 7M",
	} {
		t.Run(line, func(t *testing.T) {
			file := func() (dir, name string) {
				dir = t.TempDir()
				return dir, sparseFile(t, filepath.Join(dir, "r.raw"), 3<<20, piece{0, 5000}, piece{2 << 20, 1 << 20})
			}
			dir, theirs := file()
			want, err := qemuSays(dir, line)
			if err != nil {
				t.Fatal(err)
			}
			dir, ours := file()
			t.Chdir(dir)
			if got := weSay(t, line); got != want {
				t.Errorf("got %s\nqemu-img: %s", got, want)
			}
			a, err := os.ReadFile(ours)
			if err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(theirs)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(a, b) {
				t.Errorf("the disk of %d bytes differs from qemu-img's of %d", len(a), len(b))
			}
		})
	}
}

// TestResizeSizesLikeQEMU resizes VHDs whose size is that of their geometry. The footer must equal
// that of qemu-img's new image of that size.
func TestResizeSizesLikeQEMU(t *testing.T) {
	oracle.Need(t, "qemu-img")
	for subformat, sizes := range map[string][]string{
		"dynamic": {"1", "5257216", "5257217", "9M", "128G", "2040G"},
		"fixed":   {"34816", "5257217", "128M"},
	} {
		for _, force := range []string{"off", "on"} {
			for _, size := range sizes {
				t.Run(fmt.Sprintf("%s/force_size=%s/%s", subformat, force, size), func(t *testing.T) {
					t.Parallel()
					dir := t.TempDir()
					ours, theirs := filepath.Join(dir, "ours.vhd"), filepath.Join(dir, "theirs.vhd")
					options := "subformat=" + subformat + ",force_size=" + force
					oracle.QemuImg(t, "create", "-q", "-f", "vpc", "-o", options, ours, "5M")
					command(t, 0, "resize", "--shrink", ours, size)
					oracle.QemuImg(t, "create", "-q", "-f", "vpc", "-o", options, theirs, size)
					got, want := footerFields(t, ours), footerFields(t, theirs)
					for _, name := range slices.Sorted(maps.Keys(want)) {
						if !bytes.Equal(got[name], want[name]) {
							t.Errorf("%s: %x, want %x as qemu-img has it", name, got[name], want[name])
						}
					}
					command(t, 0, "check", "-q", ours) // the copy at the start is the same, too
				})
			}
		}
	}
}

// footerFields are fields of the last 512 bytes of a file.
func footerFields(t *testing.T, name string) map[string][]byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 512)
	if _, err := f.ReadAt(b, st.Size()-512); err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		"cookie": b[:8], "creator": b[28:32], "current size": b[48:56], "geometry": b[56:60], "type": b[60:64],
	}
}
