package vhd_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// memoryChain makes a chain of images in memory: a base and its descendants. Level i has the
// unique id memoryID(i), and 4 KiB of pattern(i) at block i.
func memoryChain(t *testing.T, levels int) (files [][]byte, want []byte) {
	t.Helper()
	want = make([]byte, levels*4*kib)
	for i := range levels {
		o := &vhd.CreateOptions{Size: int64(len(want)), Exact: true, BlockSize: 4 * kib, UniqueID: memoryID(i)}
		if i > 0 {
			o.Parent = openBytes(t, files[i-1], &vhd.OpenOptions{OpenParent: fromMemory(files, nil)})
			o.ParentRecord = vhd.ParentRecord{Name: fmt.Sprintf("level %d", i-1)}
		}
		m := newMemFile(nil)
		img, err := vhd.CreateIn(m, o)
		must(t, err)
		p := pattern(4*kib, byte(i+1))
		copy(want[i*4*kib:], p)
		write(t, img, p, int64(i*4*kib))
		must(t, img.Close())
		files = append(files, m.bytes())
	}
	return files, want
}

func memoryID(i int) uuid.UUID { return uuid.UUID{0: 1, 15: byte(i), 14: byte(i >> 8)} }

// fromMemory opens parents by their ids in files, and records the ids it was asked for.
func fromMemory(files [][]byte, asked *[]string) func(vhd.ParentRecord) (disk.Disk, error) {
	return func(r vhd.ParentRecord) (disk.Disk, error) {
		if asked != nil {
			*asked = append(*asked, r.Name)
		}
		b := files[int(r.ID[14])<<8|int(r.ID[15])]
		return vhd.NewImage(bytes.NewReader(b), int64(len(b)), &vhd.OpenOptions{Parents: disk.ParentSearch{None: true}})
	}
}

// OpenParent is called for each level of a chain, from the image to the base. The chain reads
// as it would from files.
func TestOpenParent(t *testing.T) {
	files, want := memoryChain(t, 4)
	var asked []string
	img := openBytes(t, files[3], &vhd.OpenOptions{OpenParent: fromMemory(files, &asked)})
	sameBytes(t, "the chain", readAll(t, img), want)
	if order := []string{"level 2", "level 1", "level 0"}; !slices.Equal(asked, order) {
		t.Errorf("asked for %q, want %q", asked, order)
	}
	var child disk.Child = img
	if path, ok := child.RecordedParent(); path != "level 2" || !ok || child.ParentPath() != "" || child.Parent() == nil {
		t.Errorf("recorded parent %q, %t; parent path %q; parent %v", path, ok, child.ParentPath(), child.Parent())
	}
	must(t, img.Close())

	t.Run("a parent with its own parents", func(t *testing.T) {
		asked = nil
		img := openBytes(t, files[3], &vhd.OpenOptions{OpenParent: func(r vhd.ParentRecord) (disk.Disk, error) {
			asked = append(asked, r.Name)
			return openBytes(t, files[2], &vhd.OpenOptions{OpenParent: fromMemory(files, nil)}), nil
		}})
		sameBytes(t, "the chain", readAll(t, img), want)
		if len(asked) != 1 {
			t.Errorf("asked for %q, want one parent", asked)
		}
	})
	t.Run("Parent and None go first", func(t *testing.T) {
		never := func(vhd.ParentRecord) (disk.Disk, error) { t.Error("called"); return nil, io.EOF }
		img := openBytes(t, files[1], &vhd.OpenOptions{OpenParent: never, Parent: openBytes(t, files[0], nil)})
		if img.Parent() == nil {
			t.Error("no parent")
		}
		img = openBytes(t, files[1], &vhd.OpenOptions{OpenParent: never, Parents: disk.ParentSearch{None: true}})
		if path, ok := img.RecordedParent(); img.Parent() != nil || path != "level 0" || !ok {
			t.Errorf("parent %v, recorded %q, %t", img.Parent(), path, ok)
		}
	})
	t.Run("a raw parent", func(t *testing.T) {
		base := pattern(16*kib, 5)
		m := newMemFile(nil)
		img, err := vhd.CreateIn(m, &vhd.CreateOptions{Parent: raw.Open(bytes.NewReader(base), 16*kib), BlockSize: 4 * kib})
		must(t, err)
		must(t, img.Close())
		again := openBytes(t, m.bytes(), &vhd.OpenOptions{OpenParent: func(r vhd.ParentRecord) (disk.Disk, error) {
			if r.ID != uuid.Nil {
				t.Errorf("id %v, want none", r.ID)
			}
			return raw.Open(bytes.NewReader(base), 16*kib), nil
		}})
		sameBytes(t, "the child", readAll(t, again), base)
	})
	t.Run("as many parents as there can be", func(t *testing.T) {
		files, _ := memoryChain(t, vhd.MaxParents+1)
		for parents, want := range map[int]error{vhd.MaxParents: nil, vhd.MaxParents + 1: vhd.ErrUnsupported} {
			leaf := files[vhd.MaxParents]
			open := fromMemory(files, nil)
			if parents > vhd.MaxParents { // one more parent
				record := vhd.ParentRecord{Name: "top"}
				m := newMemFile(nil)
				img, err := vhd.CreateIn(m, &vhd.CreateOptions{
					Parent:       openBytes(t, leaf, &vhd.OpenOptions{Parents: disk.ParentSearch{None: true}}),
					ParentRecord: record,
				})
				must(t, err)
				must(t, img.Close())
				leaf = m.bytes()
			}
			if _, err := vhd.NewImage(bytes.NewReader(leaf), int64(len(leaf)), &vhd.OpenOptions{OpenParent: open}); !errors.Is(err, want) {
				t.Errorf("%d parents: %v; want %v", parents, err, want)
			}
		}
	})
}

