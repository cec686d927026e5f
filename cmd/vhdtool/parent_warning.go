package main

import (
	"fmt"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// warning is a doubt about an image that ends no command.
type warning struct{ text, hint string }

// warn prints a warning, unless called as qemu-img.
func (c *cli) warn(w warning) {
	if c.likeQEMU {
		return
	}
	c.message("warning: %s", w.text)
	if w.hint != "" {
		fmt.Fprintf(c.stderr, "hint: %s\n", oneLine(w.hint))
	}
}

// warnParents prints what parentWarnings lists.
func (c *cli) warnParents(d disk.Disk, name string) {
	for _, w := range parentWarnings(d, name) {
		c.warn(w)
	}
}

// parentWarnings lists the differences between the parents of the disk in the named file and the
// parent records of their children.
func parentWarnings(d disk.Disk, name string) []warning {
	child, ok := d.(disk.Child)
	if !ok {
		return nil
	}
	var ws []warning
	for _, f := range child.ParentFindings() {
		file := name
		if f.File != "" {
			file = quoteArg(f.File)
		}
		ws = append(ws, warning{fmt.Sprintf("%s: %s: found %s, wanted %s", file, f.ID, f.Got, f.Want), f.Note})
	}
	return ws
}
