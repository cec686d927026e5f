package vhd

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// proposeFooter returns a footer for a file without any, and findings about it.
func (c *Checker) proposeFooter(fs *footers) (*footerCopy, []finding, error) {
	f := footersLost(fs.trailing.off)
	f.Note = "the dynamic disk header is damaged, too"
	x, err := rebuildFooter(c.ctx, c.r, c.size, fs)
	if err != nil || x == nil {
		copied := lostCopy()
		return nil, []finding{f, copied}, err
	}
	f.Note = x.note()
	if x.certain {
		f.Remedy = "rebuild it from the dynamic disk header"
	}
	copied := lostCopy()
	copied.Remedy = f.Remedy
	return &x.footerCopy, []finding{f, copied}, nil
}

// note describes the sources of the footer, and its uncertain fields.
func (x *rebuiltFooter) note() string {
	s := fmt.Sprintf("a footer for a %v disk of %d bytes can be rebuilt", x.Type, x.CurrentSize)
	if !x.sizeKnown {
		s += fmt.Sprintf("; the disk may have up to %d bytes less", x.header.BlockSize-SectorSize)
	}
	if !x.idKnown {
		s += "; its unique id is lost, so its children cannot identify it by its id"
	}
	if !x.certain {
		s += "; the header or the BAT has errors, so --salvage reads it, and a repair leaves it alone"
	}
	return s
}

// explain adds to the text of a repair that the footer was rebuilt.
func (x *rebuiltFooter) explain(done *Repaired) {
	done.Text += fmt.Sprintf(": it was rebuilt from the dynamic disk header, for a disk of %d bytes", x.CurrentSize)
	if !x.idKnown {
		done.Text += " with a new unique id"
	}
	if !x.sizeKnown {
		n := int64(x.header.BlockSize) - SectorSize
		done.Text += fmt.Sprintf("; the disk may have had up to %d bytes less", n)
		done.Doubtful = append(done.Doubtful, disk.Range{Off: int64(x.CurrentSize) - n, N: n})
	}
}

// rebuiltFooter returns a footer for a file without any. If the footer is uncertain, the error
// wraps ErrBeyondRepair and lost.
func (r *repairer) rebuiltFooter(fs *footers, lost error) (*rebuiltFooter, error) {
	var x *rebuiltFooter
	var err error
	if fs.header && !fs.trailing.marked() && !fs.leading.marked() {
		if x, err = rebuildFooter(r.ctx, r.f, r.size, fs); err != nil {
			return nil, err
		}
	}
	if x == nil || !x.certain {
		return nil, fmt.Errorf("%w: %w", ErrBeyondRepair, lost)
	}
	if !x.idKnown {
		if x.UniqueID, err = uuid.NewRandom(); err != nil {
			return nil, err
		}
	}
	x.Checksum = x.checksumWanted()
	return x, nil
}

// proposeHeader adds the sources of a rebuilt header to the finding that prevents reading the
// header.
func (c *Checker) proposeHeader(f *footerCopy, found []finding, h *Header, limit int64) error {
	if refusal(found, true) == nil {
		return nil
	}
	if at, err := scanForHeader(c.ctx, c.r, c.size, &f.Footer); err != nil || at >= 0 {
		return err
	}
	x, err := rebuildHeader(c.ctx, c.r, &f.Footer, limit)
	if err != nil {
		return err
	}
	for i := range found {
		if found[i].Severity != Error || found[i].checksum {
			continue
		}
		if x == nil {
			return nil
		}
		found[i].Note = fmt.Sprintf("a header for blocks of %d bytes can be rebuilt from the footer and the BAT at its usual place", x.BlockSize)
		switch {
		case f.Type == Differencing:
			found[i].Note += ", but the record of the parent is lost: --salvage reads what the image itself has, and a repair leaves it alone"
		case x.certain && lostHeaderAt(f, h):
			found[i].Remedy = "rebuild it from the footer and the BAT"
		case x.certain && f.valid():
			found[i].Note += ", but a program wrote this one, because its checksum is right: --salvage reads the image, and a repair leaves it alone"
		case x.certain:
			found[i].Note += ", but the footer is damaged, too: --salvage reads the image, and a repair leaves it alone"
		default:
			found[i].Note += ", but nothing proves it: --salvage reads the image, and a repair leaves it alone"
		}
		return nil
	}
	return nil
}

// lostHeaderAt reports whether a repair may overwrite the contents at the header's offset: no
// program wrote them as a header, and the footer is valid.
func lostHeaderAt(f *footerCopy, h *Header) bool {
	return f.valid() && (h.Cookie != headerCookie || h.Checksum != h.checksumWanted())
}

