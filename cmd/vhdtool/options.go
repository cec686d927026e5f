package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/internal/optlist"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/product"
)

type valueKind uint8

const (
	textValue valueKind = iota
	boolValue
	sizeValue
)

// optionSpec is an option of a format that -o can set.
type optionSpec struct {
	name   string
	kind   valueKind
	values []string // allowed values, if restricted
	help   string
	own    bool // unknown to qemu-img
}

var sizeOption = optionSpec{name: "size", kind: sizeValue, help: "Virtual disk size"}

// alignOption rounds up the size of a new disk.
var alignOption = optionSpec{name: "align", kind: sizeValue, own: true, help: "Round the size up to a multiple of this; implies force_size"}

// targetFlags are the flags for the target of a new image.
type targetFlags struct {
	product string // of --for, or ""
	align   string
}

// add adds the flags. It completes -o for the format that the flag formatFlag names.
func (t *targetFlags) add(cmd *cobra.Command, formatFlag string) {
	_ = cmd.RegisterFlagCompletionFunc(formatFlag, completeFormats)
	_ = cmd.RegisterFlagCompletionFunc("options", func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		return completeOptions(cmd.Flag(formatFlag).Value.String(), typed)
	})
	t.addSize(cmd, "make a VHD that `PRODUCT` accepts")
}

// addSize adds the flags that determine the size of the disk.
func (t *targetFlags) addSize(cmd *cobra.Command, forHelp string) {
	cmd.Flags().StringVar(&t.align, "align", "", "round the disk size up to a multiple of `SIZE`, such as 1M")
	addProductFlag(cmd, &t.product, forHelp)
}

