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
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhdtool/vhdtool/internal/loopdevice"
)

// randomFile creates a file of n random bytes.
func randomFile(t *testing.T, name string, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	_, _ = io.ReadFull(rand.NewChaCha8([32]byte{9}), b)
	if err := os.WriteFile(name, b, 0o666); err != nil {
		t.Fatal(err)
	}
	return b
}

// A device that held a VHD reads as a raw disk after each way of writing a raw disk to it.
// Otherwise it would be read as the older, shorter VHD.
func TestRawOntoDeviceWithVHD(t *testing.T) {
	const size = 4<<20 + 512
	for name, line := range map[string][]string{
		"convert":             {"convert", "-f", "raw", "-O", "raw", "SRC", "DEV"},
		"convert in place":    {"convert", "-n", "-f", "raw", "-O", "raw", "SRC", "DEV"},
		"convert from a pipe": {"convert", "-f", "raw", "-O", "raw", "-", "DEV"},
		"pipe in place":       {"convert", "-n", "-f", "raw", "-O", "raw", "-", "DEV"},
		"dd":                  {"dd", "-f", "raw", "-O", "raw", "if=SRC", "of=DEV"},
		"create":              {"create", "-f", "raw", "DEV", "1M"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, subformat := range []string{"fixed", "dynamic"} {
				d := &deviceTest{T: t, dir: t.TempDir()}
				d.dev = loopdevice.Attach(t, size, 512)
				d.run(0, "create", "-f", "vpc", "-o", "force_size,subformat="+subformat, d.dev, "3M")
				if out := d.run(0, "info", d.dev); !strings.Contains(out, "file format: vpc\n") || !strings.Contains(out, "4,194,816 bytes") {
					t.Fatalf("info does not show the VHD and the length of the device:\n%s", out)
				}
				want := randomFile(t, d.path("src"), 1<<20)
				args := make([]string, len(line))
				for i, a := range line {
					args[i] = strings.NewReplacer("SRC", "src", "DEV", d.dev).Replace(a)
				}
				cmd := exec.Command("vhdtool", args...)
				cmd.Dir = d.dir
				cmd.Stdin = io.MultiReader(bytes.NewReader(want)) // not the file itself
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("vhdtool %q: %v: %s", args, err, out)
				}
				if out := d.run(0, "info", d.dev); !strings.Contains(out, "file format: raw\n") || !strings.Contains(out, fmt.Sprintf("(%d bytes)", size)) {
					t.Errorf("with %s before, info shows\n%s", subformat, out)
				}
				if name == "create" {
					continue
				}
				f, err := os.Open(d.dev)
				if err != nil {
					t.Fatal(err)
				}
				got := make([]byte, len(want))
				_, err = io.ReadFull(f, got)
				f.Close()
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("the device does not hold the disk (%v)", err)
				}
			}
		})
	}
}

// A raw copy of a VHD that fills the device keeps its footer.
func TestRawCopyOfVHDOntoDevice(t *testing.T) {
	d := &deviceTest{T: t, dir: t.TempDir()}
	d.dev = loopdevice.Attach(t, 3<<20+512, 512)
	d.run(0, "create", "-q", "-f", "vpc", "-o", "force_size,subformat=fixed", "f.vhd", "3M")
	for _, flag := range []string{"-q", "-n"} {
		d.run(0, "convert", flag, "-f", "raw", "-O", "raw", "f.vhd", d.dev)
		if out := d.run(0, "info", d.dev); !strings.Contains(out, "file format: vpc\n") {
			t.Errorf("info shows\n%s", out)
		}
	}
}

// blocks returns the storage of a file in bytes.
func blocks(t *testing.T, name string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// needsReservation skips the test if space cannot be reserved without writing.
func needsReservation(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "probe"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, 1<<20); err != nil {
		t.Skipf("fallocate: %v", err)
	}
}

func TestPreallocation(t *testing.T) {
	dir := t.TempDir()
	needsReservation(t, dir)
	t.Chdir(dir)
	const mib = 1 << 20
	// The copier reserves space itself, and frees the unused part.
	sparseFile(t, "src", 40*mib, piece{0, 20 * mib})
	for _, mode := range []string{"off", "falloc", "full"} {
		for name, target := range map[string]string{"raw": "", "vpc": ",subformat=fixed,force_size"} {
			t.Run(name+"/"+mode, func(t *testing.T) {
				full := func(file string, n int64) {
					t.Helper()
					if got := blocks(t, file); mode != "off" && got < n || mode == "off" && got >= n {
						t.Errorf("%s has storage for %d bytes of %d", file, got, n)
					}
				}
				command(t, 0, "create", "-q", "-f", name, "-o", "preallocation="+mode+target, "new", "8M")
				full("new", 8*mib)
				command(t, 0, "resize", "-q", "-f", name, "--preallocation="+mode, "new", "16M")
				full("new", 16*mib)
				command(t, 0, "convert", "-f", "raw", "-O", name, "-o", "preallocation="+mode+target, "src", "out")
				full("out", 40*mib)
				command(t, 0, "compare", "-q", "-f", name, "-F", "raw", "out", "src")
				in, err := os.Open("src")
				if err != nil {
					t.Fatal(err)
				}
				defer in.Close()
				cmd := exec.Command("vhdtool", "convert", "-f", "raw", "-O", name, "-o", "preallocation="+mode+target, "-", "piped")
				cmd.Stdin = io.MultiReader(in)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				full("piped", 40*mib)
				command(t, 0, "compare", "-q", "-f", name, "-F", "raw", "piped", "src")
			})
		}
	}
}

