package vhd_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/internal/optlist"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// Options by name are converted to typed ones, or give an error in qemu's words.
func TestParseCreateOptions(t *testing.T) {
	const id = "0f2c3e5a-6b1d-4c8e-9a57-3d2b1e0f4c6d"
	for name, c := range map[string]struct {
		size int64
		o    disk.Options
		want vhd.CreateOptions
		err  string
	}{
		"none":          {mib, nil, vhd.CreateOptions{Type: vhd.Dynamic, Size: mib}, ""},
		"size unknown":  {-1, nil, vhd.CreateOptions{Type: vhd.Dynamic, Growing: true}, ""},
		"fixed":         {mib, disk.Options{"subformat": "fixed"}, vhd.CreateOptions{Type: vhd.Fixed, Size: mib}, ""},
		"dynamic":       {mib, disk.Options{"subformat": "dynamic"}, vhd.CreateOptions{Type: vhd.Dynamic, Size: mib}, ""},
		"force_size":    {mib, disk.Options{"force_size": "on"}, vhd.CreateOptions{Type: vhd.Dynamic, Size: mib, Exact: true}, ""},
		"align":         {mib, disk.Options{"align": "1M"}, vhd.CreateOptions{Type: vhd.Dynamic, Size: mib, Exact: true, Align: mib}, ""},
		"block_size":    {mib, disk.Options{"block_size": "512k"}, vhd.CreateOptions{Type: vhd.Dynamic, Size: mib, BlockSize: 512 * kib}, ""},
		"creator":       {mib, disk.Options{"creator": "tap"}, vhd.CreateOptions{Type: vhd.Dynamic, Size: mib, Creator: vhd.CreatorXenServer}, ""},
		"uuid":          {mib, disk.Options{"uuid": id}, vhd.CreateOptions{Type: vhd.Dynamic, Size: mib, UniqueID: uuid.MustParse(id)}, ""},
		"timestamp":     {mib, disk.Options{"timestamp": "1000000000"}, vhd.CreateOptions{Type: vhd.Dynamic, Size: mib, Time: time.Unix(1e9, 0)}, ""},
		"another":       {mib, disk.Options{"bogus": "1"}, vhd.CreateOptions{}, "Invalid parameter 'bogus'"},
		"no subformat":  {mib, disk.Options{"subformat": "thin"}, vhd.CreateOptions{}, "Parameter 'subformat' does not accept value 'thin'"},
		"no switch":     {mib, disk.Options{"force_size": "perhaps"}, vhd.CreateOptions{}, "Parameter 'force_size' expects 'on' or 'off'"},
		"no block size": {mib, disk.Options{"block_size": "0"}, vhd.CreateOptions{}, "Parameter 'block_size' expects a power of two from 4k to 256M"},
		"no id":         {mib, disk.Options{"uuid": "7"}, vhd.CreateOptions{}, "Parameter 'uuid' expects random, derived, or an id like " + id + ", not '7'"},
		"no time":       {mib, disk.Options{"timestamp": "noon"}, vhd.CreateOptions{}, "time stamp 'noon': want RFC 3339, such as 2026-01-31T12:00:00Z, or seconds since 1970"},
		"no creator":    {mib, disk.Options{"creator": "somebody"}, vhd.CreateOptions{}, `creator "somebody" is too long: want at most 4 characters`},
		"not aligned": {
			mib,
			disk.Options{"align": "1M", "force_size": "off"},
			vhd.CreateOptions{},
			"a size that is rounded to a geometry cannot be aligned, only an exact one (force_size)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := vhd.ParseCreateOptions(c.size, c.o)
			if c.err != "" {
				if err == nil || err.Error() != c.err || got != nil {
					t.Errorf("%+v, %v; want nil and %q", got, err, c.err)
				}
				return
			}
			must(t, err)
			if diff := cmp.Diff(&c.want, got); diff != "" {
				t.Error(diff)
			}
			must(t, vhd.Format.CheckOptions(c.o))
		})
	}
	// The syntax of all options is checked before their values.
	var syntax *optlist.SyntaxError
	if err := vhd.Format.CheckOptions(disk.Options{"subformat": "thin", "block_size": "big"}); !errors.As(err, &syntax) {
		t.Errorf("CheckOptions: %v; want the size that is none", err)
	}
}

