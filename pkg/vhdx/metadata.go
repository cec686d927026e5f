package vhdx

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

const (
	metadataTableSize = 64 << 10
	metadataSignature = "metadata"
	maxMetadataItems  = 2047
	maxMetadataSize   = mib // of one item

	minBlockSize = mib
	maxBlockSize = 256 * mib
	maxSize      = 64 << 40 // of a disk
)

// Flags of an entry of the metadata table.
const (
	flagUser        = 1
	flagVirtualDisk = 2
	flagRequired    = 4
)

// Flags in the file parameters.
const (
	flagLeaveAllocated = 1
	flagHasParent      = 2
)

var (
	itemFileParameters = uuid.MustParse("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
	itemVirtualSize    = uuid.MustParse("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
	itemDiskID         = uuid.MustParse("beca12ab-b2e6-4523-93ef-c309e000c746")
	itemLogicalSector  = uuid.MustParse("8141bf1d-a96f-4709-ba47-f233a8faab5f")
	itemPhysicalSector = uuid.MustParse("cda348c7-445d-4471-9cc9-e9885251c556")
	itemParentLocator  = uuid.MustParse("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
)

// metadataItem is an item of metadata that this package knows.
type metadataItem struct {
	id    uuid.UUID
	name  string
	size  uint32 // bytes; 0: variable
	flags uint32
}

var metadataItems = []metadataItem{
	{itemFileParameters, "file parameters", 8, flagRequired},
	{itemVirtualSize, "virtual disk size", 8, flagVirtualDisk | flagRequired},
	{itemDiskID, "virtual disk id", 16, flagVirtualDisk | flagRequired},
	{itemLogicalSector, "logical sector size", 4, flagVirtualDisk | flagRequired},
	{itemPhysicalSector, "physical sector size", 4, flagVirtualDisk | flagRequired},
	{itemParentLocator, "parent locator", 0, flagRequired},
}

// Metadata are the properties of the virtual disk.
type Metadata struct {
	BlockSize      int64     // bytes
	LeaveAllocated bool      // blocks stay allocated: the disk is fixed
	HasParent      bool      // the disk is differencing
	Size           int64     // of the disk, bytes
	DiskID         uuid.UUID // page 83 data
	LogicalSector  int64     // bytes
	PhysicalSector int64     // bytes
	parentLocator  []byte    // encoded; nil if there is none
}

// blocks is the number of payload blocks.
func (m *Metadata) blocks() int64 { return (m.Size + m.BlockSize - 1) / m.BlockSize }

// metadataEntry is an entry of the metadata table, at an offset of the file.
//
//	0  16 GUID
//	16 4  offset in the metadata region
//	20 4  length
//	24 4  flags
type metadataEntry struct {
	at         int64
	id         uuid.UUID
	off, n     uint32
	flags      uint32
	item       *metadataItem // nil if it is unknown
	start, end int64         // in the file
}

func (e *metadataEntry) name() string {
	if e.item != nil {
		return e.item.name
	}
	return "item " + e.id.String()
}

// readMetadata reads the metadata in a region of the file. Errors are read errors.
func readMetadata(r io.ReaderAt, reg *regionEntry) (m Metadata, found []finding, err error) {
	entries, found, err := readMetadataTable(r, reg)
	if err != nil {
		return m, nil, err
	}
	values := map[uuid.UUID][]byte{}
	offsets := map[uuid.UUID]int64{}
	for _, e := range entries {
		if e.item == nil {
			continue
		}
		b := make([]byte, e.n)
		if err := readFull(r, b, e.start); err != nil {
			return m, nil, err
		}
		values[e.id], offsets[e.id] = b, e.start
	}
	if refusal(found) != nil {
		return m, found, nil
	}
	for _, item := range metadataItems {
		if _, ok := values[item.id]; !ok && item.id != itemParentLocator {
			found = append(found, newFinding("metadata-missing", disk.Error, int64(reg.off), "metadata table", "an entry for the "+item.name, "none"))
		}
	}
	if refusal(found) != nil {
		return m, found, nil
	}
	le := binary.LittleEndian
	add := func(item uuid.UUID, id, name string, got uint64, want string, limits disk.Number) {
		found = append(found, newFinding(id, disk.Error, offsets[item], "metadata: "+name, want, "%d", got).number(got, limits))
	}
	block, flags := le.Uint32(values[itemFileParameters]), le.Uint32(values[itemFileParameters][4:])
	m.BlockSize, m.LeaveAllocated, m.HasParent = int64(block), flags&flagLeaveAllocated != 0, flags&flagHasParent != 0
	if block < minBlockSize || block > maxBlockSize || block&(block-1) != 0 {
		limits := disk.Number{}
		for n := uint64(minBlockSize); n <= maxBlockSize; n *= 2 {
			limits.OneOf = append(limits.OneOf, n)
		}
		add(itemFileParameters, "block-size", "block size", uint64(block), "a power of two from 1 MiB to 256 MiB", limits)
	}
	if unknown := flags &^ (flagLeaveAllocated | flagHasParent); unknown != 0 {
		found = append(found, newFinding("file-parameters-flags", disk.Warning, offsets[itemFileParameters]+4, "metadata: flags of the file parameters", "bits 0 and 1 only", "%#x", flags))
	}
	m.DiskID = guidAt(values[itemDiskID])
	for _, s := range []struct {
		item     uuid.UUID
		id, name string
		size     *int64
	}{
		{itemLogicalSector, "logical-sector-size", "logical sector size", &m.LogicalSector},
		{itemPhysicalSector, "physical-sector-size", "physical sector size", &m.PhysicalSector},
	} {
		n := le.Uint32(values[s.item])
		*s.size = int64(n)
		if n != 512 && n != 4096 {
			add(s.item, s.id, s.name, uint64(n), "512 or 4096", disk.Number{OneOf: []uint64{512, 4096}})
		}
	}
	if refusal(found) != nil {
		return m, found, nil
	}
	size, limit := le.Uint64(values[itemVirtualSize]), uint64(maxSize)
	m.Size = int64(min(size, limit))
	if size > limit || size%uint64(m.LogicalSector) != 0 {
		add(itemVirtualSize, "virtual-size", "virtual disk size", size, fmt.Sprintf("a multiple of %d up to 64 TiB", m.LogicalSector),
			disk.Number{Max: &limit, MultipleOf: uint64(m.LogicalSector)})
	}
	m.parentLocator = values[itemParentLocator]
	if m.HasParent && m.parentLocator == nil {
		found = append(found, newFinding("metadata-missing", disk.Error, int64(reg.off), "metadata table", "an entry for the parent locator", "none"))
	}
	if !m.HasParent && m.parentLocator != nil {
		found = append(found, newFinding("parent-locator", disk.Warning, offsets[itemParentLocator], "metadata: parent locator", "none, because the disk has no parent", "one"))
	}
	return m, found, nil
}

// readMetadataTable reads and validates the metadata table. It returns the entries whose items
// are in the region and have the right length.
func readMetadataTable(r io.ReaderAt, reg *regionEntry) (entries []metadataEntry, found []finding, err error) {
	off := int64(reg.off)
	b := make([]byte, metadataTableSize)
	if err := readFull(r, b, off); err != nil {
		return nil, nil, err
	}
	le := binary.LittleEndian
	count := int(le.Uint16(b[10:]))
	if string(b[:8]) != metadataSignature {
		return nil, []finding{newFinding("metadata-signature", disk.Error, off, "metadata table: signature", metadataSignature, "%q", b[:8])}, nil
	}
	if count > maxMetadataItems {
		limit := uint64(maxMetadataItems)
		f := newFinding("metadata-count", disk.Error, off+10, "metadata table: number of entries", fmt.Sprintf("at most %d", maxMetadataItems), "%d", count)
		return nil, []finding{f.number(uint64(count), disk.Number{Max: &limit})}, nil
	}
	type key struct {
		id   uuid.UUID
		user bool
	}
	seen := map[key]bool{}
	for i := range count {
		x := b[32+32*i:]
		e := metadataEntry{at: off + 32 + 32*int64(i), id: guidAt(x), off: le.Uint32(x[16:]), n: le.Uint32(x[20:]), flags: le.Uint32(x[24:])}
		if e.flags&flagUser == 0 {
			for j := range metadataItems {
				if metadataItems[j].id == e.id {
					e.item = &metadataItems[j]
				}
			}
		}
		field := fmt.Sprintf("metadata table: entry %d (%s)", i, e.name())
		k := key{e.id, e.flags&flagUser != 0}
		if seen[k] {
			found = append(found, newFinding("metadata-duplicate", disk.Error, e.at, field, "one entry for each item", "a second one"))
			continue
		}
		seen[k] = true
		if e.item == nil && e.flags&flagRequired != 0 {
			f := newFinding("metadata-unknown", disk.Error, e.at, field, "a known item", "a required item of unknown purpose")
			f.unsupported = true
			found = append(found, f)
		}
		if e.item != nil && e.flags&(flagUser|flagVirtualDisk|flagRequired) != e.item.flags {
			found = append(found, newFinding("metadata-flags", disk.Warning, e.at+24, field+": flags", fmt.Sprintf("%#x", e.item.flags), "%#x", e.flags))
		}
		if e.off == 0 && e.n == 0 && e.item == nil {
			continue // an empty item
		}
		if e.off < metadataTableSize || e.n == 0 || e.n > maxMetadataSize || uint64(e.off)+uint64(e.n) > uint64(reg.n) {
			f := newFinding("metadata-bounds", disk.Error, e.at+16, field+": offset and length",
				fmt.Sprintf("an item after the table, within the region of %d bytes", reg.n), "%d and %d", e.off, e.n)
			f.harmless = e.item == nil
			found = append(found, f)
			continue
		}
		if e.item != nil && e.item.size != 0 && e.n < e.item.size {
			found = append(found, newFinding("metadata-bounds", disk.Error, e.at+20, field+": length", fmt.Sprint(e.item.size), "%d", e.n))
			continue
		}
		e.start = off + int64(e.off)
		e.end = e.start + int64(e.n)
		entries = append(entries, e)
	}
	sorted := slices.Clone(entries)
	slices.SortFunc(sorted, func(a, b metadataEntry) int { return cmp.Compare(a.start, b.start) })
	for i := 1; i < len(sorted); i++ {
		if a, b := &sorted[i-1], &sorted[i]; b.start < a.end {
			found = append(found, newFinding("metadata-overlap", disk.Error, b.start, "metadata: "+b.name(),
				fmt.Sprintf("an offset after the %s, which ends at %d", a.name(), a.end), "%d", b.start))
		}
	}
	return entries, found, nil
}

// encodeMetadata returns the start of the metadata region: the table and the items.
func (m *Metadata) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, metadataTableSize+4096)
	copy(b, metadataSignature)
	flags := uint32(0)
	if m.LeaveAllocated {
		flags |= flagLeaveAllocated
	}
	values := map[uuid.UUID][]byte{
		itemFileParameters: le.AppendUint32(le.AppendUint32(nil, uint32(m.BlockSize)), flags),
		itemVirtualSize:    le.AppendUint64(nil, uint64(m.Size)),
		itemDiskID:         make([]byte, 16),
		itemLogicalSector:  le.AppendUint32(nil, uint32(m.LogicalSector)),
		itemPhysicalSector: le.AppendUint32(nil, uint32(m.PhysicalSector)),
	}
	putGUID(values[itemDiskID], m.DiskID)
	count, off := 0, metadataTableSize
	for _, item := range metadataItems {
		v := values[item.id]
		if v == nil {
			continue
		}
		x := b[32+32*count:]
		putGUID(x, item.id)
		le.PutUint32(x[16:], uint32(off))
		le.PutUint32(x[20:], uint32(len(v)))
		le.PutUint32(x[24:], item.flags)
		copy(b[off:], v)
		off += len(v)
		count++
	}
	le.PutUint16(b[10:], uint16(count))
	return b
}
