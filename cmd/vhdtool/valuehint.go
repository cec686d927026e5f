package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/vhdtool/vhdtool/internal/optlist"
	"github.com/vhdtool/vhdtool/internal/sizearg"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// maxVHDSize is the size of the largest disk that a dynamic VHD holds.
const maxVHDSize = vhd.MaxSectors * vhd.SectorSize

// valueHint returns a hint about an option's value that is not accepted, or "".
func valueHint(err error) string {
	var value *optlist.ValueError
	if errors.As(err, &value) {
		return allowedHint(value.Key, value.Value)
	}
	var syntax *optlist.SyntaxError
	if errors.As(err, &syntax) {
		if syntax.Kind == optlist.Number {
			return sizeHint(syntax.Value)
		}
		return fmt.Sprintf("found %s='%s', want %s=on or %s=off", syntax.Key, syntax.Value, syntax.Key, syntax.Key)
	}
	return ""
}

// allowedHint lists the values that an option accepts.
func allowedHint(key, value string) string {
	for _, f := range allFormats {
		for _, s := range slices.Concat(f.createOptions, fileOptions) {
			if s.name == key && s.values != nil {
				if near := nearest(value, s.values); len(near) == 1 {
					return fmt.Sprintf("did you mean %s=%s? %s is %s", key, near[0], key, joinWords(s.values, "or"))
				}
				return fmt.Sprintf("%s is %s", key, joinWords(s.values, "or"))
			}
		}
	}
	return ""
}

// optionHint returns a hint about an option that a format does not have.
func optionHint(f *format, key string) string {
	var names []string
	for _, s := range slices.Concat(f.createOptions, fileOptions) {
		names = append(names, s.name)
	}
	for _, other := range allFormats {
		if other != f && slices.ContainsFunc(other.createOptions, func(s optionSpec) bool { return s.name == key }) {
			return fmt.Sprintf("%s is an option of format %s, and the target's format is %s", key, other.Name, f.Name)
		}
	}
	if near := nearest(strings.ReplaceAll(key, "-", "_"), names); len(near) > 0 {
		return "did you mean " + joinWords(quoteAll(near), "or") + "?"
	}
	return fmt.Sprintf("'-o help' lists the options of format %s", f.Name)
}

// formatHint returns a hint about the name of a format that does not exist.
func formatHint(typed string) string {
	var names []string
	for _, f := range allFormats {
		if !f.foreign {
			names = append(append(names, f.Name), f.Aliases...)
		}
	}
	if near := nearest(typed, names); len(near) > 0 {
		return "did you mean " + joinWords(quoteAll(near), "or") + "?"
	}
	return "the formats are " + joinWords(names, "and")
}

// cacheError returns the error about a cache mode that qemu does not have.
func cacheError(what, mode string) error {
	modes := []string{"none", "writeback", "unsafe", "directsync", "writethrough"}
	hint := "the modes are " + joinWords(modes, "and")
	if near := nearest(mode, modes); len(near) > 0 {
		hint = "did you mean " + joinWords(quoteAll(near), "or") + "?"
	}
	return &hintError{qemuErrorf("Invalid %s option: %s", what, mode), hint}
}

// sizeHint explains how to write a size.
func sizeHint(arg string) string {
	// Compiled here, because every start of the program would pay for variables.
	unitSize := regexp.MustCompile(`^\s*([0-9.]+)\s*([kKmMgGtTpPeE])([iI]?)[bB]$`)
	split := regexp.MustCompile(`^\s*([0-9.]+)\s+([kKmMgGtTpPeE])\s*$`)
	commaSize := regexp.MustCompile(`^([0-9]+),([0-9]+)([kKmMgGtTpPeE])$`)
	if m := unitSize.FindStringSubmatch(arg); m != nil {
		short := m[1] + strings.ToUpper(m[2])
		if m[2] == "k" || m[2] == "K" {
			short = m[1] + "k"
		}
		if n, err := sizearg.Parse(short); err == nil {
			if m[3] != "" {
				return fmt.Sprintf("found '%s', write %s", arg, short)
			}
			return fmt.Sprintf("found '%s', write %s for %s, or a number of bytes", arg, short, humanSize(n))
		}
	}
	if m := split.FindStringSubmatch(arg); m != nil {
		return fmt.Sprintf("found '%s', write %s", arg, m[1]+m[2])
	}
	if m := commaSize.FindStringSubmatch(arg); m != nil {
		return fmt.Sprintf("found '%s', write %s.%s%s", arg, m[1], m[2], m[3])
	}
	return fmt.Sprintf("found '%s', want a size such as 512, 64k, 10M or 1.5G: k, M, G, T, P and E are powers of 1024", arg)
}

// isSize reports whether an argument is a size, with or without resize's sign.
func isSize(arg string) bool {
	_, err := sizearg.Parse(strings.TrimPrefix(arg, "-"))
	return err == nil
}

// swappedError adds a hint to the error about a size, if a file and its size are in the wrong
// order.
func swappedError(err error, command string, args []string) error {
	if isSize(args[0]) && !isSize(args[1]) && !exists(args[0]) {
		return &hintError{err, fmt.Sprintf("the file comes before the size: '%s %s %s'", command, quoteArg(args[1]), args[0])}
	}
	return err
}

// tooLargeHint states the largest size of a VHD, and the formats of larger disks.
func tooLargeHint() string {
	return fmt.Sprintf("a dynamic VHD holds at most 2040 GiB (%s bytes); the formats vhdx and raw hold larger disks", humanize.Comma(maxVHDSize))
}
