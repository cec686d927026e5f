package vhd

import (
	"fmt"
	"strings"
)

// Creator is the footer's creator application: four bytes that name the
// program that made the image, and by which readers choose the size rule.
type Creator [4]byte

// Creators with a meaning of their own.
var (
	CreatorQEMU       = Creator{'q', 'e', 'm', 'u'} // qemu, size rounded to the geometry
	CreatorQEMUExact  = Creator{'q', 'e', 'm', '2'} // qemu with force_size
	CreatorVirtualPC  = Creator{'v', 'p', 'c', ' '} // the geometry is the size
	CreatorWindows    = Creator{'w', 'i', 'n', ' '} // Windows and Hyper-V
	CreatorXenServer  = Creator{'t', 'a', 'p', 0}   // blktap: XenServer, XCP-ng
	CreatorVirtualBox = Creator{'v', 'b', 'o', 'x'}
	creatorXenConvert = Creator{'C', 'T', 'X', 'S'}
)

// ParseCreator makes a Creator of up to four ASCII characters. Shorter names
// are padded as their owner does: "tap" with a NUL, all others with spaces.
func ParseCreator(s string) (Creator, error) {
	var c Creator
	if len(s) > len(c) {
		return c, fmt.Errorf("creator %q is too long: want at most 4 characters", s)
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return c, fmt.Errorf("creator %q: want printable ASCII characters", s)
		}
	}
	if s == "tap" {
		return CreatorXenServer, nil
	}
	copy(c[:], s+strings.Repeat(" ", len(c)-len(s)))
	return c, nil
}

// String returns the characters without padding; bytes that are not printable
// are shown as \xNN.
func (c Creator) String() string {
	var b strings.Builder
	for _, ch := range []byte(strings.TrimRight(string(c[:]), " \x00")) {
		if ch < ' ' || ch > '~' {
			fmt.Fprintf(&b, `\x%02x`, ch)
		} else {
			b.WriteByte(ch)
		}
	}
	return b.String()
}

// version is the creator version that the program of this name writes; images
// made here under that name carry it too.
func (c Creator) version() uint32 {
	switch c {
	case CreatorWindows:
		return 0x000a0000
	case CreatorVirtualPC:
		return 0x00010000
	case CreatorXenServer:
		// Without a batmap: from 1.2 on one must follow the BAT.
		return 0x00010001
	}
	return 0x00050003 // qemu's
}

// creatorVersionBatmap is the version of XenServer's images that have a batmap.
const creatorVersionBatmap = 0x00010003

// hostOS is the creator host OS that goes with the creator.
func (c Creator) hostOS() [4]byte {
	if c == CreatorXenServer {
		return [4]byte{}
	}
	return [4]byte{'W', 'i', '2', 'k'}
}

// trustedByOldQEMU reports whether qemu 2.6 to 9.2 takes the current size of
// an image of this creator. For all others it takes the geometry, unless that
// is the largest.
func (c Creator) trustedByOldQEMU() bool {
	switch c {
	case CreatorWindows, CreatorQEMUExact, CreatorXenServer, creatorXenConvert:
		return true
	}
	return false
}
