// Package vhd reads, writes, creates, checks and repairs images in the Virtual Hard Disk
// format (VHD, qemu's "vpc"; not VHDX).
//
// # Choosing a function
//
// [Open] opens an image by name, and [NewImage] opens one from any [io.ReaderAt].
// [Create] writes a new image; the file appears under its name only when Close succeeds.
// [CreateIn] writes one to an open file, and [WriteStream] writes one sequentially to an
// [io.Writer]. Package product has the options for images that Azure, Hyper-V and other
// products accept. [Checker] examines an image without changing it, even if Open refuses
// it, and [Repair] repairs one. To copy a whole disk into an image, or out of it, see
// package convert.
//
// [Format] is for programs that support several formats: it opens and creates images with
// options by name, and [disk.Open] detects it.
//
// Open and Create open the file, and closing the image closes it. NewImage, CreateIn and
// Format use a file of the caller, who closes it after the image. Parents are closed with
// the image, no matter who opened them.
//
// An [Image] is a [disk.Disk] that can be written; every change of the contents goes
// through its WriteAt. [Image.Extents] describes the contents of the disk, and
// [Image.FileMap] those of the file. Images are safe for concurrent use.
//
// # Supported images
//
// Fixed, dynamic and differencing images are supported. A chain has up to [MaxParents]
// parents, of which the last may be a raw disk. [OpenOptions] control where parents are
// searched, or open them; paths in an image are not trusted by themselves.
// [CreateOptions] with a Parent create a child. Package chain merges an image into its
// parent, and moves it to another parent.
//
// Open refuses damage that would make reads return wrong data. It bounds every value that
// it reads from a file by the size of that file, so it is safe for untrusted files.
//
// # Crash safety
//
// After a crash the image opens, with everything that was written before the last
// [Image.Sync] that returned. Space may be leaked; Check reports it. A new image has no
// name before it is complete.
//
// # References
//
// Section numbers in comments are those of Microsoft's "Virtual Hard Disk
// Image Format Specification" version 1.0 where they name a structure. All
// integers of the format are big-endian, and a sector is 512 bytes.
package vhd
