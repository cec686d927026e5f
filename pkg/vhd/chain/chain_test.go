package chain_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/chain"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const (
	blockSize = 64 << 10
	sector    = 512
)

// scene is a directory with a chain: base.vhd, child.vhd and grand.vhd, and other.vhd and
// other.raw for new parents.
type scene struct {
	t   *testing.T
	dir string
}

func (s scene) path(name string) string { return filepath.Join(s.dir, name) }

// scribble writes random data and zeros to a new image, and closes it.
func (s scene) scribble(img *vhd.Image, seed uint64) {
	s.t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 5 {
		p := bytes.Repeat([]byte{byte(rnd.IntN(5))}, 1+rnd.IntN(3*blockSize/2))
		_, err := img.WriteAt(p, rnd.Int64N(img.Size()-int64(len(p))))
		must(s.t, err)
	}
	must(s.t, img.Close())
}

func (s scene) create(name string, size int64, seed uint64) {
	s.t.Helper()
	img, err := vhd.Create(s.path(name), &vhd.CreateOptions{Size: size, Exact: true, BlockSize: blockSize})
	must(s.t, err)
	s.scribble(img, seed)
}

func (s scene) child(name, parent string, size int64, seed uint64) {
	s.t.Helper()
	p, err := vhd.Open(s.path(parent), nil)
	must(s.t, err)
	o := &vhd.CreateOptions{Parent: p, Size: size}
	o.ParentRecord, err = vhd.ParentRecordOf(s.path(name), s.path(parent), p, vhd.PathsAll)
	must(s.t, err)
	img, err := vhd.Create(s.path(name), o)
	must(s.t, err)
	s.scribble(img, seed)
}

func newScene(t *testing.T) scene {
	s := scene{t, t.TempDir()}
	s.create("base.vhd", 8*blockSize+1024, 1)
	s.child("child.vhd", "base.vhd", 0, 2)
	s.child("grand.vhd", "child.vhd", 12*blockSize, 3)
	s.create("other.vhd", 7*blockSize, 4)
	raw := bytes.Repeat([]byte("raw "), 6*blockSize/4)
	must(t, os.WriteFile(s.path("other.raw"), raw, 0o666))
	return s
}

// again returns a scene with the same files.
func (s scene) again(t *testing.T) scene {
	t.Helper()
	c := scene{t, t.TempDir()}
	must(t, os.CopyFS(c.dir, os.DirFS(s.dir)))
	return c
}

func (s scene) contents(name string) []byte {
	s.t.Helper()
	if strings.HasSuffix(name, ".raw") {
		b, err := os.ReadFile(s.path(name))
		must(s.t, err)
		return b
	}
	img, err := vhd.Open(s.path(name), nil)
	must(s.t, err)
	defer img.Close()
	b := make([]byte, img.Size())
	if n, err := img.ReadAt(b, 0); n < len(b) || err != nil && err != io.EOF {
		s.t.Fatalf("%s: read %d of %d bytes, %v", name, n, len(b), err)
	}
	return b
}

func (s scene) parentOf(name string) string {
	s.t.Helper()
	img, err := vhd.Open(s.path(name), nil)
	must(s.t, err)
	defer img.Close()
	if img.Type() != vhd.Differencing {
		return ""
	}
	return filepath.Base(img.ParentPath())
}

func (s scene) blocks(name string) int64 {
	s.t.Helper()
	img, err := vhd.Open(s.path(name), nil)
	must(s.t, err)
	defer img.Close()
	_, n := img.BlockCounts()
	return n
}

// reads checks the contents of a disk; zeros may follow them.
func (s scene) reads(name string, want []byte) {
	s.t.Helper()
	got := s.contents(name)
	if len(got) < len(want) || !bytes.Equal(got[:len(want)], want) || len(bytes.TrimLeft(got[len(want):], "\x00")) > 0 {
		s.t.Fatalf("%s (%d bytes) does not read as before (%d bytes)", name, len(got), len(want))
	}
}