// rebuildHeader writes a header that is certain, and returns its offset, or -1 if there is
// none. It writes the bytes that make the header valid last.
func (r *repairer) rebuildHeader(c *footerCopy, h *Header, found []finding) (int64, error) {
	limit := r.size
	if !c.leading {
		limit = c.off
	}
	x, err := rebuildHeader(r.ctx, r.f, &c.Footer, limit)
	if err != nil || x == nil || !x.certain || !lostHeaderAt(c, h) {
		return -1, err
	}
	b := x.Encode()
	if err := r.write(b[SectorSize:], x.at+SectorSize); err != nil {
		return -1, err
	}
	if err := r.write(b[:SectorSize], x.at); err != nil {
		return -1, err
	}
	id := "header-cookie"
	for _, f := range found {
		if f.Severity == Error && !f.checksum {
			id = f.ID
			break
		}
	}
	r.did(id, x.at, headerSize, "the header was rebuilt from the footer and the BAT, for blocks of %d bytes", x.BlockSize)
	return x.at, nil
}

// minRebuilt is the least number of BAT entries that are rebuilt. The offset of a single block
// proves little: if one entry is wrong and another was lost, the block may belong to either.
const minRebuilt = 2

// proposeEntries adds to a finding about BAT entries which of them can be rebuilt.
func proposeEntries(f *finding, all []batProposal, blockSize int64) {
	if proposed(all) < minRebuilt || len(f.Disk) == 0 || f.ID != "bat-beyond-end" && f.ID != "bat-over-metadata" {
		return
	}
	first := f.Disk[0].Off / blockSize
	for _, x := range all {
		if x.first < first+f.Faults() && first < x.first+int64(len(x.entries)) {
			f.Note = x.note()
			if x.certain {
				f.Remedy = "rebuild them from the order of the blocks in the file"
			}
			return
		}
	}
}

// errRebuilt says that BAT entries were rebuilt or discarded, and that the image must be opened
// again.
var errRebuilt = errors.New("BAT entries have changed")

// rebuildSeparated rebuilds the entries whose blocks were unknown while others overlapped.
func (r *repairer) rebuildSeparated(*Image) error {
	if len(r.overlapped) == 0 {
		return nil
	}
	changed, err := r.rebuildEntries()
	if err == nil && changed {
		err = errRebuilt
	}
	return err
}

// rebuildEntries writes the BAT entries that are certain, one sector of the table at a time.
func (r *repairer) rebuildEntries() (changed bool, err error) {
	size := r.fileSize()
	img, err := NewImage(r.f, size, &OpenOptions{Parents: disk.ParentSearch{None: true}, tolerateBAT: true})
	if err != nil || !img.dynamic() || img.footer.SavedState != 0 && !r.o.Force {
		return false, nil // Open refuses the image for another reason: rebuilding does not help
	}
	all, err := rebuildBAT(r.ctx, img, int64(img.header.MaxTableEntries), img.trailer.present(), batSectors{})
	if err != nil || proposed(all) < minRebuilt {
		return false, err
	}
	p := img.lay.placement()
	for _, x := range all {
		if !x.certain {
			continue
		}
		id := "bat-beyond-end"
		for i := range x.entries {
			if e := img.bat.load(x.first + int64(i)); p.over(e) != nil {
				id = "bat-over-metadata"
				break
			}
		}
		for i := int64(0); i < int64(len(x.entries)); {
			at := img.lay.batOff + (x.first+i)*4
			n := min(int64(len(x.entries))-i, (SectorSize-at%SectorSize)/4)
			var b []byte
			for _, e := range x.entries[i : i+n] {
				b = binary.BigEndian.AppendUint32(b, e)
			}
			if err := r.write(b, at); err != nil {
				return changed, err
			}
			changed, r.changedEntries = true, true
			i += n
		}
		blocks := img.lay.diskRange(x.first, 0, img.size)
		blocks.N = min((x.first+int64(len(x.entries)))*img.lay.blockSize, img.size) - blocks.Off
		r.did(id, img.lay.batOff+x.first*4, int64(len(x.entries))*4, "%v %s rebuilt from the order of the blocks in the file: %s of the disk",
			&x, map[bool]string{true: "was", false: "were"}[len(x.entries) == 1], rangeText(blocks))
		r.done[len(r.done)-1].Doubtful = []disk.Range{blocks}
	}
	return changed, nil
}
