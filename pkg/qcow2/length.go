package qcow2

// FileLength is the length in bytes that qemu-img measure prints for the file of a new image
// with this number of allocated clusters. It counts the metadata of a disk that is allocated
// whole. The file that this package writes is at most a few clusters longer.
func (o *CreateOptions) FileLength(allocated int64) int64 {
	h := o.header()
	size := h.ClusterSize()
	entry := int64(8)
	if o.ExtendedL2 {
		entry = 16
	}
	clusters := ceilDiv(o.length(), size)
	if o.Preallocation >= PreallocateSpace {
		allocated = clusters
	}
	l2 := ceilDiv(clusters, size/entry)
	l1 := ceilDiv(l2, size/8)
	table, blocks := h.refcountClusters(1 + l2 + l1 + clusters)
	return (1 + l2 + l1 + table + blocks + allocated) * size
}

// Blocks is the number of clusters of the disk, and the size of each in bytes.
func (o *CreateOptions) Blocks() (n, size int64) {
	h := o.header()
	return ceilDiv(o.length(), h.ClusterSize()), h.ClusterSize()
}

// VirtualSize is the size of the disk in bytes.
func (o *CreateOptions) VirtualSize() int64 { return o.length() }
