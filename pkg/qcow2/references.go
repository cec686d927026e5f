package qcow2

import "math"

// referencePage is the number of clusters whose references are counted together.
const referencePage = 1024

// maxReferencePages bounds the memory of a check: 256 MiB, enough for 8 TiB of clusters of
// 64 KiB.
const maxReferencePages = 1 << 17

// references counts the references to each cluster of a file. It stores what is not zero
// only, because a file may have far more holes than data.
type references struct {
	pages map[int64]*[referencePage]uint16
	max   uint64 // that the image can store for a cluster
}

// count is the number of references to a cluster. math.MaxUint16 also means more.
func (c *references) count(cluster int64) uint64 {
	p := c.pages[cluster/referencePage]
	if p == nil {
		return 0
	}
	return uint64(p[cluster%referencePage])
}

// add counts a reference to a cluster. full is true if the image cannot store one more.
func (c *references) add(cluster int64) (full bool, err error) {
	p := c.pages[cluster/referencePage]
	if p == nil {
		if len(c.pages) == maxReferencePages {
			return false, errTooManyClusters
		}
		p = new([referencePage]uint16)
		c.pages[cluster/referencePage] = p
	}
	n := &p[cluster%referencePage]
	if uint64(*n) >= c.max {
		return true, nil
	}
	if *n < math.MaxUint16 {
		*n++
	}
	return false, nil
}
