package samples

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Damage is an image made of a sample by a few edits of its bytes.
type Damage struct {
	Name    string // of the file
	From    string // the sample it was made of
	Finding string // the ID of a finding that a check must report
	Edits   string // see Apply
	Note    string
}

// Damages returns the damaged images that are listed in testdata/damage/recipes.csv.
func Damages(t testing.TB) []Damage {
	t.Helper()
	var all []Damage
	for _, r := range table(t, "damage/recipes.csv") {
		all = append(all, Damage{r["image"], r["from"], r["finding"], r["edits"], r["note"]})
	}
	return all
}

// Unpack writes the damaged image into a new directory that is removed when the test
// ends, and returns its path. It has no parents.
func (d *Damage) Unpack(t testing.TB) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), d.Name)
	write(t, name, unpacked(t, "damage/"+d.Name))
	return name
}

// Apply makes the damaged image of the content of the sample. The edits are separated by
// semicolons; offsets are decimal, and negative ones count from the end of the file:
//
//	write OFFSET HEX       overwrite bytes
//	fill OFFSET N HEX      write one byte N times
//	copy FROM N TO         copy N bytes to the offset TO
//	cut N                  truncate to N bytes, or by -N bytes
//	append HEX             add bytes at the end
//	grow N                 add N zero bytes at the end
//	seal OFFSET            correct the checksum of the footer or header there
func (d *Damage) Apply(sample []byte) (image []byte, err error) {
	image = bytes.Clone(sample)
	for edit := range strings.SplitSeq(d.Edits, ";") {
		words := strings.Fields(edit)
		if image, err = apply(image, words); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", d.Name, edit, err)
		}
	}
	return image, nil
}

func apply(image []byte, words []string) (_ []byte, err error) {
	usage := map[string]int{"write": 3, "fill": 4, "copy": 4, "cut": 2, "append": 2, "grow": 2, "seal": 2}
	if len(words) == 0 || usage[words[0]] != len(words) {
		return nil, fmt.Errorf("not an edit")
	}
	offset := func(word string) int {
		n, nerr := strconv.Atoi(word)
		if n < 0 {
			n += len(image)
		}
		if nerr != nil || n < 0 || n > len(image) {
			err = fmt.Errorf("offset %q is outside of the %d bytes", word, len(image))
			return 0
		}
		return n
	}
	content := func(word string) []byte {
		b, herr := hex.DecodeString(word)
		if herr != nil {
			err = herr
		}
		return b
	}
	overwrite := func(off int, b []byte) {
		if n := copy(image[off:], b); n < len(b) && err == nil {
			err = fmt.Errorf("%d bytes at offset %d do not fit the file of %d bytes", len(b), off, len(image))
		}
	}
	switch words[0] {
	case "write":
		overwrite(offset(words[1]), content(words[2]))
	case "fill":
		overwrite(offset(words[1]), bytes.Repeat(content(words[3]), offset(words[2])))
	case "copy":
		from, n := offset(words[1]), offset(words[2])
		overwrite(offset(words[3]), bytes.Clone(image[from:min(from+n, len(image))]))
	case "cut":
		image = image[:offset(words[1])]
	case "append":
		image = append(image, content(words[1])...)
	case "grow":
		n, nerr := strconv.Atoi(words[1])
		if nerr != nil || n < 0 {
			return nil, fmt.Errorf("%q is no number of bytes", words[1])
		}
		image = append(image, make([]byte, n)...)
	case "seal":
		err = seal(image[offset(words[1]):])
	}
	return image, err
}

// seal corrects the checksum of the footer or header that b starts with.
func seal(b []byte) error {
	n, at := 512, 64
	if bytes.HasPrefix(b, []byte("cxsparse")) {
		n, at = 1024, 36
	}
	if len(b) < n {
		return fmt.Errorf("%d bytes are no footer and no header", len(b))
	}
	clear(b[at : at+4])
	sum := uint32(0)
	for _, c := range b[:n] {
		sum += uint32(c)
	}
	binary.BigEndian.PutUint32(b[at:], ^sum)
	return nil
}
