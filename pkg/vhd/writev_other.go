//go:build !linux || portable

package vhd

import "github.com/vhdtool/vhdtool/pkg/disk"

func writev(f disk.File, a, b []byte, off int64) error { return writeBoth(f, a, b, off) }
