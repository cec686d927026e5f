//go:build linux && !portable

package imagelock_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/internal/imagelock"
)

// Locks belong to open files, so one process can hold two conflicting locks.
func TestLock(t *testing.T) {
	name := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(name, make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(t *testing.T) *os.File {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	for _, c := range []struct {
		name          string
		first, second bool // whether they write
		want          error
		shared        bool
		right         string
	}{
		{"two readers", false, false, nil, false, ""},
		{"a writer after a reader", false, true, imagelock.ErrLocked, false, "write"},
		{"a reader after a writer", true, false, imagelock.ErrLocked, true, "write"},
		{"two writers", true, true, imagelock.ErrLocked, false, "write"},
	} {
		t.Run(c.name, func(t *testing.T) {
			first := open(t)
			if err := imagelock.Lock(first, c.first); err != nil {
				t.Fatalf("the first: %v", err)
			}
			second := open(t)
			err := imagelock.Lock(second, c.second)
			if !errors.Is(err, c.want) {
				t.Fatalf("the second: %v, want %v", err, c.want)
			}
			var e *imagelock.Error
			if errors.As(err, &e) && (e.Shared != c.shared || e.Right != c.right) {
				t.Errorf("the second file got %+v, want right %q, shared %v", e, c.right, c.shared)
			}
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			if err := imagelock.Lock(second, c.second); err != nil {
				t.Errorf("when the first has closed the file: %v", err)
			}
			// A refused file leaves no locks, nor does a closed one.
			if err := second.Close(); err != nil {
				t.Fatal(err)
			}
			if err := imagelock.Lock(open(t), true); err != nil {
				t.Errorf("when both have closed the file: %v", err)
			}
		})
	}
}

// A refused writer holds no lock that excludes others.
func TestRefusedLeavesNothing(t *testing.T) {
	name := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var files [3]*os.File
	for i := range files {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	if err := imagelock.Lock(files[0], false); err != nil {
		t.Fatal(err)
	}
	if err := imagelock.Lock(files[1], true); !errors.Is(err, imagelock.ErrLocked) {
		t.Fatalf("a writer after a reader: %v", err)
	}
	if err := imagelock.Lock(files[2], false); err != nil {
		t.Errorf("a reader after a reader and a refused writer: %v", err)
	}
}
