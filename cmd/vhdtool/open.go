package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/internal/imagelock"
	"github.com/vhdtool/vhdtool/internal/optlist"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// sourceFlags are the flags for opening an existing image.
type sourceFlags struct {
	format    string
	imageOpts bool
	share     bool // read an image that another process writes
	force     bool // write to an image of a suspended virtual machine
	verbatim  bool // do not decompress
	seekable  bool // refuse a source that cannot be read at any offset
	salvage   bool // read a damaged image as far as possible
	strict    bool // refuse a damaged image of another format instead of reading it as raw
	parents   disk.ParentSearch
}

func (s *sourceFlags) add(cmd *cobra.Command, formatLong string) {
	cmd.Flags().StringVarP(&s.format, formatLong, "f", "", "`FORMAT` of the image (default: detected from the contents)")
	cmd.Flags().BoolVar(&s.imageOpts, "image-opts", false, "give the image as a list of options: driver, file.filename, and for VHDs ignore_checksums=on and force_size_calc=MODE (chs or current_size)")
	cmd.Flags().BoolVarP(&s.share, "force-share", "U", false, "open the image even if another process uses it")
	_ = cmd.RegisterFlagCompletionFunc(formatLong, completeFormats)
	s.addParents(cmd)
}

// addParents adds the flags for finding parents.
func (s *sourceFlags) addParents(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringArrayVar(&s.parents.Files, "parent", nil, "use `FILE` as the parent; repeat for the parent's parent")
	fl.StringArrayVar(&s.parents.Dirs, "parent-dir", nil, "also search `DIR` for parents, by name and by unique id")
	fl.BoolVar(&s.parents.Trust, "trust-parents", false, "follow recorded paths out of the image's directory")
	markOwn(cmd, "parent", "parent-dir", "trust-parents")
}

// addForce adds the flag for images of suspended virtual machines.
func (s *sourceFlags) addForce(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&s.force, "force", false, "also change the image of a suspended virtual machine")
	markOwn(cmd, "force")
}

// check returns an error if flags contradict each other.
func (s *sourceFlags) check() error {
	if s.imageOpts && s.format != "" {
		return qemuErrorf("--image-opts and --format are mutually exclusive")
	}
	return nil
}

// imageRef is an image on the command line.
type imageRef struct {
	arg     string // as typed; "" if it equals name
	name    string // file name
	share   bool   // read it even if another process writes to it
	strict  bool   // see sourceFlags
	backing bool   // it is the parent of the image that the command writes
	options disk.OpenOptions
}

// resolve parses an image argument: a file name, with or without "file:", or options. These are a
// list with --image-opts, or JSON after "json:".
func (s *sourceFlags) resolve(arg string) (imageRef, error) {
	ref := imageRef{arg: arg, share: s.share, strict: s.strict, options: disk.OpenOptions{
		Format: s.format, Options: disk.Options{}, Parents: s.parents, Force: s.force, Salvage: s.salvage,
	}}
	var opts []optlist.Option
	var err error
	text, isJSON := strings.CutPrefix(arg, "json:")
	switch {
	case isJSON:
		opts, err = jsonOptions(text)
	case s.imageOpts:
		if opts, err = optlist.Parse(arg); err != nil {
			err = qemuErrorf("%w: %s", errOptionList, arg)
		}
	default:
		ref.name = fileName(arg)
		return ref, nil
	}
	if err == nil {
		err = ref.apply(opts)
	}
	return ref, err
}

// fileName returns a file name without its protocol.
func fileName(arg string) string { return strings.TrimPrefix(arg, "file:") }

