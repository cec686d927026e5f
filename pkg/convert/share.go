package convert

import (
	"os"
	"sync"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// shareAlign is what offsets and lengths must be multiples of for storage to be
// shared: the block size of the file systems that can.
const shareAlign = 4096

// minShare is the shortest run that is shared. Sharing takes the time of writing
// some tens of KiB, and cuts the target into extents.
const minShare = 64 << 10

// shareChunk is the size of one request to share what is not read.
const shareChunk = 32 << 20

// way is how data of one file can come to stand in another.
type way uint8

const (
	untried way = iota
	// cloned: the file system lets files share storage, as XFS and btrfs do.
	cloned
	// copied: whoever has both files copies between them. Where that is this
	// machine it saves nothing: copying inside of the kernel into ext4 or tmpfs
	// takes as long as one read and one write, and the data must be read for zeros
	// anyway. So it is left to file systems of the network.
	copied
	// written: neither.
	written
)

// sharer has the target's file share storage with the source's, or be copied to
// without the data passing through here. Each way is tried once for each pair of
// files. Whatever fails is not an error but is written.
type sharer struct {
	placer disk.Placer // nil: no place is known

	mu   sync.Mutex
	ways map[*os.File]way // of sources; there is one target
}

// way is what is known of a source.
func (s *sharer) way(src *os.File) way {
	if s.placer == nil || src == nil {
		return written
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ways[src]
}

func (s *sharer) found(src *os.File, w way) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ways == nil {
		s.ways = map[*os.File]way{}
	}
	if w >= s.ways[src] { // never back
		s.ways[src] = w
	}
}

// share deals with the n bytes of the target at off, which stand in src at
// srcOff: the first of them, apart, are to be written, and those behind, shared,
// are in place.
func (s *sharer) share(off, n int64, src *os.File, srcOff int64) (apart, shared int64) {
	if s.way(src) == written {
		return n, 0
	}
	for apart < n {
		dst, dstOff, m := s.placer.Place(off+apart, n-apart)
		if m <= 0 {
			return n, 0
		}
		head := -dstOff & (shareAlign - 1)
		body := (m - head) &^ (shareAlign - 1)
		if from := srcOff + apart + head; from%shareAlign == 0 && body >= minShare {
			if shared = s.try(dst, dstOff+head, src, from, body); shared > 0 {
				return apart + head, shared
			}
			if s.way(src) == written {
				return n, 0
			}
		}
		apart += m
	}
	return n, 0
}

// try returns how many of the bytes came to stand in dst.
func (s *sharer) try(dst *os.File, dstOff int64, src *os.File, srcOff, n int64) int64 {
	w := s.way(src)
	if w == untried || w == cloned {
		if filesystem.CloneRange(dst, dstOff, src, srcOff, n) == nil {
			s.found(src, cloned)
			return n
		}
		w = written
		if filesystem.CopiesRemotely(dst) {
			w = copied
		}
		s.found(src, w)
	}
	if w == written {
		return 0
	}
	done := filesystem.CopyRange(dst, dstOff, src, srcOff, n)
	if done < n {
		s.found(src, written)
	}
	return done
}
