package vhd

import (
	"fmt"
	"strings"
)

// Creator is the creator application in the footer: four bytes that name the program that made
// the image. Readers choose the size rule by it.
type Creator [4]byte

// Creators with a defined meaning.
var (
	CreatorQEMU       = Creator{'q', 'e', 'm', 'u'} // qemu, size rounded to the geometry
	CreatorQEMUExact  = Creator{'q', 'e', 'm', '2'} // qemu with force_size
	CreatorVirtualPC  = Creator{'v', 'p', 'c', ' '} // the geometry is the size
	CreatorWindows    = Creator{'w', 'i', 'n', ' '} // Windows and Hyper-V
	CreatorXenServer  = Creator{'t', 'a', 'p', 0}   // blktap: XenServer, XCP-ng
	CreatorVirtualBox = Creator{'v', 'b', 'o', 'x'}
	creatorXenConvert = Creator{'C', 'T', 'X', 'S'}
)

// ParseCreator converts up to four ASCII characters to a Creator. It pads a shorter name as its
// program does: "tap" with a NUL, all others with spaces.
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

// String returns the characters without padding. Unprintable bytes are shown as \xNN.
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

// version returns the creator version that the program of this name writes. New images under
// that name have it, too.
func (c Creator) version() uint32 {
	switch c {
	case CreatorWindows:
		return 0x000a0000
	case CreatorVirtualPC:
		return 0x00010000
	case CreatorXenServer:
		// Without a batmap: from 1.2 on a batmap must follow the BAT.
		return 0x00010001
	}
	return 0x00050003 // qemu's
}

// creatorVersionBatmap is the version of XenServer's images that have a batmap.
const creatorVersionBatmap = 0x00010003

// hostOS returns the creator host OS of the creator's images.
func (c Creator) hostOS() [4]byte {
	if c == CreatorXenServer {
		return [4]byte{}
	}
	return [4]byte{'W', 'i', '2', 'k'}
}

// trustedByOldQEMU reports whether qemu 2.6 to 9.2 uses the current size of an image of this
// creator. For all others it uses the geometry, unless that is the largest.
func (c Creator) trustedByOldQEMU() bool {
	switch c {
	case CreatorWindows, CreatorQEMUExact, CreatorXenServer, creatorXenConvert:
		return true
	}
	return false
}
