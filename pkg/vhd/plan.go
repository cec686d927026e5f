package vhd

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// CreateOptions describe a new image. With only Size set, the image is the one that qemu-img
// create makes. A nil *CreateOptions means the zero value.
type CreateOptions struct {
	// Type is Fixed or Dynamic; zero means Dynamic. It is ignored with a Parent: then the image
	// is a differencing one.
	Type DiskType
	// Size is the virtual size in bytes. It is rounded up to a whole sector, and without Exact
	// to the next size that a geometry has. With a Parent, 0 means the parent's size, and a
	// smaller size than that is an error.
	Size int64
	// Exact keeps the size (qemu's force_size).
	Exact bool
	// MinSize is the least virtual size in bytes: a smaller Size is raised to it. It is ignored
	// with a Parent.
	MinSize int64
	// Align, if not 0, rounds the size up to a multiple of Align bytes, itself a multiple of
	// 512. It requires Exact.
	Align int64
	// Growing says that the size is not known yet: Resize sets it after parts of the disk are
	// written. A dynamic image then reserves space for the BAT of a disk of 128 GiB (with
	// blocks of 2 MiB) before its first block. For a larger disk the first blocks move to the
	// end of the file.
	Growing bool
	// BlockSize is the size of the blocks of a dynamic disk in bytes, a power of two from
	// MinBlockSize to MaxBlockSize; 0 means DefaultBlockSize. Windows reads only 512 KiB and 2
	// MiB.
	BlockSize int64
	// DataAlign is the alignment of each block's data in the file, in bytes: 4096, or 512 for a
	// packed file. In a packed file blocks follow each other without gaps, as VirtualBox
	// requires. 0 means 4096.
	DataAlign int64
	// FileAlign is the alignment of the file's length, in bytes: 512, or 4096 as in images of
	// Windows. 0 means 512. It is ignored for a fixed disk.
	FileAlign int64
	// Creator is the creator application; zero means CreatorQEMU, or with Exact
	// CreatorQEMUExact.
	Creator Creator
	// UniqueID is the id of the image; zero means a random one, or with DeriveID a derived one.
	UniqueID uuid.UUID
	// DeriveID computes the unique id from the footer and the header. The same options give the
	// same id, whatever the disk contains.
	DeriveID bool
	// Time is the time of creation; zero means now.
	Time time.Time
	// Parent makes a differencing image, which has the contents of this disk until it is
	// written. An *Image must be open for reading, and any other disk is a raw parent. The
	// parent is closed with the new image, but not if creating the image fails. BlockSize,
	// geometry and Creator default to the parent's.
	Parent disk.Disk
	// ParentRecord is the record of the parent: see [ParentRecordOf].
	ParentRecord ParentRecord
}

// Validate checks the options. It makes nothing.
func (o *CreateOptions) Validate() error {
	_, _, err := o.metadata()
	return err
}

// Metadata returns the footer and the header of the new image. The header is zero for a fixed
// disk. They differ from call to call if Time is not set, or if neither UniqueID nor DeriveID
// is.
func (o *CreateOptions) Metadata() (Footer, Header, error) { return o.metadata() }

// VirtualSize returns the virtual size of the new image in bytes.
func (o *CreateOptions) VirtualSize() (int64, error) {
	f, _, err := o.metadata()
	return int64(f.CurrentSize), err
}

// FileLength returns the length in bytes of the image's file with that many allocated blocks. A
// fixed disk has no blocks, and ignores the number.
func (o *CreateOptions) FileLength(allocated int64) (int64, error) {
	f, h, err := o.metadata()
	if err != nil || f.Type == Fixed {
		return int64(f.CurrentSize) + footerSize, err
	}
	lay := o.layout(&f, &h)
	lay.locators = h.locatorRegions(math.MaxInt64)
	end := lay.metadataEnd()
	if allocated > 0 {
		stride := roundUp(lay.stored(), lay.align)
		end = lay.nextBlockOffset(end) + lay.stored() + (allocated-1)*stride
	}
	return lay.footerOffset(end) + footerSize, nil
}

// BlockLayout returns the number of blocks of the disk, and their size in bytes; both are 0 for
// a fixed disk.
func (o *CreateOptions) BlockLayout() (n, size int64, err error) {
	_, h, err := o.metadata()
	return int64(h.MaxTableEntries), int64(h.BlockSize), err
}