// If a chain cannot be opened, all disks that OpenParent returned are closed. The error names
// the missing parent and the reason.
func TestOpenParentFails(t *testing.T) {
	files, _ := memoryChain(t, 3)
	broken := errors.New("broken pipe")
	for name, c := range map[string]struct {
		second func() (disk.Disk, error) // the result for the parent of the parent
		want   []error
	}{
		"an error":       {func() (disk.Disk, error) { return nil, broken }, []error{vhd.ErrParentNotFound, broken}},
		"nothing":        {func() (disk.Disk, error) { return nil, nil }, []error{vhd.ErrParentNotFound}},
		"a raw disk":     {func() (disk.Disk, error) { return raw.Open(bytes.NewReader(nil), 0), nil }, []error{vhd.ErrParentMismatch}},
		"the image":      {func() (disk.Disk, error) { return fromMemory(files, nil)(vhd.ParentRecord{ID: memoryID(2)}) }, []error{vhd.ErrParentLoop}},
		"its own parent": {func() (disk.Disk, error) { return fromMemory(files, nil)(vhd.ParentRecord{ID: memoryID(1)}) }, []error{vhd.ErrParentLoop}},
	} {
		t.Run(name, func(t *testing.T) {
			first := &countedCloser{}
			calls := 0
			_, err := vhd.NewImage(bytes.NewReader(files[2]), int64(len(files[2])), &vhd.OpenOptions{
				OpenParent: func(r vhd.ParentRecord) (disk.Disk, error) {
					if calls++; calls == 2 {
						return c.second()
					}
					b := files[r.ID[15]]
					return vhd.NewImage(bytes.NewReader(b), int64(len(b)), &vhd.OpenOptions{Closer: first, Parents: disk.ParentSearch{None: true}})
				},
			})
			for _, want := range c.want {
				if !errors.Is(err, want) {
					t.Errorf("%v; want %v", err, want)
				}
			}
			if calls != 2 || first.n != 1 {
				t.Errorf("%d calls, and the first parent was closed %d times; want 2 and 1", calls, first.n)
			}
			var search *vhd.ParentError
			if errors.As(err, &search) && search.ID != memoryID(0) {
				t.Errorf("the error is about %v, want %v", search.ID, memoryID(0))
			}
		})
	}
}
