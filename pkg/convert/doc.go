// Package convert copies and compares disks. It uses the interfaces of package disk and depends
// on no format. It follows the extents of a disk: it does not read known zeros, and does not
// write zeros that a hole can represent.
//
// # Which function to use
//
// [Copy] is for two disks with random access, in parallel. If one side is a pipe, [ReadFrom]
// creates a disk from a stream, [WriteTo] creates a stream from a disk, and [CopyStream] copies
// a stream. Package vhd writes VHDs to pipes. It needs to know the blocks in use: [UsedBlocks].
// [Compare] finds the first difference between two disks, and [CompareAllocation] the first
// difference between their allocations.
//
// All functions use a few MiB of memory, whatever the size of the disk, and return soon after
// their context is done.
package convert