// metadata returns the footer and, for a dynamic disk, the header.
func (o *CreateOptions) metadata() (Footer, Header, error) {
	if o == nil {
		o = &CreateOptions{}
	}
	f, h, err := o.metadataWithoutID()
	switch {
	case err != nil:
	case o.UniqueID != uuid.Nil:
		f.UniqueID = o.UniqueID
	case o.DeriveID:
		f.UniqueID = derivedID(&f, &h)
	default:
		if f.UniqueID, err = uuid.NewRandom(); err != nil {
			err = fmt.Errorf("unique id: %w", err)
		}
	}
	if err != nil {
		return Footer{}, Header{}, err
	}
	return f, h, nil
}

// derivedIDs is the namespace of the unique ids of derivedID.
var derivedIDs = uuid.UUID{0x8d, 0x41, 0x6e, 0x0b, 0x5c, 0x92, 0x4f, 0x37, 0x9a, 0x60, 0x1e, 0x7b, 0xd3, 0x28, 0xc4, 0xf5}

// derivedID returns a unique id (version 5) computed from a footer and a header without one.
func derivedID(f *Footer, h *Header) uuid.UUID {
	footer, header := f.Encode(), h.Encode()
	return uuid.NewSHA1(derivedIDs, append(footer[:], header[:]...))
}

// metadataWithoutID is metadata without the unique id.
func (o *CreateOptions) metadataWithoutID() (Footer, Header, error) {
	fail := func(err error) (Footer, Header, error) { return Footer{}, Header{}, err }
	if o.Parent != nil {
		return o.differencingMetadata()
	}
	size, err := o.alignedSize()
	if err != nil {
		return fail(err)
	}
	sectors := (size + SectorSize - 1) / SectorSize
	creator := o.Creator
	var g Geometry
	if o.Exact {
		if creator == (Creator{}) {
			creator = CreatorQEMUExact
		}
		g = exactGeometry(sectors, creator)
	} else {
		if creator == (Creator{}) {
			creator = CreatorQEMU
		}
		g, sectors = RoundToGeometry(sectors)
	}
	created := o.Time
	if created.IsZero() {
		created = NearestTime(time.Now())
	}
	stamp, err := TimestampOf(created)
	if err != nil {
		return fail(err)
	}
	current := uint64(sectors) * SectorSize
	f := Footer{
		Cookie: footerCookie, Features: featureReserved, Version: formatVersion, DataOffset: noOffset,
		Timestamp: stamp, Creator: creator, CreatorVersion: creator.version(), CreatorHostOS: creator.hostOS(),
		OriginalSize: current, CurrentSize: current, Geometry: g, Type: Fixed,
	}
	for _, align := range []int64{o.DataAlign, o.FileAlign} {
		if align != 0 && align != SectorSize && align != dataAlign {
			return fail(fmt.Errorf("alignment %d in the file: %w: want 512 or 4096", align, ErrUnsupported))
		}
	}
	switch o.Type {
	case Fixed:
		if o.DataAlign != 0 {
			return fail(errors.New("a fixed disk has no blocks, so their data has no alignment"))
		}
		if o.BlockSize != 0 {
			return fail(errors.New("a fixed disk has no blocks, so it has no block size"))
		}
		return f, Header{}, nil
	case 0, Dynamic:
	default:
		return fail(fmt.Errorf("creating a disk of type %v: %w", o.Type, ErrUnsupported))
	}
	f.Type, f.DataOffset = Dynamic, footerSize
	h, err := newHeader(int64(current), o.BlockSize)
	if hasBatmap(&f, &h) {
		f.CreatorVersion = creatorVersionBatmap
	}
	return f, h, err
}

// hasBatmap reports whether a new image has XenServer's batmap. Without a batmap XenServer's
// resize does nothing. Its tools support only blocks of 2 MiB.
func hasBatmap(f *Footer, h *Header) bool {
	return f.Creator == CreatorXenServer && f.Type != Fixed && h.BlockSize == DefaultBlockSize
}

// newHeader returns the header of a disk of size bytes, in blocks of blockSize, or of the
// default size if that is 0.
func newHeader(size, blockSize int64) (Header, error) {
	if blockSize == 0 {
		blockSize = DefaultBlockSize
	}
	if blockSize < 0 || blockSize > MaxBlockSize || !legalBlockSize(uint32(blockSize)) {
		return Header{}, fmt.Errorf("block size %d: %w: want a power of two from %d to %d", blockSize, ErrUnsupported, MinBlockSize, MaxBlockSize)
	}
	return Header{
		Cookie: headerCookie, DataOffset: noOffset, TableOffset: footerSize + headerSize, Version: headerVersion,
		MaxTableEntries: uint32((size + blockSize - 1) / blockSize), BlockSize: uint32(blockSize),
	}, nil
}

// parentRecord returns the record of the parent, with its id.
func (o *CreateOptions) parentRecord() ParentRecord {
	p := o.ParentRecord
	p.ID = uuid.Nil
	if img, ok := o.Parent.(*Image); ok {
		p.ID = img.footer.UniqueID
	}
	return p
}

