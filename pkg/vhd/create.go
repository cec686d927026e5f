package vhd

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/internal/atomicfile"
	"github.com/vhdtool/vhdtool/internal/sparse"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// CreateOptions say what image to make. With the zero value of everything but
// Size it is what qemu-img create makes.
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
	// Align, if not 0, rounds the size up to a multiple of so many bytes, itself
	// a multiple of 512. It goes with Exact.
	Align int64
	// Growing says that the size is not known yet: the new image will be given
	// its size by Resize, after parts of it were written. A dynamic image keeps
	// room for the BAT of a disk of 128 GiB (with blocks of 2 MiB) before its
	// first block; the BAT of a larger disk stands at the end of the file.
	Growing bool
	// BlockSize of a dynamic disk in bytes, a power of two from MinBlockSize to
	// MaxBlockSize; 0 means DefaultBlockSize. Windows reads only 512 KiB and
	// 2 MiB.
	BlockSize int64
	// Creator is the program to name; zero means CreatorQEMU, or
	// CreatorQEMUExact if Exact.
	Creator Creator
	// UniqueID of the image; zero means a random one.
	UniqueID uuid.UUID
	// Time of creation; zero means now.
	Time time.Time
	// Parent makes a differencing image: one that has what this disk has, until
	// something else is written. An *Image that is its parent must be open for
	// reading, and any other disk is a raw parent. The new image closes it.
	// If they are not said, block size, geometry and creator are the parent's.
	Parent disk.Disk
	// Parentage is what the image records of its parent: see [ParentageOf].
	Parentage Parentage
}

