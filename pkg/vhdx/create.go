package vhdx

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/bits"
	"strings"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/internal/optlist"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

const (
	defaultBlockSize = 32 * mib // as Hyper-V
	defaultCreator   = "vhdtool"
	logOffset        = mib
)

// CreateOptions describe a new image. The zero value is an empty dynamic disk.
type CreateOptions struct {
	// Size of the disk in bytes, rounded up to a whole sector. At most 64 TiB.
	Size int64
	// Growing declares that the size is unknown yet; see [NewDisk.Resize].
	Growing bool
	// Fixed allocates all blocks.
	Fixed bool
	// BlockSize in bytes, a power of two from 1 MiB to 256 MiB; 0 means 32 MiB.
	BlockSize int64
	// LogSize in bytes, a multiple of 1 MiB below 4 GiB; 0 means 1 MiB.
	LogSize int64
	// LogicalSectorSize is 512 or 4096 bytes; 0 means 512.
	LogicalSectorSize int64
	// Creator names the program that creates the image, at most 255 characters; "" means
	// vhdtool.
	Creator string
	// DiskID of the virtual disk; zero means a random one, or with DeriveID a derived one. The
	// other GUIDs of the file are derived from it.
	DiskID uuid.UUID
	// DeriveID derives the id from all other options, so that equal options give equal bytes.
	DeriveID bool
}

// withDefaults returns the options with the defaults, and the size in whole sectors.
func (o CreateOptions) withDefaults() (CreateOptions, error) {
	if o.BlockSize == 0 {
		o.BlockSize = defaultBlockSize
	}
	if o.LogSize == 0 {
		o.LogSize = mib
	}
	if o.LogicalSectorSize == 0 {
		o.LogicalSectorSize = 512
	}
	if o.Creator == "" {
		o.Creator = defaultCreator
	}
	switch {
	case o.BlockSize < minBlockSize || o.BlockSize > maxBlockSize || bits.OnesCount64(uint64(o.BlockSize)) != 1:
		return o, fmt.Errorf("block size %d, want a power of two from 1 MiB to 256 MiB", o.BlockSize)
	case o.LogSize < mib || o.LogSize%mib != 0 || o.LogSize >= 4<<30:
		return o, fmt.Errorf("log size %d, want a multiple of 1 MiB below 4 GiB", o.LogSize)
	case o.LogicalSectorSize != 512 && o.LogicalSectorSize != 4096:
		return o, fmt.Errorf("logical sector size %d, want 512 or 4096", o.LogicalSectorSize)
	case len(encodeUTF16(o.Creator)) >= creatorSize || strings.ContainsRune(o.Creator, 0):
		return o, fmt.Errorf("creator of %d bytes of UTF-16, want at most %d, without zeros", len(encodeUTF16(o.Creator)), creatorSize-2)
	case o.Size < 0:
		return o, fmt.Errorf("disk size %d is negative", o.Size)
	case o.Size > maxSize:
		return o, fmt.Errorf("%w: %d bytes, and the largest disk has %d (64 TiB)", ErrTooLarge, o.Size, int64(maxSize))
	}
	o.Size = roundUp(o.Size, o.LogicalSectorSize)
	return o, nil
}

// Validate returns the error of CreateIn for the options, or nil.
func (o *CreateOptions) Validate() error {
	_, err := o.withDefaults()
	return err
}

// VirtualSize returns the size of the disk in bytes.
func (o *CreateOptions) VirtualSize() (int64, error) {
	full, err := o.withDefaults()
	return full.Size, err
}

// BlockLayout returns the number of blocks of the disk, and their size in bytes; both are 0 for a
// fixed disk, whose blocks are all stored.
func (o *CreateOptions) BlockLayout() (blocks, blockSize int64, err error) {
	full, err := o.withDefaults()
	if err != nil {
		return 0, 0, err
	}
	if full.Fixed {
		return 0, 0, nil
	}
	return (full.Size + full.BlockSize - 1) / full.BlockSize, full.BlockSize, nil
}

// FileLength returns the length in bytes of an image with the given number of allocated blocks. All
// blocks of a fixed disk are allocated.
func (o *CreateOptions) FileLength(allocated int64) (int64, error) {
	p, err := o.plan()
	if err != nil {
		return 0, err
	}
	if p.meta.LeaveAllocated {
		allocated = p.meta.blocks()
	}
	return p.firstBlock() + allocated*p.meta.BlockSize, nil
}

// plan is a new image with its options resolved.
type plan struct {
	meta    Metadata
	creator string
	header  Header
	growing bool
}

