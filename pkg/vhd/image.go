package vhd

import (
	"io"
	"sync"
	"sync/atomic"

	"github.com/vhdtool/vhdtool/internal/atomicfile"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Image is an open VHD image: a [disk.Disk] that, if opened or created for
// writing, is also an [io.WriterAt], a [disk.Syncer], a [disk.Zeroer] and a
// [disk.Reserver].
//
// ReadAt, WriteAt, WriteZeroes, Reserve, Sync and Extents are safe from many
// goroutines: reads do not wait for each other, writes into allocated blocks run
// side by side, and allocation is serialised. Close does not wait for calls in
// flight: call it last.
//
// After an error of WriteAt, WriteZeroes or Reserve the image can be used on: each
// sector that was to be written has its old or its new contents, in memory and in
// the file. Sync can be called again. A call that changes the image's structure
// (Resize, SetParent, Detach, Empty, SetFooter and other setters) either has changed
// nothing, or the image has failed: every later call returns the error, which
// wraps ErrFailed, and the file is as a crash at that moment would have left it. So
// it is after a failed flush.
type Image struct {
	r     io.ReaderAt
	f     disk.File        // the same file if it can be written, else nil
	out   *atomicfile.File // a new file that gets its name when it is complete
	state state

	closer io.Closer // closed with the image, or nil

	footer      Footer
	footerAt    int64   // offset of the footer that was chosen
	trailer     trailer // where the trailing footer is; guarded by alloc.mu while blocks are allocated
	copiesAgree bool    // both footers are valid and equal, where there are two
	twoIDs      bool    // the footers are of different images: neither may be overwritten
	rule        SizeRule
	size        int64 // virtual, bytes
	reserved    bool  // a fixed disk that is written, whose file has all of its storage and keeps it

	// Of dynamic images only:
	header  Header
	lay     layout
	bat     bat
	bitmaps bitmaps
	batmap  *batmap  // XenServer's, or nil
	salvage *salvage // of an image that was opened with OpenOptions.Salvage, or nil

	// Of differencing images only:
	parentRecord ParentRecord
	parent       disk.Disk // nil if the image was opened without it
	parentPath   string    // the path by which it was found
	parentErr    error     // why it could not be opened, if the image was opened nevertheless

	plan     CreateOptions // of a new image
	unsynced atomic.Bool   // something was written since Sync
	syncing  sync.Mutex    // one Sync at a time
	synced   bool          // Sync has succeeded once; guarded by syncing
	alloc    allocator
}

// Size is the virtual size in bytes, a multiple of 512.
func (img *Image) Size() int64 { return img.size }

// Footer returns the footer that was believed when the image was opened.
func (img *Image) Footer() Footer { return img.footer }

// FooterOffset is where in the file the footer that [Image.Footer] returns is.
func (img *Image) FooterOffset() int64 { return img.footerAt }

// HasTrailingFooter reports whether that is the trailing footer, and not the copy
// at offset 0.
func (img *Image) HasTrailingFooter() bool { return img.trailer.present() }

// FooterCopiesAgree reports whether the trailing footer and the copy at offset 0
// are valid and equal. It is true for a fixed disk, which has no copy.
func (img *Image) FooterCopiesAgree() bool { return img.copiesAgree }

// Header returns the dynamic disk header. It is zero for a fixed disk.
func (img *Image) Header() Header { return img.header }

// Type is the disk type.
func (img *Image) Type() DiskType { return img.footer.Type }

// SizedBy is the rule that gave the virtual size: SizeFromGeometry or
// SizeFromCurrent.
func (img *Image) SizedBy() SizeRule { return img.rule }

// BlockSize is the unit of allocation in bytes. It is 0 for a fixed disk.
func (img *Image) BlockSize() int64 { return img.lay.blockSize }

// LogicalSectorSize implements [disk.SectorSizer]: it is always 512.
func (img *Image) LogicalSectorSize() int64 { return SectorSize }

// BlockCounts returns how many blocks the disk has, and how many of them have a
// place in the file; both are 0 for a fixed disk.
func (img *Image) BlockCounts() (total, allocated int64) {
	return img.bat.len(), img.bat.count()
}

// differencing reports whether what the image does not have is its parent's.
func (img *Image) differencing() bool { return img.footer.Type == Differencing }

// dynamic reports whether the disk has blocks.
func (img *Image) dynamic() bool { return img.footer.Type != Fixed }