// sound checks an image and its parents. Only the allowed errors may be found.
func (s scene) sound(name string, allowed ...string) {
	s.t.Helper()
	f, err := os.Open(s.path(name))
	must(s.t, err)
	defer f.Close()
	st, err := f.Stat()
	must(s.t, err)
	o := &vhd.CheckOptions{Chain: true, Deep: true}
	for f, err := range vhd.NewChecker(f, st.Size(), o).Findings(context.Background()) {
		must(s.t, err)
		if f.Severity == vhd.Error && !slices.Contains(allowed, f.ID) {
			s.t.Errorf("check %s: %s: %v", name, f.ID, f)
		}
	}
}

// cancelAfter is a context that is cancelled when it is asked for the n-th time.
type cancelAfter struct {
	context.Context
	cancel context.CancelFunc
	left   *int
}

func newCancelAfter(n int) cancelAfter {
	ctx, cancel := context.WithCancel(context.Background())
	return cancelAfter{ctx, cancel, &n}
}

func (c cancelAfter) ask() {
	if *c.left--; *c.left < 0 {
		c.cancel()
	}
}

func (c cancelAfter) Err() error {
	c.ask()
	return c.Context.Err()
}

func (c cancelAfter) Done() <-chan struct{} {
	c.ask()
	return c.Context.Done()
}

// operations are commits and rebases with their expected results.
var operations = []struct {
	name  string
	image string
	do    func(ctx context.Context, s scene, image string, progress func(done, total int64)) error
	// changes are the disks that the operation may change.
	changes []string
	after   func(s scene)
	// invalid are errors of images that became invalid, found by a check afterwards.
	invalid string
}{
	{
		"commit", "grand.vhd", func(ctx context.Context, s scene, image string, progress func(int64, int64)) error {
			return chain.Commit(ctx, image, &chain.CommitOptions{Workers: 1, Progress: progress})
		},
		[]string{"child.vhd"},
		func(s scene) {
			if n := s.blocks("grand.vhd"); n != 0 {
				s.t.Errorf("%d blocks are left in the image, want none", n)
			}
			s.reads("child.vhd", s.contents("grand.vhd"))
		}, "",
	},
	{
		"commit, keeping the blocks", "grand.vhd", func(ctx context.Context, s scene, image string, progress func(int64, int64)) error {
			return chain.Commit(ctx, image, &chain.CommitOptions{Keep: true, Workers: 1, Progress: progress})
		},
		[]string{"child.vhd"},
		func(s scene) {
			if n := s.blocks("grand.vhd"); n == 0 {
				s.t.Error("no blocks are left in the image")
			}
			s.reads("child.vhd", s.contents("grand.vhd"))
		}, "",
	},
	{
		"commit into the base", "grand.vhd", func(ctx context.Context, s scene, image string, progress func(int64, int64)) error {
			return chain.Commit(ctx, image, &chain.CommitOptions{Base: s.path("base.vhd"), Workers: 1, Progress: progress})
		},
		[]string{"base.vhd", "child.vhd"},
		func(s scene) { s.reads("base.vhd", s.contents("grand.vhd")) },
		"parent-size", // of child.vhd, which is now smaller than base.vhd
	},
	{
		"rebase", "grand.vhd", func(ctx context.Context, s scene, image string, progress func(int64, int64)) error {
			return chain.Rebase(ctx, image, &chain.RebaseOptions{Parent: s.path("other.vhd"), Workers: 1, Progress: progress})
		},
		nil, func(s scene) {
			if p := s.parentOf("grand.vhd"); p != "other.vhd" {
				s.t.Errorf("the parent is %q, want other.vhd", p)
			}
		}, "",
	},
	{
		"rebase onto a raw disk", "grand.vhd", func(ctx context.Context, s scene, image string, progress func(int64, int64)) error {
			return chain.Rebase(ctx, image, &chain.RebaseOptions{Parent: s.path("other.raw"), Raw: true, Workers: 1, Progress: progress})
		},
		nil, func(s scene) {
			if p := s.parentOf("grand.vhd"); p != "other.raw" {
				s.t.Errorf("the parent is %q, want other.raw", p)
			}
		}, "",
	},
	{
		"rebase onto nothing", "grand.vhd", func(ctx context.Context, s scene, image string, progress func(int64, int64)) error {
			return chain.Rebase(ctx, image, &chain.RebaseOptions{Workers: 1, Progress: progress})
		},
		nil, func(s scene) {
			if p := s.parentOf("grand.vhd"); p != "" {
				s.t.Errorf("the parent is %q, want none", p)
			}
		}, "",
	},
}

