package vhdx

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

const (
	regionTableSize = 64 << 10
	regionSignature = "regi"
	maxRegions      = 2047
)

var (
	regionTableOffsets = [2]int64{192 << 10, 256 << 10}

	batRegion      = uuid.MustParse("2dc27766-f623-4200-9d64-115e9bfd4a08")
	metadataRegion = uuid.MustParse("8b7ca206-4790-4b9a-b8fe-575f050f886e")
)

// region is a part of the file that does not hold blocks.
type region struct {
	name       string
	start, end int64
}

// regionEntry is an entry of the region table, at an offset of the file.
//
//	0  16 GUID
//	16 8  offset of the region in the file
//	24 4  length
//	28 4  bit 0: required
type regionEntry struct {
	at       int64
	id       uuid.UUID
	off      uint64
	n        uint32
	required bool
}

func (e *regionEntry) name() string {
	switch e.id {
	case batRegion:
		return "BAT"
	case metadataRegion:
		return "metadata"
	}
	return "region " + e.id.String()
}

func encodeRegionTable(entries []regionEntry) []byte {
	le := binary.LittleEndian
	b := make([]byte, regionTableSize)
	copy(b, regionSignature)
	le.PutUint32(b[8:], uint32(len(entries)))
	for i, e := range entries {
		x := b[16+32*i:]
		putGUID(x, e.id)
		le.PutUint64(x[16:], e.off)
		le.PutUint32(x[24:], e.n)
		if e.required {
			le.PutUint32(x[28:], 1)
		}
	}
	seal(b)
	return b
}

// readRegionTable reads the entries of the first valid region table. ok is false if there is
// none. r and size include the changes of the log.
func readRegionTable(r io.ReaderAt, size int64) (entries []regionEntry, found []finding, ok bool, err error) {
	var tables [2][]byte
	for i, off := range regionTableOffsets {
		field := fmt.Sprintf("region table %d", i+1)
		if off+regionTableSize > size {
			found = append(found, newFinding("region-table-missing", disk.Warning, off, field, "a region table", "the end of the file, at %d", size))
			continue
		}
		b := make([]byte, regionTableSize)
		if err := readFull(r, b, off); err != nil {
			return nil, nil, false, err
		}
		count := binary.LittleEndian.Uint32(b[8:])
		switch {
		case string(b[:4]) != regionSignature:
			found = append(found, newFinding("region-table-signature", disk.Warning, off, field+": signature", regionSignature, "%q", b[:4]))
		case !sealed(b):
			found = append(found, newFinding("region-table-checksum", disk.Warning, off+4, field+": checksum",
				fmt.Sprintf("%#08x", checksum(b)), "%#08x", binary.LittleEndian.Uint32(b[4:])))
		case count > maxRegions:
			limit := uint64(maxRegions)
			found = append(found, newFinding("region-table-count", disk.Warning, off+8, field+": number of entries",
				fmt.Sprintf("at most %d", maxRegions), "%d", count).number(uint64(count), disk.Number{Max: &limit}))
		default:
			tables[i] = b
		}
	}
	at := regionTableOffsets[0]
	b := tables[0]
	switch {
	case b == nil && tables[1] == nil:
		for i := range found {
			found[i].Severity = disk.Error
		}
		return nil, found, false, nil
	case b == nil:
		b, at = tables[1], regionTableOffsets[1]
	case tables[1] != nil && !bytes.Equal(b, tables[1]):
		found = append(found, newFinding("region-tables-differ", disk.Warning, regionTableOffsets[1], "region table 2", "the bytes of region table 1", "different bytes"))
	}
	le := binary.LittleEndian
	for i := range int(le.Uint32(b[8:])) {
		x := b[16+32*i:]
		entries = append(entries, regionEntry{
			at: at + 16 + 32*int64(i), id: guidAt(x), off: le.Uint64(x[16:]), n: le.Uint32(x[24:]), required: le.Uint32(x[28:])&1 != 0,
		})
	}
	return entries, found, true, nil
}

// validRegion reports whether [off, off+n) is aligned to 1 MiB, and in a file of size bytes
// after the headers.
func validRegion(off, n uint64, size int64) bool {
	return off >= mib && off%mib == 0 && n > 0 && n%mib == 0 && n <= uint64(size) && off <= uint64(size)-n
}

// validateRegions finds the regions of a file of size bytes. bat and metadata are nil if they are
// missing or unusable. used are all regions that are in the file, ordered by offset; it starts as
// the regions outside of the table.
func validateRegions(entries []regionEntry, used []region, size int64) (bat, metadata *regionEntry, all []region, found []finding) {
	seen := map[uuid.UUID]bool{}
	for i := range entries {
		e := &entries[i]
		field := fmt.Sprintf("region table: entry %d (%s)", i, e.name())
		known := e.id == batRegion || e.id == metadataRegion
		switch {
		case seen[e.id]:
			found = append(found, newFinding("region-duplicate", disk.Error, e.at, field, "one entry for each region", "a second one"))
			continue
		case !known && e.required:
			f := newFinding("region-unknown", disk.Error, e.at, field, "BAT or metadata", "a required region of unknown purpose")
			f.unsupported = true
			found = append(found, f)
		case !known:
			found = append(found, newFinding("region-unknown", disk.Warning, e.at, field, "BAT or metadata", "an optional region of unknown purpose"))
		case !e.required:
			f := newFinding("region-optional", disk.Warning, e.at+28, field+": required", "1", "0")
			f.Note = "VirtualBox refuses such images. qemu creates them."
			found = append(found, f)
		}
		seen[e.id] = true
		if !validRegion(e.off, uint64(e.n), size) {
			f := newFinding("region-bounds", disk.Error, e.at+16, field+": offset and length",
				fmt.Sprintf("multiples of 1 MiB within the file of %d bytes, after the first MiB", size), "%d and %d", e.off, e.n)
			f.harmless = !known
			found = append(found, f)
			continue
		}
		used = append(used, region{e.name(), int64(e.off), int64(e.off) + int64(e.n)})
		switch e.id {
		case batRegion:
			bat = e
		case metadataRegion:
			metadata = e
		}
	}
	for _, id := range []uuid.UUID{batRegion, metadataRegion} {
		if !seen[id] {
			e := regionEntry{id: id}
			found = append(found, newFinding("region-missing", disk.Error, regionTableOffsets[0], "region table", "an entry for the region "+e.name(), "none"))
		}
	}
	slices.SortStableFunc(used, func(a, b region) int { return cmp.Compare(a.start, b.start) })
	for i := 1; i < len(used); i++ {
		if a, b := used[i-1], used[i]; b.start < a.end {
			found = append(found, newFinding("region-overlap", disk.Error, b.start, b.name, fmt.Sprintf("an offset after %s, which ends at %d", a.name, a.end), "%d", b.start))
		}
	}
	return bat, metadata, used, found
}
