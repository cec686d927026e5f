//go:build linux && !portable

package vhd_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/internal/imagelock"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/chain"
)

// writerEnv names the image that TestWriterProcess appends to.
const writerEnv = "VHD_TEST_WRITER"

// appended is the data that the second process writes at the end of the disk.
var appended = pattern(3*4*kib, 77)

// TestWriterProcess is the second process of the tests below. It opens the image for writing,
// which locks it, and reports that. When its input ends, it writes the last three blocks of a
// VHD, or appends to any other file, and exits.
func TestWriterProcess(t *testing.T) {
	name := os.Getenv(writerEnv)
	if name == "" {
		t.Skip("it is run by other tests")
	}
	d, format, err := disk.Open(name, disk.Formats{&vhd.Format, &raw.Format}, &disk.OpenOptions{
		Write: true, Lock: vhd.Lock, Parents: disk.ParentSearch{None: true},
	})
	must(t, err)
	fmt.Println("locked")
	_, err = io.Copy(io.Discard, os.Stdin)
	must(t, err)
	at := d.Size() - int64(len(appended))
	if format == &raw.Format {
		at = d.Size()
		must(t, d.(disk.Resizer).Resize(t.Context(), at+int64(len(appended)), nil))
	}
	write(t, d.(io.WriterAt), appended, at)
	must(t, d.Close())
}

// appendWhileWaiting has a second process lock the image. That process appends to it and exits
// when this process waits for the lock. The test fails if it never waits.
func appendWhileWaiting(t *testing.T, image string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestWriterProcess$")
	cmd.Env = append(os.Environ(), writerEnv+"="+image)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); line != "locked\n" {
		t.Fatalf("the second process says %q, %v\n%s", line, err, &stderr)
	}
	done := false
	finish := func() {
		if done {
			return
		}
		done = true
		in.Close()
		_, _ = io.Copy(io.Discard, lines)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the second process: %v\n%s", err, &stderr)
		}
	}
	imagelock.Waiting = finish
	t.Cleanup(func() {
		imagelock.Waiting = nil
		if !done {
			t.Error("nothing waited for the lock")
			finish()
		}
	})
}

// lockedImages are a VHD and a raw disk, the children of both, and a child in another
// directory.
type lockedImages struct{ parent, child, far, rawParent, rawChild string }

const lockedSize = 64 * kib

func newLockedImages(t *testing.T) lockedImages {
	t.Helper()
	dir, other := t.TempDir(), t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	l := lockedImages{in("parent.vhd"), in("child.vhd"), filepath.Join(other, "far.vhd"), in("parent.raw"), in("raw-child.vhd")}
	img, err := vhd.Create(l.parent, &vhd.CreateOptions{Size: lockedSize, Exact: true, BlockSize: 4 * kib})
	must(t, err)
	write(t, img, pattern(4*kib, 1), 0)
	must(t, img.Close())
	must(t, os.WriteFile(l.rawParent, pattern(lockedSize-len(appended), 1), 0o666))
	for _, c := range []struct{ child, parent string }{{l.child, l.parent}, {l.far, l.parent}, {l.rawChild, l.rawParent}} {
		parent, _, err := disk.Open(c.parent, disk.Formats{&vhd.Format, &raw.Format}, nil)
		must(t, err)
		record, err := vhd.ParentRecordOf(c.child, c.parent, parent, vhd.PathsAll)
		must(t, err)
		record.Time = 0
		img, err := vhd.Create(c.child, &vhd.CreateOptions{Parent: parent, ParentRecord: record, Size: lockedSize, BlockSize: 4 * kib})
		must(t, err)
		must(t, img.Close())
	}
	return l
}

