package main

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/product"
)

var updateMan = flag.Bool("update-man", false, "write the man pages instead of comparing them")

// manDir has the man pages.
const manDir = "../../docs/man"

// manRoot is the root command with all commands that have a page.
func manRoot() *cobra.Command {
	root := newCLI("vhdtool").newRootCmd(allCommands())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd("convert")
	return root
}

// pagedCommands are the commands that have a page of their own.
func pagedCommands(root *cobra.Command) []*cobra.Command {
	var all []*cobra.Command
	for _, cmd := range root.Commands() {
		if !cmd.Hidden && cmd.Name() != "help" {
			all = append(all, cmd)
		}
	}
	return all
}

// manPages returns the pages of the commands, the options and the rules, by file name.
func manPages() map[string]string {
	root := manRoot()
	pages := map[string]string{
		"vhdtool.1":          rootPage(root),
		"vhdtool-options.7":  optionsPage(),
		"vhdtool-products.7": productsPage(),
	}
	for _, cmd := range pagedCommands(root) {
		pages[pageName(cmd)+".1"] = commandPage(cmd)
	}
	return pages
}

func pageName(cmd *cobra.Command) string { return "vhdtool-" + cmd.Name() }

// commandPage is the page of a subcommand.
func commandPage(cmd *cobra.Command) string {
	r := newPage(pageName(cmd), 1)
	r.section("NAME")
	fmt.Fprintf(r, "%s \\- %s\n", roffText(pageName(cmd)), roffText(cmd.Short))
	r.section("SYNOPSIS")
	usage := "vhdtool " + cmd.Use
	if shells := cmd.Commands(); len(shells) > 0 { // completion
		var names []string
		for _, shell := range shells {
			names = append(names, shell.Name())
		}
		usage += " {" + strings.Join(names, "|") + "}"
	}
	r.line(roffSynopsis(usage))
	r.section("DESCRIPTION")
	r.text(strings.ReplaceAll(cmd.Long, "\t", "    "))
	r.section("OPTIONS")
	r.options(cmd)
	r.section("EXIT STATUS")
	for _, s := range exitStatuses(cmd) {
		r.item(bold(fmt.Sprint(s.code)), upperFirst(s.meaning)+".")
	}
	r.environment(cmd)
	r.signals(cmd)
	if cmd.Example != "" {
		r.section("EXAMPLES")
		r.example(cmd.Example)
	}
	var also []string
	if cmd.Flags().Lookup("options") != nil {
		also = append(also, "vhdtool-options(7)")
	}
	if cmd.Flags().Lookup("for") != nil {
		also = append(also, "vhdtool-products(7)")
	}
	r.seeAlso(append(also, "vhdtool(1)"))
	return r.String()
}

// options lists the flags of a command.
func (r *roff) options(cmd *cobra.Command) {
	cmd.InitDefaultHelpFlag()
	var hidden []string
	seen := map[string]bool{}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		name := bold("--" + f.Name)
		if f.Hidden {
			if len(f.Name) == 1 { // a flag that has only a short name
				name = bold("-" + f.Name)
			}
			if !seen[name] {
				hidden = append(hidden, name)
			}
			seen[name] = true
			return
		}
		if f.Shorthand != "" {
			name = bold("-"+f.Shorthand) + ", " + name
		}
		value, text := pflag.UnquoteUsage(f)
		if strings.HasPrefix(value, "string") { // it has no better name
			value = "VALUE"
		}
		if value != "" {
			name += " " + italic(value)
		}
		if !slices.Contains([]string{"", "0", "false", "[]"}, f.DefValue) {
			text += " (default " + f.DefValue + ")"
		}
		r.item(name, upperFirst(text)+".")
	})
	if len(hidden) > 0 {
		r.paragraph()
		r.line("Also accepted, as in some releases of qemu\\-img: " + strings.Join(hidden, ", ") + ".")
	}
}

// environment lists the variables that a command reads.
func (r *roff) environment(cmd *cobra.Command) {
	r.section("ENVIRONMENT")
	if cmd.Flags().Lookup("options") != nil || cmd.Name() == "dd" {
		r.item(bold("SOURCE_DATE_EPOCH"), "Time of creation of new images, in seconds since 1970. With it, equal command lines\n"+
			"and equal data give equal images. See vhdtool-options(7).")
	}
	r.item(bold(qemuVersionVariable), "Release of qemu-img whose output is printed, such as 10.0. It counts only when the\n"+
		"program is called as qemu-img. The default is 7.2.")
}

// signals describes the effect of signals on a command.
func (r *roff) signals(cmd *cobra.Command) {
	r.section("SIGNALS")
	ends := "The command removes its incomplete output and ends. An existing file stays as it was.\nA second signal ends it at once."
	switch {
	case slices.Contains([]string{"commit", "rebase", "resize", "set", "check"}, cmd.Name()):
		ends = "The command ends after the current step of a change. The image stays valid.\nA second signal ends it at once."
	case cmd.Annotations[onlyReadsKey] != "" || cmd.HasSubCommands():
		ends = "The command ends at once. It changes no file."
	}
	r.item(bold("SIGINT")+", "+bold("SIGTERM")+", "+bold("SIGHUP"), ends)
	r.item(bold("SIGUSR1"), "A long command prints its progress on standard error, and goes on.")
}

