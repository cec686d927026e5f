// Package archive recognises archives by their first bytes. An archive can contain a disk, but is
// not one.
package archive

import (
	"bytes"
	"strconv"
)

// HeadSize is the number of bytes that Format needs.
const HeadSize = 512

// Offsets and lengths in the header of a tar member (POSIX, "ustar Interchange Format").
const (
	tarSum   = 148 // octal digits
	tarSumN  = 8
	tarMagic = 257
)

// Format returns the name of the archive format of a file that starts with head, or "".
func Format(head []byte) string {
	switch {
	case bytes.HasPrefix(head, []byte("PK\x03\x04")),
		bytes.HasPrefix(head, []byte("PK\x05\x06")), // without members
		bytes.HasPrefix(head, []byte("PK\x07\x08")): // in several parts
		return "zip"
	case bytes.HasPrefix(head, []byte("7z\xbc\xaf\x27\x1c")):
		return "7z"
	case bytes.HasPrefix(head, []byte("Rar!\x1a\x07")):
		return "rar"
	case isTar(head):
		return "tar"
	}
	return ""
}

// isTar reports whether head starts with the header of a tar member. The magic alone is short,
// and a boot sector may hold anything, so the checksum must be right, too.
func isTar(head []byte) bool {
	if len(head) < HeadSize || string(head[tarMagic:tarMagic+5]) != "ustar" {
		return false
	}
	digits := bytes.Trim(head[tarSum:tarSum+tarSumN], " \x00")
	want, err := strconv.ParseInt(string(digits), 8, 64)
	if err != nil {
		return false
	}
	sum := int64(tarSumN * ' ') // the checksum counts as blanks
	for i, b := range head[:HeadSize] {
		if i < tarSum || i >= tarSum+tarSumN {
			sum += int64(b)
		}
	}
	return sum == want
}
