package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vhdtool/vhdtool/internal/imagelock"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// cli is the program as a user called it.
type cli struct {
	name     string      // as the program was called; prefix of messages
	likeQEMU bool        // called as qemu-img: prints only what qemu-img prints
	qemu     qemuVersion // the release whose messages and JSON keys are printed; 7.2 unless likeQEMU
	command  string      // the subcommand

	pause func(context.Context, time.Duration) // waits for a rate limit; nil: sleep

	stdin  *os.File
	stdout io.Writer
	stderr io.Writer

	line    *statusLine // of stderr; may be nil
	signals signals
}

// execute runs a command line, and returns its exit status.
func (c *cli) execute(ctx context.Context, args []string) int {
	if len(args) > 0 && commands[args[0]] != nil {
		c.command = args[0]
	}
	root := c.newRootCmd(neededCommands(args))
	root.SetArgs(protectNegativeSize(expandLongOptions(root, args)))
	err := root.ExecuteContext(ctx)
	if out, ok := c.stdout.(*standardOutput); ok {
		err = lostOutput(err, out.failed())
	}
	switch {
	case err == nil:
		return 0
	case isBrokenPipe(err):
		return endedByPipe()
	case errors.Is(err, context.Canceled): // only a signal cancels
		err = errors.New("interrupted")
	}
	c.report(err)
	var status *statusError
	if errors.As(err, &status) {
		return status.code
	}
	return 1
}

// onlyReads marks a command that has nothing to clean up when a signal ends it.
var onlyReads = map[string]string{onlyReadsKey: "yes"}

const onlyReadsKey = "only-reads"

// commands has the constructors of the subcommands, by name.
var commands = map[string]func(*cli) *cobra.Command{
	"amend":    (*cli).newAmendCmd,
	"bench":    (*cli).newBenchCmd,
	"bitmap":   (*cli).newBitmapCmd,
	"check":    (*cli).newCheckCmd,
	"commit":   (*cli).newCommitCmd,
	"compare":  (*cli).newCompareCmd,
	"convert":  (*cli).newConvertCmd,
	"create":   (*cli).newCreateCmd,
	"dd":       (*cli).newDDCmd,
	"info":     (*cli).newInfoCmd,
	"map":      (*cli).newMapCmd,
	"measure":  (*cli).newMeasureCmd,
	"rebase":   (*cli).newRebaseCmd,
	"resize":   (*cli).newResizeCmd,
	"set":      (*cli).newSetCmd,
	"snapshot": (*cli).newSnapshotCmd,
}

// neededCommands are the subcommands that a command line may use. Building all of them needs a
// tenth of the run time of a short command.
func neededCommands(args []string) []string {
	if len(args) > 0 {
		if _, ok := commands[args[0]]; ok {
			return args[:1]
		}
		if len(args) == 1 && (args[0] == "-V" || args[0] == "--version") {
			return nil
		}
	}
	return allCommands()
}

func allCommands() []string { return slices.Sorted(maps.Keys(commands)) }

// newRootCmd returns the root command with these subcommands.
func (c *cli) newRootCmd(subcommands []string) *cobra.Command {
	var version bool
	root := &cobra.Command{
		Use:   c.name + " COMMAND",
		Short: "Create, convert, check and repair VHD images",
		Long: `vhdtool works on images in the VHD format (Virtual Hard Disk, which qemu calls vpc)
and on raw disks. Its command lines are those of qemu-img. When called through a link
named qemu-img, it prints exactly what qemu-img prints.

Ctrl-C, SIGTERM and SIGHUP end a command, after it has removed incomplete files. A
second signal ends it at once. SIGUSR1 prints the progress of a long command to
standard error.`,
		Example: "  vhdtool convert --for azure disk.raw disk.vhd\n" +
			"  vhdtool info disk.vhd\n" +
			"  vhdtool check disk.vhd",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		Annotations:   onlyReads,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Annotations[onlyReadsKey] == "" {
				cmd.SetContext(c.untilSignal(cmd.Context()))
			}
			return checkObjects(cmd)
		},
		RunE: func(_ *cobra.Command, args []string) error {
			switch {
			case version:
				c.printVersion()
				return nil
			case len(args) == 0:
				return usagef("Not enough arguments")
			}
			return unknownCommand(args[0])
		},
		// Cobra adds the commands "help" and "completion".
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: len(subcommands) < len(commands)},
	}
	root.Flags().BoolVarP(&version, "version", "V", false, "print the version and exit")
	root.SetOut(c.stdout)
	root.SetErr(c.stderr)
	root.SetFlagErrorFunc(c.flagError)
	root.SetHelpFunc(c.printHelp)
	root.SetHelpCommand(c.newHelpCmd())
	root.DisableFlagsInUseLine = true
	for _, name := range subcommands {
		cmd := commands[name](c)
		cmd.DisableFlagsInUseLine = true // the usage lines name the important ones
		addObjectFlag(cmd)
		addHelpFlag(cmd)
		root.AddCommand(cmd)
	}
	addHelpFlag(root)
	describeCompletion(root)
	groupCommands(root)
	return root
}