// Each operation has its documented effect, leaves the other disks unchanged, and counts
// progress to the end.
func TestOperations(t *testing.T) {
	start := newScene(t)
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			s := start.again(t)
			want := s.contents(op.image)
			others := map[string][]byte{}
			for _, name := range []string{"base.vhd", "child.vhd", "other.vhd", "other.raw"} {
				if !slices.Contains(op.changes, name) {
					others[name] = s.contents(name)
				}
			}
			var last, of int64
			must(t, op.do(context.Background(), s, s.path(op.image), func(done, total int64) {
				if done < last || total != int64(len(want)) {
					t.Errorf("progress %d of %d after %d of %d", done, total, last, of)
				}
				last, of = done, total
			}))
			if last != of || of == 0 {
				t.Errorf("the last progress is %d of %d", last, of)
			}
			s.reads(op.image, want)
			s.sound(op.image, op.invalid)
			op.after(s)
			for name, b := range others {
				s.reads(name, b)
			}
		})
	}
}

// After a cancelled operation the image reads as before. So does the part of a parent that the
// image does not hide. The operation can be repeated.
func TestCancel(t *testing.T) {
	start := newScene(t)
	try := func(t *testing.T, i int, ctx context.Context, s scene, progress func(int64, int64)) bool {
		op := operations[i]
		want, parents := s.contents(op.image), map[string][]byte{}
		for _, name := range []string{"base.vhd", "child.vhd", "other.vhd", "other.raw"} {
			parents[name] = s.contents(name)
		}
		err := op.do(ctx, s, s.path(op.image), progress)
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("%v, want %v", err, context.Canceled)
		}
		cancelled := err != nil
		s.reads(op.image, want)
		s.sound(op.image, op.invalid)
		for name, before := range parents {
			if !slices.Contains(op.changes, name) {
				s.reads(name, before)
				continue
			}
			for at, now := 0, s.contents(name); at < len(now); at += sector {
				old := make([]byte, sector)
				if at < len(before) {
					copy(old, before[at:])
				}
				if got := now[at : at+sector]; !bytes.Equal(got, old) && !bytes.Equal(got, want[at:at+sector]) {
					t.Fatalf("sector %d of %s is neither as it was nor as in the image", at/sector, name)
				}
			}
		}
		if cancelled {
			must(t, op.do(context.Background(), s, s.path(op.image), nil))
			s.reads(op.image, want)
			s.sound(op.image, op.invalid)
		}
		op.after(s)
		return cancelled
	}
	for i, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			t.Run("at each progress call", func(t *testing.T) {
				n := 0
				for at := 1; ; at++ {
					ctx, cancel := context.WithCancel(context.Background())
					calls := 0
					more := try(t, i, ctx, start.again(t), func(_, _ int64) {
						if calls++; calls == at {
							cancel()
						}
					})
					cancel()
					if calls < at {
						break // it succeeded
					}
					if more {
						n++
					}
				}
				if n < 2 {
					t.Errorf("cancelled %d times only", n)
				}
			})
			t.Run("whenever the context is asked", func(t *testing.T) {
				for n := 0; ; n++ {
					ctx := newCancelAfter(n)
					more := try(t, i, ctx, start.again(t), nil)
					ctx.cancel()
					if !more {
						break
					}
				}
			})
		})
	}
}

