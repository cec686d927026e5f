//go:build !linux || portable

package convert

import "os"

type mapping struct{}

func newMapping(*os.File, int64) *mapping { return nil }

type view struct{ b []byte }

func (m *mapping) view(_, _ int64) (view, bool) { return view{}, false }

func (v *view) close() {}

func (m *mapping) close() {}

func guarded(f func() error) error { return f() }
