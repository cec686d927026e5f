// Package interop has tests only: they compare the engine with programs that
// nobody here wrote. What the engine writes, qemu-img and vhdiinfo must read
// alike; what qemu-img and qemu-io write, the engine must read alike; and both
// must be able to take turns on one image.
package interop