// Impossible operations are refused, and change nothing.
func TestRefused(t *testing.T) {
	start := newScene(t)
	commit := func(o *chain.CommitOptions, image string) func(s scene) error {
		return func(s scene) error {
			if o != nil && o.Base != "" {
				named := *o
				named.Base = s.path(o.Base)
				o = &named
			}
			return chain.Commit(context.Background(), s.path(image), o)
		}
	}
	rebase := func(o chain.RebaseOptions, image string) func(s scene) error {
		return func(s scene) error {
			if o.Parent != "" {
				o.Parent = s.path(o.Parent)
			}
			return chain.Rebase(context.Background(), s.path(image), &o)
		}
	}
	for _, c := range []struct {
		name string
		do   func(s scene) error
		is   error
		file string // the file that the error names
	}{
		{"commit of an image without a parent", commit(nil, "base.vhd"), vhd.ErrUnsupported, "base.vhd"},
		{"commit into a stranger", commit(&chain.CommitOptions{Base: "other.vhd"}, "grand.vhd"), vhd.ErrParentNotFound, "grand.vhd"},
		{"commit into itself", commit(&chain.CommitOptions{Base: "grand.vhd"}, "grand.vhd"), vhd.ErrParentNotFound, ""},
		{"commit into a child", commit(&chain.CommitOptions{Base: "grand.vhd"}, "child.vhd"), vhd.ErrParentNotFound, "child.vhd"},
		{"commit into a missing file", commit(&chain.CommitOptions{Base: "missing.vhd"}, "grand.vhd"), os.ErrNotExist, "missing.vhd"},
		{"commit of a missing file", commit(nil, "missing.vhd"), os.ErrNotExist, "missing.vhd"},
		{"commit of an image opened alone", func(s scene) error {
			o := &chain.CommitOptions{}
			o.Open.Parents.None = true
			return chain.Commit(context.Background(), s.path("grand.vhd"), o)
		}, vhd.ErrParentNotFound, "grand.vhd"},
		{"rebase of an image without a parent", rebase(chain.RebaseOptions{Parent: "other.vhd"}, "base.vhd"), vhd.ErrUnsupported, "base.vhd"},
		{"rebase with nil options of an image without a parent", func(s scene) error {
			return chain.Rebase(context.Background(), s.path("base.vhd"), nil)
		}, vhd.ErrUnsupported, "base.vhd"},
		{"rebase onto itself", rebase(chain.RebaseOptions{Parent: "grand.vhd"}, "grand.vhd"), vhd.ErrParentLoop, "grand.vhd"},
		{"rebase onto its child", rebase(chain.RebaseOptions{Parent: "grand.vhd"}, "child.vhd"), vhd.ErrParentLoop, "child.vhd"},
		{"unsafe rebase onto its child", rebase(chain.RebaseOptions{Parent: "grand.vhd", Unsafe: true}, "child.vhd"), vhd.ErrParentLoop, "child.vhd"},
		{"unsafe rebase onto nothing", rebase(chain.RebaseOptions{Unsafe: true}, "grand.vhd"), vhd.ErrUnsupported, "grand.vhd"},
		{"rebase onto a larger disk", rebase(chain.RebaseOptions{Parent: "large.vhd"}, "child.vhd"), vhd.ErrUnsupported, "child.vhd"},
		{"unsafe rebase onto a larger disk", rebase(chain.RebaseOptions{Parent: "large.vhd", Unsafe: true}, "child.vhd"), vhd.ErrUnsupported, "child.vhd"},
		{"rebase onto a raw disk that is not said to be one", rebase(chain.RebaseOptions{Parent: "other.raw"}, "grand.vhd"), vhd.ErrNotVHD, "other.raw"},
		{"rebase onto a missing file", rebase(chain.RebaseOptions{Parent: "missing.vhd"}, "grand.vhd"), os.ErrNotExist, "missing.vhd"},
		{"rebase onto a missing raw file", rebase(chain.RebaseOptions{Parent: "missing.raw", Raw: true}, "grand.vhd"), os.ErrNotExist, "missing.raw"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start.again(t)
			s.create("large.vhd", 40*blockSize, 9)
			files := func() map[string]string {
				all := map[string]string{}
				entries, err := os.ReadDir(s.dir)
				must(t, err)
				for _, e := range entries {
					b, err := os.ReadFile(s.path(e.Name()))
					must(t, err)
					all[e.Name()] = string(b)
				}
				return all
			}
			before := files()
			err := c.do(s)
			if !errors.Is(err, c.is) {
				t.Fatalf("%v, want %v", err, c.is)
			}
			if n := strings.Count(err.Error(), s.path(c.file)); n != 1 && c.file != "" {
				t.Errorf("%q names %s %d times, want once", err, c.file, n)
			}
			after := files()
			for name, b := range before {
				if after[name] != b {
					t.Errorf("%s has changed", name)
				}
			}
		})
	}
}

