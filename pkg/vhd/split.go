package vhd

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// errSplit refuses a piece of a split image of Virtual PC 2004 or older. Such an image is in
// x.vhd, x.v01, x.v02 and so on, and its footer is at the end of the last one.
func errSplit(name, other string) error {
	return fmt.Errorf("%w: a split image of Virtual PC: %s and %s are pieces of it", ErrUnsupported, filepath.Base(name), filepath.Base(other))
}

// refuseSplit returns errSplit if r is a piece of a split image. trailing says that the file
// ends with a valid footer, which the first piece does not.
func refuseSplit(r io.ReaderAt, trailing bool) error {
	f, ok := r.(interface{ Name() string })
	if !ok {
		return nil
	}
	name := f.Name()
	ext := filepath.Ext(name)
	stem := strings.TrimSuffix(name, ext)
	switch {
	case strings.EqualFold(ext, ".vhd") && !trailing:
		if other := firstFile(stem+".v01", stem+".V01"); other != "" {
			return errSplit(name, other)
		}
	case len(ext) == 4 && strings.EqualFold(ext[:2], ".v") && isDigit(ext[2]) && isDigit(ext[3]):
		if other := firstFile(stem+".vhd", stem+".VHD"); other != "" {
			return errSplit(name, other)
		}
	}
	return nil
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// firstFile returns the first of the names that is a regular file, or "".
func firstFile(names ...string) string {
	for _, name := range names {
		if st, err := os.Stat(name); err == nil && st.Mode().IsRegular() {
			return name
		}
	}
	return ""
}
