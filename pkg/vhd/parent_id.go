package vhd

import (
	"fmt"

	"github.com/google/uuid"
)

// idAfterCommit returns the unique id that the parent with the given id gets when the image is
// merged into it. It depends only on both ids. A commit may be interrupted after the parent got
// its new id and before the image recorded it. The image then still recognises its parent, and
// other images do not.
func (img *Image) idAfterCommit(parent uuid.UUID) uuid.UUID {
	hash := uuid.NewSHA1(parent, img.footer.UniqueID[:])
	return successorID(parent, [8]byte(hash[:8]))
}

// successorID returns a unique id that starts with first and ends with a hash of first and the
// id before. It distinguishes the two footers of an image whose change of id is interrupted from
// those of different images.
func successorID(before uuid.UUID, first [8]byte) uuid.UUID {
	var id uuid.UUID
	copy(id[:], first[:])
	id[6] = id[6]&0x0f | 0x80 // version 8 of RFC 9562: custom
	hash := uuid.NewSHA1(before, id[:8])
	copy(id[8:], hash[:8])
	id[8] = id[8]&0x3f | 0x80
	return id
}

// isSuccessorID reports whether id is a successorID of before.
func isSuccessorID(id, before uuid.UUID) bool { return id == successorID(before, [8]byte(id[:8])) }

// isParentID reports whether the image's parent may have that unique id: the recorded one, or
// the one after an interrupted commit.
func (img *Image) isParentID(id uuid.UUID) bool {
	recorded := img.header.ParentID
	return id == recorded || recorded != uuid.Nil && id == img.idAfterCommit(recorded)
}

// RenewParentID gives the parent a new unique id and records it in the image. From then on
// other images with that parent are refused. Both must be open for writing.
//
// Each step is durable before the next. After a crash between them the image still opens with
// that parent, and RecordParentID completes the change. The error wraps ErrUnsupported if the
// parent is not an *Image: raw disks have no id.
func (img *Image) RenewParentID() error {
	parent, err := img.parentWithID()
	if err != nil {
		return err
	}
	if err := img.RecordParentID(); err != nil {
		return err
	}
	f := parent.footer
	f.UniqueID = img.idAfterCommit(f.UniqueID)
	if err := parent.SetFooter(f); err != nil {
		return fmt.Errorf("unique id of the parent: %w", err)
	}
	return img.RecordParentID()
}

// RecordParentID records the unique id of the open parent, durably, if an interrupted
// [Image.RenewParentID] left another one in the image. Otherwise it writes nothing. The error
// wraps ErrUnsupported if the parent is not an *Image.
func (img *Image) RecordParentID() error {
	parent, err := img.parentWithID()
	if err != nil {
		return err
	}
	id := parent.footer.UniqueID
	if id == img.header.ParentID {
		return nil
	}
	if err := img.state.inPlace("recording the parent's unique id in"); err != nil {
		return err
	}
	if err := img.Sync(); err != nil {
		return err
	}
	h := img.header
	h.ParentID = id
	return img.state.change(func() error {
		if err := img.writeHeader(h); err != nil {
			return err
		}
		img.parentRecord.ID = id
		return nil
	})
}

// parentWithID returns the open parent if it has a unique id.
func (img *Image) parentWithID() (*Image, error) {
	parent, ok := img.parent.(*Image)
	if !ok {
		return nil, fmt.Errorf("%w: a unique id of a parent of type %T", ErrUnsupported, img.parent)
	}
	return parent, nil
}
