package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"strings"
)

// magic is the first four bytes of an image.
const magic = "QFI\xfb"

// Lengths of the header in bytes, without extensions.
const (
	headerLength2 = 72  // of version 2
	headerLength3 = 104 // of version 3; a compression type may follow
	headerMax     = 112
)

// Limits that bound what is read into memory. They are qemu's.
const (
	minClusterBits   = 9
	maxClusterBits   = 21
	maxBackingName   = 1023
	maxL1Bytes       = 32 << 20
	maxRefTableBytes = 8 << 20
	maxSnapshots     = 65536
	maxSnapshotBytes = 64 << 20
)

// Incompatible features. An image with any other one is refused.
const (
	featureDirty       = 1 << 0 // refcounts may be wrong
	featureCorrupt     = 1 << 1
	featureDataFile    = 1 << 2
	featureCompression = 1 << 3 // the compression type is not zlib
	featureExtendedL2  = 1 << 4

	knownIncompatible = featureDirty | featureCorrupt | featureDataFile | featureCompression | featureExtendedL2
)

const compatibleLazyRefcounts = 1 << 0

// Autoclear features.
const (
	autoclearBitmaps = 1 << 0
	autoclearRawData = 1 << 1
)

// Types of header extensions.
const (
	extensionEnd           = 0
	extensionBackingFormat = 0xe2792aca
	extensionDataFile      = 0x44415441
	extensionFeatures      = 0x6803f857
	extensionBitmaps       = 0x23852875
)

// Compression is how the clusters of an image are compressed.
type Compression uint8

// The compression types.
const (
	Zlib Compression = 0
	Zstd Compression = 1
)

