package undo_test

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/internal/undo"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// A counted file counts changes. Its Sync does nothing, because no power failure ends these
// tests.
type counted struct {
	*os.File
	changes int
}

func (c *counted) WriteAt(p []byte, off int64) (int, error) {
	c.changes++
	return c.File.WriteAt(p, off)
}

func (c *counted) Truncate(n int64) error {
	c.changes++
	return c.File.Truncate(n)
}

func (c *counted) Sync() error { return nil }

func (c *counted) Size() (int64, error) { return disk.FileSize(c.File) }

// id is the unique id of the image.
var id = [16]byte{1, 2, 3}

func write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// set sets the contents of a file in place, which is faster than replacing it.
func set(t *testing.T, f *os.File, b []byte) {
	t.Helper()
	if err := f.Truncate(int64(len(b))); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// random returns bytes with some runs of zeros.
func random(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; {
		end := min(n, i+1+rnd.IntN(700))
		if rnd.IntN(3) > 0 {
			for j := i; j < end; j++ {
				b[j] = byte(rnd.Uint32())
			}
		}
		i = end
	}
	return b
}

// A change has the contents of a file before it, and the length of the undo file.
type change struct {
	contents []byte
	logged   int64
}

// session changes a file at random. It returns the contents before each change, and at the end.
func session(t *testing.T, rnd *rand.Rand, name, undoName string, original []byte, steps int) ([]change, *undo.File) {
	t.Helper()
	write(t, name, original)
	f, err := undo.Create(undoName, &counted{File: open(t, name)}, int64(len(original)), id)
	if err != nil {
		t.Fatal(err)
	}
	var states []change
	note := func() {
		st, err := os.Stat(undoName)
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, change{read(t, name), st.Size()})
	}
	for range steps {
		note()
		length := len(states[len(states)-1].contents)
		switch rnd.IntN(5) {
		case 0:
			if err := f.Truncate(int64(rnd.IntN(length + 2000))); err != nil {
				t.Fatal(err)
			}
		default:
			off := rnd.IntN(length + 500) // also past the end
			p := random(rnd, 1+rnd.IntN(1500))
			if n, err := f.WriteAt(p, int64(off)); err != nil || n != len(p) {
				t.Fatalf("WriteAt of %d bytes: %d, %v", len(p), n, err)
			}
		}
	}
	note()
	return states, f
}

// whole is session with a complete undo file.
func whole(t *testing.T, rnd *rand.Rand, name, undoName string, original []byte, steps int) []change {
	t.Helper()
	states, f := session(t, rnd, name, undoName, original, steps)
	if err := f.Close(undo.Span{Start: 0, End: 512}); err != nil {
		t.Fatal(err)
	}
	return states
}

func TestRestore(t *testing.T) {
	dir := t.TempDir()
	name, saved := filepath.Join(dir, "file"), filepath.Join(dir, "undo")
	for seed := range uint64(10) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		original := random(rnd, rnd.IntN(5000))
		whole(t, rnd, name, saved, original, 15)
		for range 2 { // a restore can be repeated
			f := &counted{File: open(t, name)}
			if err := undo.Restore(f, saved, id); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			f.Close()
			if !bytes.Equal(read(t, name), original) {
				t.Fatalf("seed %d: the file is not what it was", seed)
			}
		}
		if err := os.Remove(saved); err != nil {
			t.Fatal(err)
		}
	}
}

// A saved range may be longer than a record.
func TestRestoreLarge(t *testing.T) {
	dir := t.TempDir()
	name, saved := filepath.Join(dir, "file"), filepath.Join(dir, "undo")
	original := random(rand.New(rand.NewPCG(1, 2)), 3<<20+777)
	write(t, name, original)
	f, err := undo.Create(saved, open(t, name), int64(len(original)), id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 2<<20+99), 1234); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(17); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := undo.Restore(open(t, name), saved, id); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, name), original) {
		t.Error("the file is not what it was")
	}
}

