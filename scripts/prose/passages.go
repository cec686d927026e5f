package main

import (
	"go/scanner"
	"go/token"
	"path"
	"regexp"
	"strings"
)

// A passage is text that belongs together, such as a paragraph or a comment. Its text has
// the length of the source at that offset; markup is blanked or masked, not removed.
type passage struct {
	offset int
	text   string
	kind   kind
}

// A kind says which checks a passage is subject to.
type kind int

const (
	paragraph kind = iota // all checks
	cell                  // no check of line length: a table's row cannot be broken
	message               // no check of line length: a Go string
)

// passagesOf returns the passages of the file name with contents source, in order.
func passagesOf(name, source string) []passage {
	return passagesFunc(name)(source)
}

// passagesFunc returns the function that finds the passages of a file with this name,
// or nil if such files have no text to check.
func passagesFunc(name string) func(source string) []passage {
	switch path.Ext(name) {
	case ".md":
		return markdownPassages
	case ".go":
		return goPassages
	case ".txtar":
		return func(source string) []passage {
			script, _, _ := strings.Cut(source, "\n-- ")
			return hashPassages(script)
		}
	case ".sh", ".yml", ".yaml":
		return hashPassages
	}
	switch name {
	case ".ci/run", "Makefile", "Containerfile":
		return hashPassages
	}
	return nil
}

var (
	fence      = regexp.MustCompile("(?ms)^[ ]*```.*?^[ ]*```[ ]*$")
	codeSpan   = regexp.MustCompile("``.+?``|`[^`]+`")
	fileName   = regexp.MustCompile(`[\w./-]*\w[/_]\w([\w./-]*\w)?`)
	linkTarget = regexp.MustCompile(`\]\([^)]*\)`)
	webAddress = regexp.MustCompile(`https?://[^\s)>]+`)
	newBlock   = regexp.MustCompile(`^\s*([-*]|\d+\.|#+) `)
)

// mask replaces code spans, file names and identifiers by underscores, which no check
// matches, and blanks link targets. The words that a reader sees remain.
func mask(s string) string {
	underscores := func(code string) string { return strings.ReplaceAll(blank(code), " ", "_") }
	s = webAddress.ReplaceAllStringFunc(s, blank)
	s = codeSpan.ReplaceAllStringFunc(s, underscores)
	s = fileName.ReplaceAllStringFunc(s, underscores)
	return linkTarget.ReplaceAllStringFunc(s, func(target string) string { return "]" + blank(target[1:]) })
}

// markdownPassages returns headings, paragraphs, list items and table cells.
func markdownPassages(source string) []passage {
	source = fence.ReplaceAllStringFunc(source, blank)
	source = mask(source)
	var passages []passage
	var open bool // whether the next line continues the last passage
	offset := 0
	for line := range strings.Lines(source) {
		switch text := strings.TrimSpace(line); {
		case text == "":
			open = false
		case strings.HasPrefix(text, "|"):
			passages = append(passages, cells(line, offset)...)
			open = false
		case open && !newBlock.MatchString(line):
			passages[len(passages)-1].text += line
		default:
			passages = append(passages, passage{offset, line, paragraph})
			open = !strings.HasPrefix(text, "#")
		}
		offset += len(line)
	}
	return passages
}

// cells returns the cells of a table's row.
func cells(row string, offset int) []passage {
	var passages []passage
	for text := range strings.SplitSeq(strings.ReplaceAll(row, `\|`, "__"), "|") {
		if strings.Trim(text, " -\n") != "" {
			passages = append(passages, passage{offset, text, cell})
		}
		offset += len(text) + 1
	}
	return passages
}

var (
	directive  = regexp.MustCompile(`^//(go:|lint:|export )`)
	codeLine   = regexp.MustCompile(`^//\t|^//$`)
	outputLine = regexp.MustCompile(`^// (Unordered output|Output):`) // of an example
	words      = regexp.MustCompile(`\pL\pL+ \pL\pL`)
)

// quoting is the function whose first argument quotes another program word for word.
const quoting = "qemuErrorf"

// goPassages returns the comments of a Go file, and its strings of several words. Texts of
// another program are left out.
func goPassages(source string) []passage {
	files := token.NewFileSet()
	file := files.AddFile("", -1, len(source))
	var s scanner.Scanner
	s.Init(file, []byte(source), nil, scanner.ScanComments)
	var passages []passage
	commentEnd := -1 // the offset after the last comment
	outputEnd := -1  // the offset after the last line of an example's output
	quotes := false  // whether the next string is the argument of quoting
	for {
		pos, tok, lit := s.Scan()
		offset := file.Offset(pos)
		wasQuoting := quotes
		quotes = tok == token.IDENT && lit == quoting || quotes && tok == token.LPAREN
		switch tok {
		case token.EOF:
			return passages
		case token.STRING:
			if words.MatchString(lit) && !wasQuoting {
				passages = append(passages, passage{offset, lit, message})
			}
		case token.COMMENT:
			if directive.MatchString(lit) {
				continue
			}
			text := "  " + mask(lit[2:])
			inOutput := outputLine.MatchString(lit) || outputEnd >= 0 && strings.TrimSpace(source[outputEnd:offset]) == ""
			if inOutput {
				outputEnd = offset + len(lit)
			}
			isCode := codeLine.MatchString(lit) || inOutput
			if isCode {
				text = blank(lit)
			}
			gap := ""
			if commentEnd >= 0 {
				gap = source[commentEnd:offset]
			}
			ownLine := strings.TrimSpace(source[strings.LastIndexByte(source[:offset], '\n')+1:offset]) == ""
			continues := commentEnd >= 0 && ownLine && strings.TrimSpace(gap) == "" && strings.Count(gap, "\n") == 1
			if continues && !isCode && !newBlock.MatchString(lit[2:]) {
				passages[len(passages)-1].text += gap + text
			} else {
				passages = append(passages, passage{offset, text, paragraph})
			}
			commentEnd = offset + len(lit)
			if isCode {
				commentEnd = -1
			}
		}
	}
}

var (
	hashComment = regexp.MustCompile(`(^|\s)##? .*`)
	hashCode    = regexp.MustCompile(`^#   +\S`)
	echo        = regexp.MustCompile(`^\s*(@?echo|printf) .*`)
)

// hashPassages returns the comments of a file whose comments start with #, and the
// arguments of echo. Three spaces after the # mark code.
func hashPassages(source string) []passage {
	var passages []passage
	open := false
	offset := 0
	for line := range strings.Lines(source) {
		switch at := hashComment.FindStringIndex(line); {
		case strings.HasPrefix(line, "#!"), hashCode.MatchString(line):
			open = false
		case at != nil:
			text := mask(line[at[0]:])
			text = strings.Replace(text, "#", " ", 2)
			ownLine := strings.TrimSpace(line[:at[0]]) == ""
			if open && ownLine {
				passages[len(passages)-1].text += blank(line[:at[0]]) + text
			} else {
				passages = append(passages, passage{offset + at[0], text, paragraph})
			}
			open = ownLine
		case echo.MatchString(line):
			passages = append(passages, passage{offset, line, message})
			open = false
		default:
			open = false
		}
		offset += len(line)
	}
	return passages
}
