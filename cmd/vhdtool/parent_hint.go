package main

import (
	"cmp"
	"errors"
	"strconv"
	"strings"
	"unicode"

	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// parentHint is the way out of a chain that breaks, for the image in the file that the
// command line names. backing says that --parent is about another image of that command.
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

// parentFlags are the flags that name the missing parent, after those that could be opened.
func parentFlags(e *vhd.ParentError) string {
	var b strings.Builder
	for _, path := range e.Opened {
		b.WriteString("--parent " + quoteArg(path) + " ")
	}
	return b.String() + "--parent FILE"
}

// damagedParent is the file of a damaged image that may be the parent, or "".
func damagedParent(e *vhd.ParentError) string {
	for _, t := range e.Tried {
		if errors.Is(t.Err, vhd.ErrCorrupt) {
			return t.Path
		}
	}
	return ""
}

// quoteArg is a file name as a shell reads it. Names come from images: what a terminal would
// obey is escaped.
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