// A power failure truncates the undo file at any byte. The image has only changes whose original
// bytes were saved before that.
func TestRestoreCut(t *testing.T) {
	dir := t.TempDir()
	name, saved := filepath.Join(dir, "file"), filepath.Join(dir, "undo")
	rnd := rand.New(rand.NewPCG(5, 5))
	original := random(rnd, 3000)
	states, _ := session(t, rnd, name, saved, original, 10)
	whole := read(t, saved)
	start := states[0].logged // the header
	log, f := open(t, saved), &counted{File: open(t, name)}
	for n := len(whole); n >= 0; n-- {
		if err := log.Truncate(int64(n)); err != nil {
			t.Fatal(err)
		}
		// The last durably saved change may have been written.
		i, _ := slices.BinarySearchFunc(states, int64(n), func(c change, n int64) int {
			if c.logged <= n {
				return -1
			}
			return 1
		})
		now := original
		if i > 0 {
			now = states[i-1].contents
		}
		set(t, f.File, now)
		f.changes = 0
		err := undo.Restore(f, saved, id)
		switch {
		case int64(n) < start:
			if err == nil || f.changes > 0 {
				t.Fatalf("%d bytes: %v, %d changes; want an error, and none", n, err, f.changes)
			}
		case err != nil:
			t.Fatalf("%d bytes: %v", n, err)
		case !bytes.Equal(read(t, name), original):
			t.Fatalf("%d bytes: the file is not what it was", n)
		}
	}
}

// A changed byte is detected before anything is written.
func TestRestoreDamaged(t *testing.T) {
	dir := t.TempDir()
	name, saved := filepath.Join(dir, "file"), filepath.Join(dir, "undo")
	rnd := rand.New(rand.NewPCG(6, 6))
	original := random(rnd, 2000)
	states := whole(t, rnd, name, saved, original, 6)
	complete := read(t, saved)
	var missed []int
	log, f := open(t, saved), &counted{File: open(t, name)}
	for i := range complete {
		for _, bit := range []byte{1, 0x80} {
			set(t, log, complete)
			if _, err := log.WriteAt([]byte{complete[i] ^ bit}, int64(i)); err != nil {
				t.Fatal(err)
			}
			set(t, f.File, states[len(states)-1].contents)
			f.changes = 0
			err := undo.Restore(f, saved, id)
			if err == nil || f.changes > 0 {
				missed = append(missed, i)
				break
			}
		}
	}
	if len(missed) > 0 {
		var starts []int64
		for _, c := range states {
			starts = append(starts, c.logged)
		}
		t.Errorf("damage of %d of %d bytes is not noticed before something is written: %v; the records start and end at %v",
			len(missed), len(complete), missed, slices.Compact(starts))
	}
}

func TestCreateRefusesExisting(t *testing.T) {
	dir := t.TempDir()
	name, saved := filepath.Join(dir, "file"), filepath.Join(dir, "undo")
	write(t, name, []byte("data"))
	write(t, saved, []byte("something of value"))
	if _, err := undo.Create(saved, open(t, name), 4, id); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create over a file: %v, want that it exists", err)
	}
	if got := read(t, saved); string(got) != "something of value" {
		t.Errorf("the file that exists holds %q", got)
	}
}

