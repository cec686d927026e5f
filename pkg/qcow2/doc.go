// Package qcow2 reads qcow2 images, checks them, and writes new ones.
//
// It reads versions 2 and 3 with every cluster size and refcount width. Compression by zlib and
// zstd, extended L2 entries, internal snapshots and external data files are supported. So are
// backing chains whose parents have any format. Encrypted images and unknown incompatible features
// are refused by name. Images are not changed in place.
//
// [Open] and [NewImage] open an image, [NewChecker] checks one, and [Create] starts a new
// one. [Format] is the package as a [disk.Format].
package qcow2
