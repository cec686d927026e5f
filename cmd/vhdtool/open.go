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
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// sourceFlags are the flags that say how to open an existing image.
type sourceFlags struct {
	format    string
	imageOpts bool
	share     bool         // read what another process writes
	force     bool         // write what had better not be written
	verbatim  bool         // do not decompress
	seekable  bool         // a file that cannot be read at any offset is refused
	salvage   bool         // read what can be read of a damaged image
	snapshot  disk.Options // that choose a snapshot
	parents   disk.ParentSearch
}

func (s *sourceFlags) add(cmd *cobra.Command, formatLong string) {
	cmd.Flags().StringVarP(&s.format, formatLong, "f", "", "format of the image (default: found out by its contents)")
	cmd.Flags().BoolVar(&s.imageOpts, "image-opts", false, "the image is given as a list of options, such as driver=vpc,file.filename=F")
	cmd.Flags().BoolVarP(&s.share, "force-share", "U", false, "open the image even if another process uses it")
	_ = cmd.RegisterFlagCompletionFunc(formatLong, completeFormats)
	s.addParents(cmd)
}

// addParents adds the flags that say where the parents of images are.
func (s *sourceFlags) addParents(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringArrayVar(&s.parents.Files, "parent", nil, "use FILE as the parent, whatever the image records; given again, as the parent of that one")
	fl.StringArrayVar(&s.parents.Dirs, "parent-dir", nil, "also look for parents in this directory: by name, and renamed ones by unique id")
	fl.BoolVar(&s.parents.Trust, "trust-parents", false, "follow the paths to parents out of the image's folder")
	markOwn(cmd, "parent", "parent-dir", "trust-parents")
}

// addForce adds the flag for images that had better not be written.
func (s *sourceFlags) addForce(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&s.force, "force", false, "change the image of a suspended virtual machine, too")
	markOwn(cmd, "force")
}

// check finds contradictions between the flags.
func (s *sourceFlags) check() error {
	if s.imageOpts && s.format != "" {
		return qemuErrorf("--image-opts and --format are mutually exclusive")
	}
	return nil
}

// imageRef is an image as the command line names it.
type imageRef struct {
	arg     string // as typed; "" if that is the name
	name    string // of the file
	share   bool   // read it even if another process writes to it
	backing bool   // it is the parent of the image that the command writes
	options disk.OpenOptions
}

// resolve reads an image argument: a file's name, perhaps behind "file:", or
// options, as a list with --image-opts or as JSON behind "json:".
func (s *sourceFlags) resolve(arg string) (imageRef, error) {
	ref := imageRef{arg: arg, share: s.share, options: disk.OpenOptions{
		Format: s.format, Options: maps.Clone(s.snapshot), Parents: s.parents, Force: s.force, Salvage: s.salvage,
	}}
	if ref.options.Options == nil {
		ref.options.Options = disk.Options{}
	}
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

// fileName is the name of a file, which may have its protocol before it.
func fileName(arg string) string { return strings.TrimPrefix(arg, "file:") }

// apply reads options that describe an image.
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
			// What they ask for is so, or makes no difference here.
		default:
			ref.options.Options[o.Key] = o.Value
		}
	}
	if ref.options.Format == "file" { // the protocol alone: its bytes are the disk
		ref.options.Format = ""
	}
	if ref.name == "" {
		return qemuErrorf("Could not open '%s': A block device must be specified for \"file\"", ref.arg)
	}
	return nil
}

// jsonOptions reads a JSON object as options, of which "a": {"b": …} is a.b.
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

// jsonName is how qemu-img names an image that takes more than a file's name to
// describe.
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
	if f == rawFormat.Format && o.Format == "" {
		c.warnDamaged(ref.name, d)
	}
	return d, formatOf(f), nil
}

// lock is how the image is locked.
func (ref *imageRef) lock(write bool) disk.LockFunc {
	if ref.share && !write {
		return nil
	}
	return imagelock.Lock
}

// knownDriver says in qemu's words that the format of an image is not known.
func knownDriver(err error, ref imageRef) error {
	if errors.Is(err, disk.ErrUnknownFormat) {
		return qemuErrorf("Unknown driver '%s'", ref.options.Format)
	}
	return err
}

// openOne opens the only image that a command line names, for reading.
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

// warnDamaged says so when what was taken for a raw disk, because nothing else
// can be proved, ends like a VHD.
func (c *cli) warnDamaged(name string, d disk.Disk) {
	var fe *vhd.FormatError
	if err := vhd.Probe(d, d.Size()); errors.As(err, &fe) && !c.likeQEMU {
		c.message("warning: %s: taken for a raw disk, but it ends like a VHD: %s", name, strings.TrimPrefix(fe.Error(), fe.Kind.Error()+": "))
	}
}

// completeFormats completes a format's name.
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