func TestRestoreRefuses(t *testing.T) {
	dir := t.TempDir()
	name, saved := filepath.Join(dir, "file"), filepath.Join(dir, "undo")
	write(t, name, []byte("data"))
	for what, b := range map[string][]byte{
		"nothing":            nil,
		"text":               []byte(strings.Repeat("text ", 100)),
		"a cut header":       []byte("vhdtool undo 2\n\x00\x00\x00"),
		"another version":    []byte("vhdtool undo 3\n\x00\x00\x00\x00\x00\x00\x00\x00\x04"),
		"an absurd length":   []byte("vhdtool undo 2\n\x00\xff\x00\x00\x00\x00\x00\x00\x04"),
		"a wrong record":     []byte("vhdtool undo 2\n\x00\x00\x00\x00\x00\x00\x00\x00\x04" + strings.Repeat("\x01", 40)),
		"a record of no end": []byte("vhdtool undo 2\n\x00\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff1234"),
	} {
		write(t, saved, b)
		f := &counted{File: open(t, name)}
		if err := undo.Restore(f, saved, id); err == nil || f.changes > 0 {
			t.Errorf("%s: %v, %d changes; want an error, and none", what, err, f.changes)
		}
	}
	if err := undo.Restore(open(t, name), filepath.Join(dir, "missing"), id); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing undo file: %v", err)
	}
}

// A hole that is cut off is not saved. It is restored as a hole, even if the file was extended
// over it.
func TestRestoreHole(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const length = 64 << 20
	end := []byte("the end")
	if _, err := f.WriteAt(end, length-int64(len(end))); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "undo")
	u, err := undo.Create(name, f, length, id)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Truncate(1000); err != nil {
		t.Fatal(err)
	}
	if _, err := u.WriteAt([]byte("new"), 2000); err != nil {
		t.Fatal(err)
	}
	must(t, u.Close())
	if err := undo.Restore(f, name, id); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, length)
	if _, err := f.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, append(make([]byte, length-len(end)), end...)) {
		t.Error("the file is not as it was")
	}
	st, err := f.Stat()
	if err != nil || st.Size() != length {
		t.Errorf("the file has %d bytes (%v), want %d", st.Size(), err, length)
	}
}

// A complete undo file is refused when a byte of its end is missing.
func TestRestoreRefusesCutUndoFile(t *testing.T) {
	dir := t.TempDir()
	name, saved := filepath.Join(dir, "file"), filepath.Join(dir, "undo")
	rnd := rand.New(rand.NewPCG(7, 7))
	whole(t, rnd, name, saved, random(rnd, 3000), 10)
	log, f := open(t, saved), &counted{File: open(t, name)}
	for n := len(read(t, saved)) - 1; n >= 0; n-- {
		must(t, log.Truncate(int64(n)))
		if err := undo.Restore(f, saved, id); err == nil || f.changes > 0 {
			t.Fatalf("%d bytes: %v, %d changes; want an error, and none", n, err, f.changes)
		}
	}
}

// A file that the repair did not leave is refused before it is changed.
func TestRestoreRefusesOtherFile(t *testing.T) {
	dir := t.TempDir()
	name, saved := filepath.Join(dir, "file"), filepath.Join(dir, "undo")
	original := random(rand.New(rand.NewPCG(8, 8)), 4096)
	write(t, name, original)
	file := open(t, name)
	u, err := undo.Create(saved, file, 4096, id)
	must(t, err)
	_, err = u.WriteAt([]byte("a repair"), 1000)
	must(t, err)
	must(t, u.Truncate(3000))
	_, err = u.WriteAt([]byte("a block, moved"), 8192)
	must(t, err)
	must(t, u.Close(undo.Span{Start: 0, End: 512}))
	repaired := read(t, name)
	edit := func(at int) []byte {
		b := slices.Clone(repaired)
		b[at] ^= 1
		return b
	}
	for what, x := range map[string]struct {
		file []byte
		id   [16]byte
	}{
		"another id":                       {repaired, [16]byte{9}},
		"a document":                       {[]byte(strings.Repeat("a document. ", 1<<16)), id},
		"a longer file":                    {append(slices.Clone(repaired), make([]byte, 512)...), id},
		"a shorter file":                   {repaired[:8192], id},
		"another footer":                   {edit(10), id},
		"what was repaired, changed again": {edit(1003), id},
		"what was cut off, written to":     {edit(3700), id},
		"past the end, written to":         {edit(6000), id},
		"what was appended, changed again": {edit(8193), id},
	} {
		set(t, file, x.file)
		f := &counted{File: file}
		if err := undo.Restore(f, saved, x.id); !errors.Is(err, undo.ErrMismatch) || f.changes > 0 {
			t.Errorf("%s: %v, %d changes; want ErrMismatch, and none", what, err, f.changes)
		}
	}
	set(t, file, repaired)
	must(t, undo.Restore(file, saved, id))
	if !bytes.Equal(read(t, name), original) {
		t.Error("the file is not what it was")
	}
}

