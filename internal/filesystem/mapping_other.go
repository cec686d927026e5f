//go:build !linux || portable

package filesystem

import (
	"errors"
	"os"
)

// ErrFault reports that a part of a mapped file no longer exists, or cannot be read.
var ErrFault = errors.New("the mapped file cannot be read")

// Mapping does not exist here.
type Mapping struct{}

// NewMapping returns nil: no file is mapped here.
func NewMapping(*os.File, int64, int64) *Mapping { return nil }

// View is a part of a file in memory.
type View struct{ B []byte }

// View fails.
func (m *Mapping) View(_, _ int64) (View, bool) { return View{}, false }

// Close ends the use of a view.
func (v *View) Close() {}

// Close ends the mapping.
func (m *Mapping) Close() {}

// Guarded calls f.
func Guarded(f func() error) error { return f() }
