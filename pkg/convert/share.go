package convert

import (
	"os"
	"sync"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// shareAlign divides the offsets and lengths of shared storage. It is the block size of the
// file systems that share.
const shareAlign = 4096

// minShare is the shortest run that is shared. Sharing takes the time of writing
// some tens of KiB, and cuts the target into extents.
const minShare = 64 << 10

// shareChunk is the size of one request to share data that is not read.
const shareChunk = 32 << 20

// way is how data of one file gets into another.
type way uint8

const (
	untried way = iota
	// cloned: the file system lets files share storage, as XFS and btrfs do.
	cloned
	// copied: the server of a network file system copies from one file to the other. A
	// local copy in the kernel saves nothing: into ext4 or tmpfs it needs the time of one
	// read and one write. The data must be read anyway, to detect zeros.
	copied
	// written: neither.
	written
)

// sharer makes the target's file share storage with the source's, or lets the server copy.
// Each way is tried once for each pair of files. A failure is no error: the data is written
// instead.
type sharer struct {
	placer disk.Placer // nil: offsets in the file are not known

	mu   sync.Mutex
	ways map[*os.File]way // of sources; there is one target
}

// way returns the way that is known to work for a source.
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

// share shares bytes of the target at off with src, where they are stored at srcOff. It
// returns how many of the n bytes the caller must write first, and how many after those are
// shared.
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

// try shares or copies n bytes, and returns how many of them are in dst.
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