// apply applies options that describe an image.
func (ref *imageRef) apply(opts []optlist.Option) error {
	for _, o := range opts {
		switch o.Key {
		case "driver":
			ref.options.Format = o.Value
		case "file.driver":
			if o.Value != "file" && o.Value != "host_device" {
				return qemuErrorf("Could not open '%s': Unknown driver '%s'", ref.arg, o.Value)
			}
		case "filename", "file.filename":
			ref.name = fileName(o.Value)
		case "file":
			ref.name = fileName(o.Value)
		case "read-only", "file.locking", "cache.direct", "cache.no-flush", "discard", "detect-zeroes":
			// No effect here, or always so.
		default:
			ref.options.Options[o.Key] = o.Value
		}
	}
	if ref.options.Format == "file" { // only the protocol: its bytes are the disk
		ref.options.Format = ""
	}
	if ref.name == "" {
		return qemuErrorf("Could not open '%s': A block device must be specified for \"file\"", ref.arg)
	}
	return nil
}

// jsonOptions parses a JSON object as options. "a": {"b": …} becomes a.b.
func jsonOptions(text string) ([]optlist.Option, error) {
	var object map[string]any
	if err := json.Unmarshal([]byte(text), &object); err != nil {
		return nil, fmt.Errorf("json: %w", err)
	}
	var opts []optlist.Option
	var walk func(prefix string, object map[string]any)
	walk = func(prefix string, object map[string]any) {
		for key, v := range object {
			if inner, ok := v.(map[string]any); ok {
				walk(prefix+key+".", inner)
				continue
			}
			opts = append(opts, optlist.Option{Key: prefix + key, Value: fmt.Sprint(v)})
		}
	}
	walk("", object)
	return opts, nil
}

// jsonName returns qemu-img's name for an image that needs more than a file name.
func (ref *imageRef) jsonName(format string) string {
	if len(ref.options.Options) == 0 {
		return ref.name
	}
	s := "json:{"
	for _, key := range slices.Sorted(maps.Keys(ref.options.Options)) {
		s += fmt.Sprintf("%q: %q, ", key, ref.options.Options[key])
	}
	return s + fmt.Sprintf("\"driver\": %q, \"file\": {\"driver\": \"file\", \"filename\": %q}}", format, ref.name)
}

// open opens an image for reading, or with write for both.
func (c *cli) open(ref imageRef, write bool) (disk.Disk, *format, error) {
	o := ref.options
	o.Write, o.Lock = write, ref.lock(write)
	d, f, err := disk.Open(ref.name, formats, &o)
	if err != nil {
		return nil, nil, c.openError(ref, knownDriver(err, ref))
	}
	if f == rawFormat.Format && o.Format == "" && !c.likeQEMU {
		head, err := headOf(d)
		if err == nil && (len(head) > 0 || !write) { // an empty raw disk may grow
			err = refuseStream(head, ref.name)
		}
		if err != nil {
			d.Close()
			return nil, nil, c.openError(ref, err)
		}
	}
	if f == rawFormat.Format && o.Format == "" {
		if err := c.doubtRaw(ref); err != nil {
			d.Close()
			return nil, nil, err
		}
	}
	return d, formatOf(f), nil
}

// lock returns how the image is locked.
func (ref *imageRef) lock(write bool) disk.LockFunc {
	if ref.share && !write {
		return nil
	}
	return imagelock.Lock
}

// knownDriver returns qemu's error about a format that it does not know.
func knownDriver(err error, ref imageRef) error {
	if errors.Is(err, disk.ErrUnknownFormat) {
		return &hintError{qemuErrorf("Unknown driver '%s'", ref.options.Format), formatHint(ref.options.Format)}
	}
	return err
}

// openOne opens the only image of a command line, for reading.
func (c *cli) openOne(flags *sourceFlags, args []string) (imageRef, disk.Disk, *format, error) {
	fail := func(err error) (imageRef, disk.Disk, *format, error) { return imageRef{}, nil, nil, err }
	if len(args) != 1 {
		return fail(usagef("Expecting one image file name"))
	}
	if err := flags.check(); err != nil {
		return fail(err)
	}
	ref, err := flags.resolve(args[0])
	if err != nil {
		return fail(err)
	}
	d, f, err := c.open(ref, false)
	return ref, d, f, err
}

// completeFormats completes the name of a format.
func completeFormats(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var names []string
	for _, f := range allFormats {
		if f.foreign {
			continue
		}
		names = append(append(names, f.Name), f.Aliases...)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
