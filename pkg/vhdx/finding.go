package vhdx

import (
	"fmt"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// finding is a fault of an image, with its effect on Open.
type finding struct {
	disk.Finding

	unsupported bool // the image may be correct; this package cannot read it
	harmless    bool // an error that does not affect reads
}

// newFinding returns a finding about a field at an offset of the file.
func newFinding(id string, severity disk.Severity, off int64, field, want, got string, args ...any) finding {
	return finding{Finding: disk.Finding{
		ID: id, Severity: severity, Offset: off, Field: field, Want: want, Got: fmt.Sprintf(got, args...),
	}}
}

// number adds the found number and the limits of a correct one.
func (f finding) number(found uint64, limits disk.Number) finding {
	limits.Found = found
	f.Number = &limits
	return f
}

// err returns the finding as the error of a read.
func (f finding) err() error {
	kind := ErrCorrupt
	if f.unsupported {
		kind = ErrUnsupported
	}
	return &FormatError{ID: f.ID, Offset: f.Offset, Field: f.Field, Got: f.Got, Want: f.Want, Kind: kind}
}

// refusal returns the first finding that makes the image unreadable as an error, or nil.
func refusal(found []finding) error {
	for _, f := range found {
		if f.Severity == disk.Error && !f.harmless {
			return f.err()
		}
	}
	return nil
}
