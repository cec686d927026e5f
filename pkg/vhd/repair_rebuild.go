package vhd

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// proposeFooter makes a footer for a file without any, and the findings that say so.
func (c *Checker) proposeFooter(fs *footers) (*footerCopy, []finding, error) {
	f := footersLost(fs.trailing.off)
	f.kept = true
	f.Note = "the dynamic disk header is damaged, too"
	x, err := rebuildFooter(c.ctx, c.r, c.size, fs)
	if err != nil || x == nil {
		copied := lostCopy()
		copied.kept = true
		return nil, []finding{f, copied}, err
	}
	f.Note = x.note()
	if x.certain {
		f.Remedy = "rebuild it from the dynamic disk header"
	}
	copied := lostCopy()
	copied.Remedy, copied.kept = f.Remedy, true
	return &x.footerCopy, []finding{f, copied}, nil
}

// note says what the footer is made of, and what is not certain about it.
func (x *rebuiltFooter) note() string {
	s := fmt.Sprintf("a footer for a %v disk of %d bytes can be rebuilt", x.Type, x.CurrentSize)
	if !x.sizeKnown {
		s += fmt.Sprintf("; the disk may have up to %d bytes less", x.header.BlockSize-SectorSize)
	}
	if !x.idKnown {
		s += "; its unique id is lost, so images that have it as their parent do not find it by its id"
	}
	if !x.certain {
		s += "; the header or the BAT has errors, so --salvage reads it, and a repair leaves it alone"
	}
	return s
}

// explain says in what a repair has done that the footer was rebuilt.
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

// rebuiltFooter returns a footer for a file without any, or an error that wraps
// ErrBeyondRepair and lost, if it is not certain.
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

// proposeHeader notes, in the finding for which no header can be read, what a header can
// be rebuilt from.
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
		found[i].kept = true
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

// lostHeaderAt reports whether a repair may write another header over what is at the place of
// the header: no program has written that so, and the footer is right.
func lostHeaderAt(f *footerCopy, h *Header) bool {
	return f.valid() && (h.Cookie != headerCookie || h.Checksum != h.checksumWanted())
}

// rebuildHeader writes a header that is certain, and returns where it is; or -1 if there
// is none. What makes it count is written last.
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

// proposeEntries notes in a finding about BAT entries which of them can be rebuilt.
func proposeEntries(f *finding, proposed []batProposal, blockSize int64) {
	if len(f.Disk) == 0 || f.ID != "bat-beyond-end" && f.ID != "bat-over-metadata" {
		return
	}
	first := f.Disk[0].Off / blockSize
	for _, x := range proposed {
		if x.first < first+f.Faults() && first < x.first+int64(len(x.entries)) {
			f.Note = x.note()
			if x.certain {
				f.Remedy = "rebuild them from the order of the blocks in the file"
			}
			return
		}
	}
}

// errRebuilt: BAT entries were rebuilt, and the image must be opened again.
var errRebuilt = errors.New("BAT entries were rebuilt")

// rebuildSeparated rebuilds the entries whose blocks could not be told while others
// overlapped.
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

// rebuildEntries writes the BAT entries that are certain, a sector of the table at a
// time.
func (r *repairer) rebuildEntries() (changed bool, err error) {
	size := r.fileSize()
	img, err := NewImage(r.f, size, &OpenOptions{Parents: disk.ParentSearch{None: true}, tolerateBAT: true})
	if err != nil || !img.dynamic() || img.footer.SavedState != 0 && !r.o.Force {
		return false, nil // what Open refuses even so is beyond this
	}
	proposed, err := rebuildBAT(r.ctx, img, int64(img.header.MaxTableEntries), img.trailer.present(), batSectors{})
	if err != nil {
		return false, err
	}
	p := img.lay.placement()
	for _, x := range proposed {
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
			changed = true
			i += n
		}
		r.did(id, img.lay.batOff+x.first*4, int64(len(x.entries))*4, "%v rebuilt from the order of the blocks in the file", &x)
	}
	return changed, nil
}