// CommitImage accepts open images, and refuses a depth without a parent.
func TestCommitImageDepth(t *testing.T) {
	s := newScene(t)
	want := s.contents("grand.vhd")
	base, err := vhd.Open(s.path("base.vhd"), &vhd.OpenOptions{Write: true})
	must(t, err)
	child, err := vhd.Open(s.path("child.vhd"), &vhd.OpenOptions{Parent: base})
	must(t, err)
	img, err := vhd.Open(s.path("grand.vhd"), &vhd.OpenOptions{Write: true, Parent: child})
	must(t, err)
	for _, depth := range []int{-1, 0, 3, 4} {
		if err := chain.CommitImage(context.Background(), img, depth, nil); !errors.Is(err, vhd.ErrParentNotFound) {
			t.Errorf("depth %d: %v, want ErrParentNotFound", depth, err)
		}
	}
	if err := chain.CommitImage(context.Background(), img, 1, nil); !errors.Is(err, vhd.ErrReadOnly) {
		t.Errorf("into a parent open for reading: %v, want ErrReadOnly", err)
	}
	if err := chain.CommitImage(context.Background(), img, 2, nil); !errors.Is(err, vhd.ErrReadOnly) {
		t.Errorf("with an image between that is open for reading: %v, want ErrReadOnly", err)
	}
	must(t, chain.CommitImage(context.Background(), img, 2, &chain.CommitOptions{KeepID: true}))
	must(t, img.Close())
	s.reads("base.vhd", want)
	s.reads("grand.vhd", want)
	if n := s.blocks("grand.vhd"); n == 0 {
		t.Error("a commit into the parent's parent has emptied the image")
	}
}

// An unsafe rebase reads neither the old parent nor the contents of the new one, and the image
// reads through the new one.
func TestUnsafeRebase(t *testing.T) {
	s := newScene(t)
	want := s.contents("child.vhd")
	must(t, os.Mkdir(s.path("moved"), 0o777))
	must(t, os.Rename(s.path("base.vhd"), s.path("moved/base.vhd")))
	blocks := func() int64 {
		img, err := vhd.Open(s.path("child.vhd"), &vhd.OpenOptions{Parents: disk.ParentSearch{None: true}})
		must(t, err)
		defer img.Close()
		_, n := img.BlockCounts()
		return n
	}
	before := blocks()
	must(t, chain.Rebase(context.Background(), s.path("child.vhd"), &chain.RebaseOptions{
		Parent: s.path("moved/base.vhd"), Unsafe: true, Progress: func(done, total int64) { t.Errorf("progress %d of %d", done, total) },
	}))
	s.reads("child.vhd", want)
	if n := blocks(); n != before {
		t.Errorf("the image has %d blocks, want %d as before", n, before)
	}
}

