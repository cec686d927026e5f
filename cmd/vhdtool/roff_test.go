package main

import (
	"fmt"
	"regexp"
	"strings"
)

// roff is a man page in the macros of man(7). Libraries leave the hyphens of options unchanged, and
// groff prints those as typographic hyphens, which cannot be searched or copied. So the pages are
// written here.
type roff struct{ strings.Builder }

// manDate is the fixed date of the pages, so that only their texts change them.
const manDate = "2026-11-01"

// newPage starts a page.
func newPage(title string, section int) *roff {
	r := &roff{}
	fmt.Fprintf(r, ".TH %s %d %s vhdtool \"vhdtool manual\"\n", roffText(strings.ToUpper(title)), section, manDate)
	return r
}

func (r *roff) section(name string) { fmt.Fprintf(r, ".SH %s\n", roffText(name)) }

// line writes a line of text that may have fonts already.
func (r *roff) line(s string) {
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	r.WriteString(s + "\n")
}

// item writes a term and its meaning. The term may have fonts already.
func (r *roff) item(term, text string) {
	r.WriteString(".TP\n")
	r.line(term)
	r.lines(text)
}

// lines writes a text that is filled.
func (r *roff) lines(text string) {
	for line := range strings.Lines(text) {
		r.line(roffText(strings.TrimSpace(line)))
	}
}

// text writes paragraphs, which are separated by empty lines. Indented ones are printed unchanged.
func (r *roff) text(text string) {
	for i, p := range strings.Split(strings.Trim(text, "\n"), "\n\n") {
		if i > 0 {
			r.paragraph()
		}
		if indented(p) {
			r.example(p)
		} else {
			r.lines(p)
		}
	}
}

func indented(p string) bool {
	for line := range strings.Lines(p) {
		if !strings.HasPrefix(line, "  ") {
			return false
		}
	}
	return true
}

// paragraph starts another paragraph of a section.
func (r *roff) paragraph() { r.WriteString(".PP\n") }

// example writes lines unchanged.
func (r *roff) example(text string) {
	r.WriteString(".RS 4\n.EX\n")
	for line := range strings.Lines(strings.Trim(text, "\n")) {
		r.line(roffText(strings.TrimPrefix(strings.TrimSuffix(line, "\n"), "  ")))
	}
	r.WriteString(".EE\n.RE\n")
}

// roffText escapes a text. Every hyphen becomes a minus sign: in most places it belongs to
// an option or a name.
func roffText(s string) string {
	return strings.NewReplacer(`\`, `\e`, `-`, `\-`, `~`, `\(ti`, `^`, `\(ha`, "`", `\(ga`).Replace(s)
}

// bold is a literal in bold.
func bold(s string) string { return `\fB` + roffText(s) + `\fP` }

// italic is a literal in italics.
func italic(s string) string { return `\fI` + roffText(s) + `\fP` }

var synopsisWord = regexp.MustCompile(`--?[a-zA-Z][\w-]*|\b[A-Z][A-Z0-9]*\b|[a-z][\w-]*`)

// roffSynopsis sets a usage line: options and words in bold, values in italics.
func roffSynopsis(usage string) string {
	var b strings.Builder
	last := 0
	for _, m := range synopsisWord.FindAllStringIndex(usage, -1) {
		b.WriteString(roffText(usage[last:m[0]]))
		if w := usage[m[0]:m[1]]; strings.ToUpper(w) == w && w[0] != '-' {
			b.WriteString(italic(w))
		} else {
			b.WriteString(bold(w))
		}
		last = m[1]
	}
	return b.String() + roffText(usage[last:])
}
