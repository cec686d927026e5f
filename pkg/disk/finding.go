package disk

import "fmt"

// Severity is the effect of a finding on the image.
type Severity uint8

const (
	// Warning: readers tolerate it, or it affects interoperability.
	Warning Severity = iota
	// Leak: unreferenced space in the file.
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

// Finding is one fault that a check reports.
type Finding struct {
	ID       string // stable name of the rule, such as "bat-overlap"
	Severity Severity
	File     string  // path of the affected parent; "" for the image itself
	Offset   int64   // of the first faulty byte in the file
	Field    string  // faulty field or structure, in terms of the format
	Got      string  // found value
	Want     string  // value in a correct image
	Number   *Number // Got and Want of a field that is a number, else nil
	Count    int64   // number of faults, such as consecutive BAT entries; 0 means 1
	Remedy   string  // what a repair does, if the check has determined it; else ""
	Text     string  // the fault in a sentence; "" if Field, Got and Want describe it
	Bytes    int64   // bytes missing, inserted or unreferenced; 0 if unknown or none
	Disk     []Range // affected ranges of the disk, as far as known
	Note     string  // possible meaning and advice, with FILE for the name of the file; or ""
}

// Number is the number found in a field, and the limits of a correct one. Sizes, offsets
// and lengths are in bytes, BAT entries in sectors. A limit that is zero or nil does not apply.
type Number struct {
	Found      uint64   `json:"found"`
	OneOf      []uint64 `json:"one-of,omitempty"`
	Min        *uint64  `json:"min,omitempty"`
	Max        *uint64  `json:"max,omitempty"`
	MultipleOf uint64   `json:"multiple-of,omitempty"`
}

// String describes the finding in one line, without its severity and File.
func (f Finding) String() string {
	if f.Text != "" {
		return f.Text
	}
	return fmt.Sprintf("%s at offset %d: found %s, wanted %s", f.Field, f.Offset, f.Got, f.Want)
}

// Faults is the number of faults in the finding, at least 1.
func (f Finding) Faults() int64 { return max(f.Count, 1) }
