package vhd

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// diagnosis summarises findings. Its memory does not grow with their number.
type diagnosis struct {
	first   map[string]Finding // by ID, of the image itself
	faults  map[string]int64   // number of faults by ID
	parents []string           // files of parents with errors
	ranges  []disk.Range       // ranges of the disk that BAT errors affect; at most maxAffected
	more    bool               // ranges were dropped
}

// maxAffected is the most ranges of the disk that a diagnosis keeps.
const maxAffected = 1 << 12

// namedRanges is the most ranges of the disk that a sentence names.
const namedRanges = 3

// add records a finding.
func (d *diagnosis) add(f Finding) {
	if f.File != "" && !strings.HasPrefix(f.ID, "parent-") {
		if f.Severity == Error && !slices.Contains(d.parents, printable(f.File)) && len(d.parents) < MaxParents {
			d.parents = append(d.parents, printable(f.File))
		}
		return
	}
	if f.Severity == Warning {
		return // readers accept it
	}
	if d.first == nil {
		d.first, d.faults = map[string]Finding{}, map[string]int64{}
	}
	if _, ok := d.first[f.ID]; !ok {
		d.first[f.ID] = f
	}
	d.faults[f.ID] += f.Faults()
	for _, r := range f.Disk {
		switch last := len(d.ranges) - 1; {
		case last >= 0 && d.ranges[last].Off+d.ranges[last].N == r.Off:
			d.ranges[last].N += r.N
		case len(d.ranges) < maxAffected:
			d.ranges = append(d.ranges, r)
		default:
			d.more = true
		}
	}
}

func (d *diagnosis) has(ids ...string) bool {
	return slices.ContainsFunc(ids, func(id string) bool { return d.faults[id] > 0 })
}

// sentences describes the damage, the most important first. It returns nil for an image without
// errors and leaks. n are the counts of the check. typ is the disk's type, or 0 if no footer is
// valid.
func (d *diagnosis) sentences(n Counts, typ DiskType) []string {
	var s []string
	say := func(format string, args ...any) { s = append(s, fmt.Sprintf(format, args...)) }

	switch {
	case d.has("bytes-missing"):
		size := "an unknown number of bytes"
		if f := d.first["bytes-missing"]; f.Bytes > 0 {
			size = bytesText(f.Bytes)
		}
		say("Bytes are missing inside the file (%s), so everything after them is at a wrong offset. Copy the file again from its source, in binary mode.", size)
		return s // all other findings follow from it
	case d.has("bytes-added"):
		say("Bytes were added inside the file (%s), so everything after them is at a wrong offset. Copy the file again from its source, in binary mode.", bytesText(d.first["bytes-added"].Bytes))
		return s
	}
	if d.has("two-images") {
		say("The file holds two images, one after the other: the second starts at offset %s.", humanize.Comma(d.first["two-images"].Offset))
		return s
	}
	s = append(s, d.lostFixed()...)
	if d.has("unique-ids-differ") {
		say("The two copies of the footer belong to different images: part of this file was overwritten by another image.")
	}
	batErrors := d.faults["bat-beyond-end"] + d.faults["bat-over-metadata"] + d.faults["bat-overlap"]
	cut := d.has("trailing-footer") && n.Missing > 0
	if cut {
		lost := ", and no block is affected"
		if batErrors > 0 {
			lost = "; " + d.affected(n)
		}
		say("The file was cut: %s %s missing%s.", bytesText(n.Missing), verb(n.Missing), lost)
	}
	switch {
	case !d.has("trailing-footer"):
	case typ == 0, d.has("leading-footer"):
		say("The trailing footer is missing, and no copy of it is good.")
	case d.has("footer-checksum"):
		say("The trailing footer is missing, and the copy at the start is damaged.")
	default:
		say("The trailing footer is missing; the copy at the start is good.")
	}
	switch {
	case d.has("trailing-footer"):
	case d.has("footer-checksum") && typ == Fixed:
		say("The footer is damaged: its checksum is wrong. A fixed disk has no copy of it.")
	case d.has("footer-checksum", "footer-cookie"):
		say("The trailing footer is damaged, and no copy of it is good.")
	case d.has("leading-footer"):
		say("The copy of the footer at the start is damaged; the trailing footer is good. qemu and others read only the copy.")
	case d.has("footers-differ"):
		say("The copy of the footer at the start differs from the trailing footer. qemu and others read only the copy.")
	}
	if d.has("footer-version", "disk-type", "current-size") {
		say("The footer has fields that no reader accepts.")
	}
	if f := d.first["fixed-length"]; d.has("fixed-length") && f.Bytes > 0 {
		say("The data of the disk was cut: %s %s missing before the footer.", bytesText(f.Bytes), verb(f.Bytes))
	}
	switch {
	case d.has("data-offset", "header-cookie"):
		say("The dynamic disk header is not where the footer points: no block can be found without it.")
	case d.has("header-checksum"):
		say("The dynamic disk header is damaged: its checksum is wrong.")
	case d.has("header-version", "block-size", "max-table-entries", "table-offset", "bat-too-small"):
		say("The dynamic disk header has fields that no reader accepts.")
	}
	if batErrors > 0 && !cut {
		say("The BAT is damaged: %s.", d.affected(n))
	}
	if d.has("parent-missing", "parent-loop", "parent-mismatch") {
		say("The parent cannot be read: the image is incomplete without it.")
	}
	if len(d.parents) > 0 {
		say("There are errors in %s: %s.", map[bool]string{true: "a parent", false: "parents"}[len(d.parents) == 1], strings.Join(d.parents, ", "))
	}
	if len(s) == 0 && n.Errors > 0 {
		say("The image has errors.")
	}
	if n.Orphaned > 0 {
		say("Space for %s in the file holds data that no BAT entry points to: it may be lost blocks.", english.Plural(int(n.Orphaned), "block", ""))
	}
	return s
}

