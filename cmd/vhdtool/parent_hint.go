package main

import (
	"cmp"
	"errors"
	"strconv"
	"strings"
	"unicode"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// parentHint returns the hint for a broken chain of the image that the command line names. With
// backing, --parent is for another image of that command.
func parentHint(e *vhd.ParentError, image string, backing bool) string {
	child := quoteArg(cmp.Or(e.Image(), image))
	search := "--parent-dir DIR searches for the parent of " + child
	give := parentFlags(e) + " gives the parent of " + child
	damaged := damagedParent(e)
	switch {
	case errors.Is(e, vhd.ErrParentLoop):
		return "'vhdtool rebase -u -b FILE " + child + "' records another parent"
	case errors.Is(e, vhd.ErrParentRefused) && backing:
		return "--trust-parents follows the path; " + search
	case errors.Is(e, vhd.ErrParentRefused):
		return "--trust-parents follows the path; " + give
	case damaged != "":
		return "'vhdtool check " + quoteArg(damaged) + "' lists what is wrong with the parent of " + child
	case backing:
		return search
	case errors.Is(e, vhd.ErrParentAmbiguous):
		return give
	case errors.Is(e, vhd.ErrParentMismatch):
		return give + ", " + search + "; the parent also gets another id when another child is committed into it, and then it holds other data: " +
			"restore it, or if its data is right, 'vhdtool rebase -u -b FILE " + child + "' records it"
	}
	return give + ", " + search
}

// parentFlags returns the flags that name the missing parent, after those for the opened ones.
func parentFlags(e *vhd.ParentError) string {
	var b strings.Builder
	for _, path := range e.Opened {
		b.WriteString("--parent " + quoteArg(path) + " ")
	}
	return b.String() + "--parent FILE"
}

// damagedParent returns the file of a damaged image that may be the parent, or "".
func damagedParent(e *vhd.ParentError) string {
	for _, t := range e.Tried {
		if errors.Is(t.Err, vhd.ErrCorrupt) {
			return t.Path
		}
	}
	return ""
}

// quoteArg quotes a file name for a shell. Names come from images, so control characters are
// escaped.
func quoteArg(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		q := strconv.Quote(name)
		return "$'" + strings.ReplaceAll(q[1:len(q)-1], "'", `\'`) + "'"
	}
	plain := func(r rune) bool {
		return unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune(`/\._-+:,=@%`, r)
	}
	if name != "" && !strings.ContainsFunc(name, func(r rune) bool { return !plain(r) }) {
		return name
	}
	return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
}
