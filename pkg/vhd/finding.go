package vhd

import "fmt"

// Severity says what a finding means for the image.
type Severity uint8

const (
	// Warning: tolerated by readers, or a matter of interoperability.
	Warning Severity = iota
	// Leak: space in the file that nothing refers to.
	Leak
	// Error: data is wrong, unreadable or in danger.
	Error
)

// String returns the severity in lower case.
func (s Severity) String() string {
	switch s {
	case Warning:
		return "warning"
	case Leak:
		return "leak"
	case Error:
		return "error"
	}
	return fmt.Sprintf("severity %d", uint8(s))
}

// Finding is one thing that Check has to say about an image. [Open] refuses an
// image for the same findings, where their severity is Error and reading would
// go wrong.
type Finding struct {
	ID       string // stable name of the rule, such as "bat-overlap"
	Severity Severity
	File     string // path of the parent that it is about; "" for the image itself
	Offset   int64  // in the file, of what is wrong
	Field    string // what is wrong, in the format's words
	Got      string // what was found
	Want     string // what a right image has there

	unsupported bool // the image may be right; this package does not do it
	checksum    bool // an option lets it pass
	harmless    bool // an error to report, but every byte can be read
}

// Remedy says what [Remedy] does about the finding; "" means that it leaves it
// alone.
func (f Finding) Remedy() string {
	switch f.ID {
	case "file-length":
		return "write a footer behind the end that is torn"
	case "trailing-footer":
		return "write the footer anew from its copy"
	case "leading-footer", "footers-differ":
		return "write the copy anew from the footer"
	case "footer-checksum", "header-checksum":
		return "compute it anew, if nothing else is wrong"
	case "fixed-data-offset":
		return "write all ones"
	case "data-offset", "header-cookie":
		return "look for the header in the first MiB"
	case "bat-beyond-end":
		return "lengthen the file, if only the tail of the block is missing"
	case "bat-overlap":
		return "copy one of the blocks to a place of its own"
	case "bat-excess":
		return "mark the entries as unused"
	case "bitmap-data":
		return "set the bits, with --deep"
	case "batmap-bit", "batmap-bitmap":
		return "clear the bit"
	case "batmap-checksum":
		return "compute it anew"
	case "leak":
		return "move blocks into it, and cut the file"
	}
	return ""
}

// String describes the finding in one line.
func (f Finding) String() string {
	return fmt.Sprintf("%s at offset %d: found %s, want %s", f.Field, f.Offset, f.Got, f.Want)
}

// err is the error with which Open refuses the image.
func (f Finding) err() error {
	kind := ErrCorrupt
	if f.unsupported {
		kind = ErrUnsupported
	}
	return &FormatError{Offset: f.Offset, Field: f.Field, Got: f.Got, Want: f.Want, Kind: kind}
}

// refusal returns the error for the first finding that keeps an image from
// being opened, or nil.
func refusal(findings []Finding, ignoreChecksums bool) error {
	for _, f := range findings {
		if f.Severity == Error && !f.harmless && (!f.checksum || !ignoreChecksums) {
			return f.err()
		}
	}
	return nil
}
