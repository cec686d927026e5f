package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// commandHints are hints for commands of other programs: vhd-util, VBoxManage,
// vbox-img, PowerShell, diskpart, fsck and others. Keys are in lower case.
var commandHints = func() map[string]string {
	m := map[string]string{}
	for _, h := range []struct{ names, hint string }{
		{"repair fix recover fsck restore", "'check -r all' repairs an image; 'check --restore' undoes a repair"},
		{"verify validate test test-vhd scan diagnose doctor lint", "'check' reports damage"},
		{"mount attach mount-vhd unmount umount dismount dismount-vhd detach nbd", "vhdtool attaches no images; 'convert IMAGE disk.raw' makes a raw disk that losetup attaches"},
		{"optimize optimize-vhd compact compress trim sparsify discard defrag zerofree", "'check -r leaks' returns unused space; 'convert OLD NEW' also leaves out blocks of zeros"},
		{"shrink", "'resize --shrink' makes a disk smaller; 'check -r leaks' makes its file smaller"},
		{"clone copy cp clonehd clonemedium clonevdi convert-vhd convertfromraw converthd converttoraw convertdd import export transform dump", "'convert SOURCE TARGET' copies a disk to a new image"},
		{"show inspect describe stat list ls file query read identify get get-vhd showhdinfo showmediuminfo print dumpheader", "'info' shows the properties of an image"},
		{"new new-vhd make mk mkdisk init allocate createhd createmedium createvdi createbase", "'create FILE SIZE' makes an empty image"},
		{"child branch fork diff-create differencing checkpoint", "'create -b PARENT CHILD' makes an image that stores only changes"},
		{"merge merge-vhd coalesce consolidate mergemedium", "'commit CHILD' merges an image into its parent"},
		{"flatten collapse unlink", "'rebase -b \"\" CHILD' makes an image independent of its parent; 'convert CHILD NEW' makes an independent copy"},
		{"diff cmp equal", "'compare' compares the disks in two images"},
		{"grow expand extend enlarge resize-vhd modifyhd modifymedium truncate", "'resize FILE SIZE' changes the size of a disk"},
		{"reparent set-parent relink", "'rebase -u -b PARENT CHILD' records another parent"},
		{"modify edit change set-vhd setuuid sethduuid uuid settype", "'set' changes the UUID and other fields of a VHD"},
		{"chain parent parents", "'info --backing-chain' shows an image and its parents"},
		{"undo rollback revert", "'check --restore' undoes a repair; a child of 'create -b' can be deleted to drop its changes"},
		{"draw plot layout blocks extents fragmentation", "'map --draw' shows where the data is in the file"},
		{"size estimate du", "'info' shows the sizes of an image; 'measure' computes the length of a new file"},
		{"extract", "'dd' copies a part of a disk; 'convert IMAGE disk.raw' copies all of it"},
		{"write put", "'dd conv=notrunc' writes into an existing image"},
		{"benchmark perf", "'bench' measures how fast an image is read or written"},
		{"version", "'--version' prints the version"},
		{"options formats", "'help options' lists the formats and their options"},
		{"products", "'help products' lists the products"},
	} {
		for name := range strings.FieldsSeq(h.names) {
			m[name] = h.hint
		}
	}
	return m
}

// unknownCommand returns the error about a command that does not exist.
func unknownCommand(typed string) error {
	return &hintError{usagef("Command not found: %s", typed), suggestCommand(typed)}
}

// suggestCommand returns a hint about a command that does not exist. The result may also be other
// names.
func suggestCommand(typed string, others ...string) string {
	if hint := commandHints()[strings.ToLower(typed)]; hint != "" {
		return hint
	}
	if ext := strings.ToLower(filepath.Ext(typed)); exists(typed) || formats.BySuffix(typed) != nil || ext == ".raw" || ext == ".img" {
		return fmt.Sprintf("a command comes first: 'info %s' shows the properties of an image", quoteArg(typed))
	}
	names := others
	for name := range commands {
		if !hiddenCommands[name] {
			names = append(names, name)
		}
	}
	if near := nearest(typed, append(names, "help", "completion")); len(near) > 0 {
		return "did you mean " + joinWords(quoteAll(near), "or") + "?"
	}
	return "'help' lists the commands"
}

// hiddenCommands exist only for scripts of qemu-img.
var hiddenCommands = map[string]bool{"amend": true, "bench": true, "bitmap": true, "snapshot": true}