// String returns qemu's name of the compression type.
func (c Compression) String() string {
	switch c {
	case Zlib:
		return "zlib"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("compression type %d", uint8(c))
}

// Header is the header of an image and its extensions. The layout, big-endian:
//
//	 0  4  magic                    60  4  snapshots
//	 4  4  version                  64  8  offset of the snapshot table
//	 8  8  offset of the backing    72  8  incompatible features (from here on
//	       file's name                     version 3 only)
//	16  4  length of that name      80  8  compatible features
//	20  4  cluster bits             88  8  autoclear features
//	24  8  size of the disk         96  4  refcount order
//	32  4  encryption method       100  4  header length
//	36  4  entries of the L1 table 104  1  compression type
//	40  8  offset of the L1 table
//	48  8  offset of the refcount table
//	56  4  clusters of the refcount table
type Header struct {
	Version               uint32
	BackingOffset         uint64
	BackingLength         uint32
	ClusterBits           uint32
	Size                  uint64
	Encryption            uint32
	L1Size                uint32 // entries
	L1Offset              uint64
	RefcountTableOffset   uint64
	RefcountTableClusters uint32
	Snapshots             uint32
	SnapshotsOffset       uint64
	Incompatible          uint64
	Compatible            uint64
	Autoclear             uint64
	RefcountOrder         uint32
	HeaderLength          uint32
	Compression           Compression

	BackingFile   string // path as recorded; "" if there is none
	BackingFormat string // its format as recorded; "" if that is not recorded
	DataFile      string // path of the external data file as recorded
	bitmaps       []byte // the bitmaps extension
	features      map[[2]byte]string
}

// Dirty reports whether the refcounts may be wrong.
func (h *Header) Dirty() bool { return h.Incompatible&featureDirty != 0 }

// Corrupt reports whether a writer has marked the image as damaged.
func (h *Header) Corrupt() bool { return h.Incompatible&featureCorrupt != 0 }

// HasDataFile reports whether guest data is stored in an external data file.
func (h *Header) HasDataFile() bool { return h.Incompatible&featureDataFile != 0 }

// RawDataFile reports whether the external data file can be read as a raw disk.
func (h *Header) RawDataFile() bool { return h.HasDataFile() && h.Autoclear&autoclearRawData != 0 }

// ExtendedL2 reports whether clusters are divided into 32 subclusters.
func (h *Header) ExtendedL2() bool { return h.Incompatible&featureExtendedL2 != 0 }

// LazyRefcounts reports whether writers may leave the refcounts wrong until they close.
func (h *Header) LazyRefcounts() bool { return h.Compatible&compatibleLazyRefcounts != 0 }

// RefcountBits is the width of a refcount in bits.
func (h *Header) RefcountBits() int { return 1 << h.RefcountOrder }

// ClusterSize is the size of a cluster in bytes.
func (h *Header) ClusterSize() int64 { return 1 << h.ClusterBits }

// l2Bits is the binary logarithm of the number of entries in an L2 table.
func (h *Header) l2Bits() uint {
	if h.ExtendedL2() {
		return uint(h.ClusterBits) - 4
	}
	return uint(h.ClusterBits) - 3
}

// decodeHeader decodes the fields of the fixed part of a header. b has headerMax bytes.
func decodeHeader(b []byte) Header {
	u32 := func(off int) uint32 { return binary.BigEndian.Uint32(b[off:]) }
	u64 := func(off int) uint64 { return binary.BigEndian.Uint64(b[off:]) }
	h := Header{
		Version: u32(4), BackingOffset: u64(8), BackingLength: u32(16), ClusterBits: u32(20), Size: u64(24), Encryption: u32(32),
		L1Size: u32(36), L1Offset: u64(40), RefcountTableOffset: u64(48), RefcountTableClusters: u32(56),
		Snapshots: u32(60), SnapshotsOffset: u64(64), RefcountOrder: 4, HeaderLength: headerLength2,
	}
	if h.Version >= 3 {
		h.Incompatible, h.Compatible, h.Autoclear = u64(72), u64(80), u64(88)
		h.RefcountOrder, h.HeaderLength = u32(96), u32(100)
		if h.HeaderLength > headerLength3 {
			h.Compression = Compression(b[headerLength3])
		}
	}
	return h
}

// encode is the fixed part of the header, HeaderLength bytes.
func (h *Header) encode() []byte {
	b := make([]byte, h.HeaderLength)
	copy(b, magic)
	u32 := func(off int, v uint32) { binary.BigEndian.PutUint32(b[off:], v) }
	u64 := func(off int, v uint64) { binary.BigEndian.PutUint64(b[off:], v) }
	u32(4, h.Version)
	u64(8, h.BackingOffset)
	u32(16, h.BackingLength)
	u32(20, h.ClusterBits)
	u64(24, h.Size)
	u32(32, h.Encryption)
	u32(36, h.L1Size)
	u64(40, h.L1Offset)
	u64(48, h.RefcountTableOffset)
	u32(56, h.RefcountTableClusters)
	u32(60, h.Snapshots)
	u64(64, h.SnapshotsOffset)
	if h.Version >= 3 {
		u64(72, h.Incompatible)
		u64(80, h.Compatible)
		u64(88, h.Autoclear)
		u32(96, h.RefcountOrder)
		u32(100, h.HeaderLength)
	}
	if h.HeaderLength > headerLength3 {
		b[headerLength3] = byte(h.Compression)
	}
	return b
}

// Probe returns nil if the first size bytes of r start with the magic of qcow2, and
// otherwise an error that wraps [disk.ErrNotThisFormat]. It does not look at the version.
func Probe(r io.ReaderAt, size int64) error {
	var b [4]byte
	if size < int64(len(b)) {
		return errNotThis
	}
	if _, err := r.ReadAt(b[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if string(b[:]) != magic {
		return errNotThis
	}
	return nil
}

// readHeader reads and validates the header of an image in the first length bytes of r.
func readHeader(r io.ReaderAt, length int64) (Header, error) {
	b := make([]byte, headerMax)
	n, err := r.ReadAt(b[:max(0, min(int64(len(b)), length))], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Header{}, err
	}
	if string(b[:4]) != magic {
		return Header{}, ErrNotQCOW2
	}
	if n < headerLength2 {
		return Header{}, corrupt(0, "header", fmt.Sprintf("%d bytes", n), "at least 72")
	}
	h := decodeHeader(b)
	if h.Version >= 3 && n < headerLength3 {
		return h, corrupt(0, "header", fmt.Sprintf("%d bytes", n), "at least 104")
	}
	if err := h.validate(length); err != nil {
		return h, err
	}
	if err := h.readExtensions(r, length); err != nil {
		return h, err
	}
	return h, h.validateFeatures()
}

// validate returns an error for the first fixed field that readers cannot accept.
func (h *Header) validate(length int64) error {
	switch {
	case h.Version != 2 && h.Version != 3:
		return unsupported(4, "header: version", h.Version, "2 or 3")
	case h.ClusterBits < minClusterBits || h.ClusterBits > maxClusterBits:
		return corrupt(20, "header: cluster bits", h.ClusterBits, "9 to 21")
	case h.Version == 3 && h.HeaderLength < headerLength3:
		return corrupt(100, "header: header length", h.HeaderLength, "at least 104")
	case int64(h.HeaderLength) > h.ClusterSize():
		return corrupt(100, "header: header length", h.HeaderLength, fmt.Sprintf("at most a cluster, %d", h.ClusterSize()))
	case h.RefcountOrder > 6:
		return corrupt(96, "header: refcount order", h.RefcountOrder, "0 to 6")
	case h.Size > math.MaxInt64:
		return corrupt(24, "header: size", h.Size, "less than 2^63")
	case h.BackingOffset > uint64(h.ClusterSize()):
		return corrupt(8, "header: offset of the backing file name", h.BackingOffset, "an offset in the first cluster")
	case h.Encryption > 2:
		return corrupt(32, "header: encryption method", h.Encryption, "0 to 2")
	}
	return h.validateTables(length)
}

// validateTables checks the offsets and lengths of the tables in a file of length bytes.
func (h *Header) validateTables(length int64) error {
	cluster := uint64(h.ClusterSize())
	inFile := func(off, n uint64) bool { return off <= uint64(length) && n <= uint64(length)-off }
	aligned := "a multiple of the cluster size"
	within := fmt.Sprintf("a table within the file of %d bytes", length)
	table := func(at int64, name string, off, n uint64) error {
		if off%cluster != 0 {
			return corrupt(at, "header: offset of the "+name, off, aligned)
		}
		if !inFile(off, n) {
			return corrupt(at, "header: offset of the "+name, fmt.Sprintf("%d bytes at %d", n, off), within)
		}
		return nil
	}
	if h.RefcountTableClusters == 0 {
		return corrupt(56, "header: clusters of the refcount table", 0, "at least 1")
	}
	refBytes := uint64(h.RefcountTableClusters) << h.ClusterBits
	if refBytes > maxRefTableBytes {
		return corrupt(56, "header: clusters of the refcount table", h.RefcountTableClusters, fmt.Sprintf("at most %d bytes", maxRefTableBytes))
	}
	if err := table(48, "refcount table", h.RefcountTableOffset, 0); err != nil {
		return err
	}
	if n := uint64(h.L1Size) * 8; n > maxL1Bytes {
		return corrupt(36, "header: entries of the L1 table", h.L1Size, fmt.Sprintf("at most %d", maxL1Bytes/8))
	}
	if h.L1Size > 0 {
		if err := table(40, "L1 table", h.L1Offset, uint64(h.L1Size)*8); err != nil {
			return err
		}
	}
	if h.Snapshots > maxSnapshots {
		return corrupt(60, "header: snapshots", h.Snapshots, fmt.Sprintf("at most %d", maxSnapshots))
	}
	if h.Snapshots > 0 {
		return table(64, "snapshot table", h.SnapshotsOffset, uint64(h.Snapshots)*snapshotFixed)
	}
	return nil
}

// validateFeatures refuses what this package cannot read. It comes after the extensions,
// which have the names of features.
func (h *Header) validateFeatures() error {
	if unknown := h.Incompatible &^ knownIncompatible; unknown != 0 {
		var names []string
		for unknown != 0 {
			bit := bits.TrailingZeros64(unknown)
			unknown &^= 1 << bit
			name := h.features[[2]byte{0, byte(bit)}]
			if name == "" {
				name = "unknown"
			}
			names = append(names, fmt.Sprintf("%s (bit %d)", name, bit))
		}
		return unsupported(72, "header: incompatible features", strings.Join(names, ", "), "dirty, corrupt, data file, compression type or extended L2 only")
	}
	switch {
	case h.Encryption != 0:
		return unsupported(32, "header: encryption method", []string{1: "AES", 2: "LUKS"}[h.Encryption], "none: encrypted images are not read")
	case h.Compression > Zstd:
		return unsupported(104, "header: compression type", uint8(h.Compression), "0 (zlib) or 1 (zstd)")
	case (h.Incompatible&featureCompression != 0) != (h.Compression != Zlib):
		return corrupt(104, "header: compression type", h.Compression, "the incompatible feature bit 3 set for a type that is not zlib, and only then")
	case h.ExtendedL2() && h.ClusterBits < 14:
		return corrupt(20, "header: cluster bits", h.ClusterBits, "at least 14 with extended L2 entries")
	case h.HasDataFile() && h.Snapshots > 0:
		return corrupt(60, "header: snapshots", h.Snapshots, "none with an external data file")
	}
	if need := h.l1Needed(int64(h.Size)); need > int64(h.L1Size) {
		return corrupt(36, "header: entries of the L1 table", h.L1Size, fmt.Sprintf("at least %d for a disk of %d bytes", need, h.Size))
	}
	return nil
}

// l1Needed is the number of L1 entries that a disk of size bytes needs.
func (h *Header) l1Needed(size int64) int64 {
	shift := h.l2Bits() + uint(h.ClusterBits)
	n := size >> shift
	if size&(1<<shift-1) != 0 {
		n++
	}
	return n
}

// readExtensions reads the header extensions and the name of the backing file.
func (h *Header) readExtensions(r io.ReaderAt, length int64) error {
	end := min(h.ClusterSize(), length)
	if h.BackingOffset != 0 {
		end = min(end, int64(h.BackingOffset))
	}
	start := int64(h.HeaderLength)
	if start < end {
		// Extensions are read in one go: a cluster has at most 2 MiB.
		b := make([]byte, end-start)
		if n, err := r.ReadAt(b, start); n < len(b) {
			return readError("header extensions", start, err)
		}
		if err := h.parseExtensions(b, start); err != nil {
			return err
		}
	}
	if h.BackingOffset == 0 || h.BackingLength == 0 {
		return nil
	}
	if h.BackingLength > maxBackingName || int64(h.BackingOffset)+int64(h.BackingLength) > min(h.ClusterSize(), length) {
		return corrupt(16, "header: length of the backing file name", h.BackingLength, "at most 1023 bytes in the first cluster")
	}
	b := make([]byte, h.BackingLength)
	if n, err := r.ReadAt(b, int64(h.BackingOffset)); n < len(b) {
		return readError("name of the backing file", int64(h.BackingOffset), err)
	}
	h.BackingFile = string(b)
	return nil
}

// parseExtensions parses the extensions in b, which is at offset start of the file.
func (h *Header) parseExtensions(b []byte, start int64) error {
	for at := 0; len(b)-at >= 8; {
		kind := binary.BigEndian.Uint32(b[at:])
		n := int64(binary.BigEndian.Uint32(b[at+4:]))
		if kind == extensionEnd {
			return nil
		}
		if n > int64(len(b)-at-8) {
			return corrupt(start+int64(at)+4, fmt.Sprintf("header extension %#x: length", kind), n, "an extension that ends in the first cluster, before the backing file's name")
		}
		data := b[at+8 : at+8+int(n)]
		switch kind {
		case extensionBackingFormat:
			h.BackingFormat = string(data)
		case extensionDataFile:
			h.DataFile = string(data)
		case extensionBitmaps:
			h.bitmaps = append([]byte(nil), data...)
		case extensionFeatures:
			h.features = map[[2]byte]string{}
			for ; len(data) >= 48; data = data[48:] {
				h.features[[2]byte(data[:2])] = strings.TrimRight(string(data[2:48]), "\x00")
			}
		}
		at += 8 + int((n+7)&^7)
	}
	return nil
}

// readError is an error of reading a structure in full.
func readError(what string, off int64, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%s at offset %d: %w", what, off, err)
}