// Commit records the time of the parent's change in an image that records it.
func TestCommitRecordsTime(t *testing.T) {
	for _, keep := range []bool{false, true} {
		s := newScene(t)
		old := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
		must(t, os.Chtimes(s.path("base.vhd"), old, old))
		must(t, chain.Commit(context.Background(), s.path("child.vhd"), &chain.CommitOptions{Keep: keep}))
		st, err := os.Stat(s.path("base.vhd"))
		must(t, err)
		img, err := vhd.Open(s.path("child.vhd"), nil)
		must(t, err)
		if got, want := img.ParentRecord().Time, vhd.NearestTimestamp(st.ModTime()); got != want {
			t.Errorf("the image records %v, and the parent was changed at %v", got.Time(), want.Time())
		}
		must(t, img.Close())
	}
}

// An image cannot get more parents than can be opened.
func TestRebaseDepth(t *testing.T) {
	s := scene{t, t.TempDir()}
	image := func(parent disk.Disk) *vhd.Image {
		f, err := os.CreateTemp(s.dir, "")
		must(t, err)
		img, err := vhd.CreateIn(f, &vhd.CreateOptions{Size: 2 * blockSize, Exact: true, Parent: parent})
		must(t, err)
		return img
	}
	s.create("base.vhd", 2*blockSize, 1)
	s.child("child.vhd", "base.vhd", 0, 2)
	want := s.contents("child.vhd")
	for _, parents := range []int{vhd.MaxParents, vhd.MaxParents - 1} {
		var parent disk.Disk
		for range parents + 1 {
			parent = image(parent)
		}
		img, err := vhd.Open(s.path("child.vhd"), &vhd.OpenOptions{Write: true})
		must(t, err)
		err = chain.RebaseImage(context.Background(), img, parent, vhd.ParentRecord{Name: "deep"}, nil)
		if tooDeep := parents+1 > vhd.MaxParents; tooDeep != errors.Is(err, vhd.ErrUnsupported) || !tooDeep && err != nil {
			t.Errorf("onto an image with %d parents: %v", parents, err)
		}
		if err != nil {
			must(t, parent.Close()) // the image does not own it
		}
		b := make([]byte, img.Size())
		if _, err := img.ReadAt(b, 0); err != nil && err != io.EOF || !bytes.Equal(b, want) {
			t.Errorf("onto an image with %d parents: the image does not read as before, %v", parents, err)
		}
		must(t, img.Close())
	}
}

// After a commit the other children of changed images are refused, and the committed image
// still opens. With KeepID no child is refused.
func TestCommitRenewsIDs(t *testing.T) {
	id := func(s scene, name string) string {
		img, err := vhd.Open(s.path(name), &vhd.OpenOptions{Parents: disk.ParentSearch{None: true}})
		must(s.t, err)
		defer img.Close()
		return img.Footer().UniqueID.String()
	}
	for _, c := range []struct {
		name, image, base string
		renewed           []string // images with a new id
		refused           []string // other children
	}{
		{"into the parent", "grand.vhd", "", []string{"child.vhd"}, []string{"grand2.vhd"}},
		{"into the base", "grand.vhd", "base.vhd", []string{"base.vhd", "child.vhd"}, []string{"child2.vhd", "grand2.vhd", "grand of 2.vhd"}},
		{"child into the base", "child.vhd", "", []string{"base.vhd"}, []string{"child2.vhd", "grand of 2.vhd"}},
		{"into a raw disk", "onraw.vhd", "", nil, nil},
		{"through an image into a raw disk", "on onraw.vhd", "other.raw", []string{"onraw.vhd"}, []string{"other on onraw.vhd"}},
	} {
		for _, keep := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, keep ids %v", c.name, keep), func(t *testing.T) {
				s := newScene(t)
				s.child("child2.vhd", "base.vhd", 0, 5)
				s.child("grand2.vhd", "child.vhd", 0, 6)
				s.child("grand of 2.vhd", "child2.vhd", 0, 7)
				s.onRaw("onraw.vhd", "other.raw")
				s.child("on onraw.vhd", "onraw.vhd", 0, 8)
				s.child("other on onraw.vhd", "onraw.vhd", 0, 9)
				all := []string{"base.vhd", "child.vhd", "child2.vhd", "grand.vhd", "grand2.vhd", "grand of 2.vhd", "onraw.vhd", "on onraw.vhd", "other on onraw.vhd"}
				before := map[string]string{}
				for _, name := range all {
					before[name] = id(s, name)
				}
				want := s.contents(c.image)
				o := &chain.CommitOptions{Workers: 1, KeepID: keep}
				if c.base != "" {
					o.Base = s.path(c.base)
				}
				must(t, chain.Commit(t.Context(), s.path(c.image), o))
				s.reads(c.image, want)
				if c.image == "child.vhd" { // it keeps its id
					s.contents("grand.vhd")
				}
				for _, name := range all {
					changed := id(s, name) != before[name]
					if changed != (!keep && slices.Contains(c.renewed, name)) {
						t.Errorf("%s: another id: %v", name, changed)
					}
					img, err := vhd.Open(s.path(name), nil)
					if err == nil {
						img.Close()
					}
					refused := !keep && slices.Contains(c.refused, name)
					if refused && !errors.Is(err, vhd.ErrParentMismatch) || !refused && err != nil {
						t.Errorf("Open %s: %v; refused: want %v", name, err, refused)
					}
				}
			})
		}
	}
}

