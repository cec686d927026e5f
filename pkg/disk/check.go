package disk

import (
	"context"
	"iter"
	"time"
)

// Checker examines one image and changes nothing. It is used once, by one
// goroutine.
type Checker interface {
	// Findings yields each fault as it is found. An error ends it: the error is
	// one of reading, or ctx.Err(), or says that the file is not an image of the
	// format. What is wrong with the image itself is a Finding. Breaking off the
	// iteration ends the work.
	Findings(ctx context.Context) iter.Seq2[Finding, error]
	// Counts sums up what Findings has examined so far. It is complete when
	// Findings has ended without an error.
	Counts() CheckCounts
	// Diagnosis says in a few sentences what happened to the image, the most
	// important first; none if there is no error and no lost data. It is complete
	// when Findings has ended without an error.
	Diagnosis() []string
}

// CheckOptions say how to check an image. The zero value checks the image alone,
// and not what its blocks hold.
type CheckOptions struct {
	Options Options      // the format's own, as for opening
	Deep    bool         // also examine the contents of blocks
	Device  bool         // the image is on a device, whose end may be unused
	Chain   bool         // also check the parents, if the image is in an os.File
	Parents ParentSearch // where the parents may be
	NoLock  bool         // open parents even if another process writes to them
	Now     time.Time    // what time stamps are compared with; zero: the present
	// Progress, if set, is called with the bytes of blocks that Deep has examined,
	// and will have.
	Progress Progress
}

// CheckCounts sum up a check.
type CheckCounts struct {
	Size      int64 // of the disk, bytes
	BlockSize int64 // bytes; 0 if the image has no blocks
	Blocks    int64 // of the disk
	Allocated int64 // blocks with a place in the file
	// Fragmented blocks do not follow, in the file, the allocated block before
	// them on the disk.
	Fragmented int64
	Compressed int64 // blocks that are stored compressed; they count as fragmented
	Leaked     int64 // blocks that would fit in the space that nothing refers to
	Orphaned   int64 // of these, those in space that holds data
	// Missing are the bytes that a cut has removed from the end of the file, the
	// trailing footer included; 0 if the file was not cut, or that is not known.
	Missing int64
	End     int64 // of what is in use in the file, the last structure included

	Errors, Warnings int64 // faults found, by severity
}

// RepairOptions say what to repair.
type RepairOptions struct {
	// All repairs everything that can be repaired without losing a byte of the
	// disk. Without it, only leaked space is returned to the file system.
	All bool
	// Deep also makes data readable that the image holds and hides. It reads all
	// of the image.
	Deep bool
	// Saved says that the caller saves everything that is overwritten or cut off. Then
	// space that holds data and that nothing refers to is returned to the file system.
	Saved bool
	// DiscardOrphans does so, too, without anything being saved.
	DiscardOrphans bool
	// Force repairs an image that should not be written, such as that of a suspended
	// virtual machine.
	Force bool
	// Progress, if set, is called with the bytes examined and moved, and those to
	// examine and move. The total grows as more turns out to be needed.
	Progress Progress
}

// Repaired is one thing that a repair has done.
type Repaired struct {
	ID     string // of the finding that it answers
	Offset int64  // in the file, bytes, of what was written, moved or cut off
	Length int64  // in bytes; what lies between several writes is included
	Text   string // what was done, in the past tense
	// Doubtful are bytes of the disk that the repair could not restore: they are zeros
	// in place of what the file has lost, or the contents of another block.
	Doubtful []Range
}

// Range is n bytes of a disk from an offset on.
type Range struct{ Off, N int64 }

// String is the text.
func (r Repaired) String() string { return r.Text }