// A restore that crashes between two changes can be repeated.
func TestRestoreAgain(t *testing.T) {
	dir := t.TempDir()
	name, saved := filepath.Join(dir, "file"), filepath.Join(dir, "undo")
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 9))
		original := random(rnd, 1000+rnd.IntN(5000))
		states := whole(t, rnd, name, saved, original, 12)
		f := open(t, name)
		for k := 0; ; k++ {
			set(t, f, states[len(states)-1].contents)
			err := undo.Restore(&failing{counted: counted{File: f}, after: k}, saved, id)
			if err == nil {
				break
			}
			if err := undo.Restore(f, saved, id); err != nil {
				t.Fatalf("seed %d: ended at change %d, and again: %v", seed, k, err)
			}
			if !bytes.Equal(read(t, name), original) {
				t.Fatalf("seed %d: ended at change %d: the file is not what it was", seed, k)
			}
		}
		must(t, os.Remove(saved))
	}
}

// failing fails after a number of changes.
type failing struct {
	counted
	after int
}

var errFull = errors.New("full")

func (f *failing) WriteAt(p []byte, off int64) (int, error) {
	if f.changes >= f.after {
		return 0, errFull
	}
	return f.counted.WriteAt(p, off)
}

func (f *failing) Truncate(n int64) error {
	if f.changes >= f.after {
		return errFull
	}
	return f.counted.Truncate(n)
}

// limited is a file on a disk with limited space.
type limited struct {
	counted
	space int64
}

func (f *limited) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.space {
		return 0, errFull
	}
	return f.counted.WriteAt(p, off)
}

// A restore needs no more space than the original file. Without that space the file is not
// changed.
func TestRestoreOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	name, saved := filepath.Join(dir, "file"), filepath.Join(dir, "undo")
	original := random(rand.New(rand.NewPCG(10, 10)), 8192)
	for _, length := range []int64{2048, 8192, 16384} {
		write(t, name, original)
		file := open(t, name)
		u, err := undo.Create(saved, file, 8192, id)
		must(t, err)
		for _, at := range []int64{0, 12000, 500, 7000} {
			_, err = u.WriteAt([]byte("a repair"), at)
			must(t, err)
		}
		must(t, u.Truncate(length))
		must(t, u.Close())
		repaired := read(t, name)
		if length < 8192 {
			if err := undo.Restore(&limited{counted{File: file}, length}, saved, id); !errors.Is(err, errFull) {
				t.Errorf("%d bytes: %v, want the disk's error", length, err)
			}
			if !bytes.Equal(read(t, name), repaired) {
				t.Errorf("%d bytes: the file is not as the repair left it", length)
			}
		}
		must(t, undo.Restore(&limited{counted{File: file}, 8192}, saved, id))
		if !bytes.Equal(read(t, name), original) {
			t.Errorf("%d bytes: the file is not what it was", length)
		}
		must(t, os.Remove(saved))
	}
}

// A repair that changes nothing leaves no undo file.
func TestUnusedUndoFile(t *testing.T) {
	dir := t.TempDir()
	name, saved := filepath.Join(dir, "file"), filepath.Join(dir, "undo")
	write(t, name, []byte("data"))
	u, err := undo.Create(saved, open(t, name), 4, id)
	must(t, err)
	must(t, u.Close(undo.Span{Start: 0, End: 4}))
	if _, err := os.Stat(saved); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the undo file of a repair that changed nothing: %v, want that it does not exist", err)
	}
}
