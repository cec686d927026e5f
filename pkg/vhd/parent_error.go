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

// MaxParents is the most parents in the chain of an image.
const MaxParents = 256

// The kinds of a *ParentError.
var (
	// ErrParentNotFound: none of the files that were tried is the parent.
	ErrParentNotFound = errors.New("the parent was not found")
	// ErrParentMismatch: the file at the parent's path has another unique id. It is another
	// image, or the parent after another child was merged into it.
	ErrParentMismatch = errors.New("the parent has a different unique id")
	// ErrParentAmbiguous: several files in the directories of the search have the parent's
	// unique id, and none has the name that the image records.
	ErrParentAmbiguous = errors.New("several files may be the parent")
	// ErrParentLoop: the image is among its own parents.
	ErrParentLoop = parentfile.ErrLoop
	// ErrParentRefused: the parent's path leads out of the trusted directories.
	ErrParentRefused = parentfile.ErrRefused
)

// errSameID is the error of a [TriedParent] for each of several files with the parent's id.
var errSameID = errors.New("it has this unique id")

// ErrNoParent: the image was opened without its parent, and a read needs the parent.
var ErrNoParent = errors.New("the image was opened without its parent")

// ParentError says why the parent of an image could not be opened.
type ParentError struct {
	// Opened are the paths of the parents that could be opened, nearest first. The missing
	// parent is that of the last of them, or without any that of the image itself.
	Opened []string
	ID     uuid.UUID // of the missing parent
	Kind   error     // ErrParentNotFound, ErrParentMismatch, ErrParentAmbiguous or ErrParentLoop
	Tried  []TriedParent
}

// Image returns the path of the image whose parent is missing; "" means the image that was to
// be opened.
func (e *ParentError) Image() string {
	if len(e.Opened) == 0 {
		return ""
	}
	return e.Opened[len(e.Opened)-1]
}

// TriedParent is a path that the search for a parent has tried, and the result.
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

// Unwrap returns the kind, and the errors of the paths that were tried.
func (e *ParentError) Unwrap() []error {
	errs := []error{e.Kind}
	for _, t := range e.Tried {
		errs = append(errs, t.Err)
	}
	return errs
}

// printable returns a path in a form that is safe to print: the text comes from an image.
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
