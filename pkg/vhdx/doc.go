// Package vhdx reads, creates and checks images in the VHDX format of Hyper-V.
//
// [Open] opens an image by name, and [NewImage] opens one from any [io.ReaderAt]. [CreateIn]
// starts a new image in an empty file, and [WriteStream] writes one sequentially to an
// [io.Writer]. [NewChecker] examines an image without changing it, also if Open refuses it.
// [Format] is for programs that know several formats.
//
// Fixed, dynamic and differencing images are read, with 512 and 4096-byte sectors. A log that
// holds changes is replayed in memory; the file stays unchanged. New images are fixed or dynamic.
// Existing images are never written.
//
// Open refuses images whose metadata is damaged. Reads refuse damaged BAT entries. Every count
// and offset is compared with the length of the file before it is used, so files of unknown
// origin are safe. Memory does not depend on the size of the disk.
//
// Names are those of Microsoft's specification [MS-VHDX]. All integers are little-endian.
package vhdx