// Writing in place keeps the space that the owner of a file has reserved.
func TestReservationIsKept(t *testing.T) {
	dir := t.TempDir()
	needsReservation(t, dir)
	t.Chdir(dir)
	const mib = 1 << 20
	sparseFile(t, "src", 64*mib, piece{0, 20 * mib}, piece{40 * mib, mib})
	for _, flags := range [][]string{{}, {"--target-is-zero"}, {"-S", "64k"}} {
		for _, filled := range []int64{0, 64 * mib} { // reserved only, or written
			f, err := os.Create("target")
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Fallocate(int(f.Fd()), 0, 0, 64*mib); err != nil {
				t.Fatal(err)
			}
			if len(flags) == 0 {
				if _, err := f.Write(bytes.Repeat([]byte{7}, int(filled))); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			command(t, 0, append(append([]string{"convert", "-n", "-f", "raw", "-O", "raw"}, flags...), "src", "target")...)
			if got := blocks(t, "target"); got < 64*mib {
				t.Errorf("%q: the target has storage for %d bytes", flags, got)
			}
			command(t, 0, "compare", "-q", "-f", "raw", "-F", "raw", "src", "target")
		}
	}
}

// A file that a loop device uses is not replaced. One with other hard links is replaced with a
// warning. Called as qemu-img, the program writes into both, as qemu-img does.
func TestFileInUse(t *testing.T) {
	dev := loopdevice.Attach(t, 1<<20, 512)
	out, err := exec.Command("losetup", "--noheadings", "--output", "BACK-FILE", dev).Output()
	if err != nil {
		t.Fatal(err)
	}
	file := strings.TrimSpace(string(out))
	t.Chdir(t.TempDir())
	src := randomFile(t, "src", 1<<20)
	before := inode(t, file)
	if _, out := command(t, 1, "convert", "-f", "raw", "-O", "raw", "src", file); !strings.Contains(out, dev) || !strings.Contains(out, "hint: ") {
		t.Errorf("convert onto the file of a loop device prints %q", out)
	}
	if out := weSay(t, "convert -f raw -O raw src "+file); !strings.HasPrefix(out, "exit status 0") {
		t.Error(out)
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, src) || inode(t, file) != before {
		t.Errorf("as qemu-img it does not write into the file (%v)", err)
	}

	if err := os.WriteFile("one", nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Link("one", "two"); err != nil {
		t.Fatal(err)
	}
	if out := weSay(t, "convert -f raw -O raw src one"); !strings.HasSuffix(out, "stderr:\n") || inode(t, "one") != inode(t, "two") {
		t.Errorf("as qemu-img: %s", out)
	}
	if _, out := command(t, 0, "convert", "-f", "raw", "-O", "raw", "src", "one"); !strings.Contains(out, "2 names") || inode(t, "one") == inode(t, "two") {
		t.Errorf("convert onto a file with two names prints %q", out)
	}
}

func inode(t *testing.T, name string) uint64 {
	t.Helper()
	st, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return st.Sys().(*syscall.Stat_t).Ino
}

// Targets that are written sequentially, by their names.
func TestStreamTargets(t *testing.T) {
	t.Chdir(t.TempDir())
	src := randomFile(t, "src", 3<<20)
	if err := unix.Mkfifo("fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"/dev/stdout", "/dev/fd/1", "/dev/fd/3", "/proc/self/fd/3", "fifo"} {
		for _, line := range [][]string{
			{"convert", "-f", "raw", "-O", "raw", "src", target},
			{"dd", "-f", "raw", "-O", "raw", "if=src", "of=" + target},
		} {
			cmd := exec.Command("vhdtool", line...)
			// Standard output is a file with contents.
			out, err := os.Create("out")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := out.WriteString("before"); err != nil {
				t.Fatal(err)
			}
			want := append([]byte("before"), src...)
			cmd.Stdout, cmd.ExtraFiles = out, []*os.File{out}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var got []byte
			if target == "fifo" {
				want = src
				got, err = os.ReadFile("fifo")
			}
			if werr := cmd.Wait(); werr != nil || err != nil {
				t.Errorf("%q: %v, %v: %s", line, werr, err, &stderr)
				continue
			}
			out.Close()
			if target != "fifo" {
				got, err = os.ReadFile("out")
			}
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%q: %d bytes are not the %d that are wanted (%v)", line, len(got), len(want), err)
			}
		}
	}
	command(t, 0, "convert", "-f", "raw", "-O", "vpc", "src", "/dev/null")
	command(t, 0, "convert", "-n", "-f", "raw", "-O", "raw", "src", "/dev/null")
	if _, out := command(t, 1, "convert", "-f", "raw", "-O", "vpc", "-B", "src", "-F", "raw", "src", "/dev/null"); !strings.Contains(out, "stream") {
		t.Errorf("a child written to a stream: %q", out)
	}
}