// differencingMetadata returns the footer and the header of an image with a parent.
func (o *CreateOptions) differencingMetadata() (Footer, Header, error) {
	fail := func(err error) (Footer, Header, error) { return Footer{}, Header{}, err }
	own := *o
	own.Parent, own.Type, own.Align, own.MinSize, own.Growing = nil, Dynamic, 0, 0, false
	parent, _ := o.Parent.(*Image)
	size := o.Parent.Size()
	switch {
	case o.Size != 0 && o.Size < size:
		return fail(fmt.Errorf("disk of %d bytes: %w: smaller than its parent, which has %d", o.Size, ErrUnsupported, size))
	case o.Size != 0 && (o.Size+SectorSize-1)/SectorSize*SectorSize != size:
		size = o.Size
	case parent != nil && own.Creator == (Creator{}):
		own.Creator = parent.footer.Creator
	}
	if parent != nil && own.BlockSize == 0 {
		own.BlockSize = parent.lay.blockSize
	}
	// The size stays as it is: it is not rounded to a geometry again.
	own.Size, own.Exact = size, true
	f, h, err := own.metadataWithoutID()
	if err != nil {
		return fail(err)
	}
	if parent != nil && own.Creator == parent.footer.Creator && size == parent.size {
		// The image has the parent's size fields.
		f.Geometry, f.CurrentSize, f.OriginalSize = parent.footer.Geometry, parent.footer.CurrentSize, parent.footer.CurrentSize
		if h, err = newHeader(int64(f.CurrentSize), own.BlockSize); err != nil {
			return fail(err)
		}
	} else if SizeAuto.resolve(&f) == SizeFromGeometry && f.Geometry.Product()*SectorSize != size {
		f.Geometry = MaxGeometry // readers use the geometry for this creator
	}
	f.Type = Differencing
	p := o.parentRecord()
	lay := o.layout(&f, &h)
	_, err = p.encodeInto(&h, lay.tableEnd())
	return f, h, err
}

// alignedSize returns the requested size, aligned. Rounding up to a geometry may follow.
func (o *CreateOptions) alignedSize() (int64, error) {
	size := max(o.Size, o.MinSize)
	if o.Size < 0 {
		size = o.Size
	}
	err := checkSize(size, o.Type)
	if err != nil || o.Align == 0 {
		return size, err
	}
	if o.Align < 0 || o.Align%SectorSize != 0 {
		return 0, fmt.Errorf("alignment %d: want a multiple of 512", o.Align)
	}
	if !o.Exact {
		return 0, errors.New("a size that is rounded to a geometry cannot be aligned, only an exact one (force_size)")
	}
	if rest := size % o.Align; rest != 0 {
		size += o.Align - rest
	}
	return size, checkSize(size, o.Type)
}

// maxFixedSize is the size in bytes of the largest fixed disk. The footer's 64 bits hold it,
// and offsets in its file do not overflow.
const maxFixedSize = 1 << 62

// checkSize returns an error if a VHD of the type cannot have that size.
func checkSize(size int64, t DiskType) error {
	switch {
	case size < 0:
		return fmt.Errorf("disk size %d is negative", size)
	case t == Fixed && size > maxFixedSize:
		return fmt.Errorf("fixed disk of %d bytes: %w, which holds at most %d", size, ErrTooLarge, int64(maxFixedSize))
	case t != Fixed && size > MaxSectors*SectorSize:
		return fmt.Errorf("disk of %d bytes: %w, which holds at most %d (2040 GiB)", size, ErrTooLarge, int64(MaxSectors)*SectorSize)
	}
	return nil
}

// exactGeometry returns the geometry for an exact size with which no reader truncates the disk.
// It is the specification's if that spans the size, or if even old qemu uses the current size
// for this creator. Otherwise it is the largest, for which every reader uses the current size.
func exactGeometry(sectors int64, c Creator) Geometry {
	g := GeometryOf(sectors)
	if c != CreatorQEMUExact && (c.trustedByOldQEMU() || g.Product() == sectors) {
		return g
	}
	return MaxGeometry
}

// layout returns the layout of the image with this footer and header.
func (o *CreateOptions) layout(f *Footer, h *Header) layout {
	lay := layoutOf(f, h, 0)
	if o != nil {
		lay.align, lay.fileAlign = cmp.Or(o.DataAlign, dataAlign), cmp.Or(o.FileAlign, SectorSize)
	}
	if hasBatmap(f, h) {
		lay.batmap = newBatmap(lay.batEnd(), int64(h.MaxTableEntries)).ownRegions()
	}
	return lay
}
