package vhdx

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/vhdtool/vhdtool/internal/parentfile"
)

// Errors about parents.
var (
	// ErrParentNotFound: no examined file is the parent.
	ErrParentNotFound = errors.New("the parent was not found")
	// ErrParentMismatch: the file at the path of the parent has a different data write GUID. It is
	// another image, or the parent was changed.
	ErrParentMismatch = errors.New("the parent has a different data write GUID")
	// ErrParentAmbiguous: several files in the directories of the search may be the parent.
	ErrParentAmbiguous = errors.New("several files may be the parent")
	// ErrParentLoop: the image is among its own parents.
	ErrParentLoop = parentfile.ErrLoop
	// ErrNoParent: data of the parent was read from an image opened without its parent.
	ErrNoParent = errors.New("the image was opened without its parent")

	errTooDeep   = fmt.Errorf("%w: an image with more than %d parents", ErrUnsupported, MaxParents)
	errDrivePath = errors.New("a Windows path: only its file name was searched")
)

// ParentError says why the parent of an image could not be opened.
type ParentError struct {
	// Opened are the paths of the parents that could be opened, nearest first. The missing one
	// is the parent of the last of them, or of the image itself.
	Opened []string
	ID     uuid.UUID // data write GUID of the missing parent
	Kind   error     // ErrParentNotFound, ErrParentMismatch, ErrParentAmbiguous or ErrParentLoop
	Tried  []TriedParent
}

// TriedParent is a path that was tried, and the reason why the parent was not opened there.
type TriedParent struct {
	Path string
	Err  error
}

func (e *ParentError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v (data write GUID %v", e.Kind, e.ID)
	if n := len(e.Opened); n > 0 {
		fmt.Fprintf(&b, ", the parent of %s", strconv.Quote(e.Opened[n-1]))
	}
	b.WriteString(")")
	sep := ": tried "
	for _, t := range e.Tried {
		fmt.Fprintf(&b, "%s%s: %v", sep, strconv.Quote(t.Path), t.Err)
		sep = "; "
	}
	if len(e.Tried) == 0 {
		b.WriteString(": the image has no path to it")
	}
	return b.String()
}

// Unwrap returns the kind, and the reason for each path.
func (e *ParentError) Unwrap() []error {
	errs := []error{e.Kind}
	for _, t := range e.Tried {
		errs = append(errs, t.Err)
	}
	return errs
}