func (r *roff) seeAlso(pages []string) {
	r.section("SEE ALSO")
	for i, page := range pages {
		name, section, _ := strings.Cut(page, "(")
		comma := ","
		if i == len(pages)-1 {
			comma = ""
		}
		fmt.Fprintf(r, ".BR %s (%s%s\n", roffText(name), section, comma)
	}
}

// rootPage is the page of the program.
func rootPage(root *cobra.Command) string {
	r := newPage("vhdtool", 1)
	r.section("NAME")
	fmt.Fprintf(r, "vhdtool \\- %s\n", roffText(root.Short))
	r.section("SYNOPSIS")
	r.line(roffSynopsis("vhdtool COMMAND [OPTION...] [ARGUMENT...]"))
	r.section("DESCRIPTION")
	r.text(root.Long)
	r.section("COMMANDS")
	also := []string{"vhdtool-options(7)", "vhdtool-products(7)"}
	for _, cmd := range pagedCommands(root) {
		r.item(bold(cmd.Name()), upperFirst(cmd.Short)+".")
		also = append(also, pageName(cmd)+"(1)")
	}
	r.section("OPTIONS")
	r.options(root)
	r.section("EXIT STATUS")
	for _, s := range exitStatuses(root) {
		r.item(bold(fmt.Sprint(s.code)), upperFirst(s.meaning)+".")
	}
	r.paragraph()
	r.line("The commands check and compare have more of them; see their pages.")
	r.environment(root)
	r.signals(root)
	r.seeAlso(also)
	return r.String()
}

// optionsPage is the page of the options that -o and --image-opts set.
func optionsPage() string {
	r := newPage("vhdtool-options", 7)
	r.section("NAME")
	r.line("vhdtool\\-options \\- options of image formats")
	r.section("DESCRIPTION")
	r.text(`The option -o of create, convert, measure and dd sets options of a new image, as
KEY=VALUE,KEY=VALUE. A comma in a value is doubled. An option that is set twice has the
last value. The list "help" prints the options.

A switch is on or off; its name alone switches it on. A size is in bytes, with an optional
suffix k, M, G, T, P or E for powers of 1024.

Options marked with + are not known to qemu-img. Called as qemu-img, the program refuses
them.`)
	for _, f := range allFormats {
		if len(f.createOptions) == 0 {
			continue
		}
		r.section("FORMAT " + f.Name)
		r.specs(f.createOptions)
	}
	r.section("ALL FORMATS")
	r.specs(fileOptions)
	r.section("OPENING A VHD")
	r.text("--image-opts describes an existing image, as in\n\n  driver=vpc,file.filename=disk.vhd,force_size_calc=current_size")
	for _, o := range openOptions {
		r.item(bold(o.name)+"="+italic(strings.Join(o.values, "|")), o.text)
	}
	r.section("REPRODUCIBLE IMAGES")
	r.text(`With SOURCE_DATE_EPOCH in the environment, the time of creation is that of the variable. The
unique id is derived from size, disk type, block size, creator and time, and from the parent if
there is one. The same command line and data then give the same bytes, whatever the
number of workers.

Two images with equal options have equal unique ids then, even if their data differs. Set
uuid for images that are used together, such as several disks of one virtual machine.

A fixed image is the same from a raw file, from a pipe and from compressed data. A dynamic
image of unknown size, as from a pipe, keeps more space for its BAT: its disk and its unique
id are the same, its bytes are not.`)
	r.seeAlso([]string{"vhdtool(1)", "vhdtool-convert(1)", "vhdtool-create(1)", "vhdtool-products(7)"})
	return r.String()
}

// openOptions are the options for opening a VHD.
var openOptions = []struct {
	name, text string
	values     []string
}{
	{"force_size_calc", "Field that the size of the disk comes from: the geometry or the current size. The\ndefault depends on the creator.", []string{"chs", "current_size"}},
	{"ignore_checksums", "Open an image although the checksum of its footer or header is wrong.", []string{"on", "off"}},
}

// specs lists options.
func (r *roff) specs(specs []optionSpec) {
	for _, s := range slices.SortedFunc(slices.Values(specs), func(a, b optionSpec) int { return cmp.Compare(a.name, b.name) }) {
		values := map[valueKind]string{textValue: "TEXT", boolValue: "on|off", sizeValue: "SIZE"}[s.kind]
		if s.values != nil {
			values = strings.Join(s.values, "|")
		}
		term := bold(s.name) + "=" + italic(values)
		if s.own {
			term += " +"
		}
		r.item(term, strings.TrimRight(s.help, " .")+".")
	}
}

