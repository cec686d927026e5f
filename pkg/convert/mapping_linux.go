//go:build linux && !portable

package convert

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

// mapping shows parts of a file in memory without copying them. It may be used by
// several goroutines.
type mapping struct {
	f      *os.File
	size   int64
	window int64 // how much is mapped at a time: to unmap it interrupts all threads

	mu      sync.Mutex
	windows []*window
}

type window struct {
	index int64 // it starts at index * mapping.window
	b     []byte
	users int
}

// newMapping returns a mapping of a file in windows of this size, or nil where reading is not slower, or
// where who has the file, such as another machine, may change it.
func newMapping(f *os.File, window int64) *mapping {
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
	return &mapping{f: f, size: st.Size(), window: window}
}

// view is a part of a file in memory. What it shows must be looked at within
// guarded.
type view struct {
	b []byte

	m *mapping
	w *window
}

// view maps n bytes, at most a chunk, at off. They must not be in a hole: some
// file systems fill what is mapped. It fails where they cannot be had, for
// reading to say why.
func (m *mapping) view(off, n int64) (view, bool) {
	if off+n > m.size {
		return view{}, false
	}
	w := m.open(off / m.window)
	if w == nil {
		return view{}, false
	}
	in := off - w.index*m.window
	return view{w.b[in : in+n : in+n], m, w}, true
}

func (v *view) close() {
	v.m.mu.Lock()
	v.w.users--
	v.m.mu.Unlock()
}

// open returns a window, which has another user then, or nil. Those that nobody
// uses any more are closed.
func (m *mapping) open(index int64) *window {
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
	// Views that start in the window may end behind it.
	b, err := unix.Mmap(int(m.f.Fd()), start, int(min(m.window+chunk, m.size-start)), unix.PROT_READ, unix.MAP_SHARED)
	w := &window{index, b, 1}
	if err == nil {
		m.windows = append(m.windows, w)
	}
	m.mu.Unlock()
	for _, w := range idle { // others need not wait for it
		_ = unix.Munmap(w.b)
	}
	if err != nil {
		return nil
	}
	return w
}

// close ends the mapping. No view may be in use.
func (m *mapping) close() {
	for _, w := range m.windows {
		_ = unix.Munmap(w.b)
	}
	m.windows = nil
}

// errFault: what a view showed is not there any more, or cannot be read.
var errFault = errors.New("the mapped file cannot be read")

// guarded calls f, and returns errFault if what a view shows turns out not to be
// there: the file has become shorter, or its storage fails.
func guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch r := recover().(type) {
		case nil:
		case interface {
			runtime.Error
			Addr() uintptr
		}:
			err = errFault
		default:
			panic(r)
		}
	}()
	return f()
}
