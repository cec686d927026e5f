package disk

import (
	"context"
	"iter"
	"time"
)

// Checker examines one image without changing it. Use it once, from one goroutine.
type Checker interface {
	// Findings yields each fault of the image. An error ends the sequence: a read error,
	// ctx.Err(), or a file that is not an image of the format. Breaking out of the loop stops
	// the check.
	Findings(ctx context.Context) iter.Seq2[Finding, error]
	// Counts summarises what Findings has examined so far. It is complete when Findings has
	// ended without an error.
	Counts() CheckCounts
	// Diagnosis explains in a few sentences what happened to the image, most important first.
	// It is empty without errors and lost data, and complete when Findings has ended without an
	// error.
	Diagnosis() []string
}

// CheckOptions select what to check. The zero value checks the metadata of the image alone.
type CheckOptions struct {
	Options Options      // options of the format, as for opening
	Deep    bool         // also examine the contents of blocks
	Device  bool         // the image is on a device, which may be longer than the image
	Chain   bool         // also check the parents, if the image is an os.File
	Parents ParentSearch // where to search for parents
	NoLock  bool         // open parents even if another process writes to them
	Now     time.Time    // reference for timestamps; zero: the current time
	// Opened, if set, is the disk of the same unchanged image. Metadata that opening has read and
	// validated is not examined again.
	Opened Disk
	// Progress, if set, is called with the bytes of blocks that Deep has examined, and their
	// total.
	Progress Progress
}

// CheckCounts summarise a check.
type CheckCounts struct {
	Size      int64 // of the disk, bytes
	BlockSize int64 // bytes; 0 if the image has no blocks
	Blocks    int64 // of the disk
	Allocated int64 // blocks stored in the file
	// Fragmented counts allocated blocks that do not follow the previous allocated block of the
	// disk in the file.
	Fragmented int64
	Leaked     int64 // unreferenced space, in blocks
	Orphaned   int64 // blocks of Leaked that contain data
	// Missing is the number of bytes cut off the end of the file, including the trailing
	// footer. It is 0 if nothing was cut off, or if the number is unknown.
	Missing int64
	End     int64 // end of the last structure in the file

	Errors, Warnings int64 // faults found, by severity
}

// RepairOptions select what to repair.
type RepairOptions struct {
	// All repairs everything that can be repaired without losing guest data. Without it, only
	// leaked space is returned to the file system.
	All bool
	// Deep also makes hidden data readable. It reads the whole image.
	Deep bool
	// Saved declares that the caller saves everything that is overwritten or cut off. Then
	// unreferenced space that contains data is freed, too.
	Saved bool
	// DiscardOrphans frees unreferenced space that contains data without saving it.
	DiscardOrphans bool
	// DiscardLost makes each block with an invalid BAT entry unallocated. It needs All.
	DiscardLost bool
	// Reconnect points BAT entries of blocks to unreferenced data in the file. It is validated
	// before anything is written, and done with or without All.
	Reconnect []Reconnection
	// Force repairs an image that should not be written, such as that of a suspended virtual
	// machine.
	Force bool
	// Progress, if set, is called with the bytes examined and moved, and their total. The total
	// grows as the repair discovers more work.
	Progress Progress
}

// Repaired is one change that a repair has made.
type Repaired struct {
	ID     string // of the finding that it repairs
	Offset int64  // of the change in the file
	Length int64  // of the change, from the first changed byte to the last
	Text   string // description, in the past tense
	// Doubtful are ranges of the disk that the repair could not restore. They hold zeros, or
	// the contents of another block.
	Doubtful []Range
}

// RepairReport lists the changes of a repair, in order, and the findings that are left.
type RepairReport struct {
	Done []Repaired
	Left []Unrepaired
}

// Unrepaired are the findings of one kind that a repair has left.
type Unrepaired struct {
	ID     string
	Count  int64  // faults
	Reason string // why they were left
	Next   NextStep
	// Reconnect are the blocks whose data follows from the order of the file, for NextReconnect; at
	// most a few.
	Reconnect []Reconnection
}

// NextStep is a possible next step for findings that a repair has left.
type NextStep uint8

// The next steps.
const (
	NextNone           NextStep = iota // there is none, or another finding must be repaired first
	NextRepairAll                      // repair with All
	NextRepairLeaks                    // repair again, to return leaked space
	NextSave                           // repair and save what is overwritten or cut off: Saved
	NextDiscardOrphans                 // discard the data: DiscardOrphans
	NextReconnect                      // connect blocks with data: Reconnect
	NextExtractOrphans                 // examine the unreferenced data
	NextDiscardLost                    // make the blocks unallocated: DiscardLost
	NextForce                          // repair although the image should not be written: Force
	NextNewID                          // give the image a new unique id
	NextCopyAgain                      // copy the file again from its source
	NextSalvage                        // read what can be read into another image
)

// Reconnection is a block of the disk and the offset in the file, bytes, at which the
// block is stored.
type Reconnection struct{ Block, Offset int64 }

// Orphan is space in the file that may hold a block, contains data, and is not referenced.
type Orphan struct {
	Offset int64 // in the file, bytes, of the sector bitmap
	Bitmap int64 // bytes of the bitmap; the data follows it
	Length int64 // bytes of the data
	// Blocks are the blocks that may be stored here, at most a few. A single one follows from
	// the order of the blocks in the file.
	Blocks []int64
}

// Range is a range of N bytes of a disk.
type Range struct{ Off, N int64 }

// String returns Text.
func (r Repaired) String() string { return r.Text }
