//go:build !linux || portable

package convert

import (
	"errors"
	"os"
)

type mapping struct{}

func newMapping(*os.File) *mapping { return nil }

type view struct{ b []byte }

func (m *mapping) view(_, _ int64) (view, bool) { return view{}, false }

func (v *view) close() {}

func (m *mapping) close() {}

var errFault = errors.New("the mapped file cannot be read")

func guarded(f func() error) error { return f() }
