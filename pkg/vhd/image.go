package vhd

import (
	"io"
	"sync"
	"sync/atomic"

	"github.com/vhdtool/vhdtool/internal/atomicfile"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// Image is an open VHD image: a [disk.Disk]. An image that was opened for writing or created is
// also an [io.WriterAt], a [disk.Syncer], a [disk.Zeroer] and a [disk.Reserver].
//
// ReadAt, WriteAt, WriteZeroes, Reserve, Sync and Extents are safe for concurrent use. Reads do
// not wait for each other, writes into allocated blocks run in parallel, and allocation is
// serialised. Close does not wait for calls in flight: call it last.
//
// After an error of WriteAt, WriteZeroes or Reserve the image remains usable. Each sector of
// the write has its old or its new contents, in memory and in the file. Sync can be called
// again.
//
// Other calls change the image's structure: Resize, SetParent, Detach, Empty, SetFooter and
// other setters. After an error of these, either nothing has changed or the image has failed. A
// flush that fails also makes the image fail. Every later call on a failed image returns the
// error, which wraps ErrFailed, and the file is as after a crash at that moment.
type Image struct {
	r     io.ReaderAt
	f     disk.File        // the same file if it can be written, else nil
	out   *atomicfile.File // a new file that appears under its name when it is complete
	state state

	closer io.Closer // closed with the image, or nil

	footer      Footer
	footerAt    int64   // offset of the footer in use
	trailer     trailer // where the trailing footer is; guarded by alloc.mu while blocks are allocated
	copiesAgree bool    // both footers are valid and equal; true for a fixed disk
	twoIDs      bool    // the footers belong to different images: neither may be overwritten
	rule        SizeRule
	size        int64 // virtual size, bytes
	reserved    bool  // a fixed disk opened for writing, whose file keeps all of its storage

	// Of dynamic and differencing images only:
	header  Header
	lay     layout
	bat     bat
	bitmaps bitmaps
	batmap  *batmap  // XenServer's, or nil
	salvage *salvage // of an image that was opened with OpenOptions.Salvage, or nil

	// Of differencing images only:
	parentRecord ParentRecord
	parent       disk.Disk // nil if the image was opened without its parent
	parentPath   string    // the path at which the parent was found
	parentErr    error     // why the parent could not be opened, if the image was opened without it

	plan     CreateOptions // options of a new image
	unsynced atomic.Bool   // something was written since the last Sync
	syncing  sync.Mutex    // held by Sync
	synced   bool          // a Sync has succeeded; guarded by syncing
	alloc    allocator
}

// Size returns the virtual size in bytes, a multiple of 512.
func (img *Image) Size() int64 { return img.size }

// Footer returns the footer that was used to open the image.
func (img *Image) Footer() Footer { return img.footer }

// FooterOffset returns the offset in the file of the footer that [Image.Footer] returns.
func (img *Image) FooterOffset() int64 { return img.footerAt }

// HasTrailingFooter reports whether that is the trailing footer instead of the copy at offset
// 0.
func (img *Image) HasTrailingFooter() bool { return img.trailer.present() }

// FooterCopiesAgree reports whether the trailing footer and the copy at offset 0
// are valid and equal. It is true for a fixed disk, which has no copy.
func (img *Image) FooterCopiesAgree() bool { return img.copiesAgree }

// Header returns the dynamic disk header. It is zero for a fixed disk.
func (img *Image) Header() Header { return img.header }

// Type returns the disk type.
func (img *Image) Type() DiskType { return img.footer.Type }

// SizedBy returns the rule that determined the virtual size: SizeFromGeometry or
// SizeFromCurrent.
func (img *Image) SizedBy() SizeRule { return img.rule }

// BlockSize returns the unit of allocation in bytes. It is 0 for a fixed disk.
func (img *Image) BlockSize() int64 { return img.lay.blockSize }

// LogicalSectorSize implements [disk.SectorSizer]. It is always 512.
func (img *Image) LogicalSectorSize() int64 { return SectorSize }

// BlockCounts returns the number of blocks of the disk, and the number of allocated ones. Both
// are 0 for a fixed disk.
func (img *Image) BlockCounts() (total, allocated int64) {
	return img.bat.len(), img.bat.count()
}

// differencing reports whether unallocated sectors read from a parent.
func (img *Image) differencing() bool { return img.footer.Type == Differencing }

// dynamic reports whether the disk has blocks.
func (img *Image) dynamic() bool { return img.footer.Type != Fixed }
