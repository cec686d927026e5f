package disk

import "fmt"

// Severity says what a finding means for the image.
type Severity uint8

const (
	// Warning: readers tolerate it, or it concerns interoperability.
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

// Finding is one fault that a check reports.
type Finding struct {
	ID       string // stable name of the rule, such as "bat-overlap"
	Severity Severity
	File     string  // path of the parent it concerns; "" for the image itself
	Offset   int64   // in the file, bytes, of the first byte at fault
	Field    string  // what is wrong, in the format's terms
	Got      string  // what was found
	Want     string  // what a correct image has there
	Count    int64   // faults that the finding stands for, such as BAT entries in a row; 0 means 1
	Remedy   string  // what a repair does about it; "" if nothing
	Bytes    int64   // of the file that are missing, were added or are not referenced; 0 if unknown or none
	Disk     []Range // bytes of the disk that it affects, as far as that is known
	Note     string  // what it may mean and what to do, where the fault does not say it; FILE in it is the file. Or ""
}

// String describes the finding in one line, without its severity and File.
func (f Finding) String() string {
	return fmt.Sprintf("%s at offset %d: found %s, wanted %s", f.Field, f.Offset, f.Got, f.Want)
}

// Faults is the number of faults that the finding stands for, at least 1.
func (f Finding) Faults() int64 { return max(f.Count, 1) }
