package qcow2

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"strconv"

	"github.com/vhdtool/vhdtool/internal/optlist"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Preallocation says what a new image has storage for before it is written.
type Preallocation uint8

// The kinds of preallocation.
const (
	PreallocateOff      Preallocation = iota // nothing
	PreallocateMetadata                      // every cluster has an offset in the file
	PreallocateSpace                         // and the file has space for it
	PreallocateFull                          // and it is written with zeros
)

// CreateOptions describe a new image. The zero value is qemu's default: version 3 with
// clusters of 64 KiB and refcounts of 16 bits.
type CreateOptions struct {
	Size          int64 // of the disk in bytes, rounded up to whole sectors
	Growing       bool  // the size is not known yet, and is set by Resize
	Version       int   // 2 or 3; 0 means 3
	ClusterSize   int64 // bytes, a power of two from 512 to 2 MiB; 0 means 64 KiB
	RefcountBits  int   // a power of two from 1 to 64; 0 means 16
	LazyRefcounts bool
	ExtendedL2    bool
	Preallocation Preallocation
	Compression   Compression
	// Compress stores all data compressed. The image is a *[PackedWriter].
	Compress bool
	// Parent is the open parent of the new image, or nil. It is closed with the image.
	Parent disk.Disk
	// BackingFile and BackingFormat are what the image records of its parent. A backing file
	// without a Parent is only recorded: the image cannot be written then.
	BackingFile, BackingFormat string
}

const defaultClusterSize = 64 << 10

// ParseCreateOptions returns the options for a new image of size bytes that correspond to
// o. A negative size is not known yet. The options are those of qemu: cluster_size, compat,
// compression_type, preallocation, lazy_refcounts, refcount_bits, extended_l2, backing_file
// and backing_fmt; and compress, which stores the data compressed. Errors have qemu's words.
func ParseCreateOptions(size int64, o disk.Options) (*CreateOptions, error) {
	if err := optlist.Only(o, "backing_file", "backing_fmt", "cluster_size", "compat", "compress", "compression_type", "extended_l2", "lazy_refcounts", "preallocation", "refcount_bits"); err != nil {
		return nil, err
	}
	c := &CreateOptions{Size: max(0, size), Growing: size < 0, BackingFile: o["backing_file"], BackingFormat: o["backing_fmt"]}
	var err error
	for key, to := range map[string]*bool{"lazy_refcounts": &c.LazyRefcounts, "extended_l2": &c.ExtendedL2, "compress": &c.Compress} {
		if v, given := o[key]; given {
			if *to, err = optlist.Bool(key, v); err != nil {
				return nil, err
			}
		}
	}
	if v, given := o["cluster_size"]; given {
		if c.ClusterSize, err = optlist.Size("cluster_size", v); err != nil {
			return nil, err
		}
		if c.ClusterSize == 0 {
			return nil, errClusterSize
		}
	}
	if v, given := o["refcount_bits"]; given {
		n, err := strconv.ParseUint(v, 0, 64)
		if err != nil {
			return nil, optlist.Errorf("Parameter 'refcount_bits' expects a number")
		}
		if c.RefcountBits = int(min(n, 1000)); n == 0 {
			return nil, errRefcountBits
		}
	}
	if c.Version, err = choice(o, "compat", map[string]int{"": 3, "1.1": 3, "v3": 3, "0.10": 2, "v2": 2}); err != nil {
		return nil, err
	}
	if c.Compression, err = choice(o, "compression_type", map[string]Compression{"": Zlib, "zlib": Zlib, "zstd": Zstd}); err != nil {
		return nil, err
	}
	c.Preallocation, err = choice(o, "preallocation", map[string]Preallocation{
		"": PreallocateOff, "off": PreallocateOff, "metadata": PreallocateMetadata, "falloc": PreallocateSpace, "full": PreallocateFull,
	})
	if err != nil {
		return nil, err
	}
	return c, c.Validate()
}

// choice is the value of an option that accepts a few words.
func choice[T any](o disk.Options, key string, values map[string]T) (T, error) {
	v, ok := values[o[key]]
	if !ok {
		return v, &optlist.ValueError{Key: key, Value: o[key]}
	}
	return v, nil
}

var (
	errClusterSize  = optlist.Errorf("Cluster size must be a power of two between 512 and 2048k")
	errRefcountBits = optlist.Errorf("Refcount width must be a power of two and may not exceed 64 bits")
)