// Create makes a new image, as by [CreateIn], under the given name. The file
// takes the name when the image is closed, replacing an older file; a caller
// who gives up calls Discard instead.
func Create(name string, o *CreateOptions) (*Image, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	out, err := atomicfile.Create(name)
	if err != nil {
		return nil, err
	}
	img, err := CreateIn(out.File, o)
	if err != nil {
		out.Discard()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	img.out = out
	return img, nil
}

// CreateIn makes a new image in f, which is empty or a device. The disk reads
// as zeros and can be written; the file is a VHD when Close or Sync has
// completed it, and no reader takes it for one before. Errors wrap ErrTooLarge
// or ErrUnsupported, or are those of the file.
func CreateIn(f disk.File, o *CreateOptions) (*Image, error) {
	footer, header, err := o.metadata()
	if err != nil {
		return nil, err
	}
	img := &Image{
		r: f, f: f, footer: footer, header: header, trailing: true,
		size: int64(footer.CurrentSize), rule: SizeAuto.resolve(&footer),
	}
	if o.Parent != nil {
		img.parentage = o.parentage()
		if err := img.adopt(o.Parent); err != nil {
			return nil, err
		}
		img.size, _ = (&footerCopy{Footer: footer}).virtualSize(SizeAuto, int64(footer.CurrentSize))
	}
	// What was chosen at random, or by the clock, stays when the size changes.
	img.plan = *o
	img.plan.UniqueID, img.plan.Time = footer.UniqueID, footer.Timestamp.Time()
	a := &img.alloc
	a.fresh, a.old, a.device = true, -1, disk.IsDevice(f)
	a.bare = map[int64]bool{}
	if !img.dynamic() {
		a.end = img.size
		a.length = img.size + footerSize
	} else {
		img.lay = layoutOf(&footer, &header, 0)
		blocks := int64(header.MaxTableEntries)
		img.bat = newBAT(blocks)
		img.bitmaps.init(blocks, false)
		a.batRoom = batBytes(blocks)
		if o.Growing {
			a.batRoom = max(a.batRoom, min(growingBATRoom, img.lay.stored()-SectorSize-dataAlign))
		}
		a.end = img.lay.batOff + a.batRoom
		img.lay.locators = img.header.locatorRegions(math.MaxInt64)
		for _, x := range img.lay.locators {
			a.end = max(a.end, x.end)
		}
		a.length = a.end + footerSize
	}
	if a.device {
		length, err := disk.DeviceSize(f)
		if err == nil && length < a.length {
			err = fmt.Errorf("%w: the device has %d bytes, and the image needs at least %d", errNoRoom, length, a.length)
		}
		if err != nil {
			return img, err
		}
		a.tail = lastSector(length)
		return img, img.clearDevice()
	}
	return img, f.Truncate(a.length)
}

// clearDevice takes from a device what could be taken for an image: its footers.
// Of a fixed disk it also zeroes the contents; blocks of a dynamic one are
// zeroed when they get their place.
func (img *Image) clearDevice() error {
	zeros := make([]byte, footerSize)
	for _, at := range []int64{0, img.alloc.tail} {
		if _, err := img.f.WriteAt(zeros, at); err != nil {
			return err
		}
	}
	if err := img.flush(); err != nil {
		return err
	}
	if img.dynamic() {
		return nil
	}
	return sparse.Zero(img.f, 0, img.size)
}

// growingBATRoom is the room for the BAT of an image of unknown size, or as much
// as is less than a block, so that what is left of it does not count as leaked.
const growingBATRoom = 256 << 10

// resizeNew gives a new image, not yet complete, another size.
func (img *Image) resizeNew(size int64) error {
	if img.differencing() {
		return fmt.Errorf("%w: another size for a new differencing image", ErrUnsupported)
	}
	o := img.plan
	o.Size = size
	footer, header, err := o.metadata()
	if err != nil {
		return err
	}
	a := &img.alloc
	blocks := int64(header.MaxTableEntries)
	for block := range img.bat.used() {
		if block >= blocks {
			return fmt.Errorf("%w: cutting what was written off a new image", ErrUnsupported)
		}
	}
	if err := img.zeroLost(int64(footer.CurrentSize)); err != nil {
		return err
	}
	if !img.dynamic() {
		a.end = int64(footer.CurrentSize)
		a.length = a.end + footerSize
		if !a.device {
			err = img.f.Truncate(a.length)
		} else if a.end > a.tail {
			err = fmt.Errorf("%w: the device ends at byte %d", errNoRoom, a.tail+footerSize)
		}
		if err != nil {
			return err
		}
	} else {
		img.bat = img.bat.resized(blocks)
		img.bitmaps.grow(blocks)
	}
	img.footer, img.header, img.size = footer, header, int64(footer.CurrentSize)
	return nil
}

// zeroLost zeroes what a new disk loses but its file keeps, so that it does not
// come back.
func (img *Image) zeroLost(size int64) error {
	end := img.size
	if img.dynamic() {
		end = min(end, roundUp(size, img.lay.blockSize))
	}
	if size >= end {
		return nil
	}
	return img.zero(size, end-size)
}

// placeBAT gives the BAT of a new image its final place: in front of the blocks
// where it fits, else behind them.
func (img *Image) placeBAT() {
	a := &img.alloc
	if img.differencing() {
		return // its size was known, and locators stand behind the BAT
	}
	switch n := batBytes(img.bat.len()); {
	case a.end == img.lay.batOff+a.batRoom: // there are no blocks
		a.end = img.lay.batOff + n
	case n > a.batRoom:
		img.header.TableOffset = uint64(a.end)
		a.end += n
	}
	img.lay = layoutOf(&img.footer, &img.header, 0)
}

// Validate checks the options without making anything.
func (o *CreateOptions) Validate() error {
	_, _, err := o.metadata()
	return err
}

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
	lay := layoutOf(&f, &h, 0)
	a := allocator{fresh: true, end: lay.batOff + batBytes(int64(h.MaxTableEntries))}
	if allocated > 0 {
		stride := roundUp(lay.stored(), dataAlign)
		a.end = a.place(lay.bitmapSize) + lay.stored() + (allocated-1)*stride
	}
	return a.end + footerSize, nil
}

// Blocks is the number of blocks that the disk will have, and their size in
// bytes; both are 0 for a fixed disk.
func (o *CreateOptions) Blocks() (n, size int64, err error) {
	_, h, err := o.metadata()
	return int64(h.MaxTableEntries), int64(h.BlockSize), err
}