// However an image is opened, the length of its file is read after it is locked. It includes
// data that another process appended before it released the lock.
func TestLengthIsThatWhenLocked(t *testing.T) {
	formats := disk.Formats{&vhd.Format, &raw.Format}
	opened := func(d disk.Disk, _ *disk.Format, err error) (disk.Disk, error) { return d, err }
	for name, c := range map[string]struct {
		written func(l lockedImages) string // by the second process
		open    func(l lockedImages) (disk.Disk, error)
	}{
		"vhd.Open": {
			func(l lockedImages) string { return l.parent },
			func(l lockedImages) (disk.Disk, error) { return vhd.Open(l.parent, nil) },
		},
		"vhd.Open for writing": {
			func(l lockedImages) string { return l.parent },
			func(l lockedImages) (disk.Disk, error) { return vhd.Open(l.parent, &vhd.OpenOptions{Write: true}) },
		},
		"vhd.Open of the child": {
			func(l lockedImages) string { return l.child },
			func(l lockedImages) (disk.Disk, error) { return vhd.Open(l.child, nil) },
		},
		"disk.Open": {
			func(l lockedImages) string { return l.parent },
			func(l lockedImages) (disk.Disk, error) {
				return opened(disk.Open(l.parent, formats, &disk.OpenOptions{Lock: vhd.Lock}))
			},
		},
		"disk.Open for writing, of a raw disk": {
			func(l lockedImages) string { return l.rawParent },
			func(l lockedImages) (disk.Disk, error) {
				return opened(disk.Open(l.rawParent, formats, &disk.OpenOptions{Write: true, Lock: vhd.Lock}))
			},
		},
		"the parent beside the image": {
			func(l lockedImages) string { return l.parent },
			func(l lockedImages) (disk.Disk, error) { return vhd.Open(l.child, nil) },
		},
		"the parent that the caller names": {
			func(l lockedImages) string { return l.parent },
			func(l lockedImages) (disk.Disk, error) {
				return vhd.Open(l.far, &vhd.OpenOptions{Parents: disk.ParentSearch{Files: []string{l.parent}}})
			},
		},
		"the parent at a trusted path": {
			func(l lockedImages) string { return l.parent },
			func(l lockedImages) (disk.Disk, error) {
				return vhd.Open(l.far, &vhd.OpenOptions{Parents: disk.ParentSearch{Trust: true}})
			},
		},
		"the raw parent": {
			func(l lockedImages) string { return l.rawParent },
			func(l lockedImages) (disk.Disk, error) { return vhd.Open(l.rawChild, nil) },
		},
		"Commit": {
			func(l lockedImages) string { return l.parent },
			func(l lockedImages) (disk.Disk, error) {
				if err := chain.Commit(context.Background(), l.child, nil); err != nil {
					return nil, err
				}
				return vhd.Open(l.parent, nil)
			},
		},
		"Commit, into a raw disk": {
			func(l lockedImages) string { return l.rawParent },
			func(l lockedImages) (disk.Disk, error) {
				if err := chain.Commit(context.Background(), l.rawChild, nil); err != nil {
					return nil, err
				}
				return vhd.Open(l.rawChild, nil)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLockedImages(t)
			appendWhileWaiting(t, c.written(l))
			d, err := c.open(l)
			must(t, err)
			defer d.Close()
			if d.Size() != lockedSize {
				t.Fatalf("a disk of %d bytes, want %d", d.Size(), lockedSize)
			}
			sameBytes(t, "what was appended", readAll(t, d)[lockedSize-len(appended):], appended)
		})
	}
}

// A check of the parents uses their state after they are locked.
func TestCheckedLengthIsThatWhenLocked(t *testing.T) {
	l := newLockedImages(t)
	appendWhileWaiting(t, l.parent)
	f, size, err := disk.OpenFile(l.child, false, vhd.Lock)
	must(t, err)
	defer f.Close()
	for f, err := range vhd.NewChecker(f, size, &vhd.CheckOptions{Chain: true}).Findings(context.Background()) {
		must(t, err)
		t.Errorf("%s: %+v", f.File, f)
	}
}

// An image that names itself as its parent is in a loop, not locked by another process.
func TestOwnParentIsNotLocked(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a.vhd")
	must(t, os.WriteFile(name, childOf(parentID, "", path{code: "W2ru", text: wide("a.vhd")}), 0o666))
	_, err := vhd.Open(name, &vhd.OpenOptions{Write: true})
	if !errors.Is(err, vhd.ErrParentLoop) || errors.Is(err, vhd.ErrLocked) {
		t.Errorf("%v; want ErrParentLoop", err)
	}
}
