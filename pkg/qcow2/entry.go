package qcow2

import "fmt"

// Bits of L1 and L2 entries.
const (
	entryOffset     = 0x00fffffffffffe00 // offset of the table or the cluster in the file
	entryCopied     = 1 << 63            // the refcount is 1
	entryCompressed = 1 << 62            // of an L2 entry
	entryZero       = 1 << 0             // of an L2 entry: reads as zeros
	l1Reserved      = 0x7f000000000001ff
	l2Reserved      = 0x3f000000000001fe
	refReserved     = 0x1ff // of an entry in the refcount table
)

// subclusters is the number of subclusters of a cluster with extended L2 entries.
const subclusters = 32

// kind is how an image stores a cluster or a subcluster.
type kind uint8

const (
	absent       kind = iota // not: the parent has it
	absentStored             // not, but it has an offset in the file
	zero                     // reads as zeros
	zeroStored               // reads as zeros, and has an offset in the file
	stored                   // stored as it is
	compressed
)

// entry is an L2 entry, with its subcluster bitmap in an image that has one.
type entry struct {
	bits uint64
	sub  uint64 // low half: allocated subclusters; high half: subclusters that are zeros
}

// kindOf is how a cluster is stored. With subclusters, stored and absent only say whether
// there is an offset.
func (h *Header) kindOf(e entry) kind {
	switch {
	case e.bits&entryCompressed != 0:
		return compressed
	case e.bits&entryZero != 0 && !h.ExtendedL2():
		if e.bits&entryOffset != 0 {
			return zeroStored
		}
		return zero
	case e.bits&entryOffset != 0:
		return stored
	case h.HasDataFile() && e.bits&entryCopied != 0: // at offset 0 of the data file
		return stored
	}
	return absent
}

// subKind is how subcluster i is stored; whole is the kind of its cluster, which is not
// compressed.
func (e entry) subKind(i int, whole kind) kind {
	switch {
	case e.sub>>(32+i)&1 != 0 && whole == stored:
		return zeroStored
	case e.sub>>(32+i)&1 != 0:
		return zero
	case e.sub>>i&1 != 0:
		return stored
	case whole == stored:
		return absentStored
	}
	return absent
}

// offset is the offset of the cluster in the file.
func (e entry) offset() int64 { return int64(e.bits & entryOffset) }

// compressedRange is the range of the file that holds a compressed cluster. It ends at the
// end of a sector.
func (e entry) compressedRange(clusterBits uint32) (off, n int64) {
	x := 62 - (clusterBits - 8)
	off = int64(e.bits & (1<<x - 1))
	sectors := int64(e.bits &^ (entryCopied | entryCompressed) >> x)
	return off, (sectors+1)*512 - off%512
}

// invalid says what is wrong with the entry of a cluster in an image with this header and
// offset guest of the disk; want is "" if nothing is.
func (h *Header) invalid(e entry, guest int64) (got, want string) {
	extended := h.ExtendedL2()
	k := h.kindOf(e)
	found := func() string {
		if extended {
			return fmt.Sprintf("%#016x with bitmap %#016x", e.bits, e.sub)
		}
		return fmt.Sprintf("%#016x", e.bits)
	}
	switch {
	case k == compressed && h.HasDataFile():
		return found(), "no compressed cluster with an external data file"
	case k == compressed:
		return "", ""
	case h.Version < 3 && e.bits&entryZero != 0:
		return found(), "no zero cluster in an image of version 2"
	case e.offset()&(h.ClusterSize()-1) != 0:
		return found(), "an offset that is a multiple of the cluster size"
	case extended && e.sub>>32&e.sub != 0:
		return found(), "no subcluster that is both allocated and zeros"
	case extended && k == absent && e.sub&0xffffffff != 0:
		return found(), "no allocated subcluster without an offset"
	case k == stored && h.HasDataFile() && e.offset() != guest&^(h.ClusterSize()-1):
		return found(), "the offset of the cluster on the disk, in an external data file"
	}
	return "", ""
}
