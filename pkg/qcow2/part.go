package qcow2

import (
	"fmt"
	"iter"
)

// part is a run of the disk's bytes that the image stores in one way. A compressed part is
// within one cluster.
type part struct {
	off, n int64
	kind   kind
	host   int64 // offset in the file of a stored part's first byte, or of a compressed cluster
	length int64 // bytes of the file that hold a compressed cluster
}

// follows reports whether p continues prev.
func (p part) follows(prev part) bool {
	if p.kind != prev.kind || p.kind == compressed {
		return false
	}
	return p.kind == absent || p.kind == zero || p.host == prev.host+prev.n
}

// parts yields [off, off+n) of the disk, merged and in order.
func (img *Image) parts(off, n int64) iter.Seq2[part, error] {
	return func(yield func(part, error) bool) {
		var held part
		add := func(p part) bool {
			if held.n > 0 && p.follows(held) {
				held.n += p.n
				return true
			}
			out := held
			held = p
			return out.n == 0 || yield(out, nil)
		}
		fail := func(err error) {
			if held.n == 0 || yield(held, nil) {
				yield(part{}, err)
			}
		}
		end := off + n
		for off < end {
			stop := min(end, (off>>img.l1Shift+1)<<img.l1Shift)
			table, err := img.table(off)
			if err != nil {
				fail(err)
				return
			}
			if table == nil {
				if !add(part{off: off, n: stop - off, kind: absent}) {
					return
				}
				off = stop
				continue
			}
			for off < stop {
				n := min(stop, (off>>img.clusterBits+1)<<img.clusterBits) - off
				i := off >> img.clusterBits & (1<<img.l2Bits - 1)
				e := entryAt(table, i, img.extended)
				if got, want := img.header.invalid(e, off); want != "" {
					fail(corrupt(img.l2Offset(off)+i<<img.entryBits, fmt.Sprintf("L2 entry of disk offset %d", off&^(img.clusterSize-1)), got, want))
					return
				}
				if !img.addCluster(e, off, n, add) {
					return
				}
				off += n
			}
		}
		if held.n > 0 {
			yield(held, nil)
		}
	}
}

// addCluster adds [off, off+n) of one cluster.
func (img *Image) addCluster(e entry, off, n int64, add func(part) bool) bool {
	k := img.header.kindOf(e)
	in := off & (img.clusterSize - 1)
	if k == compressed {
		host, length := e.compressedRange(img.header.ClusterBits)
		return add(part{off: off, n: n, kind: compressed, host: host, length: length})
	}
	if !img.extended {
		return add(part{off: off, n: n, kind: k, host: e.offset() + in})
	}
	size := img.clusterSize / subclusters
	for end := off + n; off < end; {
		i := (off & (img.clusterSize - 1)) / size
		step := min(end, off&^(size-1)+size) - off
		if !add(part{off: off, n: step, kind: e.subKind(int(i), k), host: e.offset() + off&(img.clusterSize-1)}) {
			return false
		}
		off += step
	}
	return true
}

// l2Offset is the offset in the file of the L2 table for an offset of the disk; 0 if there
// is none.
func (img *Image) l2Offset(off int64) int64 {
	return int64(img.l1[off>>img.l1Shift] & entryOffset)
}

// table is the L2 table for an offset of the disk, or nil.
func (img *Image) table(off int64) ([]byte, error) {
	at := img.l2Offset(off)
	if at == 0 {
		return nil, nil
	}
	i := off >> img.l1Shift
	field := func() string { return fmt.Sprintf("L1 entry %d", i) }
	if at&(img.clusterSize-1) != 0 {
		return nil, corrupt(img.l1Offset+i*8, field(), at, "an offset that is a multiple of the cluster size")
	}
	if at > img.length-img.clusterSize {
		return nil, corrupt(img.l1Offset+i*8, field(), at, fmt.Sprintf("a table within the file of %d bytes", img.length))
	}
	return img.tables.get(img.r, at, img.clusterSize)
}
