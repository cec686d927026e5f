package vhd

import "github.com/vhdtool/vhdtool/pkg/disk"

// Finding is one fault that [Checker.Findings] reports. [Open] refuses an image
// for the same findings, in the same words, if their severity is Error and reading
// would go wrong.
type Finding = disk.Finding

// Severity says what a finding means for the image.
type Severity = disk.Severity

// The severities of findings.
const (
	Warning = disk.Warning
	Leak    = disk.Leak
	Error   = disk.Error
)

// finding is a Finding with what Open needs to know about it.
type finding struct {
	Finding

	unsupported bool // the image may be correct; this package cannot read it
	checksum    bool // OpenOptions.IgnoreChecksums ignores it
	harmless    bool // an error to report, but every byte can be read
	kept        bool // no repair acts on it, other than on others with this ID
}

// remedies say what Repair does about findings, by ID.
var remedies = map[string]string{
	"file-length":       "write a footer behind the end that is torn",
	"trailing-footer":   "write the footer anew from its copy",
	"leading-footer":    "write the copy anew from the footer",
	"footers-differ":    "write the copy anew from the footer",
	"footer-checksum":   "compute it anew, if nothing else is wrong",
	"header-checksum":   "correct it, if the rest of the header is consistent",
	"fixed-data-offset": "write all ones",
	"footer-torn":       "add the zeros that are missing",
	"data-offset":       "look for the header in the first MiB",
	"header-cookie":     "look for the header in the first MiB",
	"bat-beyond-end":    "lengthen the file, if only the tail of the block is missing",
	"bat-overlap":       "copy one of the blocks to a place of its own",
	"bat-excess":        "mark the entries as unused",
	"bitmap-data":       "set the bits, with --deep",
	"batmap-bit":        "clear the bit",
	"batmap-bitmap":     "clear the bit",
	"batmap-checksum":   "compute it anew",
	"leak":              "move blocks into it, and cut the file",
}

// err is the error with which Open refuses the image.
func (f finding) err() error {
	kind := ErrCorrupt
	if f.unsupported {
		kind = ErrUnsupported
	}
	return &FormatError{ID: f.ID, Note: f.Note, Offset: f.Offset, Field: f.Field, Got: f.Got, Want: f.Want, Kind: kind}
}

// refusal returns the error for the first finding that keeps an image from
// being opened, or nil.
func refusal(findings []finding, ignoreChecksums bool) error {
	for _, f := range findings {
		if f.Severity == Error && !f.harmless && (!f.checksum || !ignoreChecksums) {
			return f.err()
		}
	}
	return nil
}