// Validate returns the first error that creating an image would return because of the
// options. Errors have qemu's words.
func (o *CreateOptions) Validate() error {
	cluster, refcount := cmp.Or(o.ClusterSize, defaultClusterSize), cmp.Or(o.RefcountBits, 16)
	switch {
	case o.Version != 0 && o.Version != 2 && o.Version != 3:
		return fmt.Errorf("%w: version %d", ErrUnsupported, o.Version)
	case o.Size < 0:
		return fmt.Errorf("disk size %d is negative", o.Size)
	case cluster < 1<<minClusterBits || cluster > 1<<maxClusterBits || bits.OnesCount64(uint64(cluster)) != 1:
		return errClusterSize
	case refcount < 1 || refcount > 64 || bits.OnesCount(uint(refcount)) != 1:
		return errRefcountBits
	case o.Version == 2 && o.LazyRefcounts:
		return optlist.Errorf("Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 or greater)")
	case o.Version == 2 && refcount != 16:
		return optlist.Errorf("Different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)")
	case o.Version == 2 && o.ExtendedL2:
		return optlist.Errorf("Extended L2 entries are only supported with compatibility level 1.1 and above (use version=v3 or greater)")
	case o.Version == 2 && o.Compression != Zlib:
		return optlist.Errorf("Non-zlib compression type is only supported with compatibility level 1.1 and above (use version=v3 or greater)")
	case o.ExtendedL2 && cluster < 16<<10:
		return optlist.Errorf("Extended L2 entries are only supported with cluster sizes of at least 16384 bytes")
	case o.BackingFile != "" && o.Preallocation != PreallocateOff && !o.ExtendedL2:
		return optlist.Errorf("Backing file and preallocation can only be used at the same time if extended_l2 is enabled")
	case o.Parent != nil && o.Preallocation != PreallocateOff, o.BackingFile != "" && o.Preallocation != PreallocateOff:
		return fmt.Errorf("%w: preallocation of an image with a backing file", ErrUnsupported)
	case len(o.BackingFile) > maxBackingName:
		return optlist.Errorf("Backing file name too long")
	case o.Compress && o.Preallocation != PreallocateOff:
		return optlist.Errorf("Compression and preallocation not supported at the same time")
	}
	h := o.header()
	if n := o.length(); n > 0 && (n > 1<<61 || h.l1Needed(n) > maxL1Bytes/8) {
		return fmt.Errorf("%w: %d bytes with clusters of %d bytes, want at most %d; try a larger cluster size",
			ErrTooLarge, n, cluster, min(1<<61, int64(maxL1Bytes/8)<<(h.l2Bits()+uint(h.ClusterBits))))
	}
	if end := h.extensionsEnd(); end+len(o.BackingFile) > int(cluster) {
		return optlist.Errorf("The header of %d bytes does not fit into a cluster of %d bytes", end+len(o.BackingFile), cluster)
	}
	return nil
}

// length is the size of the disk in bytes.
func (o *CreateOptions) length() int64 {
	return (min(o.Size, 1<<62) + disk.SectorSize - 1) &^ (disk.SectorSize - 1)
}

// header is the header of the image, without its tables.
func (o *CreateOptions) header() Header {
	h := Header{
		Version: uint32(cmp.Or(o.Version, 3)), ClusterBits: uint32(bits.TrailingZeros64(uint64(cmp.Or(o.ClusterSize, defaultClusterSize)))),
		Size: uint64(o.length()), RefcountOrder: uint32(bits.TrailingZeros(uint(cmp.Or(o.RefcountBits, 16)))), HeaderLength: headerLength2,
		Compression: o.Compression, BackingFile: o.BackingFile, BackingFormat: o.BackingFormat,
	}
	if h.Version == 3 {
		h.HeaderLength = headerMax
	}
	if o.LazyRefcounts {
		h.Compatible |= compatibleLazyRefcounts
	}
	if o.ExtendedL2 {
		h.Incompatible |= featureExtendedL2
	}
	if o.Compression != Zlib {
		h.Incompatible |= featureCompression
	}
	return h
}

// extensionsEnd is the offset of the first byte after the header and its extensions.
func (h *Header) extensionsEnd() int {
	n := int(h.HeaderLength) + 8
	if h.BackingFormat != "" {
		n += 8 + (len(h.BackingFormat)+7)&^7
	}
	return n
}

// firstCluster is the content of the first cluster: the header, the extensions and the name
// of the backing file.
func (h *Header) firstCluster() []byte {
	if h.BackingFile != "" {
		h.BackingOffset, h.BackingLength = uint64(h.extensionsEnd()), uint32(len(h.BackingFile))
	}
	b := h.encode()
	if n := len(h.BackingFormat); n > 0 {
		b = binary.BigEndian.AppendUint32(b, extensionBackingFormat)
		b = binary.BigEndian.AppendUint32(b, uint32(n))
		b = append(b, h.BackingFormat...)
		b = append(b, make([]byte, (8-n%8)%8)...)
	}
	b = append(b, make([]byte, 8)...) // the end of the extensions
	b = append(b, h.BackingFile...)
	return append(b, make([]byte, int(h.ClusterSize())-len(b))...)
}
