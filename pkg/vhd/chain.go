package vhd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/internal/imagelock"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/raw"
)

// MaxParents is how many parents an image can have, one behind the other.
const MaxParents = 256

// What a *ParentError wraps.
var (
	// ErrParentNotFound: no file that was looked at is the parent.
	ErrParentNotFound = errors.New("the parent was not found")
	// ErrParentMismatch: there is a file where the parent should be, and it has
	// another unique id.
	ErrParentMismatch = errors.New("what stands in the parent's place is another image")
	// ErrParentLoop: the image is among its own parents.
	ErrParentLoop = errors.New("the image is among its own parents")
	// ErrParentRefused: the parent's path leads to where an image is not trusted
	// to lead.
	ErrParentRefused = errors.New("not followed: the path leads out of the image's folder")
)

// ErrNoParent: the image was opened without its parent, and what it has from that
// was to be read.
var ErrNoParent = errors.New("the image was opened without its parent")

// ParentError says why the parent of an image could not be opened.
type ParentError struct {
	Image string    // path of the image whose parent it is; "" if it is the one that was opened
	ID    uuid.UUID // of the parent
	Kind  error     // ErrParentNotFound, ErrParentMismatch or ErrParentLoop
	Tried []TriedParent
}

// TriedParent is a path where the parent was looked for, and what came of it.
type TriedParent struct {
	Path string
	Err  error
}

