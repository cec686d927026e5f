package disk

// LostRange is a range of a disk whose contents a damaged image does not have.
type LostRange struct {
	Range
	// Doubtful says that the range does not read as zeros: it has bytes, and they may be
	// those of another part of the disk.
	Doubtful bool
	// Reason says why, as a noun phrase in the terms of the image's format.
	Reason string
}

// Salvaged is a disk that can be opened although its image is damaged: see
// [OpenOptions].Salvage.
type Salvaged interface {
	Disk
	// Lost returns what was known to be lost when the image was opened, in the order of
	// the disk. Ranges do not overlap, and neighbours with the same reason are merged.
	// The rest of the disk has the contents that the image stores. It is empty for an
	// image that was opened without Salvage, and is the caller's to change.
	Lost() []LostRange
}
