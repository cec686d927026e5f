//go:build linux && !portable

package filesystem

import (
	"errors"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Mapping shows parts of a file in memory without copying them. It is safe for concurrent
// use.
type Mapping struct {
	f      *os.File
	size   int64
	window int64 // bytes mapped at a time; unmapping interrupts all threads
	view   int64 // length of the longest view

	mu      sync.Mutex
	windows []*window
}

type window struct {
	index int64 // it starts at index * Mapping.window
	b     []byte
	users int
}

// NewMapping returns a mapping of a file that maps window bytes at a time, for views of at most
// view bytes. It is nil if reading is as fast, or if another machine may change the file.
func NewMapping(f *os.File, window, view int64) *Mapping {
	if strconv.IntSize < 64 {
		return nil
	}
	switch fileSystem(f) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC:
	default:
		return nil
	}
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return nil
	}
	return &Mapping{f: f, size: st.Size(), window: window, view: view}
}

// View is a part of a file in memory.
type View struct {
	B []byte // valid until Close; access it only within Guarded

	m *Mapping
	w *window
}

// Window returns the number of bytes mapped at a time.
func (m *Mapping) Window() int64 { return m.window }

// View maps n bytes at off, at most the longest view. They must not be in a hole, because some file
// systems allocate mapped holes. If ok is false, read the bytes instead: a read returns the error.
func (m *Mapping) View(off, n int64) (View, bool) {
	if off+n > m.size {
		return View{}, false
	}
	w := m.open(off / m.window)
	if w == nil {
		return View{}, false
	}
	in := off - w.index*m.window
	return View{w.b[in : in+n : in+n], m, w}, true
}

// Close ends the use of the view.
func (v *View) Close() {
	v.m.mu.Lock()
	v.w.users--
	v.m.mu.Unlock()
}

// open returns a window with one more user, or nil. It closes windows without users.
func (m *Mapping) open(index int64) *window {
	m.mu.Lock()
	for _, w := range m.windows {
		if w.index == index {
			w.users++
			m.mu.Unlock()
			return w
		}
	}
	var idle []*window
	m.windows = slices.DeleteFunc(m.windows, func(w *window) bool {
		if w.users == 0 {
			idle = append(idle, w)
		}
		return w.users == 0
	})
	start := index * m.window
	// Views that start in the window may end after it.
	b, err := unix.Mmap(int(m.f.Fd()), start, int(min(m.window+m.view, m.size-start)), unix.PROT_READ, unix.MAP_SHARED)
	w := &window{index, b, 1}
	if err == nil {
		m.windows = append(m.windows, w)
	}
	m.mu.Unlock()
	for _, w := range idle { // without the lock
		_ = unix.Munmap(w.b)
	}
	if err != nil {
		return nil
	}
	return w
}

// Close ends the mapping. No view may be in use.
func (m *Mapping) Close() {
	for _, w := range m.windows {
		_ = unix.Munmap(w.b)
	}
	m.windows = nil
}

// ErrFault reports that a part of a mapped file no longer exists, or cannot be read.
var ErrFault = errors.New("the mapped file cannot be read")

// Guarded calls f, which accesses views. It returns ErrFault if a part of them is not available:
// the file was truncated, or its storage fails.
func Guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch r := recover().(type) {
		case nil:
		case interface {
			runtime.Error
			Addr() uintptr
		}:
			err = ErrFault
		default:
			panic(r)
		}
	}()
	return f()
}
