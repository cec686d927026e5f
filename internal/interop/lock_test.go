package interop

import (
	"bufio"
	"errors"
	"io"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/internal/imagelock"
	"github.com/vhdtool/vhdtool/internal/oracle"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// We refuse an image that qemu-io has open for writing, and qemu-io refuses one that we have.
func TestLocks(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("images are locked on Linux only")
	}
	for _, q := range oracle.QEMUs(t) {
		t.Run("qemu "+q.Version, func(t *testing.T) { locks(t, q) })
	}
}

func locks(t *testing.T, q oracle.QEMU) {
	image := filepath.Join(t.TempDir(), "x.vhd")
	q.Img(t, "create", "-q", "-f", "vpc", image, "10M")

	t.Run("qemu-io has it", func(t *testing.T) {
		cmd := q.Command("qemu-io", "-f", "vpc", image)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait() // it quits on request, or is killed with the test
		defer in.Close()
		// Its answer shows that the image is open.
		if _, err := io.WriteString(in, "length\n"); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 256)
		for n := 0; !strings.Contains(string(answer[:n]), "MiB"); {
			k, err := out.Read(answer[n:])
			if err != nil {
				t.Fatalf("qemu-io said %q, then %v", answer[:n], err)
			}
			n += k
		}
		for _, write := range []bool{false, true} {
			if img, err := vhd.Open(image, &vhd.OpenOptions{Write: write}); !errors.Is(err, vhd.ErrLocked) {
				t.Errorf("write %t: %v, %v; want ErrLocked", write, img, err)
			} else if !strings.Contains(err.Error(), image) {
				t.Errorf("%v: want the file's name in it", err)
			}
		}
		img, err := vhd.Open(image, &vhd.OpenOptions{NoLock: true})
		if err != nil {
			t.Fatalf("without a lock: %v", err)
		}
		img.Close()
	})

	t.Run("we write", func(t *testing.T) {
		img, err := vhd.Open(image, &vhd.OpenOptions{Write: true})
		if err != nil {
			t.Fatal(err)
		}
		defer img.Close()
		if out, code := q.Try(t, "qemu-io", "-f", "vpc", "-c", "read 0 512", image); code == 0 || !strings.Contains(out, "lock") {
			t.Errorf("qemu-io: exit status %d, %q; want it to fail for the lock", code, out)
		}
		if out, code := q.Try(t, "qemu-img", "info", "-f", "vpc", image); code == 0 || !strings.Contains(out, "lock") {
			t.Errorf("qemu-img info: exit status %d, %q; want it to fail for the lock", code, out)
		}
	})

	t.Run("we read", func(t *testing.T) {
		img, err := vhd.Open(image, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer img.Close()
		q.Img(t, "info", "-f", "vpc", image)
		if out, code := q.Try(t, "qemu-io", "-f", "vpc", "-c", "write 0 512", image); code == 0 || !strings.Contains(out, "lock") {
			t.Errorf("qemu-io: exit status %d, %q; want it to fail for the lock", code, out)
		}
	})

	t.Run("qemu-io writes and quits while we wait", func(t *testing.T) {
		q.IO(t, "vpc", image, "write -P 1 0 512") // a block, after which the footer moves
		cmd := q.Command("qemu-io", "-f", "vpc", image)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(in, "length\n"); err != nil {
			t.Fatal(err)
		}
		answer := bufio.NewReader(out)
		if line, err := answer.ReadString('B'); err != nil { // "10 MiB": the image is open
			t.Fatalf("qemu-io said %q, then %v", line, err)
		}
		waited := false
		imagelock.Waiting = func() {
			if waited {
				return
			}
			waited = true
			if _, err := io.WriteString(in, "write -P 9 4M 4M\nquit\n"); err != nil {
				t.Error(err)
			}
			in.Close()
			_, _ = io.Copy(io.Discard, answer)
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		}
		defer func() { imagelock.Waiting = nil }()
		img, err := vhd.Open(image, &vhd.OpenOptions{Write: true})
		if err != nil {
			t.Fatal(err)
		}
		defer img.Close()
		if !waited {
			t.Error("nothing waited for qemu-io")
		}
		b := make([]byte, 1)
		if _, err := img.ReadAt(b, 8<<20-1); err != nil || b[0] != 9 || !img.HasTrailingFooter() {
			t.Errorf("the last byte that qemu-io wrote is %d, %v; want 9. Trailing footer: %t", b[0], err, img.HasTrailingFooter())
		}
	})

	t.Run("nobody has it", func(t *testing.T) {
		q.IO(t, "vpc", image, "write -P 7 0 512")
		img, err := vhd.Open(image, &vhd.OpenOptions{Write: true})
		if err != nil {
			t.Fatal(err)
		}
		defer img.Close()
		b := make([]byte, 1)
		if _, err := img.ReadAt(b, 0); err != nil || b[0] != 7 {
			t.Errorf("byte 0 is %d, %v; want 7", b[0], err)
		}
	})
}