// optionError is a usage error about an option. Up to 10.0 it is in qemu-img's words (old). Later
// it is in getopt's, which differ for long and short options.
func optionError(old, long, short, name, shorts string) error {
	if shorts != "" {
		return &usageError{fmt.Sprintf(old, "-"+name), fmt.Sprintf(short, name)}
	}
	return &usageError{fmt.Sprintf(old, "--"+name), fmt.Sprintf(long, "--"+name)}
}

// flagError returns an error about flags in getopt's words.
func flagError(_ *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		return optionError("unrecognized option '%s'", "unrecognized option '%s'", "invalid option -- '%s'", unknown.GetSpecifiedName(), unknown.GetSpecifiedShortnames())
	}
	var missing *pflag.ValueRequiredError
	if errors.As(err, &missing) {
		return optionError("missing argument for option '%s'", "option '%s' requires an argument", "option requires an argument -- '%s'", missing.GetSpecifiedName(), missing.GetSpecifiedShortnames())
	}
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) && invalid.GetFlag().Value.Type() == "bool" {
		return usagef("option '--%s' doesn't allow an argument: found '%s'", invalid.GetFlag().Name, invalid.GetValue())
	}
	return usagef("%v", err)
}

// ownFlag marks flags that qemu-img does not have. An abbreviation of a qemu-img flag keeps its
// meaning.
const ownFlag = "own"

func markOwn(cmd *cobra.Command, names ...string) {
	for _, name := range names {
		_ = cmd.Flags().SetAnnotation(name, ownFlag, nil)
	}
}

// expandLongOptions completes abbreviated long options, as getopt does, if only one option of the
// command has that prefix.
func expandLongOptions(root *cobra.Command, args []string) []string {
	cmd, _, err := root.Find(args)
	if err != nil {
		return args
	}
	out := append([]string(nil), args...)
	for i, arg := range out {
		if arg == "--" {
			break
		}
		if !strings.HasPrefix(arg, "--") {
			continue
		}
		name, _, _ := strings.Cut(arg[2:], "=")
		var match, ownMatch []string
		exact := false
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			exact = exact || f.Name == name
			switch _, own := f.Annotations[ownFlag]; {
			case !strings.HasPrefix(f.Name, name):
			case own:
				ownMatch = append(ownMatch, f.Name)
			default:
				match = append(match, f.Name)
			}
		})
		if len(match) == 0 {
			match = ownMatch
		}
		if !exact && len(match) == 1 {
			out[i] = "--" + match[0] + arg[2+len(name):]
		}
	}
	return out
}

// qemuErrorf returns an error in qemu-img's own words, because scripts match them, capital letters
// included.
func qemuErrorf(format string, args ...any) error { return fmt.Errorf(format, args...) }

// protectNegativeSize keeps the size of "resize FILE -1G" from being parsed as an option. qemu-img
// always parses the last argument as the size.
func protectNegativeSize(args []string) []string {
	n := len(args)
	if n < 3 || args[0] != "resize" || slices.Contains(args, "--") {
		return args
	}
	last := args[n-1]
	if len(last) < 2 || last[0] != '-' || last[1] < '0' || last[1] > '9' {
		return args
	}
	return append(slices.Clone(args[:n-1]), "--", last)
}

// usageError is an error of the command line.
type usageError struct {
	msg    string
	getopt string // getopt's message, which qemu-img prints from 10.0 on; or ""
}

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error { return &usageError{msg: fmt.Sprintf(format, args...)} }

// statusError carries an exit status other than 1. If its error is nil, no message is printed.
type statusError struct {
	code int
	err  error
}

func (e *statusError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *statusError) Unwrap() error { return e.err }

// hintError is an error with a hint, which is printed on a line of its own.
type hintError struct {
	err  error
	hint string
}

func (e *hintError) Error() string { return e.err.Error() }

func (e *hintError) Unwrap() error { return e.err }

