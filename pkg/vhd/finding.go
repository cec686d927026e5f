package vhd

import "github.com/vhdtool/vhdtool/pkg/disk"

// Finding is one fault that [Checker.Findings] reports. [Open] refuses an image for the same
// findings, in the same words, if their severity is Error and reads would return wrong data.
type Finding = disk.Finding

// Severity is the effect of a finding on the image.
type Severity = disk.Severity

// The severities of findings.
const (
	Warning = disk.Warning
	Leak    = disk.Leak
	Error   = disk.Error
)

// finding is a Finding with the attributes that Open needs.
type finding struct {
	Finding

	unsupported bool // the image may be correct; this package cannot read it
	checksum    bool // OpenOptions.IgnoreChecksums ignores it
	harmless    bool // an error to report, but every byte can be read
}

// err returns the error with which Open refuses the image.
func (f finding) err() error {
	kind := ErrCorrupt
	if f.unsupported {
		kind = ErrUnsupported
	}
	return &FormatError{ID: f.ID, Note: f.Note, Offset: f.Offset, Field: f.Field, Got: f.Got, Want: f.Want, Text: f.Text, Kind: kind}
}

// refusal returns the error for the first finding that prevents Open, or nil.
func refusal(findings []finding, ignoreChecksums bool) error {
	for _, f := range findings {
		if f.Severity == Error && !f.harmless && (!f.checksum || !ignoreChecksums) {
			return f.err()
		}
	}
	return nil
}
