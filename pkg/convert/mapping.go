package convert

import (
	"os"

	"github.com/vhdtool/vhdtool/internal/filesystem"
)

// maxMapped bounds what is mapped of a file: by each worker a window, one that was
// left behind, and as much of a chunk as is behind a window's end. It counts as
// memory of this process.
const maxMapped = 16 << 20

// mappings are those of files that are read by so many workers, one of each.
type mappings struct {
	workers int
	byFile  map[*os.File]*filesystem.Mapping
}

// of returns the mapping of a file, or nil if it is not to be mapped.
func (m *mappings) of(f *os.File) *filesystem.Mapping {
	window := int64(maxMapped) / int64(m.workers) &^ (chunk - 1)
	if f == nil || window < 2*chunk {
		return nil
	}
	have, ok := m.byFile[f]
	if !ok {
		if m.byFile == nil {
			m.byFile = map[*os.File]*filesystem.Mapping{}
		}
		have = filesystem.NewMapping(f, window, chunk)
		m.byFile[f] = have
	}
	return have
}

// close ends all of them.
func (m *mappings) close() {
	for _, have := range m.byFile {
		if have != nil {
			have.Close()
		}
	}
}