// metadata plans the footer and, for a dynamic disk, the header.
func (o *CreateOptions) metadata() (Footer, Header, error) {
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
	id := o.UniqueID
	if id == uuid.Nil {
		if id, err = uuid.NewRandom(); err != nil {
			return fail(fmt.Errorf("unique id: %w", err))
		}
	}
	current := uint64(sectors) * SectorSize
	f := Footer{
		Cookie: footerCookie, Features: featureReserved, Version: formatVersion, DataOffset: noOffset,
		Timestamp: stamp, Creator: creator, CreatorVersion: creator.version(), CreatorHostOS: creator.hostOS(),
		OriginalSize: current, CurrentSize: current, Geometry: g, Type: Fixed, UniqueID: id,
	}
	switch o.Type {
	case Fixed:
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
	return f, h, err
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

// parentage is what to record of the parent, with its id.
func (o *CreateOptions) parentage() Parentage {
	p := o.Parentage
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
	own.Parent, own.Type, own.Align, own.Growing = nil, Dynamic, 0, false
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
	f, h, err := own.metadata()
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
	p := o.parentage()
	_, err = p.place(&h, int64(h.TableOffset)+batBytes(int64(h.MaxTableEntries)))
	return f, h, err
}

// alignedSize is the size asked for, aligned; it may still need rounding up to
// a geometry.
func (o *CreateOptions) alignedSize() (int64, error) {
	size, err := o.Size, checkSize(o.Size)
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
	return size, checkSize(size)
}

// checkSize checks that a VHD can be so large.
func checkSize(size int64) error {
	switch {
	case size < 0:
		return fmt.Errorf("disk size %d is negative", size)
	case size > MaxSectors*SectorSize:
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

// ReadsZero implements [disk.Zeroed]: the image is new, and nothing was written
// to it yet.
func (img *Image) ReadsZero() bool {
	img.syncing.Lock() // while it is held, wrote says nothing
	defer img.syncing.Unlock()
	img.alloc.mu.Lock()
	defer img.alloc.mu.Unlock()
	return img.alloc.fresh && !img.differencing() && !img.wrote.Load()
}

// complete writes the metadata of a new image, the footers last, and from then
// on the image is one that is changed in place. With flush, each step is
// durable before the next.
func (img *Image) complete(flush bool) error {
	// Before the allocator is locked: who writes has a bitmap locked, and waits for it.
	if err := img.writeNewBitmaps(); err != nil {
		return err
	}
	a := &img.alloc
	a.mu.Lock()
	defer a.mu.Unlock()
	sync := func() error {
		if flush {
			return img.flush()
		}
		return nil
	}
	if img.dynamic() {
		if err := a.writeBare(img); err != nil {
			return err
		}
		img.placeBAT()
	}
	if !a.device {
		if err := cutTo(img.f, a.end+footerSize); err != nil {
			return err
		}
	}
	footer := img.footer.Encode()
	if img.dynamic() {
		header := img.header.Encode()
		if _, err := img.f.WriteAt(header[:], int64(img.footer.DataOffset)); err != nil {
			return fmt.Errorf("dynamic disk header: %w", err)
		}
		if err := img.bat.writeTo(img.f, img.lay.batOff, 0); err != nil {
			return err
		}
		if err := img.writeTexts(img.parentage.texts(img.lay.batEnd())); err != nil {
			return err
		}
	}
	if err := sync(); err != nil {
		return err
	}
	if _, err := img.f.WriteAt(footer[:], a.footerAt()); err != nil {
		return fmt.Errorf("footer: %w", err)
	}
	if img.dynamic() {
		if _, err := img.f.WriteAt(footer[:], 0); err != nil {
			return fmt.Errorf("copy of the footer: %w", err)
		}
	}
	if err := sync(); err != nil {
		return err
	}
	img.footerAt = a.footerAt()
	a.fresh, a.length = false, a.end+footerSize
	return nil
}

// cutTo cuts a file that is longer. To cut one that is not would have XFS write all of
// it back when it is closed.
func cutTo(f disk.File, length int64) error {
	st, err := f.Stat()
	if err != nil || st.Size() <= length {
		return err
	}
	return f.Truncate(length)
}

// writeNewBitmaps writes the bitmaps of a new image's blocks that are in the file
// only in part. Those of what is written meanwhile follow with the next Sync.
func (img *Image) writeNewBitmaps() error {
	a := &img.alloc
	a.mu.Lock()
	blocks := a.partial
	a.partial = nil
	a.mu.Unlock()
	for i, block := range blocks {
		bits := img.bitmaps.takeDirty(block)
		if bits == nil {
			continue
		}
		if err := img.writeBitmap(block, bits); err != nil {
			a.mu.Lock()
			a.partial = append(a.partial, blocks[i:]...)
			a.mu.Unlock()
			return err
		}
	}
	return nil
}
