package convert

import (
	"os"

	"github.com/vhdtool/vhdtool/internal/filesystem"
)

// maxMapped bounds the bytes mapped of a file, which count as memory of this process. Each
// worker maps its window and the rest of a chunk after it. The window before may be mapped, too.
const maxMapped = 16 << 20

// mappings holds one mapping of each file that the workers read.
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