// onRaw makes an image whose parent is a raw disk.
func (s scene) onRaw(name, parent string) {
	s.t.Helper()
	p, _, err := disk.Open(s.path(parent), disk.Formats{&raw.Format}, nil)
	must(s.t, err)
	o := &vhd.CreateOptions{Parent: p}
	o.ParentRecord, err = vhd.ParentRecordOf(s.path(name), s.path(parent), p, vhd.PathsAll)
	must(s.t, err)
	img, err := vhd.Create(s.path(name), o)
	must(s.t, err)
	s.scribble(img, 10)
}

// A commit of an image without blocks does not affect other children. It completes a commit
// that was interrupted between the two ids.
func TestCommitWithoutBlocks(t *testing.T) {
	s := newScene(t)
	s.child("child2.vhd", "base.vhd", 0, 5)
	must(t, chain.Commit(t.Context(), s.path("child.vhd"), nil))
	must(t, chain.Rebase(t.Context(), s.path("child2.vhd"), &chain.RebaseOptions{Parent: s.path("base.vhd"), Unsafe: true}))
	must(t, chain.Commit(t.Context(), s.path("child.vhd"), nil))
	s.contents("child2.vhd")

	// The parent has its new id, and child.vhd still records the former one.
	record, err := os.ReadFile(s.path("child.vhd"))
	must(t, err)
	base, err := vhd.Open(s.path("base.vhd"), &vhd.OpenOptions{Write: true})
	must(t, err)
	child, err := vhd.Open(s.path("child.vhd"), &vhd.OpenOptions{Write: true, Parent: base})
	must(t, err)
	must(t, child.RenewParentID())
	must(t, child.Close())
	must(t, os.WriteFile(s.path("child.vhd"), record, 0o666))
	if got := s.warnings("child.vhd"); !slices.Contains(got, "parent-id") {
		t.Errorf("check finds %q, want parent-id among them", got)
	}
	must(t, chain.Commit(t.Context(), s.path("child.vhd"), nil))
	if got := s.warnings("child.vhd"); slices.Contains(got, "parent-id") {
		t.Errorf("after another commit check finds %q", got)
	}
}

// warnings returns the findings of a check of an image and its parents.
func (s scene) warnings(name string) (ids []string) {
	s.t.Helper()
	f, err := os.Open(s.path(name))
	must(s.t, err)
	defer f.Close()
	st, err := f.Stat()
	must(s.t, err)
	for x, err := range vhd.NewChecker(f, st.Size(), &vhd.CheckOptions{Chain: true}).Findings(s.t.Context()) {
		must(s.t, err)
		ids = append(ids, x.ID)
	}
	return ids
}
