package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vhdtool/vhdtool/pkg/vhd/product"
)

// commandGroups are the groups of commands in the help of the program. Commands in no group follow
// them.
var commandGroups = []struct {
	title    string
	commands []string
}{
	{"Create images", []string{"create", "convert", "dd"}},
	{"Inspect and repair images", []string{"info", "check", "compare", "map", "measure"}},
	{"Change images", []string{"resize", "set"}},
	{"Parents and children", []string{"commit", "rebase"}},
}

// groupCommands assigns the commands of the program to their groups.
func groupCommands(root *cobra.Command) {
	for _, g := range commandGroups {
		root.AddGroup(&cobra.Group{ID: g.title, Title: g.title + ":"})
		for _, cmd := range root.Commands() {
			if slices.Contains(g.commands, cmd.Name()) {
				cmd.GroupID = g.title
			}
		}
	}
}

// ignoredFlag marks flags of qemu-img that have no effect here.
const ignoredFlag = "ignored"

// markIgnored marks flags that are accepted only for compatibility. Help lists their names at its
// end.
func markIgnored(cmd *cobra.Command, names ...string) {
	for _, name := range names {
		_ = cmd.Flags().SetAnnotation(name, ignoredFlag, nil)
	}
}

const helpUsage = "show this help and exit"

// addHelpFlag adds -h to a command.
func addHelpFlag(cmd *cobra.Command) {
	cmd.Flags().BoolP("help", "h", false, helpUsage)
}

// describeCompletion adds cobra's command "completion", with a help text of this program.
func describeCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			cmd.Use = "completion SHELL"
			cmd.Short = "Print the completion script for a shell"
			cmd.Long = "The help of each command below explains how to load its script."
		}
	}
}

// parentFlagNames are the flags for parents, which many commands have.
var parentFlagNames = []string{"parent", "parent-dir", "trust-parents"}

// printHelp prints the help of a command, in lines as wide as the terminal, but at most
// defaultColumns.
func (c *cli) printHelp(cmd *cobra.Command, _ []string) {
	columns := min(columnsOf(c.stdout), defaultColumns)
	// cobra creates the completion commands and their flags
	cmd.DisableFlagsInUseLine = true
	cmd.InitDefaultHelpFlag()
	cmd.Flags().Lookup("help").Usage = helpUsage
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nUsage:\n", cmd.Short)
	for _, line := range wrapUsage(cmd.UseLine(), columns-2) {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	if cmd.Long != "" {
		fmt.Fprintf(&b, "\n%s\n", wrapText(cmd.Long, columns))
	}
	if cmd.Example != "" {
		fmt.Fprintf(&b, "\nExamples:\n%s\n", strings.ReplaceAll(cmd.Example, "  vhdtool ", "  "+c.name+" "))
	}
	if cmd.HasAvailableSubCommands() {
		listCommands(&b, cmd, columns)
	}
	c.listFlags(&b, cmd, columns)
	if cmd.HasParent() {
		listExitStatuses(&b, cmd, columns)
	} else {
		more := fmt.Sprintf("'%s help COMMAND' shows the help of a command. There is also help for %s.", c.name, joinWords(helpTopicNames(), "and"))
		fmt.Fprintf(&b, "\n%s\n", wrapText(more, columns))
	}
	_, _ = io.WriteString(c.stdout, b.String()) // c.stdout keeps an error
}

// wrapUsage wraps a usage line between its arguments. Arguments in brackets may contain spaces.
func wrapUsage(usage string, columns int) []string {
	var words []string
	depth, start := 0, 0
	for i, r := range usage + " " {
		switch r {
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		case ' ':
			if depth == 0 {
				words = append(words, usage[start:i])
				start = i + 1
			}
		}
	}
	const indent = "    "
	lines := wrapWords(words, columns-len(indent))
	for i := range lines[1:] {
		lines[i+1] = indent + lines[i+1]
	}
	return lines
}

// listCommands lists the subcommands of a command by group.
func listCommands(w io.Writer, cmd *cobra.Command, columns int) {
	indent := cmd.NamePadding() + 3
	list := func(title, id string) {
		fmt.Fprintf(w, "\n%s\n", title)
		for _, sub := range cmd.Commands() {
			if sub.GroupID == id && (sub.IsAvailableCommand() || sub.Name() == "help") {
				short := wrapWords(strings.Fields(sub.Short), columns-indent)
				fmt.Fprintf(w, "  %-*s%s\n", indent-2, sub.Name(), strings.Join(short, "\n"+strings.Repeat(" ", indent)))
			}
		}
	}
	for _, g := range cmd.Groups() {
		list(g.Title, g.ID)
	}
	if len(cmd.Groups()) > 0 {
		list("Other commands:", "")
		return
	}
	list("Commands:", "")
}

// listFlags lists the flags of a command: its own, those for parents, and the names of ignored
// ones.
func (c *cli) listFlags(w io.Writer, cmd *cobra.Command, columns int) {
	own, parents := new(pflag.FlagSet), new(pflag.FlagSet)
	var ignored []string
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		_, isIgnored := f.Annotations[ignoredFlag]
		switch {
		case f.Hidden:
		case isIgnored && !c.likeQEMU:
			name := "--" + f.Name
			if f.Shorthand != "" {
				name = "-" + f.Shorthand + " (" + name + ")"
			}
			ignored = append(ignored, name)
		case slices.Contains(parentFlagNames, f.Name):
			parents.AddFlag(withValueName(f))
		default:
			own.AddFlag(withValueName(f))
		}
	})
	if own.HasFlags() {
		fmt.Fprintf(w, "\nFlags:\n%s", own.FlagUsagesWrapped(columns))
	}
	if parents.HasFlags() {
		fmt.Fprintf(w, "\nFlags for the parents of a differencing image:\n%s", parents.FlagUsagesWrapped(columns))
	}
	if len(ignored) > 0 {
		for i := range len(ignored) - 1 {
			ignored[i] += ","
		}
		fmt.Fprintf(w, "\nAccepted for compatibility with qemu-img, without effect:\n  %s\n",
			strings.Join(wrapWords(ignored, columns-2), "\n  "))
	}
}

