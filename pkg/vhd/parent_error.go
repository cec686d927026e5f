package vhd

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/google/uuid"

	"github.com/vhdtool/vhdtool/internal/parentfile"
)

// MaxParents is how many parents an image can have, one behind the other.
const MaxParents = 256

// What a *ParentError wraps.
var (
	// ErrParentNotFound: no file that was looked at is the parent.
	ErrParentNotFound = errors.New("the parent was not found")
	// ErrParentMismatch: there is a file where the parent should be, and it has
	// another unique id.
	ErrParentMismatch = errors.New("what stands in the parent's place is another image")
	// ErrParentAmbiguous: several files in the directories of the search have the parent's
	// unique id, and none has the name that the image records.
	ErrParentAmbiguous = errors.New("several files may be the parent")
	// ErrParentLoop: the image is among its own parents.
	ErrParentLoop = errors.New("the image is among its own parents")
	// ErrParentRefused: the parent's path leads to where an image is not trusted
	// to lead.
	ErrParentRefused = parentfile.ErrRefused
)

// errSameID is what [TriedParent] says of each of several files.
var errSameID = errors.New("it has this unique id")

// ErrNoParent: the image was opened without its parent, and what it has from that
// was to be read.
var ErrNoParent = errors.New("the image was opened without its parent")

// ParentError says why the parent of an image could not be opened.
type ParentError struct {
	// Opened are the paths of the parents that could be opened, nearest first. The missing
	// one is the parent of the last of them; if there is none, it is that of the image
	// itself.
	Opened []string
	ID     uuid.UUID // of the missing parent
	Kind   error     // ErrParentNotFound, ErrParentMismatch, ErrParentAmbiguous or ErrParentLoop
	Tried  []TriedParent
}

// Image is the path of the image whose parent is missing; "" if it is the image that was
// to be opened.
func (e *ParentError) Image() string {
	if len(e.Opened) == 0 {
		return ""
	}
	return e.Opened[len(e.Opened)-1]
}

// TriedParent is a path where the parent was looked for, and what came of it.
type TriedParent struct {
	Path string
	Err  error
}

func (e *ParentError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v (%s", e.Kind, describeID(e.ID))
	if image := e.Image(); image != "" {
		fmt.Fprintf(&b, ", the parent of %s", printable(image))
	}
	b.WriteString(")")
	for i, t := range e.Tried {
		sep := "; "
		if i == 0 {
			sep = ": tried "
		}
		fmt.Fprintf(&b, "%s%s: %v", sep, printable(t.Path), t.Err)
	}
	if len(e.Tried) == 0 {
		b.WriteString(": the image has no path to it")
	}
	return b.String()
}

// Unwrap returns the kind, and why each path was not the one.
func (e *ParentError) Unwrap() []error {
	errs := []error{e.Kind}
	for _, t := range e.Tried {
		errs = append(errs, t.Err)
	}
	return errs
}

// printable is a path as it can be shown: the text comes from an image.
func printable(path string) string {
	if strings.ContainsFunc(path, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(path)
	}
	return path
}

func describeID(id uuid.UUID) string {
	if id == uuid.Nil {
		return "a raw disk"
	}
	return "unique id " + id.String()
}
