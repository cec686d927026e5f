// Package convert copies and compares disks. It knows no format: it sees disks
// through the interfaces of package disk, plans over their extents, and never
// reads what is known to be zero nor writes zeros that a hole can say.
//
// # Which function to use
//
// [Copy] is for two disks that can be read and written at random, side by side and
// in any order. Where one end is a pipe, [ReadFrom] makes a disk of a stream,
// [WriteTo] makes a stream of a disk, and [CopyStream] passes a stream on. A VHD is
// written into a pipe by package vhd, which wants to know the blocks that are in
// use: [UsedBlocks]. [Compare] finds the first difference of two disks, and
// [CompareAllocation] that of their allocation.
//
// All of them use a few MiB of memory, however large the disk is, and end soon after
// their context is done.
package convert
