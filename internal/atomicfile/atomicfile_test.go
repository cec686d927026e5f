package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// put makes a file with the contents.
func put(t *testing.T, name, contents string, perm fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(name, []byte(contents), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, perm); err != nil { // whatever the umask is
		t.Fatal(err)
	}
}

// holds checks a file's contents.
func holds(t *testing.T, name, want string) {
	t.Helper()
	if got, err := os.ReadFile(name); err != nil || string(got) != want {
		t.Errorf("%s holds %q (%v), want %q", name, got, err, want)
	}
}

// only checks that a directory has these files and no others.
func only(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("the directory has %q, want %q", got, want)
	}
}

// start creates the file and writes to it.
func start(t *testing.T, name, contents string) *File {
	t.Helper()
	f, err := Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(contents); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestCommit(t *testing.T) {
	for _, durable := range []bool{false, true} {
		dir := t.TempDir()
		name := filepath.Join(dir, "new")
		f := start(t, name, "contents")
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the name is taken before Commit: %v", err)
		}
		if err := f.Commit(durable); err != nil {
			t.Fatal(err)
		}
		holds(t, name, "contents")
		only(t, dir, "new")
		f.Discard() // nothing any more
		holds(t, name, "contents")
		if err := f.Commit(durable); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("second Commit: %v, want %v", err, fs.ErrClosed)
		}
		holds(t, name, "contents")
	}
}

func TestReplace(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	put(t, name, "old", 0o640)
	f := start(t, name, "new")
	holds(t, name, "old")
	if err := f.Close(); err != nil { // closed already is as well
		t.Fatal(err)
	}
	if err := f.Commit(false); err != nil {
		t.Fatal(err)
	}
	holds(t, name, "new")
	only(t, dir, "file")
	if st, err := os.Stat(name); runtime.GOOS != "windows" && (err != nil || st.Mode().Perm() != 0o640) {
		t.Errorf("permissions %v (%v), want those of the old file, 0640", st.Mode().Perm(), err)
	}
}

func TestDiscard(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	start(t, name, "new").Discard()
	only(t, dir)
	put(t, name, "old", 0o666)
	f := start(t, name, "new")
	f.Discard()
	f.Discard()
	holds(t, name, "old")
	only(t, dir, "file")
	if err := f.Commit(false); err == nil {
		t.Error("Commit after Discard succeeded")
	}
	holds(t, name, "old")
}

func TestSymlink(t *testing.T) {
	dir := t.TempDir()
	real := filepath.Join(dir, "real")
	if err := os.Mkdir(real, 0o777); err != nil {
		t.Fatal(err)
	}
	link := func(to, name string) string {
		name = filepath.Join(dir, name)
		if err := os.Symlink(to, name); err != nil {
			t.Skip(err)
		}
		return name
	}
	put(t, filepath.Join(real, "a"), "old", 0o666)
	toRelative := link(filepath.Join("real", "a"), "relative")
	toAbsolute := link(filepath.Join(real, "a"), "absolute")
	toLink := link("relative", "twice")
	toNothing := link(filepath.Join("real", "b"), "nothing")
	for i, name := range []string{toRelative, toAbsolute, toLink, toNothing} {
		before, _ := os.Readlink(name)
		want := "new " + name
		if err := start(t, name, want).Commit(true); err != nil {
			t.Fatal(err)
		}
		if after, err := os.Readlink(name); err != nil || after != before {
			t.Errorf("link %d points to %q (%v), want %q", i, after, err, before)
		}
		holds(t, name, want)
	}
	holds(t, filepath.Join(real, "a"), "new "+toLink)
	holds(t, filepath.Join(real, "b"), "new "+toNothing)
	only(t, real, "a", "b")
}

func TestUnwritable(t *testing.T) {
	dir := t.TempDir()
	refused := func(name string, want error) {
		t.Helper()
		f, err := Create(name)
		if err == nil {
			f.Discard()
		}
		var pe *fs.PathError
		if !errors.As(err, &pe) || pe.Path != name || want != nil && !errors.Is(err, want) {
			t.Errorf("Create(%q): %v, want %v of that name", name, err, want)
		}
	}
	refused(filepath.Join(dir, "missing", "file"), fs.ErrNotExist)
	refused(dir, nil)
	if runtime.GOOS == "windows" || os.Geteuid() == 0 {
		t.Skip("nothing is read-only for this user")
	}
	name := filepath.Join(dir, "readonly")
	put(t, name, "old", 0o444)
	refused(name, fs.ErrPermission)
	holds(t, name, "old")
	only(t, dir, "readonly")
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o755)
	refused(filepath.Join(dir, "other"), fs.ErrPermission)
}

// TestCommitFails has the target become something that cannot be replaced.
func TestCommitFails(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "target")
	f := start(t, name, "new")
	if err := os.MkdirAll(filepath.Join(name, "full"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(false); err == nil {
		t.Error("a directory was replaced")
	}
	only(t, dir, "target")
	only(t, name, "full")
}

func TestLongName(t *testing.T) {
	dir := t.TempDir()
	base := strings.Repeat("n", 250) // a longer one has no space for a suffix
	if err := start(t, filepath.Join(dir, base), "new").Commit(false); err != nil {
		t.Fatal(err)
	}
	only(t, dir, base)
}