// flagHints returns hints for flags that other programs have.
func flagHints() map[string]string {
	return map[string]string{
		"for":           "'check --for PRODUCT' examines an image by the rules of a product",
		"format":        "-f FORMAT names the format of a source, -O FORMAT that of a target",
		"json":          "--output=json prints JSON",
		"yes":           "no command asks questions",
		"y":             "no command asks questions",
		"overwrite":     "convert and create replace an existing file",
		"clobber":       "convert and create replace an existing file",
		"fixed":         "-o subformat=fixed makes a fixed VHD",
		"dynamic":       "-o subformat=dynamic makes a dynamic VHD, which is the default",
		"variant":       "-o subformat=dynamic or -o subformat=fixed selects the type of a VHD",
		"type":          "-o subformat=dynamic or -o subformat=fixed selects the type of a VHD",
		"vhdtype":       "-o subformat=dynamic or -o subformat=fixed selects the type of a VHD",
		"subformat":     "write -o subformat=dynamic or -o subformat=fixed",
		"block-size":    "write -o block_size=SIZE",
		"blocksize":     "write -o block_size=SIZE",
		"force-size":    "write -o force_size",
		"force_size":    "write -o force_size",
		"exact":         "-o force_size makes the disk exactly as large as asked for",
		"path":          "the name of the image is an argument without a flag",
		"filename":      "the name of the image is an argument without a flag",
		"input":         "the names of images are arguments without flags: the source first, then the target",
		"out":           "the names of images are arguments without flags: the source first, then the target",
		"destination":   "the names of images are arguments without flags: the source first, then the target",
		"size":          "the size is an argument after the name of the image: create disk.vhd 10G",
		"sizebytes":     "the size is an argument after the name of the image: create disk.vhd 10G",
		"resize":        "write 'resize FILE SIZE'",
		"fix":           "'check -r all' repairs an image",
		"product":       "--for PRODUCT names the product",
		"azure":         "write --for azure",
		"hyperv":        "write --for hyperv",
		"aws":           "write --for aws",
		"xen":           "write --for xen",
		"virtualbox":    "write --for virtualbox",
		"parentpath":    "-b PARENT names the parent",
		"threads":       "-m N copies with N workers",
		"jobs":          "-m N copies with N workers",
		"sparse":        "holes and zeros stay holes unless -S 0 is given",
		"preallocation": "write -o preallocation=falloc or -o preallocation=full",
	}
}

// flagError returns getopt's message about wrong flags, with a hint.
func (c *cli) flagError(cmd *cobra.Command, err error) error {
	wrong := flagError(cmd, err)
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return wrong
	}
	// pflag parses a long name after one dash as short flags.
	for _, name := range []string{unknown.GetSpecifiedShortnames(), unknown.GetSpecifiedName()} {
		if hint := c.suggestFlag(cmd, name); name != "" && hint != "" {
			return &hintError{wrong, hint}
		}
	}
	return wrong
}

// suggestFlag returns a hint about a flag that a command does not have, or "".
func (c *cli) suggestFlag(cmd *cobra.Command, name string) string {
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if hint := flagHints()[strings.ToLower(name)]; hint != "" {
		return hint
	}
	if cmd.Name() == "resize" && isSize(name) {
		return "the file comes before the size: 'resize FILE -" + name + "'"
	}
	var have []string
	for _, other := range allCommands() {
		if f := commands[other](c).Flags().Lookup(name); f != nil && !f.Hidden && !hiddenCommands[other] && len(name) > 1 {
			have = append(have, other)
		}
	}
	switch {
	case len(have) == 1:
		return fmt.Sprintf("%s has --%s", quoteAll(have)[0], name)
	case len(have) > 1:
		return fmt.Sprintf("%s have --%s", joinWords(quoteAll(have), "and"), name)
	}
	near := nearest(name, names)
	if len(near) == 0 {
		if near = nearest(name, slices.Sorted(maps.Keys(flagHints()))); len(near) == 1 && len(name) > 1 {
			return flagHints()[near[0]]
		}
		return ""
	}
	for i := range near {
		near[i] = "--" + near[i]
	}
	return "did you mean " + joinWords(near, "or") + "?"
}

// nearest returns the names that resemble the typed word, at most three, the most similar
// first.
func nearest(typed string, names []string) []string {
	typed = strings.ToLower(typed)
	distance := map[string]int{}
	for _, name := range names {
		d := editDistance(typed, name)
		switch {
		case d <= max(1, min(len(typed), len(name))/3):
		case len(typed) >= 3 && (strings.HasPrefix(name, typed) || strings.HasPrefix(typed, name)):
			d = 3 // accept names with one typing error, too
		default:
			continue
		}
		distance[name] = d
	}
	found := slices.SortedFunc(maps.Keys(distance), func(a, b string) int {
		return cmp.Or(cmp.Compare(distance[a], distance[b]), strings.Compare(a, b))
	})
	return found[:min(len(found), 3)]
}

// editDistance returns the number of edits from a to b. An edit inserts, deletes or replaces a
// letter, or swaps two neighbours.
func editDistance(a, b string) int {
	var before, above []int // the last two rows
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, above, row = above, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}

// quoteAll puts quotes around words.
func quoteAll(words []string) []string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "'" + w + "'"
	}
	return quoted
}