// withValueName returns a flag whose value is called VALUE, unless its usage names it. Otherwise
// pflag shows a Go type.
func withValueName(f *pflag.Flag) *pflag.Flag {
	if f.Value.Type() == "bool" || strings.Count(f.Usage, "`") == 2 {
		return f
	}
	named := *f
	named.Value = valueOf{f.Value}
	return &named
}

// valueOf is the value of a flag, with the type name VALUE.
type valueOf struct{ pflag.Value }

func (valueOf) Type() string { return "VALUE" }

// helpTopics are the topics of help besides the commands.
var helpTopics = []struct {
	name, short string
	print       func(w io.Writer, columns int)
}{
	{"options", "the options of each format, for -o", explainOptions},
	{"products", "the products that --for names", explainProducts},
	{"sizes", "how sizes are written", explainSizes},
}

func helpTopicNames() []string {
	var names []string
	for _, t := range helpTopics {
		names = append(names, t.name)
	}
	return names
}

// newHelpCmd returns the command that shows help.
func (c *cli) newHelpCmd() *cobra.Command {
	var options bool
	long := "Without an argument, help lists the commands. The topics are:\n\n"
	for _, t := range helpTopics {
		long += fmt.Sprintf("  %-10s %s\n", t.name, t.short)
	}
	cmd := &cobra.Command{
		Use:         "help [-o] [COMMAND | TOPIC]",
		Short:       "Show help for a command or a topic",
		Long:        long,
		Example:     "  vhdtool help convert\n  vhdtool help options",
		Annotations: onlyReads,

		DisableFlagsInUseLine: true,
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			names := helpTopicNames()
			for _, sub := range cmd.Root().Commands() {
				if sub.IsAvailableCommand() {
					names = append(names, sub.Name())
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if options {
				args = []string{"options"}
			}
			return c.runHelp(cmd.Root(), args)
		},
	}
	cmd.Flags().BoolVarP(&options, "options", "o", false, "show the options of each format, as 'help options' does")
	return cmd
}

func (c *cli) runHelp(root *cobra.Command, args []string) error {
	if len(args) == 0 {
		c.printHelp(root, nil)
		return nil
	}
	for _, t := range helpTopics {
		if t.name == args[0] {
			t.print(c.stdout, min(columnsOf(c.stdout), defaultColumns))
			return nil
		}
	}
	cmd, rest, err := root.Find(args)
	if err != nil || cmd == root || len(rest) > 0 {
		return &hintError{usagef("No help for '%s'", strings.Join(args, " ")), suggestCommand(args[0], helpTopicNames()...)}
	}
	c.printHelp(cmd, nil)
	return nil
}

// explainOptions explains the options of each format.
func explainOptions(w io.Writer, columns int) {
	fmt.Fprint(w, wrapText(`create, convert and measure accept these options after -o, separated by commas: -o subformat=fixed,force_size. A switch without a value is on. In a value, two commas stand for one.`, columns), "\n")
	for _, f := range allFormats {
		if f.foreign {
			continue
		}
		fmt.Fprintf(w, "\nOptions of format %s:\n", f.Name)
		listAllowed(w, f.createOptions, columns)
	}
	fmt.Fprint(w, "\nOptions of the file, in every format:\n")
	listAllowed(w, fileOptions, columns)
}

// listAllowed lists options with the values that they accept.
func listAllowed(w io.Writer, specs []optionSpec, columns int) {
	for _, s := range slices.SortedFunc(slices.Values(specs), func(a, b optionSpec) int { return strings.Compare(a.name, b.name) }) {
		fmt.Fprintf(w, "  %s=%s\n", s.name, s.allowed("|"))
		for _, line := range wrapWords(strings.Fields(s.help), columns-6) {
			fmt.Fprintf(w, "      %s\n", line)
		}
	}
}

// allowed returns the values that an option accepts, or their type.
func (s *optionSpec) allowed(separator string) string {
	switch {
	case s.values != nil:
		return strings.Join(s.values, separator)
	case s.kind == boolValue:
		return "on" + separator + "off"
	case s.kind == sizeValue:
		return "SIZE"
	}
	return "TEXT"
}

// explainProducts lists the products.
func explainProducts(w io.Writer, columns int) {
	fmt.Fprint(w, wrapText(`With --for PRODUCT, create and convert make a VHD that the product accepts. resize rounds the size up, and check examines an image by the product's rules.`, columns), "\n\n")
	for _, p := range product.All() {
		fmt.Fprintf(w, "  %-12s %s\n", p.Name, p.Title)
	}
}

// explainSizes explains how sizes are written.
func explainSizes(w io.Writer, columns int) {
	fmt.Fprint(w, wrapText(fmt.Sprintf(`A size is a number of bytes, with an optional suffix k, M, G, T, P or E for a power of 1024: 10M is 10 MiB (%s bytes). A number with a suffix may have a fraction, such as 1.5G. 0x starts a hexadecimal number.

The suffixes MB and MiB are refused, because programs disagree about them.

A dynamic VHD holds at most 2040 GiB (%s bytes).`, humanize.Comma(10<<20), humanize.Comma(maxVHDSize)), columns), "\n")
}

// joinWords joins words as in a sentence: "a, b or c".
func joinWords(words []string, last string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	n := len(words) - 1
	return strings.Join(words[:n], ", ") + " " + last + " " + words[n]
}
