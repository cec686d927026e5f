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

// CreateOptions say what image to make. With the zero value of everything but
// Size it is what qemu-img create makes. A nil *CreateOptions means the zero value.
type CreateOptions struct {
	// Type is Fixed or Dynamic; the zero value means Dynamic. It is not looked at
	// if there is a Parent: then the image is a differencing one.
	Type DiskType
	// Size is the virtual size in bytes. It is rounded up to a whole sector,
	// and then, unless Exact, to the next size that a geometry has. An image with
	// a Parent is as large as that if Size is 0, and may be larger, but not smaller.
	Size int64
	// Exact keeps the size (qemu's force_size).
	Exact bool
	// MinSize is the least virtual size in bytes: a smaller Size is raised to it. It is
	// not used if there is a Parent.
	MinSize int64
	// Align, if not 0, rounds the size up to a multiple of so many bytes, itself
	// a multiple of 512. It goes with Exact.
	Align int64
	// Growing says that the size is not known yet: the new image will be given
	// its size by Resize, after parts of it were written. A dynamic image keeps
	// space for the BAT of a disk of 128 GiB (with blocks of 2 MiB) before its
	// first block; for a larger disk the first blocks move to the end of the file.
	Growing bool
	// BlockSize of a dynamic disk in bytes, a power of two from MinBlockSize to
	// MaxBlockSize; 0 means DefaultBlockSize. Windows reads only 512 KiB and
	// 2 MiB.
	BlockSize int64
	// DataAlign is what the offset of each block's data in the file is a multiple of:
	// 4096, or 512 for a packed file, in which blocks follow each other without gaps
	// as VirtualBox needs them. 0 means 4096.
	DataAlign int64
	// FileAlign is what the file's length is a multiple of: 512, or 4096 as Windows
	// has it. 0 means 512. It is not used for a fixed disk.
	FileAlign int64
	// Creator is the program to name; zero means CreatorQEMU, or
	// CreatorQEMUExact if Exact.
	Creator Creator
	// UniqueID of the image; zero means a random one, or with DeriveID a derived one.
	UniqueID uuid.UUID
	// DeriveID computes the unique id from the footer and the header. The same options give
	// the same id, whatever the disk contains.
	DeriveID bool
	// Time of creation; zero means now.
	Time time.Time
	// Parent makes a differencing image: one that has what this disk has, until
	// something else is written. An *Image that is its parent must be open for
	// reading, and any other disk is a raw parent. It is closed with the new image, but
	// not if creating the image fails.
	// If they are not said, block size, geometry and creator are the parent's.
	Parent disk.Disk
	// ParentRecord is what the image records of its parent: see [ParentRecordOf].
	ParentRecord ParentRecord
}

// Validate checks the options without making anything.
func (o *CreateOptions) Validate() error {
	_, _, err := o.metadata()
	return err
}

// Metadata returns the footer and the header that the image will have. The header is
// zero for a fixed disk. They differ from call to call without Time, and without either of
// UniqueID and DeriveID.
func (o *CreateOptions) Metadata() (Footer, Header, error) { return o.metadata() }

// VirtualSize is the size in bytes that the image will have.
func (o *CreateOptions) VirtualSize() (int64, error) {
	f, _, err := o.metadata()
	return int64(f.CurrentSize), err
}

// FileLength is the length in bytes of the image's file when so many blocks of
// the disk have their place; the number means nothing for a fixed disk.
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

// BlockLayout is the number of blocks that the disk will have, and their size in
// bytes; both are 0 for a fixed disk.
func (o *CreateOptions) BlockLayout() (n, size int64, err error) {
	_, h, err := o.metadata()
	return int64(h.MaxTableEntries), int64(h.BlockSize), err
}

// metadata plans the footer and, for a dynamic disk, the header.
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

// derivedIDs is the namespace of the unique ids that derivedID computes.
var derivedIDs = uuid.UUID{0x8d, 0x41, 0x6e, 0x0b, 0x5c, 0x92, 0x4f, 0x37, 0x9a, 0x60, 0x1e, 0x7b, 0xd3, 0x28, 0xc4, 0xf5}

// derivedID computes a unique id (version 5) from the footer and the header, which have none.
func derivedID(f *Footer, h *Header) uuid.UUID {
	footer, header := f.Encode(), h.Encode()
	return uuid.NewSHA1(derivedIDs, append(footer[:], header[:]...))
}

// metadataWithoutID is metadata before the unique id is chosen.
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
			return fail(errors.New("a fixed disk has no blocks, and so no alignment of their data"))
		}
		if o.BlockSize != 0 {
			return fail(errors.New("a fixed disk has no blocks, and so no block size"))
		}
		return f, Header{}, nil
	case 0, Dynamic:
	default:
		return fail(fmt.Errorf("making a disk of %v: %w", o.Type, ErrUnsupported))
	}
	f.Type, f.DataOffset = Dynamic, footerSize
	h, err := newHeader(int64(current), o.BlockSize)
	if hasBatmap(&f, &h) {
		f.CreatorVersion = creatorVersionBatmap
	}
	return f, h, err
}

// hasBatmap reports whether a new image has XenServer's batmap, without which
// XenServer's resize does nothing. Its tools know blocks of 2 MiB only.
func hasBatmap(f *Footer, h *Header) bool {
	return f.Creator == CreatorXenServer && f.Type != Fixed && h.BlockSize == DefaultBlockSize
}

// newHeader is the header of a disk of so many bytes, in blocks of blockSize, or
// of the default size if that is 0.
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

// parentRecord is what to record of the parent, with its id.
func (o *CreateOptions) parentRecord() ParentRecord {
	p := o.ParentRecord
	p.ID = uuid.Nil
	if img, ok := o.Parent.(*Image); ok {
		p.ID = img.footer.UniqueID
	}
	return p
}

// differencingMetadata plans the footer and the header of an image with a parent.
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
	// The size must come out as it is: not rounded to a geometry again.
	own.Size, own.Exact = size, true
	f, h, err := own.metadataWithoutID()
	if err != nil {
		return fail(err)
	}
	if parent != nil && own.Creator == parent.footer.Creator && size == parent.size {
		// As the parent is sized, so is the image.
		f.Geometry, f.CurrentSize, f.OriginalSize = parent.footer.Geometry, parent.footer.CurrentSize, parent.footer.CurrentSize
		if h, err = newHeader(int64(f.CurrentSize), own.BlockSize); err != nil {
			return fail(err)
		}
	} else if SizeAuto.resolve(&f) == SizeFromGeometry && f.Geometry.Product()*SectorSize != size {
		f.Geometry = MaxGeometry // a creator that is believed by its geometry
	}
	f.Type = Differencing
	p := o.parentRecord()
	lay := o.layout(&f, &h)
	_, err = p.encodeInto(&h, lay.tableEnd())
	return f, h, err
}

// alignedSize is the size asked for, aligned; it may still need rounding up to
// a geometry.
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

// maxFixedSize is the largest fixed disk: the footer's 64 bits hold it, and offsets in
// its file are no problem.
const maxFixedSize = 1 << 62

// checkSize checks that a VHD of the type can be so large.
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

// exactGeometry is the geometry to write beside an exact size so that no
// reader cuts the disk: the specification's where it spans the size, or where
// even old qemu takes the current size for this creator, and else the largest,
// with which every reader does.
func exactGeometry(sectors int64, c Creator) Geometry {
	g := GeometryOf(sectors)
	if c != CreatorQEMUExact && (c.trustedByOldQEMU() || g.Product() == sectors) {
		return g
	}
	return MaxGeometry
}

// layout is the layout of the image with this footer and header.
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
