// Package interop has only tests. They compare the engine with programs by other authors.
// qemu-img and vhdiinfo must read the images that the engine writes. The engine must read the
// images that qemu-img and qemu-io write. Both must be able to write to one image in turns.
package interop