// affected describes how many blocks the BAT errors affect, and where they are on the disk.
func (d *diagnosis) affected(n Counts) string {
	all := slices.Clone(d.ranges)
	slices.SortFunc(all, func(a, b disk.Range) int { return cmp.Compare(a.Off, b.Off) })
	merged := all[:0]
	var blocks int64
	for _, r := range all {
		if last := len(merged) - 1; last >= 0 && r.Off <= merged[last].Off+merged[last].N {
			merged[last].N = max(merged[last].N, r.Off+r.N-merged[last].Off)
			continue
		}
		merged = append(merged, r)
	}
	var names []string
	for i, r := range merged {
		if n.BlockSize > 0 {
			blocks += (r.N + n.BlockSize - 1) / n.BlockSize
		}
		if i < namedRanges {
			names = append(names, rangeText(r))
		}
	}
	more := ""
	switch {
	case d.more:
		more = " and more"
	case len(merged) > namedRanges:
		more = fmt.Sprintf(" and %d more", len(merged)-namedRanges)
	}
	least := ""
	if d.more {
		least = "at least "
	}
	word := "are"
	if blocks == 1 {
		word = "is"
	}
	text := fmt.Sprintf("%s%s of %s blocks %s affected", least, humanize.Comma(blocks), humanize.Comma(n.Blocks), word)
	if len(names) > 0 {
		text += ": " + strings.Join(names, ", ") + more + " of the disk"
	}
	return text
}

// verb returns the verb after "n bytes".
func verb(n int64) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// bytesText formats n as "46.9 MiB (49,178,624 bytes)", or below 1 KiB as "300 bytes".
func bytesText(n int64) string {
	exact := humanize.Comma(n) + " bytes"
	if n == 1 {
		exact = "1 byte"
	}
	if n < 1<<10 {
		return exact
	}
	scaled, unit := float64(n)/(1<<10), 0
	for scaled >= 1023.95 && unit < 4 {
		scaled, unit = scaled/(1<<10), unit+1
	}
	return fmt.Sprintf("%.1f %ciB (%s)", scaled, "KMGTP"[unit], exact)
}
