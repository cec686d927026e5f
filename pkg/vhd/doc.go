// Package vhd reads, writes, makes and checks images in the Virtual Hard Disk
// format (VHD, qemu's "vpc"; not VHDX).
//
// [Open] opens an image by name, [Create] makes one, [NewImage] reads one that
// does not stand in a file of its own, and [Check] examines one without
// changing it, also when Open refuses it. An [Image] is a [disk.Disk] that can
// be written; everything that changes an image's contents goes through its
// WriteAt.
//
// Fixed and dynamic images are supported. Differencing images are recognised
// and refused: read without their parent they would show zeros.
//
// Section numbers in comments are those of Microsoft's "Virtual Hard Disk
// Image Format Specification" version 1.0 where they name a structure. All
// integers of the format are big-endian, and a sector is 512 bytes.
package vhd
