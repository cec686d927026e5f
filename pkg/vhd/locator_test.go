package vhd_test

import (
	"slices"
	"testing"
)

// A fault of a parent locator is an error only if no locator leads to the parent.
func TestLocatorFindings(t *testing.T) {
	const end = 4096 // offset of the trailing footer, after the texts
	at := func(slot int, code string, length uint32, offset uint64, es ...edit) edit {
		return func(b []byte) {
			e := b[576+24*slot:][:24]
			apply(e, append([]edit{text(0, code), u32(4, 512), u32(8, length), u64(16, offset)}, es...))
		}
	}
	good := at(7, "W2ku", 10, 3072)
	for _, c := range []struct {
		name          string
		entry         edit
		alone, beside []string // findings for the entry alone, and with a good one
	}{
		{"right", at(0, "W2ru", 10, 2048), nil, nil},
		{"of no length", at(0, "W2ru", 0, 2048), []string{"error locator-length"}, []string{"warning locator-length"}},
		{"too long", at(0, "W2ru", 64<<10+2, 3584), []string{"error locator-length"}, []string{"warning locator-length"}},
		{"half a character", at(0, "W2ru", 11, 2048), []string{"error locator-length"}, []string{"warning locator-length"}},
		{"past the end of the file", at(0, "W2ru", 10, 1<<40), []string{"error locator-place"}, []string{"warning locator-place"}},
		{"at the largest offset", at(0, "W2ru", 10, allOnes), []string{"error locator-place"}, []string{"warning locator-place"}},
		{"partly past the end of the file", at(0, "W2ru", 10, end+510), []string{"error locator-place"}, []string{"warning locator-place"}},
		{"in the trailing footer", at(0, "W2ru", 10, end), []string{"error locator-place"}, []string{"warning locator-place"}},
		{"partly in the trailing footer", at(0, "W2ru", 10, end-8), []string{"error locator-place"}, []string{"warning locator-place"}},
		{"in the copy of the footer", at(0, "W2ru", 10, 0), []string{"error locator-place"}, []string{"warning locator-place"}},
		{"in the header", at(0, "W2ru", 10, 1024), []string{"error locator-place"}, []string{"warning locator-place"}},
		{"in the BAT", at(0, "W2ru", 10, 1536), []string{"error locator-place"}, []string{"warning locator-place"}},
		// Others may know an unknown code.
		{"of an unknown code", at(0, "Zzzz", 10, 2048), []string{"warning locator-code"}, []string{"warning locator-code"}},
		{"reserved bytes", at(0, "W2ru", 10, 2048, u32(12, 1)), []string{"warning locator-reserved"}, []string{"warning locator-reserved"}},
		{"reserved bytes, and of no length", at(0, "W2ru", 0, 2048, u32(12, 1)), []string{"error locator-length", "warning locator-reserved"}, []string{"warning locator-length", "warning locator-reserved"}},
		{"without space", at(0, "W2ru", 600, 2048, u32(4, 512)), []string{"warning locator-space"}, []string{"warning locator-space"}},
		{"space in sectors", at(0, "W2ru", 600, 2048, u32(4, 2)), nil, nil},
		{"space that is no multiple of 512", at(0, "W2ru", 10, 2048, u32(4, 600)), []string{"warning locator-space"}, []string{"warning locator-space"}},
		{"of one code twice", func(b []byte) {
			at(0, "W2ru", 10, 2048)(b)
			at(1, "W2ru", 10, 2560)(b)
		}, []string{"warning locator-twice"}, []string{"warning locator-twice"}},
		{"over another one", func(b []byte) {
			at(0, "W2ru", 10, 2048)(b)
			at(1, "MacX", 10, 2050)(b)
		}, []string{"warning locator-place"}, []string{"warning locator-place"}},
		{"over a larger one", func(b []byte) {
			at(0, "W2ru", 1000, 2048, u32(4, 1024))(b)
			at(1, "MacX", 10, 3040)(b)
		}, []string{"warning locator-place"}, []string{"warning locator-place"}},
		{"beside another one", func(b []byte) {
			at(0, "W2ru", 10, 2048)(b)
			at(1, "MacX", 10, 2058)(b)
		}, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := func(es ...edit) []byte {
				return craft{size: 16 * kib, footer: []edit{u32(60, differencing)}, header: append([]edit{text(40, parentID), c.entry}, es...), end: end}.bytes()
			}
			name := text(64, bigEndian("p.vhd"))
			if got := found(t, image(name), nil); !slices.Equal(got, c.alone) {
				t.Errorf("alone: %q, want %q", got, c.alone)
			}
			if got := found(t, image(name, good), nil); !slices.Equal(got, c.beside) {
				t.Errorf("beside a good one: %q, want %q", got, c.beside)
			}
			// Without a name nothing leads to the parent.
			want := c.alone
			if !slices.Equal(c.alone, c.beside) || c.name == "of an unknown code" {
				want = append(slices.Clone(want), "error parent-unnamed")
			}
			if got := found(t, image(), nil); !slices.Equal(got, want) {
				t.Errorf("alone, without a name: %q, want %q", got, want)
			}
		})
	}
}