// productsPage is the page of the products and their rules.
func productsPage() string {
	r := newPage("vhdtool-products", 7)
	r.section("NAME")
	r.line("vhdtool\\-products \\- rules of the products that accept VHD images")
	r.section("DESCRIPTION")
	r.text(`The option --for PRODUCT of create, convert, measure and resize makes an image that the
product accepts. check --for PRODUCT lists the rules that an image breaks. info lists the
products that accept an image. A broken rule is no damage.

Each rule has a stable name, a field, what is wanted there, and the reason.`)
	for _, p := range product.All() {
		r.section(fmt.Sprintf("%s (--for %s)", p.Title, p.Name))
		for _, rule := range p.Rules() {
			r.item(bold(rule.Name), fmt.Sprintf("%s: %s. %s.\nSource: %s.", upperFirst(rule.Field), rule.Wants, upperFirst(rule.Reason), strings.ReplaceAll(rule.Source, "`", "")))
		}
	}
	r.seeAlso([]string{"vhdtool(1)", "vhdtool-check(1)", "vhdtool-convert(1)"})
	return r.String()
}

// upperFirst starts a text with a capital letter.
func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// TestManPages compares the man pages in docs/man with those that the commands make.
// 'make man' writes them.
func TestManPages(t *testing.T) {
	want := manPages()
	if *updateMan {
		if err := os.RemoveAll(manDir); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(manDir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, page := range want {
			if err := os.WriteFile(filepath.Join(manDir, name), []byte(page), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	got := readManPages(t)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if !bytes.Equal(got[name], []byte(want[name])) {
			t.Errorf("docs/man/%s is not what the program says now: run 'make man'", name)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("docs/man/%s belongs to no command: run 'make man'", name)
		}
	}
}

// readManPages reads the pages of docs/man.
func readManPages(t *testing.T) map[string][]byte {
	t.Helper()
	pages := map[string][]byte{}
	names, err := filepath.Glob(filepath.Join(manDir, "*.[17]"))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		pages[filepath.Base(n)] = b
	}
	return pages
}

// TestManPagesAreComplete: each page has its sections in the usual order, and every flag,
// exit status, option and rule is in a page.
func TestManPagesAreComplete(t *testing.T) {
	pages := readManPages(t)
	has := func(page, text string) {
		t.Helper()
		if !bytes.Contains(pages[page], []byte(text)) {
			t.Errorf("docs/man/%s has no %s", page, text)
		}
	}
	root := manRoot()
	for _, cmd := range pagedCommands(root) {
		page := pageName(cmd) + ".1"
		sections := []string{"NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "SIGNALS", "EXAMPLES", "SEE ALSO"}
		if cmd.HasSubCommands() {
			sections = slices.DeleteFunc(sections, func(s string) bool { return s == "EXAMPLES" })
		}
		var found []string
		for line := range strings.Lines(string(pages[page])) {
			if name, ok := strings.CutPrefix(line, ".SH "); ok {
				found = append(found, strings.TrimSpace(name))
			}
		}
		if !slices.Equal(found, sections) {
			t.Errorf("docs/man/%s has the sections %q, want %q", page, found, sections)
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			dashes := "--"
			if len(f.Name) == 1 {
				dashes = "-"
			}
			has(page, bold(dashes+f.Name))
			if f.Shorthand != "" && !f.Hidden {
				has(page, bold("-"+f.Shorthand))
			}
		})
		for _, s := range exitStatuses(cmd) {
			has(page, bold(fmt.Sprint(s.code))+"\n"+roffText(upperFirst(s.meaning)))
		}
		has("vhdtool.1", bold(cmd.Name()))
	}
	for _, f := range allFormats {
		for _, s := range slices.Concat(f.createOptions, fileOptions) {
			has("vhdtool-options.7", bold(s.name)+"=")
		}
	}
	for _, o := range openOptions {
		for _, v := range o.values {
			if _, err := vhd.ParseOpenOptions(&disk.OpenOptions{Options: disk.Options{o.name: v}}); err != nil {
				t.Errorf("the documented option %s=%s: %v", o.name, v, err)
			}
		}
	}
	for _, p := range product.All() {
		for _, rule := range p.Rules() {
			has("vhdtool-products.7", bold(rule.Name))
		}
	}
}

// TestManPagesLint runs the installed checkers of man pages.
func TestManPagesLint(t *testing.T) {
	names, err := filepath.Glob(filepath.Join(manDir, "*.[17]"))
	if err != nil || len(names) == 0 {
		t.Fatalf("%d man pages, %v", len(names), err)
	}
	t.Run("mandoc", func(t *testing.T) {
		if _, err := exec.LookPath("mandoc"); err != nil {
			t.Skip("mandoc is not installed")
		}
		// A style message about the missing name of an operating system.
		if out, err := exec.Command("mandoc", append([]string{"-T", "lint", "-W", "warning"}, names...)...).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("mandoc: %v\n%s", err, out)
		}
	})
	t.Run("groff", func(t *testing.T) {
		if _, err := exec.LookPath("groff"); err != nil {
			t.Skip("groff is not installed")
		}
		for _, name := range names {
			cmd := exec.Command("groff", "-man", "-ww", "-Tutf8", "-z", name)
			if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("groff: %s: %v\n%s", name, err, out)
			}
		}
	})
}
