package convert

import "os"

// mapChunk is the size of one look into a mapped file. It is large because the
// processors tell each other when memory is not mapped any more.
const mapChunk = 4 << 20

// mappings are those of files that are read, one of each. The zero value has none.
type mappings struct{ byFile map[*os.File]*mapping }

// of returns the mapping of a file, or nil if it is not to be mapped.
func (m *mappings) of(f *os.File) *mapping {
	if f == nil {
		return nil
	}
	have, ok := m.byFile[f]
	if !ok {
		if m.byFile == nil {
			m.byFile = map[*os.File]*mapping{}
		}
		have = newMapping(f)
		m.byFile[f] = have
	}
	return have
}

// close ends all of them.
func (m *mappings) close() {
	for _, have := range m.byFile {
		if have != nil {
			have.close()
		}
	}
}