// completeOptions completes the last option of a list, for the given format or else for VHD.
func completeOptions(formatName, typed string) ([]string, cobra.ShellCompDirective) {
	f, err := formatByName(formatName)
	if err != nil {
		f = &vpcFormat
	}
	before := typed[:strings.LastIndexByte(typed, ',')+1]
	var all []string
	for _, s := range f.options() {
		values := s.values
		if s.kind == boolValue {
			values = []string{"on", "off"}
		}
		if values == nil {
			values = []string{""}
		}
		for _, v := range values {
			all = append(all, before+s.name+"="+v)
		}
	}
	return all, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// addProductFlag adds --for.
func addProductFlag(cmd *cobra.Command, to *string, help string) {
	var names []string
	for _, p := range product.All() {
		names = append(names, p.Name)
	}
	cmd.Flags().StringVar(to, "for", "", help+": "+strings.Join(names, ", "))
	_ = cmd.RegisterFlagCompletionFunc("for", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
}

// formatName returns the format name that the flags imply, if none is given.
func (t *targetFlags) formatName(given string) string {
	if given == "" && t.product != "" {
		return vpcFormat.Name
	}
	return given
}

// apply adds --align to the options of a format, and checks --for.
func (t *targetFlags) apply(f *format, set disk.Options) error {
	if t.align != "" {
		set[alignOption.name] = t.align
	}
	if t.product != "" {
		if f != &vpcFormat {
			return fmt.Errorf("--for %s makes a VHD, not an image of format %s", t.product, f.Name)
		}
		if _, err := product.Find(t.product); err != nil {
			return err
		}
	}
	return nil
}

// newImageOptions returns the options for a new image: those of the user, over those of the
// product. SOURCE_DATE_EPOCH sets the default time of creation, and makes the default unique id a
// derived one.
func newImageOptions(f *format, productName string, set disk.Options) disk.Options {
	set = f.withoutFileOptions(set)
	all := maps.Clone(set)
	if p, err := product.Find(productName); err == nil {
		all = p.Options(set)
	}
	stamp := os.Getenv("SOURCE_DATE_EPOCH")
	absent := func(name string) bool {
		_, given := set[name]
		return !given && slices.ContainsFunc(f.createOptions, func(s optionSpec) bool { return s.name == name })
	}
	if stamp != "" && absent("uuid") {
		all["uuid"] = "derived"
	}
	if stamp != "" && absent("timestamp") {
		// Builds set it to 1970 or 1980, before VHD time stamps begin.
		if t, err := vhd.ParseTime(stamp); err == nil {
			stamp = strconv.FormatInt(vhd.NearestTime(t).Unix(), 10)
		}
		all["timestamp"] = stamp
	}
	delete(all, sizeOption.name) // handled by the command
	return all
}

// errOptionList is the error of a malformed option list.
var errOptionList = qemuErrorf("Invalid option list")

// createOptions are the parsed -o lists of a command line.
type createOptions struct {
	set  disk.Options
	help bool // -o help: print the list instead
}

// parseCreateOptions merges the -o lists. The last setting of an option counts.
func (c *cli) parseCreateOptions(f *format, lists []string) (createOptions, error) {
	o := createOptions{set: disk.Options{}}
	for _, list := range lists {
		opts, err := optlist.Parse(list)
		// Unlike in --image-opts, a last comma is an error here.
		open := strings.HasSuffix(list, ",") && !strings.HasSuffix(list, ",,")
		if err != nil || open {
			return o, qemuErrorf("%w: %s", errOptionList, list)
		}
		if optlist.HasHelp(opts) {
			o.help = true
			return o, nil
		}
		for _, opt := range opts {
			if err := c.setOption(f, o.set, opt); err != nil {
				return o, err
			}
		}
	}
	return o, nil
}

// findOption finds an option of the format by name.
func (c *cli) findOption(f *format, name string) (optionSpec, bool) {
	for _, s := range f.options() {
		if s.name == name && (!s.own || !c.likeQEMU) {
			return s, true
		}
	}
	return optionSpec{}, false
}

func (c *cli) setOption(f *format, set disk.Options, opt optlist.Option) error {
	key, value := opt.Key, opt.Value
	_, ok := c.findOption(f, key)
	if off, isNo := strings.CutPrefix(key, "no"); !ok && opt.Bare && isNo {
		key, value = off, "off"
		_, ok = c.findOption(f, key)
	}
	if !ok {
		return &hintError{qemuErrorf("Invalid parameter '%s'", key), optionHint(f, key)}
	}
	set[key] = value
	return nil
}

// checkOptions checks the values of switches and sizes.
func checkOptions(f *format, set disk.Options) error {
	if v, given := set[sizeOption.name]; given {
		if _, err := optlist.Size(sizeOption.name, v); err != nil {
			return err
		}
	}
	if err := checkFileOptions(set); err != nil {
		return err
	}
	var syntax *optlist.SyntaxError
	if err := optionsError(f, set); errors.As(err, &syntax) {
		return err
	}
	return nil
}

// checkValues checks options with a fixed set of values. qemu-img does so after checkOptions.
func checkValues(f *format, set disk.Options) error {
	var value *optlist.ValueError
	if err := optionsError(f, set); errors.As(err, &value) {
		return err
	}
	return nil
}

// optionsError returns the format's error about options. Errors of syntax come first.
func optionsError(f *format, set disk.Options) error {
	if f.CheckOptions == nil {
		return nil
	}
	return f.CheckOptions(newImageOptions(f, "", set))
}

// printSettings prints the given options, except the size, as part of a line.
func printSettings(w io.Writer, f *format, set disk.Options) {
	for _, s := range f.options() {
		if v, given := set[s.name]; given && s.name != sizeOption.name {
			fmt.Fprintf(w, " %s=%s", s.name, strings.ReplaceAll(printedValue(s, v), ",", ",,"))
		}
	}
}

// printOptionHelp prints the list for -o help. As in qemu-img, it depends on whether a file is
// named.
func (c *cli) printOptionHelp(f *format, file bool) {
	if c.likeQEMU && file {
		fmt.Fprintln(c.stdout, "Supported options:")
		listOptions(c.stdout, f.options(), false)
		return
	}
	fmt.Fprintf(c.stdout, "Supported %s options:\n", f.Name)
	specs := f.createOptions
	if !c.likeQEMU {
		specs = f.options()
	}
	listOptions(c.stdout, specs, !c.likeQEMU)
	if c.likeQEMU {
		fmt.Fprintf(c.stdout, "\nThe protocol level may support further options.\nSpecify the target filename to include those options.\n")
	}
}

// listOptions prints options in the order of their names.
func listOptions(w io.Writer, specs []optionSpec, own bool) {
	specs = slices.SortedFunc(slices.Values(specs), func(a, b optionSpec) int { return strings.Compare(a.name, b.name) })
	for _, s := range specs {
		if s.own && !own {
			continue
		}
		kind := map[valueKind]string{textValue: "str", boolValue: "bool (on/off)", sizeValue: "size"}[s.kind]
		fmt.Fprintf(w, "  %-22s - %s\n", s.name+"=<"+kind+">", s.help)
	}
}
