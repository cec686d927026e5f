// Package vhd reads, writes, makes and checks images in the Virtual Hard Disk
// format (VHD, qemu's "vpc"; not VHDX).
//
// # Which function to use
//
// [Open] opens an image by name, and [NewImage] opens one from any [io.ReaderAt].
// [Create] writes a new image; the file appears under its name only when Close succeeds.
// [CreateIn] writes one to an open file, and [WriteStream] writes one sequentially to an
// [io.Writer]. Package product has the options for an image that Azure, Hyper-V and
// others accept. [Check] examines an image without changing it, also when Open refuses
// it, and [Repair] repairs one. To copy a whole disk into an image, or out of it, see
// package convert.
//
// [Format] is for programs that know several formats: it opens and creates images with
// options by name, and [disk.Open] detects it.
//
// Open and Create open the file, and closing the image closes it. NewImage, CreateIn and
// Format use a file of the caller, who closes it after the image. Parents are closed with
// the image, whoever opened them.
//
// An [Image] is a [disk.Disk] that can be written; everything that changes an
// image's contents goes through its WriteAt. [Image.Extents] says what the disk
// holds, and [Image.FileMap] what the file does. Images are safe to use from many
// goroutines.
//
// # What is supported
//
// Fixed, dynamic and differencing images are supported, the latter with chains of
// up to [MaxParents] parents, of which the last may be a raw disk. [OpenOptions] say
// where parents may be, or open them; the paths in an image are not trusted by themselves.
// [CreateOptions] with a Parent make a child. Package chain merges an image into its
// parent, and moves it to another one.
//
// Open refuses what is damaged so that reading would go wrong, and bounds
// everything that it takes from a file by the file's size, so that it can be given
// files of unknown origin.
//
// # What is on the disk after a crash
//
// What was written before the last [Image.Sync] that returned is there, and the
// image opens; space may be leaked, which Check finds. A new image has no name
// before it is complete.
//
// # References
//
// Section numbers in comments are those of Microsoft's "Virtual Hard Disk
// Image Format Specification" version 1.0 where they name a structure. All
// integers of the format are big-endian, and a sector is 512 bytes.
package vhd