// report prints an error.
func (c *cli) report(err error) {
	var status *statusError
	if errors.As(err, &status) && status.err == nil {
		return
	}
	all := []error{err}
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) && errors.Join(joined.Unwrap()...).Error() == err.Error() {
		all = joined.Unwrap()
	}
	var usage *usageError
	isUsage := errors.As(err, &usage)
	var versioned *versionedError
	switch {
	case isUsage && usage.getopt != "" && c.qemu >= qemuNewWords:
		fmt.Fprintf(c.stderr, "%s: %s\n", strings.TrimSpace(c.name+" "+c.command), usage.getopt)
	case errors.As(err, &versioned):
		isUsage = isUsage || versioned.usage && c.qemu >= qemuNewWords
		for _, line := range versioned.lines(c.qemu) {
			c.message("%s", line)
		}
	default:
		for _, err := range all {
			c.message("%s", err)
		}
	}
	if !c.likeQEMU {
		hint := valueHint(err)
		if h := (*hintError)(nil); errors.As(err, &h) {
			hint = h.hint
		}
		if hint != "" {
			printTo(c.stderr, "hint: %s", hint)
		}
	}
	if isUsage {
		c.printUsageHint()
	}
}

// message prints a line to stderr.
func (c *cli) message(format string, args ...any) {
	printTo(c.stderr, "%s: %s", c.name, fmt.Sprintf(format, args...))
}

// openError explains why an image could not be opened.
func (c *cli) openError(ref imageRef, err error) error {
	var pe *fs.PathError
	isPath := errors.As(err, &pe)
	if !c.likeQEMU {
		if isPath {
			if ref.name == pipeName && errors.Is(err, fs.ErrNotExist) {
				return errStdinRefused
			}
			return fmt.Errorf("%s: %w", ref.name, pe.Err)
		}
		return hintFor(fmt.Errorf("%s: %w", ref.name, err), ref)
	}
	arg := cmp.Or(ref.arg, ref.name)
	var locked *imagelock.Error
	switch {
	case errors.As(err, &locked):
		shared := ""
		if locked.Shared {
			shared = "shared "
		}
		return qemuErrorf("Could not open '%s': Failed to get %s\"%s\" lock\nIs another process using the image [%s]?", arg, shared, locked.Right, ref.name)
	case isPath:
		return qemuErrorf("Could not open '%s': Could not open '%s': %s", arg, ref.name, cText(pe.Err))
	case errors.Is(err, vhd.ErrNotVHD) && isEmpty(ref.name):
		return qemuErrorf("Could not open '%s': File too small for a VHD header", arg)
	case errors.Is(err, vhd.ErrNotVHD), noFooter(err):
		return qemuErrorf("Could not open '%s': invalid VPC image", arg)
	}
	if n, ok := tooManyEntries(err); ok {
		return qemuErrorf("Could not open '%s': Max Table Entries too large (%d)", arg, n)
	}
	return qemuErrorf("Could not open '%s': %w", arg, err)
}

// noFooter reports whether an image is refused because its footer is not at the end of the file.
// qemu finds none there either.
func noFooter(err error) bool {
	var fe *vhd.FormatError
	return errors.As(err, &fe) && slices.Contains([]string{"footer-misplaced", "footer-missing", "footer-torn", "disk-cut"}, fe.ID)
}

// isEmpty reports whether the named file has no bytes.
func isEmpty(name string) bool {
	st, err := os.Stat(name)
	return err == nil && st.Mode().IsRegular() && st.Size() == 0
}

// tooManyEntries reports whether an image is refused because qemu finds its BAT too large. It
// returns the number of entries as qemu prints it, with a sign.
func tooManyEntries(err error) (int32, bool) {
	var fe *vhd.FormatError
	if !errors.As(err, &fe) || !strings.HasSuffix(fe.Field, "max table entries") {
		return 0, false
	}
	n, err := strconv.ParseUint(fe.Got, 10, 32)
	return int32(uint32(n)), err == nil && n > math.MaxInt32/4
}

// hintFor adds hints to the engine's errors about an image.
func hintFor(err error, ref imageRef) error {
	var search *vhd.ParentError
	switch {
	case errors.Is(err, vhd.ErrSavedState):
		return &hintError{err, "resume and shut down the virtual machine first; reading the image is safe"}
	case errors.Is(err, imagelock.ErrLocked):
		return &hintError{err, "wait for the other process to exit, or use -U to read anyway"}
	case errors.As(err, &search):
		return &hintError{err, parentHint(search, ref.name, ref.backing)}
	case errors.Is(err, vhd.ErrCorrupt):
		return &hintError{err, damagedHint(err, ref)}
	}
	return err
}

// cText returns a system error in the words of the C library.
func cText(err error) string {
	s := err.Error()
	var errno syscall.Errno
	if errors.As(err, &errno) && s != "" {
		return strings.ToUpper(s[:1]) + s[1:]
	}
	return s
}
