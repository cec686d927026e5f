package main

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/vhdtool/vhdtool/internal/optlist"
)

// addAlias adds another name of a flag, from another release of qemu-img. Either name may be "".
func addAlias(cmd *cobra.Command, of, name, short string) {
	alias := *cmd.Flags().Lookup(of)
	alias.Name, alias.Shorthand, alias.Hidden = name, short, true
	alias.Annotations = nil
	if name == "" { // a flag must have a long name
		alias.Name = short
	}
	cmd.Flags().AddFlag(&alias)
	markOwn(cmd, alias.Name)
}

// objectFlag defines objects of qemu, such as secrets. No format here uses one.
const objectFlag = "object"

func addObjectFlag(cmd *cobra.Command) {
	cmd.Flags().StringArray(objectFlag, nil, "accepted for compatibility: no format here uses objects")
	_ = cmd.Flags().MarkHidden(objectFlag)
}

// objectTypes are the types of objects that qemu-img can create.
var objectTypes = []string{
	"authz-list", "authz-list-file", "authz-pam", "authz-simple", "iothread", "main-loop", "secret", "secret_keyring",
	"throttle-group", "tls-cipher-suites", "tls-creds-anon", "tls-creds-psk", "tls-creds-x509",
}

// checkObjects checks the definitions of objects as qemu-img does, before anything else.
func checkObjects(cmd *cobra.Command) error {
	flag := cmd.Flags().Lookup(objectFlag)
	if flag == nil || !flag.Changed {
		return nil
	}
	for _, def := range flag.Value.(pflag.SliceValue).GetSlice() {
		if err := checkObject(def); err != nil {
			return err
		}
	}
	return nil
}

func checkObject(def string) error {
	kind, rest, _ := strings.Cut(def, ",")
	if k, found := strings.CutPrefix(kind, "qom-type="); found {
		kind = k
	}
	if kind == "" {
		return qemuErrorf("Parameter 'qom-type' is missing")
	}
	id := false
	if rest != "" {
		opts, err := optlist.Parse(rest)
		if err != nil {
			return qemuErrorf("%w: %s", errOptionList, def)
		}
		id = slices.ContainsFunc(opts, func(o optlist.Option) bool { return o.Key == "id" })
	}
	switch {
	case !slices.Contains(objectTypes, kind):
		return qemuErrorf("Parameter 'qom-type' does not accept value '%s'", kind)
	case !id:
		return qemuErrorf("Parameter 'id' is missing")
	}
	return nil
}

// snapshotFlag names a snapshot to read. No format here has snapshots.
type snapshotFlag struct {
	value string
	given bool
}

func (s *snapshotFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&s.value, "snapshot", "l", "", "refused: no format here has snapshots")
	_ = cmd.Flags().MarkHidden("snapshot")
}

// check validates the parameter itself: a name or id, or snapshot.id=ID,snapshot.name=NAME.
func (s *snapshotFlag) check(cmd *cobra.Command) error {
	s.given = cmd.Flags().Changed("snapshot") || cmd.Flags().Lookup("source-snapshot") != nil && cmd.Flags().Changed("source-snapshot")
	if !strings.HasPrefix(s.value, "snapshot.") {
		return nil
	}
	wrong := qemuErrorf("Failed in parsing snapshot param '%s'", s.value)
	opts, err := optlist.Parse(s.value)
	if err != nil {
		return wrong
	}
	for _, o := range opts {
		if o.Key != "snapshot.id" && o.Key != "snapshot.name" {
			return errors.Join(qemuErrorf("Invalid parameter '%s'", o.Key), wrong)
		}
	}
	return nil
}

// load refuses to read a snapshot of an image in the named format.
func (s *snapshotFlag) load(format string) error {
	if !s.given {
		return nil
	}
	return qemuErrorf("Failed to load snapshot: Block format '%s' used by device '' does not support temporarily loading internal snapshots", format)
}

// warnRaw prints qemu-img's warning about a raw disk that is written and whose format was not
// given.
func (c *cli) warnRaw(ref imageRef, f *format) {
	if f == &rawFormat && ref.options.Format == "" {
		printTo(c.stderr, strings.TrimSuffix(rawWarning, "\n"), ref.name)
	}
}
