package disk

// LostRange is a range of a disk that a damaged image has lost.
type LostRange struct {
	Range
	// Doubtful reports that the range reads as bytes that may belong to another part of the disk.
	// Otherwise it reads as zeros.
	Doubtful bool
	// Reason is the cause, as a noun phrase in terms of the image's format.
	Reason string
}

// Salvaged is a disk that can be opened from a damaged image: see [OpenOptions].Salvage.
type Salvaged interface {
	Disk
	// Lost returns the ranges that were known to be lost when the image was opened, in the order of
	// the disk. Ranges do not overlap, and neighbours with the same reason are merged. All other
	// ranges have the contents of the image. Lost is empty without Salvage. The caller owns the
	// result.
	Lost() []LostRange
}
