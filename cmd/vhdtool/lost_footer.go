package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// doubtRaw warns about a file that is read as raw, but is probably a damaged VHD. If ref is strict,
// that is an error.
func (c *cli) doubtRaw(ref imageRef) error {
	f, size, err := disk.OpenFile(ref.name, false, nil)
	if err != nil {
		return nil // the disk is open already
	}
	defer f.Close()
	return c.doubtRawFile(ref, f, size)
}

// doubtRawFile is doubtRaw for an open file of size bytes.
func (c *cli) doubtRawFile(ref imageRef, f *os.File, size int64) error {
	if c.likeQEMU {
		return nil
	}
	const asRaw = "'-f raw' reads the file as a raw disk without a warning"
	var fe *vhd.FormatError
	switch {
	case errors.As(vhd.Probe(f, size), &fe):
		doubt := strings.TrimPrefix(fe.Error(), fe.Kind.Error()+": ")
		hint := damagedHint(fe, ref) + "; " + asRaw
		if ref.strict {
			return &hintError{fmt.Errorf("%s: this may be a damaged VHD, not a raw disk: %s", ref.name, doubt), hint}
		}
		c.warn(warning{fmt.Sprintf("%s: read as a raw disk, but it ends like a VHD: %s", ref.name, doubt), hint})
	case size > 0 && !disk.IsDevice(f) && namedVHD(ref.name):
		c.warn(warning{ref.name + ": read as a raw disk: the name is that of a VHD, but the file has no footer", asRaw})
	}
	return nil
}

// namedVHD reports whether a file has the name of a VHD.
func namedVHD(name string) bool {
	return slices.Contains(vhd.Format.Suffixes, strings.ToLower(filepath.Ext(name)))
}

// forFile inserts the name of a file into a note about it.
func forFile(note, name string) string { return strings.ReplaceAll(note, "FILE", quoteArg(name)) }

// damagedHint returns the hint for an image that the engine refuses as damaged.
func damagedHint(err error, ref imageRef) string {
	var fe *vhd.FormatError
	if errors.As(err, &fe) && fe.Note != "" {
		return forFile(fe.Note, ref.name)
	}
	hint := "'check' lists all faults of the image, and 'convert --salvage' reads what is left of the disk"
	if opts := optionsThatOpen(ref); opts != "" {
		hint += "; --image-opts " + quoteArg("driver=vpc,file.filename="+strings.ReplaceAll(ref.name, ",", ",,")+opts) + " instead of the file name opens it"
	}
	return hint
}

// optionsThatOpen returns the image options that open a damaged image, each after a comma. It is ""
// if there are none.
func optionsThatOpen(ref imageRef) string {
	for _, x := range []struct {
		text string
		o    vhd.OpenOptions
	}{
		{",ignore_checksums=on", vhd.OpenOptions{IgnoreChecksums: true}},
		{",force_size_calc=chs", vhd.OpenOptions{SizeRule: vhd.SizeFromGeometry}},
		{",ignore_checksums=on,force_size_calc=chs", vhd.OpenOptions{IgnoreChecksums: true, SizeRule: vhd.SizeFromGeometry}},
	} {
		x.o.NoLock, x.o.Parents = true, disk.ParentSearch{None: true}
		if img, err := vhd.Open(ref.name, &x.o); err == nil {
			img.Close()
			return x.text
		}
	}
	return ""
}
