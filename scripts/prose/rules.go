package main

import (
	_ "embed"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

const (
	maxLine     = 100 // characters of a line of prose
	maxSentence = 25  // words of a sentence; aim at 25
)

// A ban is an expression that the project does not use, and what to write instead.
type ban struct {
	expr    *regexp.Regexp
	instead string
}

//go:embed banned.txt
var bannedText string

var bans = readBans(bannedText)

// readBans parses the lines of banned.txt. It panics if one is invalid.
func readBans(text string) []ban {
	var bans []ban
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		expr, instead, ok := strings.Cut(line, "\t")
		if !ok {
			panic("banned.txt: no tab in " + line)
		}
		// A phrase may be broken over two lines of a comment.
		expr = strings.ReplaceAll(expr, " ", `\s+`)
		bans = append(bans, ban{regexp.MustCompile(`(?i)\b(` + expr + `)\b`), instead})
	}
	return bans
}

// allowed are uses of banned words that are right.
var allowed = regexp.MustCompile(`(?i)\bstands? for\b|\bstandard \w+\b`)

// A finding is a place in a file that breaks a rule.
type finding struct {
	line    int
	message string
}

func (f finding) String() string { return fmt.Sprintf("%d: %s", f.line, f.message) }

// checkText returns what breaks a rule in the passages of source.
func checkText(source string, passages []passage) []finding {
	var findings []finding
	add := func(offset int, format string, args ...any) {
		line := 1 + strings.Count(source[:offset], "\n")
		findings = append(findings, finding{line, fmt.Sprintf(format, args...)})
	}
	for _, p := range passages {
		text := allowed.ReplaceAllStringFunc(p.text, blank)
		for _, b := range bans {
			for _, at := range b.expr.FindAllStringIndex(text, -1) {
				phrase := strings.Join(strings.Fields(text[at[0]:at[1]]), " ")
				add(p.offset+at[0], "%q: write %s", phrase, b.instead)
			}
		}
		if p.kind == paragraph {
			for _, offset := range longLines(source, p) {
				add(offset, "line longer than %d characters", maxLine)
			}
		}
		for _, s := range sentences(p.text) {
			if first := headless.FindString(p.text[s.start:s.end]); first != "" && p.text[s.end-1] != '?' {
				add(p.offset+s.start, "sentence starts with %q: name the subject", strings.TrimSpace(first))
			}
			if n := len(strings.Fields(p.text[s.start:s.end])); n > maxSentence {
				add(p.offset+s.start, "sentence of %d words: at most %d", n, maxSentence)
			}
		}
	}
	return findings
}

// longLines returns the offsets of the passage's lines that are too long. A line with a
// web address cannot be broken.
func longLines(source string, p passage) []int {
	var long []int
	offset := p.offset
	for text := range strings.Lines(p.text) {
		start := strings.LastIndexByte(source[:offset], '\n') + 1
		line := source[start : offset+len(strings.TrimRight(text, "\n"))]
		if utf8.RuneCountInString(line) > maxLine && !strings.Contains(line, "://") {
			long = append(long, offset)
		}
		offset += len(text)
	}
	return long
}

// A span is a range of bytes.
type span struct{ start, end int }

// sentenceEnd matches the end of a sentence. A colon ends one too: what follows is
// mostly an example or a list.
var sentenceEnd = regexp.MustCompile(`[.?!:;]["')*]*(\s+|$)|\\n`)

// headless matches the start of a sentence whose subject is not named.
var headless = regexp.MustCompile(`^\W*(What|Who|Whatever|Whoever) `)

// sentences returns the sentences of text.
func sentences(text string) []span {
	var spans []span
	start := 0
	for _, end := range sentenceEnd.FindAllStringIndex(text, -1) {
		spans = append(spans, span{start, end[0] + 1})
		start = end[1]
	}
	return append(spans, span{start, len(text)})
}
