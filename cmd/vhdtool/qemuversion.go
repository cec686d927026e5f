package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/vhdtool/vhdtool/internal/sizearg"
)

// qemuVersion is the release of qemu whose qemu-img is replaced: 100 times the major version plus
// the minor one.
type qemuVersion int

// The releases that changed the output of qemu-img.
const (
	qemu72        qemuVersion = 702  // the default
	qemuChildren  qemuVersion = 800  // info describes the file below the format
	qemuCompress  qemuVersion = 802  // map says whether data is compressed
	qemuNewWords  qemuVersion = 1000 // options are parsed by getopt_long; each command has --help
	qemuNewerTalk qemuVersion = 1100
)

// qemuVersionVariable names the release for a program called as qemu-img.
const qemuVersionVariable = "VHDTOOL_QEMU_VERSION"

// qemuVersionFromEnv parses the release, such as 7.2 or 10.0.13.
func qemuVersionFromEnv() (qemuVersion, error) {
	s := os.Getenv(qemuVersionVariable)
	if s == "" {
		return qemu72, nil
	}
	wrong := fmt.Errorf("%s is %q, want a version of qemu such as 7.2 or 10.0", qemuVersionVariable, s)
	major, rest, _ := strings.Cut(s, ".")
	minor, _, _ := strings.Cut(rest, ".")
	if minor == "" {
		minor = "0"
	}
	a, err := strconv.ParseUint(major, 10, 8)
	b, err2 := strconv.ParseUint(minor, 10, 8)
	if err != nil || err2 != nil || b > 99 {
		return qemu72, wrong
	}
	return max(qemuVersion(a*100+b), qemu72), nil
}

// versionedError is an error whose text depends on the release of qemu-img. Each line is a message
// of its own.
type versionedError struct {
	lines func(v qemuVersion) []string
	usage bool // from 10.0 on, a line about --help follows
}

func (e *versionedError) Error() string { return strings.Join(e.lines(qemu72), "\n") }

// sizeError is qemu-img's error about an option argument that is not a size.
func sizeError(what, arg string, err error) error {
	hint := sizeHint(arg)
	if errors.Is(err, sizearg.ErrRange) {
		hint = fmt.Sprintf("found '%s', want at most 7E", arg)
	}
	return &hintError{&versionedError{lines: func(v qemuVersion) []string {
		switch {
		case errors.Is(err, sizearg.ErrRange):
			return []string{fmt.Sprintf("Invalid %s specified. Must be between 0 and 9223372036854775807.", what)}
		case v >= qemuNewWords:
			return []string{notANumber(what, arg, v)}
		}
		return []string{
			fmt.Sprintf("Invalid %s specified. You may use k, M, G, T, P or E suffixes for", what),
			"kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.",
		}
	}}, hint}
}

// notANumber is qemu-img's error about numbers from 10.0 on.
func notANumber(what, arg string, v qemuVersion) string {
	s := fmt.Sprintf("Invalid %s specified: '%s'", what, arg)
	if v < qemuNewerTalk {
		s += "."
	}
	return s
}

// numberError is qemu-img's error about an option argument that is not a number in [least, most].
// old is the text before 10.0.
func numberError(what, arg, old string, isNumber bool, least, most int64) error {
	return &hintError{&versionedError{lines: func(v qemuVersion) []string {
		switch {
		case v < qemuNewWords:
			return []string{old}
		case isNumber:
			return []string{fmt.Sprintf("Invalid %s specified. Must be between %d and %d.", what, least, most)}
		}
		return []string{notANumber(what, arg, v)}
	}}, fmt.Sprintf("found '%s', want a number from %d to %d", arg, least, most)}
}

// outputError is qemu-img's error about an unknown --output.
func outputError(value string) error {
	return &hintError{&versionedError{usage: true, lines: func(v qemuVersion) []string {
		switch {
		case v < qemuNewWords:
			return []string{"--output must be used with human or json as argument."}
		case v < qemuNewerTalk:
			return []string{fmt.Sprintf("--output expects 'human' or 'json' not '%s'", value)}
		}
		return []string{fmt.Sprintf("--output expects 'human' or 'json', not '%s'", value)}
	}}, fmt.Sprintf("found '%s'", value)}
}

// printUsageHint prints where to find help after a wrong command line.
func (c *cli) printUsageHint() {
	command, more := "", "information"
	if c.command != "" && (!c.likeQEMU || c.qemu >= qemuNewWords) {
		command = " " + c.command
	}
	if c.qemu >= qemuNewWords && c.qemu < qemuNewerTalk {
		more = "info"
	}
	fmt.Fprintf(c.stderr, "Try '%s%s --help' for more %s\n", c.name, command, more)
}
