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
	"github.com/vhdtool/vhdtool/pkg/qcow2"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// cli is the program as a user called it.
type cli struct {
	name     string      // the name it was called by, which messages carry
	likeQEMU bool        // called as qemu-img: prints what qemu-img prints, no more
	qemu     qemuVersion // the release whose words and keys are printed; 7.2 unless likeQEMU
	command  string      // the subcommand

	pause func(context.Context, time.Duration) // waits where a rate is limited; nil: by the clock

	stdin  *os.File
	stdout io.Writer
	stderr io.Writer

	line    *statusLine // of stderr; nil for none
	signals signals
}

// execute runs a command line and returns the exit status.
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

// onlyReads marks a command that leaves nothing behind when a signal ends it.
var onlyReads = map[string]string{onlyReadsKey: "yes"}

const onlyReadsKey = "only-reads"

// commands makes the subcommands, by their names.
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

// neededCommands are the subcommands that a command line may use. Making all of
// them would take a tenth of the time of a command that only prints something.
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

// newRootCmd returns the command with these subcommands.
func (c *cli) newRootCmd(subcommands []string) *cobra.Command {
	var version bool
	root := &cobra.Command{
		Use:   c.name + " COMMAND",
		Short: "Make, convert, examine and check VHD images",
		Long: `vhdtool makes, converts, examines and checks images in the VHD format
(Virtual Hard Disk, qemu's "vpc"), with the command lines of qemu-img.`,
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
			return usagef("Command not found: %s", args[0])
		},
		// The commands "help" and "completion" come with the others.
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: len(subcommands) < len(commands)},
	}
	root.Flags().BoolVarP(&version, "version", "V", false, "print the version and exit")
	root.SetOut(c.stdout)
	root.SetErr(c.stderr)
	root.SetFlagErrorFunc(flagError)
	for _, name := range subcommands {
		cmd := commands[name](c)
		cmd.DisableFlagsInUseLine = true // the usage lines name those that matter
		addObjectFlag(cmd)
		root.AddCommand(cmd)
	}
	return root
}

// optionError is a usage error about an option, in qemu-img's words until 10.0 (old), and in
// getopt's from then on: those for a long option, and for a short one.
func optionError(old, long, short, name, shorts string) error {
	if shorts != "" {
		return &usageError{fmt.Sprintf(old, "-"+name), fmt.Sprintf(short, name)}
	}
	return &usageError{fmt.Sprintf(old, "--"+name), fmt.Sprintf(long, "--"+name)}
}

// flagError says what is wrong with the flags in getopt's words.
func flagError(_ *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		return optionError("unrecognized option '%s'", "unrecognized option '%s'", "invalid option -- '%s'", unknown.GetSpecifiedName(), unknown.GetSpecifiedShortnames())
	}
	var missing *pflag.ValueRequiredError
	if errors.As(err, &missing) {
		return optionError("missing argument for option '%s'", "option '%s' requires an argument", "option requires an argument -- '%s'", missing.GetSpecifiedName(), missing.GetSpecifiedShortnames())
	}
	return usagef("%v", err)
}

// ownFlag marks flags that qemu-img does not have. What is short for one of its
// flags stays so.
const ownFlag = "own"

func markOwn(cmd *cobra.Command, names ...string) {
	for _, name := range names {
		_ = cmd.Flags().SetAnnotation(name, ownFlag, nil)
	}
}

// expandLongOptions completes long options that are abbreviated, as getopt
// does, where only one option of the command starts that way.
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

// qemuErrorf is an error in qemu-img's own words, which scripts know, capital
// letters and all.
func qemuErrorf(format string, args ...any) error { return fmt.Errorf(format, args...) }

// protectNegativeSize keeps the size of "resize FILE -1G" from being taken for
// an option: qemu-img takes the last argument for the size whatever it is.
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

// usageError is a wrong command line.
type usageError struct {
	msg    string
	getopt string // what getopt says, which qemu-img lets speak from 10.0 on; or ""
}

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error { return &usageError{msg: fmt.Sprintf(format, args...)} }

// statusError gives an exit status other than 1. Without an error there is
// nothing more to say.
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

// hintError is an error with a line that says what may help.
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
	if isUsage {
		c.printUsageHint()
	}
	var hint *hintError
	if errors.As(err, &hint) && !c.likeQEMU {
		fmt.Fprintf(c.stderr, "hint: %s\n", hint.hint)
	}
}

// message prints a line for people.
func (c *cli) message(format string, args ...any) {
	fmt.Fprintf(c.stderr, "%s: %s\n", c.name, fmt.Sprintf(format, args...))
}

// openError says why an image could not be opened.
func (c *cli) openError(ref imageRef, err error) error {
	var pe *fs.PathError
	isPath := errors.As(err, &pe)
	if !c.likeQEMU {
		if isPath {
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
	case errors.Is(err, vhd.ErrNotVHD):
		return qemuErrorf("Could not open '%s': invalid VPC image", arg)
	}
	if n, ok := tooManyEntries(err); ok {
		return qemuErrorf("Could not open '%s': Max Table Entries too large (%d)", arg, n)
	}
	return qemuErrorf("Could not open '%s': %w", arg, err)
}

// isEmpty reports whether the named file has no bytes.
func isEmpty(name string) bool {
	st, err := os.Stat(name)
	return err == nil && st.Mode().IsRegular() && st.Size() == 0
}

// tooManyEntries reports whether an image is refused for a BAT that qemu finds too large,
// and the number of its entries as qemu prints it, with a sign.
func tooManyEntries(err error) (int32, bool) {
	var fe *vhd.FormatError
	if !errors.As(err, &fe) || !strings.HasSuffix(fe.Field, "max table entries") {
		return 0, false
	}
	n, err := strconv.ParseUint(fe.Got, 10, 32)
	return int32(uint32(n)), err == nil && n > math.MaxInt32/4
}

// hintFor adds what may help to the errors of the engine about an image.
func hintFor(err error, ref imageRef) error {
	var search *vhd.ParentError
	switch {
	case errors.Is(err, vhd.ErrSavedState):
		return &hintError{err, "resume and shut down the virtual machine first; reading the image is safe"}
	case errors.Is(err, imagelock.ErrLocked):
		return &hintError{err, "wait for it to end; what only reads takes -U"}
	case errors.As(err, &search):
		return &hintError{err, parentHint(search, ref.name, ref.backing)}
	case errors.As(err, new(*qcow2.ParentError)):
		return &hintError{err, qcow2ParentHint(err, ref.name)}
	case errors.Is(err, vhd.ErrCorrupt), errors.Is(err, qcow2.ErrCorrupt):
		return &hintError{err, "'check' lists all that is wrong with the image"}
	}
	return err
}

// cText is an error of the system in the words of the C library.
func cText(err error) string {
	s := err.Error()
	var errno syscall.Errno
	if errors.As(err, &errno) && s != "" {
		return strings.ToUpper(s[:1]) + s[1:]
	}
	return s
}
