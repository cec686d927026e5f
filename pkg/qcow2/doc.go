// Package qcow2 reads qcow2 images, checks them, and writes new ones.
//
// It reads versions 2 and 3 with every cluster size and refcount width, zlib and zstd
// compression, extended L2 entries, internal snapshots, external data files and backing
// chains whose parents have any format. Encrypted images and unknown incompatible features
// are refused by name. Images are not changed in place.
//
// [Open] and [NewImage] open an image, [NewChecker] checks one, and [Create] starts a new
// one. [Format] is the package as a [disk.Format].
package qcow2