func TestParseOpenOptions(t *testing.T) {
	lock := vhd.Lock
	for name, c := range map[string]struct {
		o    disk.OpenOptions
		want vhd.OpenOptions
		err  string
	}{
		"none":     {disk.OpenOptions{}, vhd.OpenOptions{NoLock: true}, ""},
		"locked":   {disk.OpenOptions{Lock: lock, Write: true, Force: true}, vhd.OpenOptions{Write: true, Force: true}, ""},
		"parents":  {disk.OpenOptions{Lock: lock, Parents: disk.ParentSearch{Files: []string{"f"}}}, vhd.OpenOptions{Parents: disk.ParentSearch{Files: []string{"f"}}}, ""},
		"chs":      {disk.OpenOptions{Lock: lock, Options: disk.Options{"force_size_calc": "chs"}}, vhd.OpenOptions{SizeRule: vhd.SizeFromGeometry}, ""},
		"current":  {disk.OpenOptions{Lock: lock, Options: disk.Options{"force_size_calc": "current_size"}}, vhd.OpenOptions{SizeRule: vhd.SizeFromCurrent}, ""},
		"sums":     {disk.OpenOptions{Lock: lock, Options: disk.Options{"ignore_checksums": "on"}}, vhd.OpenOptions{IgnoreChecksums: true}, ""},
		"no rule":  {disk.OpenOptions{Options: disk.Options{"force_size_calc": "big"}}, vhd.OpenOptions{}, "Invalid size calculation mode: 'big'"},
		"no bool":  {disk.OpenOptions{Options: disk.Options{"ignore_checksums": "7"}}, vhd.OpenOptions{}, "Parameter 'ignore_checksums' expects 'on' or 'off'"},
		"another":  {disk.OpenOptions{Options: disk.Options{"subformat": "fixed"}}, vhd.OpenOptions{}, "Invalid parameter 'subformat'"},
		"a closer": {disk.OpenOptions{Lock: lock, Closer: newMemFile(nil)}, vhd.OpenOptions{Closer: newMemFile(nil)}, ""},
	} {
		got, err := vhd.ParseOpenOptions(&c.o)
		if c.err != "" {
			if err == nil || err.Error() != c.err || got != nil {
				t.Errorf("%s: %+v, %v; want nil and %q", name, got, err, c.err)
			}
			continue
		}
		must(t, err)
		if (got.Closer == nil) != (c.want.Closer == nil) {
			t.Errorf("%s: closer %v", name, got.Closer)
		}
		got.Closer, c.want.Closer = nil, nil
		if diff := cmp.Diff(&c.want, got, cmp.AllowUnexported(vhd.OpenOptions{})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// A format creates an image with options by name, and opens it by any name of the format.
func TestFormat(t *testing.T) {
	m := newMemFile(nil)
	d, err := vhd.Format.Create(m, mib+1, disk.Options{"subformat": "fixed", "align": "64k"})
	must(t, err)
	must(t, d.Close())
	for _, name := range []string{"", "vpc", "vhd"} {
		d, f, err := disk.OpenAs(bytes.NewReader(m.bytes()), m.size(), disk.Formats{&vhd.Format}, &disk.OpenOptions{Format: name})
		must(t, err)
		if f != &vhd.Format || d.Size() != mib+64*kib || d.(disk.Describer).Subformat() != "fixed" || d.(disk.Describer).FormatName() != f.Name {
			t.Errorf("format %q: %v, %d bytes", name, f, d.Size())
		}
	}
}
