package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/internal/imagelock"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// Exit statuses of check, as qemu-img's.
const (
	checkFailed      = 1
	checkCorrupt     = 2
	checkLeaks       = 3
	checkUnsupported = 63
)

// checkFinding is one thing found wrong.
type checkFinding struct {
	Check    string `json:"check"` // stable name of the rule
	Severity string `json:"severity"`
	Offset   int64  `json:"offset"`
	Field    string `json:"field"`
	Found    string `json:"found"`
	Wanted   string `json:"wanted"`
}

// checkCounts sum a check up, in the order of qemu-img's JSON.
type checkCounts struct {
	EndOffset   int64          `json:"image-end-offset"`
	Total       int64          `json:"total-clusters"`
	CheckErrors int64          `json:"check-errors"`
	Corruptions int64          `json:"corruptions,omitempty"`
	Leaks       int64          `json:"leaks,omitempty"`
	Allocated   int64          `json:"allocated-clusters"`
	Fragmented  int64          `json:"fragmented-clusters,omitempty"`
	Filename    string         `json:"filename"`
	Format      string         `json:"format"`
	Warnings    *int64         `json:"warnings,omitempty"`
	Findings    []checkFinding `json:"findings,omitempty"`

	warnings int64
}

type checkCmdOptions struct {
	source sourceFlags
	output string
	quiet  bool
	repair string
	target string // product to check the image for
	args   []string
}

func (c *cli) newCheckCmd() *cobra.Command {
	var o checkCmdOptions
	cmd := &cobra.Command{
		Use:   "check [-f FORMAT] [--output=human|json] [-q] FILE",
		Short: "Examine an image for damage",
		Long: `Examine an image without changing it, and list what is wrong. It works on
damaged images too.

Exit status: 0 nothing wrong (there may be warnings), 1 the check could not be
made, 2 errors, 3 no errors but leaked space, 63 the format has nothing to check
(raw).`,
		Example: "  vhdtool check disk.vhd\n  vhdtool check --for azure disk.vhd",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			return c.runCheck(cmd.Context(), &o)
		},
	}
	o.source.add(cmd, "format")
	addOutputFlag(cmd, &o.output)
	addConsumerFlag(cmd, &o.target, "also check that this product takes the image")
	cmd.Flags().StringVarP(&o.repair, "repair", "r", "", "not supported yet: leaks or all")
	cmd.Flags().StringP("cache", "T", "", "accepted for compatibility")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "print nothing but errors")
	return cmd
}

// keptFindings is how many findings of one rule go into the JSON: a damaged
// BAT has them by the million.
const keptFindings = 1000

// shownFindings is how many findings of one rule are printed for people.
const shownFindings = 20

func (c *cli) runCheck(_ context.Context, o *checkCmdOptions) error {
	if err := checkOutput(o.output); err != nil {
		return err
	}
	switch o.repair {
	case "":
	case "leaks", "all":
		return errors.New("repairing is not supported yet")
	default:
		return usagef("Unknown option value for -r (expecting 'leaks' or 'all'): %s", o.repair)
	}
	if len(o.args) != 1 {
		return usagef("Expecting one image file name")
	}
	if err := o.source.check(); err != nil {
		return err
	}
	ref, err := o.source.resolve(o.args[0])
	if err != nil {
		return err
	}
	file, size, err := disk.OpenFile(ref.name, false)
	if err != nil {
		return c.openError(ref, err)
	}
	defer file.Close()
	if !ref.share {
		if err := imagelock.Lock(file, false); err != nil {
			return c.openError(ref, err)
		}
	}
	f, err := c.formatToCheck(ref, file, size)
	if err != nil {
		return err
	}
	if f.check == nil {
		return &statusError{checkUnsupported, qemuErrorf("This image format does not support checks")}
	}
	if o.target != "" {
		ref.options.Options[consumerOption] = o.target
	}
	if st, err := file.Stat(); err == nil && !st.Mode().IsRegular() {
		ref.options.Options[deviceOption] = "on"
	}
	human := o.output == "human"
	var findings []checkFinding
	shown := map[string]int{}
	counts, err := f.check(file, size, ref.options.Options, func(x checkFinding) {
		shown[x.Check]++
		if !human {
			if shown[x.Check] <= keptFindings {
				findings = append(findings, x)
			}
			return
		}
		if o.quiet || c.likeQEMU || shown[x.Check] > shownFindings {
			return
		}
		fmt.Fprintf(c.stdout, "%s: %s: %s at offset %d: found %s, wanted %s\n", x.Severity, x.Check, x.Field, x.Offset, x.Found, x.Wanted)
	})
	if err != nil {
		return c.openError(ref, err)
	}
	counts.Filename, counts.Format = ref.name, f.Name
	switch {
	case !human:
		if !c.likeQEMU {
			counts.Warnings, counts.Findings = &counts.warnings, findings
		}
		err = printJSON(c.stdout, counts)
	case !o.quiet:
		if !c.likeQEMU {
			for id, n := range shown {
				if n > shownFindings {
					fmt.Fprintf(c.stdout, "%d more of %s\n", n-shownFindings, id)
				}
			}
		}
		err = counts.print(c.stdout)
	}
	switch {
	case err != nil:
		return err
	case counts.Corruptions > 0:
		return &statusError{code: checkCorrupt}
	case counts.Leaks > 0:
		return &statusError{code: checkLeaks}
	}
	return nil
}

// formatToCheck is the format to check a file as. A file that has marks of a
// format but is damaged is checked as of that format.
func (c *cli) formatToCheck(ref imageRef, r io.ReaderAt, size int64) (*format, error) {
	if name := ref.options.Format; name != "" {
		f, err := formatByName(name)
		if err != nil {
			return nil, c.openError(ref, qemuErrorf("Unknown driver '%s'", name))
		}
		return f, nil
	}
	var damaged *vhd.FormatError
	if err := vhd.Probe(r, size); err == nil || errors.As(err, &damaged) {
		return &vpcFormat, nil
	}
	f, err := formats.Probe(r, size)
	if err != nil {
		return nil, c.openError(ref, err)
	}
	return formatOf(f), nil
}

// print writes qemu-img's summary.
func (n *checkCounts) print(w io.Writer) error {
	var s string
	if n.Corruptions == 0 && n.Leaks == 0 {
		s = "No errors were found on the image.\n"
	}
	if n.Corruptions > 0 {
		s += fmt.Sprintf("\n%d errors were found on the image.\n"+
			"Data may be corrupted, or further writes to the image may corrupt it.\n", n.Corruptions)
	}
	if n.Leaks > 0 {
		s += fmt.Sprintf("\n%d leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.\n", n.Leaks)
	}
	if n.Total > 0 {
		fragmented := 0.0
		if n.Allocated > 0 {
			fragmented = 100 * float64(n.Fragmented) / float64(n.Allocated)
		}
		s += fmt.Sprintf("%d/%d = %0.2f%% allocated, %0.2f%% fragmented, 0.00%% compressed clusters\n",
			n.Allocated, n.Total, 100*float64(n.Allocated)/float64(n.Total), fragmented)
	}
	if n.EndOffset > 0 {
		s += fmt.Sprintf("Image end offset: %d\n", n.EndOffset)
	}
	_, err := io.WriteString(w, s)
	return err
}