func (e *ParentError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v (%s", e.Kind, describeID(e.ID))
	if e.Image != "" {
		fmt.Fprintf(&b, ", of %s", printable(e.Image))
	}
	b.WriteString(")")
	for i, t := range e.Tried {
		sep := "; "
		if i == 0 {
			sep = ": tried "
		}
		fmt.Fprintf(&b, "%s%s: %v", sep, printable(t.Path), t.Err)
	}
	if len(e.Tried) == 0 {
		b.WriteString(": the image has no path to it")
	}
	return b.String()
}

// Unwrap returns the kind, and why each path was not the one.
func (e *ParentError) Unwrap() []error {
	errs := []error{e.Kind}
	for _, t := range e.Tried {
		errs = append(errs, t.Err)
	}
	return errs
}

// printable is a path as it can be shown: the text comes from an image.
func printable(path string) string {
	if strings.ContainsFunc(path, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(path)
	}
	return path
}

func describeID(id uuid.UUID) string {
	if id == uuid.Nil {
		return "a raw disk"
	}
	return "unique id " + id.String()
}

// Parent is the disk that a differencing image inherits from, or nil. It is an
// *Image or a raw disk, and is closed with the image.
func (img *Image) Parent() disk.Disk { return img.parent }

// ParentFile is the path by which the parent was opened; "" if there is none, or if
// the caller opened it.
func (img *Image) ParentFile() string { return img.parentFile }

// adopt makes a disk that is open already the image's parent.
func (img *Image) adopt(parent disk.Disk) error {
	id := uuid.Nil
	if p, ok := parent.(*Image); ok {
		if id = p.footer.UniqueID; id == uuid.Nil {
			return fmt.Errorf("%w: a parent whose unique id is zero", ErrUnsupported)
		}
		if p.encrypted() {
			return errEncrypted
		}
		if depth := 1 + p.depth(); depth > MaxParents {
			return errTooDeep
		}
	}
	if id != img.header.ParentID {
		return &ParentError{ID: img.header.ParentID, Kind: ErrParentMismatch, Tried: []TriedParent{{"the disk that was given", mismatch(id)}}}
	}
	img.parent = parent
	return nil
}

// depth is how many parents the image has, one behind the other, as far as they are
// open.
func (img *Image) depth() int {
	n := 0
	for next := img.parent; next != nil; n++ {
		p, ok := next.(*Image)
		if !ok {
			return n + 1
		}
		next = p.parent
	}
	return n
}

var (
	errTooDeep   = fmt.Errorf("%w: an image with more than %d parents", ErrUnsupported, MaxParents)
	errEncrypted = fmt.Errorf("%w: the image is encrypted by XenServer", ErrUnsupported)
)

func mismatch(id uuid.UUID) error { return fmt.Errorf("it is %s", describeID(id)) }

// chain is the search for the parents of one image, the leaf.
type chain struct {
	o     *OpenOptions
	roots []string // the folders that parents may be in, absolute
	seen  []os.FileInfo
	ids   map[uuid.UUID]bool
}

// openParents opens the parents of a differencing image that stands in r, all of
// them. On an error those that were opened are closed.
func (img *Image) openParents(o *OpenOptions) error {
	f, ok := img.r.(*os.File)
	if !ok {
		return &ParentError{ID: img.header.ParentID, Kind: ErrParentNotFound}
	}
	c, err := newChain(o, f, img)
	if err != nil {
		return err
	}
	level, name := img, f.Name()
	for depth := 0; level.footer.Type == Differencing; depth++ {
		if depth == MaxParents {
			err = errTooDeep
		} else {
			err = c.openParent(level, name, depth == 0)
		}
		if err != nil {
			_ = img.closeParents()
			return err
		}
		next, ok := level.parent.(*Image)
		if !ok {
			break
		}
		level, name = next, level.parentFile
	}
	return nil
}

// newChain starts the search for the parents of an image in the file f.
func newChain(o *OpenOptions, f *os.File, img *Image) (*chain, error) {
	c := &chain{o: o, ids: map[uuid.UUID]bool{}}
	for _, dir := range append(foldersOf(f.Name()), o.Parents.Dirs...) {
		if err := c.trust(dir); err != nil {
			return nil, err
		}
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	c.note(st, img.footer.UniqueID)
	return c, nil
}

// closeParents closes the parent, and with it all that are behind it.
func (img *Image) closeParents() error {
	if img.parent == nil {
		return nil
	}
	err := img.parent.Close()
	img.parent = nil
	return err
}

// trust lets parents be in a folder, and below it.
func (c *chain) trust(dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for _, d := range []string{abs, resolved(abs)} {
		if !slices.Contains(c.roots, d) {
			c.roots = append(c.roots, d)
		}
	}
	return nil
}

// resolved is a path without symbolic links, or the path itself if it leads
// nowhere.
func resolved(path string) string {
	if p, err := filepath.EvalSymlinks(path); err == nil {
		return p
	}
	return path
}

// foldersOf is the folder of a file, and if it is a symbolic link that of where it
// leads.
func foldersOf(name string) []string {
	dir, real := filepath.Dir(name), filepath.Dir(resolved(name))
	if sameFolder(dir, real) {
		return []string{dir}
	}
	return []string{dir, real}
}

func sameFolder(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// note keeps a level of the chain in mind, so that it is not opened again.
func (c *chain) note(st os.FileInfo, id uuid.UUID) {
	c.seen = append(c.seen, st)
	if id != uuid.Nil {
		c.ids[id] = true
	}
}

// openParent finds and opens the parent of one level, which is in the file name.
func (c *chain) openParent(level *Image, name string, leaf bool) error {
	e := &ParentError{ID: level.header.ParentID, Kind: ErrParentNotFound}
	if !leaf {
		e.Image = name
	}
	try := func(path string, f *os.File, size int64, err error) bool {
		var parent disk.Disk
		if err == nil {
			if parent, err = c.examine(f, size, level); err != nil {
				f.Close()
			}
		}
		if err != nil {
			e.Tried = append(e.Tried, TriedParent{path, withoutPath(err)})
			switch {
			case errors.Is(err, ErrParentLoop):
				e.Kind = ErrParentLoop
			case errors.Is(err, ErrParentMismatch) && e.Kind == ErrParentNotFound:
				e.Kind = ErrParentMismatch
			}
			return false
		}
		level.parent, level.parentFile = parent, path
		return true
	}
	if file := c.o.Parents.File; file != "" && leaf {
		if err := c.trust(filepath.Dir(file)); err != nil {
			return err
		}
		f, size, err := disk.OpenFile(file, false)
		if try(file, f, size, err) {
			return nil
		}
		return e
	}
	for _, p := range c.candidates(&level.parentage, foldersOf(name)) {
		f, size, err := (*os.File)(nil), int64(0), p.refused
		if err == nil {
			f, size, err = c.open(p.path)
		}
		if try(p.path, f, size, err) {
			return nil
		}
	}
	return e
}

// withoutPath is an error without the path that the caller names anyway.
func withoutPath(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// examine opens what may be the parent of a level: a file of size bytes.
func (c *chain) examine(f *os.File, size int64, level *Image) (disk.Disk, error) {
	want := level.header.ParentID
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	for _, s := range c.seen {
		if os.SameFile(s, st) {
			return nil, ErrParentLoop
		}
	}
	if !c.o.NoLock {
		if err := imagelock.Lock(f, false); err != nil {
			return nil, err
		}
	}
	if want == uuid.Nil {
		c.note(st, uuid.Nil)
		return raw.Open(f, size), nil
	}
	o := &OpenOptions{
		IgnoreChecksums: c.o.IgnoreChecksums, SizeRule: c.o.SizeRule, Parents: disk.Parents{None: true}, tolerateBAT: c.o.tolerateBAT,
	}
	img, err := NewImage(f, size, o)
	if err == nil && img.encrypted() {
		err = errEncrypted
	}
	if err == nil && level.size > img.size && uint64(level.size) <= img.footer.CurrentSize {
		// Who made the child took another field for the parent's size.
		o.SizeRule = SizeFromCurrent
		img, err = NewImage(f, size, o)
	}
	if err != nil {
		return nil, err
	}
	id := img.footer.UniqueID
	switch {
	case id != want:
		return nil, fmt.Errorf("%w: %w", ErrParentMismatch, mismatch(id))
	case c.ids[id]:
		return nil, fmt.Errorf("%w: an image nearer to it has this unique id, too", ErrParentLoop)
	}
	c.note(st, id)
	return img, nil
}

// candidate is a path where a parent may be, or a text that cannot be one here.
type candidate struct {
	path    string
	refused error
}

// candidates lists where the parent of an image in one of the folders dirs may be:
// where the locators say, relative ones first, where the name says, and then by the
// last parts of all of these in dirs, and in the folders that the caller named.
func (c *chain) candidates(p *Parentage, dirs []string) []candidate {
	var list []candidate
	seen := map[string]bool{}
	add := func(path string, refused error) {
		key := path
		if abs, err := filepath.Abs(path); err == nil && refused == nil {
			key = abs
		}
		if !seen[key] {
			seen[key] = true
			list = append(list, candidate{path, refused})
		}
	}
	dirs = append(dirs, c.o.Parents.Dirs...)
	var texts []string
	for _, code := range []string{"W2ru", "Wi2r", "W2ku", "Wi2k", "MacX"} {
		for _, l := range p.Locators {
			if l.Code == code {
				texts = append(texts, l.Path)
			}
		}
	}
	texts = append(texts, p.Name)
	var names []string
	for _, text := range texts {
		if text == "" {
			continue
		}
		path, err := localPath(text)
		if base := lastPart(path); base != "" && !slices.Contains(names, base) {
			names = append(names, base)
		}
		switch {
		case err != nil:
			add(text, err)
		case filepath.IsAbs(path):
			add(filepath.Clean(path), nil)
		default:
			for _, d := range dirs {
				add(filepath.Join(d, path), nil)
			}
		}
	}
	for _, d := range dirs {
		for _, name := range names {
			add(filepath.Join(d, name), nil)
		}
	}
	return list
}

// Why a text is not a path here.
var (
	errNetworkPath = errors.New("not followed: a path to another machine")
	errDrivePath   = errors.New("a path of Windows, of which only the file name was looked for")
	errSpecialPath = errors.New("not followed: not a file of a disk")
)

// localPath reads a locator's text as a path of this system. Where it cannot be
// one, the path returned is good for its last part only.
func localPath(text string) (string, error) {
	if rest, ok := cutPrefixFold(text, "file:"); ok {
		path, err := url.PathUnescape(rest)
		if err != nil || strings.ContainsRune(path, 0) {
			return "", errors.New("not a URL")
		}
		host, ok := strings.CutPrefix(path, "//")
		if !ok {
			return filepath.FromSlash(path), nil
		}
		switch name, after, _ := strings.Cut(host, "/"); name {
		case "", "localhost":
			return filepath.FromSlash("/" + after), nil
		case ".", "..": // XenServer's relative ones
			return filepath.FromSlash(host), nil
		}
		return host, errNetworkPath
	}
	path := strings.ReplaceAll(text, `\`, "/")
	switch {
	case strings.HasPrefix(path, "//"):
		return path, errNetworkPath
	case len(path) >= 2 && path[1] == ':' && runtime.GOOS != "windows":
		return path[2:], errDrivePath
	}
	return filepath.FromSlash(path), nil
}

// cutPrefixFold is strings.CutPrefix for ASCII in either case.
func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// lastPart is the file name at the end of a path, or "".
func lastPart(path string) string {
	path = filepath.ToSlash(path)
	name := path[strings.LastIndexByte(path, '/')+1:]
	if name == "." || name == ".." {
		return ""
	}
	return name
}

// open opens a regular file that an image says is its parent, if it is where an
// image is trusted to lead.
func (c *chain) open(path string) (*os.File, int64, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, 0, err
	}
	// A symbolic link with an absolute path is not followed below a folder, but where
	// it leads may be in one, too.
	real := resolved(abs)
	for _, path := range []string{abs, real} {
		for _, root := range c.roots {
			rel, err := filepath.Rel(root, path)
			if err != nil || !filepath.IsLocal(rel) {
				continue
			}
			f, size, err := openIn(root, rel)
			if err == nil || path == real {
				return f, size, err
			}
		}
	}
	st, err := os.Stat(abs)
	if err != nil {
		return nil, 0, err
	}
	switch real := filepath.ToSlash(real); {
	case !c.o.Parents.Trust:
		return nil, 0, ErrParentRefused
	case strings.HasPrefix(real, "//"):
		return nil, 0, errNetworkPath
	case strings.HasPrefix(real, "/proc/"), strings.HasPrefix(real, "/sys/"), strings.HasPrefix(real, "/dev/"), !st.Mode().IsRegular():
		return nil, 0, errSpecialPath
	}
	return disk.OpenFile(abs, false)
}

// openIn opens a regular file below a folder, following symbolic links only as far
// as they stay there.
func openIn(root, rel string) (*os.File, int64, error) {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return nil, 0, err
	}
	defer dir.Close()
	st, err := dir.Stat(rel) // opening a pipe would wait for its other end
	if err != nil {
		return nil, 0, err
	}
	if !st.Mode().IsRegular() {
		return nil, 0, errSpecialPath
	}
	f, err := dir.Open(rel)
	if err != nil {
		return nil, 0, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, size, nil
}

// readInherited reads what the image has from its parent. Behind the parent's end
// there are zeros.
func (img *Image) readInherited(p []byte, off int64) error {
	if img.parent == nil {
		return ErrNoParent
	}
	n := max(0, min(int64(len(p)), img.parent.Size()-off))
	if n > 0 {
		if k, err := img.parent.ReadAt(p[:n], off); int64(k) < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("parent: %w", err)
		}
	}
	clear(p[n:])
	return nil
}

// inheritsZeros reports whether what the image has from its parent in
// [off, off+n) is known to be zero.
func (img *Image) inheritsZeros(off, n int64) bool {
	if img.parent == nil {
		return false
	}
	n = min(n, img.parent.Size()-off)
	if n <= 0 {
		return true
	}
	for e, err := range img.parent.Extents(off, n) {
		if err != nil || e.State == disk.Data {
			return false
		}
	}
	return true
}

// OpenToCommit opens a differencing image to merge it into one of its parents: the
// one in the file base, or the next one if that is "". The image and that parent
// are open for writing, and depth is how many levels are above it: what the image
// has at less depth is what is to be written into the parent. Closing the image
// closes all.
//
// ErrParentNotFound is returned for an image that has no parent, or not this one.
func OpenToCommit(name, base string, o *OpenOptions) (leaf *Image, into disk.Disk, depth int, err error) {
	files, err := chainFiles(name, o)
	if err != nil {
		return nil, nil, 0, err
	}
	depth = 1
	if base != "" {
		depth = 0
		st, err := os.Stat(base)
		if err != nil {
			return nil, nil, 0, err
		}
		for i := 1; i < len(files); i++ {
			if x, err := os.Stat(files[i].name); err == nil && os.SameFile(st, x) {
				depth = i
			}
		}
	}
	if depth == 0 || depth >= len(files) {
		return nil, nil, 0, fmt.Errorf("%s: %w among the image's parents: %s", name, ErrParentNotFound, base)
	}
	// From the bottom up, because the parents of an image are open before it is.
	again := OpenOptions{NoLock: o.NoLock, Force: o.Force, IgnoreChecksums: o.IgnoreChecksums, SizeRule: o.SizeRule, Write: true}
	if depth+1 < len(files) {
		again.Parents = o.Parents
		again.Parents.File = files[depth+1].name
		for _, f := range files {
			again.Parents.Dirs = append(again.Parents.Dirs, filepath.Dir(f.name))
		}
	}
	if files[depth].raw {
		into, err = openRaw(files[depth].name, o.NoLock)
	} else {
		var img *Image
		img, err = Open(files[depth].name, &again)
		into = img
	}
	if err != nil {
		return nil, nil, 0, err
	}
	below := into
	for i := depth - 1; i >= 0; i-- {
		again.Parents, again.Parent, again.Write = disk.Parents{}, below, i == 0
		if leaf, err = Open(files[i].name, &again); err != nil {
			below.Close()
			return nil, nil, 0, err
		}
		leaf.parentFile = files[i+1].name
		below = leaf
	}
	return leaf, into, depth, nil
}

// chainFile is one level of a chain.
type chainFile struct {
	name string
	raw  bool
}

// chainFiles returns the files of an image and all its parents.
func chainFiles(name string, o *OpenOptions) ([]chainFile, error) {
	look := *o
	look.Write = false
	img, err := Open(name, &look)
	if err != nil {
		return nil, err
	}
	defer img.Close()
	files := []chainFile{{name: name}}
	for level := img; level.parent != nil; {
		next, ok := level.parent.(*Image)
		files = append(files, chainFile{level.parentFile, !ok})
		if !ok {
			break
		}
		level = next
	}
	return files, nil
}

// openRaw opens a raw parent for writing.
func openRaw(name string, noLock bool) (disk.Disk, error) {
	f, size, err := disk.OpenFile(name, true)
	if err == nil && !noLock {
		if err = imagelock.Lock(f, true); err != nil {
			f.Close()
			err = fmt.Errorf("%s: %w", name, err)
		}
	}
	if err != nil {
		return nil, err
	}
	return raw.Open(f, size), nil
}