func (o *CreateOptions) plan() (*plan, error) {
	full, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	p := &plan{creator: full.Creator, growing: full.Growing, meta: Metadata{
		BlockSize: full.BlockSize, LeaveAllocated: full.Fixed, Size: full.Size,
		DiskID: full.DiskID, LogicalSector: full.LogicalSectorSize, PhysicalSector: 4096,
	}}
	p.header = Header{Sequence: 1, Version: 1, LogOffset: logOffset, LogLength: uint32(full.LogSize)}
	switch {
	case full.DiskID != uuid.Nil:
	case full.DeriveID:
		options := append(p.meta.encode(), full.Creator...)
		p.meta.DiskID = uuid.NewSHA1(derivedIDs, binary.LittleEndian.AppendUint64(options, uint64(full.LogSize)))
	default:
		if p.meta.DiskID, err = uuid.NewRandom(); err != nil {
			return nil, err
		}
	}
	p.header.FileWriteGUID = uuid.NewSHA1(p.meta.DiskID, []byte("file write"))
	p.header.DataWriteGUID = uuid.NewSHA1(p.meta.DiskID, []byte("data write"))
	return p, nil
}

// derivedIDs is the namespace of derived disk ids.
var derivedIDs = uuid.UUID{0x3b, 0x0e, 0x97, 0x52, 0x6a, 0x1f, 0x4d, 0xc8, 0xb1, 0x24, 0x85, 0xe0, 0x4f, 0x9c, 0x13, 0x6d}

// metadataOffset is the offset of the metadata region, which follows the log.
func (p *plan) metadataOffset() int64 { return logOffset + int64(p.header.LogLength) }

// batLength is the length of the BAT region for the current size of the disk.
func (p *plan) batLength() int64 {
	l := p.meta.batLayout()
	return max(mib, roundUp(l.n*8, mib))
}

// firstBlock is the offset of the first block. The BAT is before it, unless the image grows.
func (p *plan) firstBlock() int64 {
	if p.growing {
		return p.metadataOffset() + mib
	}
	return p.metadataOffset() + mib + p.batLength()
}

// start returns the first MiB of the file, in which the region table has the BAT at an offset.
func (p *plan) start(batOff int64) []byte {
	b := make([]byte, mib)
	copy(b, fileIdentifier)
	copy(b[len(fileIdentifier):], encodeUTF16(p.creator))
	h := p.header
	for _, off := range headerOffsets {
		copy(b[off:], h.encode())
		h.Sequence++
	}
	table := encodeRegionTable([]regionEntry{
		{id: batRegion, off: uint64(batOff), n: uint32(p.batLength()), required: true},
		{id: metadataRegion, off: uint64(p.metadataOffset()), n: mib, required: true},
	})
	for _, off := range regionTableOffsets {
		copy(b[off:], table)
	}
	return b
}

// encodeBAT yields the BAT in pieces, without the zeros at its end. offset returns the offset of
// a payload block in the file, or 0.
func (p *plan) encodeBAT(offset func(block int64) int64) iter.Seq2[int64, []byte] {
	return func(yield func(int64, []byte) bool) {
		l := p.meta.batLayout()
		for first := int64(0); first < l.n; first += batPage {
			b := make([]byte, 8*min(batPage, l.n-first))
			used := false
			for i := range int64(len(b) / 8) {
				if l.isBitmap(first + i) {
					continue
				}
				if off := offset(l.block(first + i)); off != 0 {
					binary.LittleEndian.PutUint64(b[8*i:], uint64(off)|uint64(FullyPresent))
					used = true
				}
			}
			if used && !yield(8*first, b) {
				return
			}
		}
	}
}

// ParseCreateOptions returns the options for a new image of size bytes that correspond to o. A
// negative size is unknown: Growing is set.
func ParseCreateOptions(size int64, o disk.Options) (*CreateOptions, error) {
	co := &CreateOptions{Size: max(size, 0), Growing: size < 0}
	if err := parseCreateOptions(co, o); err != nil {
		return nil, err
	}
	if err := co.Validate(); err != nil {
		return nil, err
	}
	return co, nil
}

func parseCreateOptions(co *CreateOptions, o disk.Options) (err error) {
	if err := optlist.Only(o, "subformat", "block_size", "log_size", "logical_sector_size", "creator", "uuid"); err != nil {
		return err
	}
	for _, s := range []struct {
		key  string
		size *int64
	}{{"block_size", &co.BlockSize}, {"log_size", &co.LogSize}, {"logical_sector_size", &co.LogicalSectorSize}} {
		if v, given := o[s.key]; given {
			if *s.size, err = optlist.Size(s.key, v); err != nil {
				return err
			}
		}
	}
	switch v := o["subformat"]; v {
	case "", "dynamic":
	case "fixed":
		co.Fixed = true
	default:
		return &optlist.ValueError{Key: "subformat", Value: v}
	}
	co.Creator = o["creator"]
	switch v, given := o["uuid"]; {
	case !given, v == "random":
	case v == "derived":
		co.DeriveID = true
	default:
		id, err := uuid.Parse(v)
		if err != nil || id == uuid.Nil {
			return optlist.Errorf("Parameter 'uuid' expects random, derived, or an id like 0f2c3e5a-6b1d-4c8e-9a57-3d2b1e0f4c6d, not '%s'", v)
		}
		co.DiskID = id
	}
	_, err = co.withDefaults()
	return err
}
