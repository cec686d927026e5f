package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/internal/imagelock"
	"github.com/vhdtool/vhdtool/internal/undo"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
	"github.com/vhdtool/vhdtool/pkg/vhd/product"
)

// Exit statuses of check, equal to qemu-img's.
const (
	checkCorrupt     = 2
	checkLeaks       = 3
	checkUnsupported = 63
)

// checkFinding is one finding of check.
type checkFinding struct {
	Check    string      `json:"check"` // stable name of the rule
	Severity string      `json:"severity"`
	Offset   int64       `json:"offset"`
	Field    string      `json:"field"`
	Found    string      `json:"found"`
	Wanted   string      `json:"wanted"`
	Count    int64       `json:"count,omitempty"`       // number of faults, if more than one
	Repair   string      `json:"repair,omitempty"`      // what -r all does, if that was determined
	Text     string      `json:"text,omitempty"`        // found and wanted in a sentence
	File     string      `json:"file,omitempty"`        // the parent with the fault
	Note     string      `json:"note,omitempty"`        // what it may mean, and what to do
	Bytes    int64       `json:"bytes,omitempty"`       // of the file: missing, added, unreferenced
	Disk     []diskRange `json:"disk-ranges,omitempty"` // affected parts of the disk

	Number *disk.Number `json:"number,omitempty"` // found and wanted, where the field is a number
}

// diskRange is a range of bytes of the disk.
type diskRange struct {
	Start  int64 `json:"start"`
	Length int64 `json:"length"`
}

// doubtful is a range of the disk that a repair could not restore.
type doubtful struct {
	Start  int64  `json:"start"`
	Length int64  `json:"length"`
	Check  string `json:"check"` // what was repaired
}

// checkCounts summarises a check, in the order of qemu-img's JSON.
type checkCounts struct {
	EndOffset   int64          `json:"image-end-offset"`
	Total       int64          `json:"total-clusters"`
	CheckErrors int64          `json:"check-errors"`
	Corruptions int64          `json:"corruptions,omitempty"`
	Leaks       int64          `json:"leaks,omitempty"`
	Allocated   int64          `json:"allocated-clusters"`
	Fragmented  int64          `json:"fragmented-clusters,omitempty"`
	Product     *productResult `json:"product,omitempty"`
	Filename    string         `json:"filename"`
	Format      string         `json:"format"`
	LeaksFixed  int64          `json:"leaks-fixed,omitempty"`
	Fixed       int64          `json:"corruptions-fixed,omitempty"`
	Warnings    *int64         `json:"warnings,omitempty"`
	Diagnosis   []string       `json:"diagnosis,omitempty"`
	Findings    []checkFinding `json:"findings,omitempty"`
	DryRun      bool           `json:"dry-run,omitempty"` // the file is unchanged
	Repairs     []string       `json:"repairs,omitempty"`
	Doubtful    []doubtful     `json:"doubtful,omitempty"`
	NotRepaired []unrepaired   `json:"not-repaired,omitempty"`
	Orphaned    int64          `json:"orphaned,omitempty"` // leaks that contain data
	Orphans     []orphan       `json:"orphans,omitempty"`  // with --orphans

	warnings  int64
	blockSize int64
	unchecked bool // the format has no check
}

type checkCmdOptions struct {
	source  sourceFlags
	output  string
	quiet   bool
	deep    bool
	alone   bool
	force   bool
	discard bool // discard orphans
	lost    bool // discard lost blocks
	all     bool // print all findings
	repair  string
	dryRun  bool
	connect []string // reconnections, BLOCK=OFFSET
	orphans string   // directory to write orphans to
	backup  string
	restore string
	product string // check the image for this product
	args    []string

	reconnect []disk.Reconnection // parsed
}

// changes reports whether the image is changed, or a dry run shows its changes.
func (o *checkCmdOptions) changes() bool { return o.repair != "" || len(o.connect) > 0 }

func (c *cli) newCheckCmd() *cobra.Command {
	var o checkCmdOptions
	cmd := &cobra.Command{
		Use:   "check [-f FORMAT] [--deep] [-r leaks|all [--dry-run | --backup UNDO]] [--for PRODUCT] [--output=human|json] [-q] FILE",
		Short: "Check an image for damage, and repair it",
		Long: `check examines an image, reports what happened to it and lists the
damage. Nothing is changed without -r. The first three findings of each
kind are printed; --all and JSON have all of them.

The parents of a differencing image are checked as well. Their errors count.
Leaks in parents are reported; run check on the parent to reclaim them. -r never
changes parents.

-r leaks returns unreferenced space to the file system. -r all also repairs
footers, header and BAT without losing guest data. Unreferenced space that holds
data may belong to lost blocks. It stays in the file unless --backup saves it or
--discard-orphans discards it. A run that changes BAT entries returns no space;
the next run does.

After a repair, check prints what is left, with the reason and the next command.
--dry-run makes the repair in memory only. Its output and exit status are those of
the repair.

If a BAT entry points to an invalid offset, its block may still be in the file. The
finding then names unreferenced data that may be the block. --orphans writes
unreferenced data to files. --reconnect BLOCK=OFFSET points the BAT entry of a
block at such data. --discard-lost makes blocks with invalid entries unallocated:
they read as zeros, or as the parent's.

--backup saves everything that is overwritten or cut off in a new file, and
--restore undoes the repair with it. --restore refuses any other image, and also
the repaired image once it has been changed.

--for also checks the rules of a product. A broken rule is not damage. Each rule
has a name, such as azure-size-multiple; vhdtool-products(7) explains them. A raw
disk breaks the rule about the footer.

After a repair, the exit status describes what is left, and after a dry run what
would be left.`,
		Example: "  vhdtool check disk.vhd\n  vhdtool check --for azure disk.vhd\n" +
			"  vhdtool check -r all --dry-run disk.vhd\n  vhdtool check -r all --backup disk.undo disk.vhd\n" +
			"  vhdtool check --restore disk.undo disk.vhd\n  vhdtool check --orphans found disk.vhd",
		Annotations: onlyReads, // except -r and --restore
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			return c.runCheck(cmd.Context(), &o)
		},
	}
	o.source.add(cmd, "format")
	addOutputFlag(cmd, &o.output)
	addProductFlag(cmd, &o.product, "also check that `PRODUCT` accepts the image")
	fl := cmd.Flags()
	fl.BoolVar(&o.deep, "deep", false, "also check the contents of blocks for data that no reader sees")
	fl.BoolVar(&o.all, "all", false, "print all findings, not only the first of each kind")
	fl.BoolVar(&o.alone, "no-parents", false, "do not check the parents of the image")
	fl.StringVarP(&o.repair, "repair", "r", "", "`WHAT` to repair: leaks, or all")
	fl.BoolVar(&o.dryRun, "dry-run", false, "with -r: show what would be repaired and left; change nothing")
	fl.StringVar(&o.backup, "backup", "", "with -r: save everything that is overwritten in the new file `UNDO`")
	fl.StringVar(&o.restore, "restore", "", "undo a repair with the file `UNDO` of --backup")
	fl.BoolVar(&o.force, "force", false, "with -r: also repair the image of a suspended virtual machine")
	fl.BoolVar(&o.discard, "discard-orphans", false, "with -r: discard unreferenced space even if it holds data")
	fl.BoolVar(&o.lost, "discard-lost", false, "with -r all: make blocks with invalid BAT entries unallocated")
	fl.StringArrayVar(&o.connect, "reconnect", nil, "point the BAT entry of a block at the unreferenced data at an offset in the file, as `BLOCK=OFFSET`")
	fl.StringVar(&o.orphans, "orphans", "", "write unreferenced data to the directory `DIR`, as block-at-OFFSET.raw")
	markOwn(cmd, "all", "deep", "dry-run", "backup", "restore", "force", "discard-orphans", "discard-lost", "reconnect", "orphans", "no-parents")
	fl.StringP("cache", "T", "", "cache `MODE`, accepted for compatibility")
	fl.BoolVarP(&o.quiet, "quiet", "q", false, "print only errors")
	_ = cmd.RegisterFlagCompletionFunc("repair", cobra.FixedCompletions([]string{"leaks", "all"}, cobra.ShellCompDirectiveNoFileComp))
	markIgnored(cmd, "cache")
	return cmd
}

// valid returns an error if flags contradict each other.
func (o *checkCmdOptions) valid() error {
	if err := checkOutput(o.output); err != nil {
		return err
	}
	switch o.repair {
	case "", "leaks", "all":
	default:
		return usagef("Unknown option value for -r (expecting 'leaks' or 'all'): %s", o.repair)
	}
	if !o.changes() && (o.dryRun || o.backup != "" || o.force || o.discard) {
		return usagef("--dry-run, --backup, --force and --discard-orphans need -r or --reconnect")
	}
	if o.lost && o.repair != "all" {
		return usagef("--discard-lost needs -r all")
	}
	if o.restore != "" && (o.changes() || o.orphans != "") {
		return usagef("--restore cannot be combined with -r, --reconnect or --orphans")
	}
	if o.orphans != "" && o.changes() {
		return usagef("--orphans cannot be combined with -r or --reconnect")
	}
	for _, arg := range o.connect {
		c, err := parseReconnection(arg)
		if err != nil {
			return err
		}
		o.reconnect = append(o.reconnect, c)
	}
	if len(o.args) != 1 {
		return usagef("Expecting one image file name")
	}
	return o.source.check()
}

// shownFindings is how many findings of one kind are printed without --all.
const shownFindings = 3

func (c *cli) runCheck(ctx context.Context, o *checkCmdOptions) error {
	if err := o.valid(); err != nil {
		return err
	}
	ref, err := o.source.resolve(o.args[0])
	if err != nil {
		return err
	}
	k := checking{cli: c, o: o, ref: ref, progress: c.newProgress(false, o.quiet, false, 1)}
	defer k.progress.finish(true)
	if o.product != "" {
		if k.product, err = product.Find(o.product); err != nil {
			return c.openError(ref, err)
		}
	}
	write := o.changes() && !o.dryRun || o.restore != ""
	if write { // a signal ends a repair between two steps, but no restore
		ctx = c.untilSignal(ctx)
	}
	var lock disk.LockFunc
	if !ref.share || write {
		lock = imagelock.Lock
	}
	file, size, err := disk.OpenFile(ref.name, write, lock)
	if err != nil {
		return c.openError(ref, err)
	}
	defer file.Close()
	if o.restore != "" {
		return c.restore(o, ref.name, file, size)
	}
	f, err := c.formatToCheck(ref, file, size)
	if err != nil {
		return err
	}
	k.file, k.view, k.format = file, file, f
	if f.Check == nil {
		if k.product == nil {
			return &statusError{checkUnsupported, qemuErrorf("This image format does not support checks")}
		}
		return k.report(k.withoutFooter())
	}
	counts, err := k.pass(ctx, size)
	if errors.Is(err, vhd.ErrNotVHD) && k.product != nil {
		return k.report(k.withoutFooter())
	}
	if err != nil {
		return err
	}
	if o.changes() && f.Repair != nil {
		if counts, err = k.repair(ctx, counts, size); err != nil {
			return err
		}
	}
	if o.orphans != "" {
		if err := k.writeOrphans(ctx, &counts, size); err != nil {
			return err
		}
	}
	return k.report(counts)
}

// restore undoes a repair.
func (c *cli) restore(o *checkCmdOptions, name string, file *os.File, size int64) error {
	if _, err := os.Stat(o.restore); err != nil {
		return pathFirst(err)
	}
	id, err := vhd.Identify(file, size)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := undo.Restore(file, o.restore, id.UniqueID); err != nil {
		err = fmt.Errorf("%s: %w", name, withoutPath(err))
		if errors.Is(err, undo.ErrMismatch) {
			err = &hintError{err, "nothing was written; restore the repaired file itself, unchanged since the repair"}
		}
		return err
	}
	if !o.quiet {
		fmt.Fprintf(c.stdout, "%s is restored to its state before the repair.\n", name)
	}
	return nil
}

// checking is the check of one file.
type checking struct {
	*cli
	o       *checkCmdOptions
	ref     imageRef
	product *product.Product // nil without --for
	file    *os.File
	view    io.ReaderAt // the file, or the view of it that a dry run has changed
	format  *format

	progress progress
}

// withoutFooter returns the result for a file that has no footer. It is checked only for a product.
func (k *checking) withoutFooter() checkCounts {
	counts := checkCounts{Filename: k.ref.name, Format: k.format.Name, unchecked: true}
	k.setProduct(&counts, k.product.ExamineUnreadable(false, 0))
	if k.o.output != "human" && !k.likeQEMU {
		counts.Warnings = &counts.warnings
	}
	return counts
}

// setProduct notes the rules of the product that are broken, and prints them.
func (k *checking) setProduct(counts *checkCounts, broken []product.BrokenRule) {
	result := newProductResult(k.product, broken)
	counts.Product = &result
	if k.talks() {
		for _, b := range broken {
			fmt.Fprintf(k.stdout, "rule %v\n", b)
		}
	}
}

// pass runs one check, and prints the diagnosis and the findings.
func (k *checking) pass(ctx context.Context, size int64) (checkCounts, error) {
	p := findingPrinter{checking: k, kinds: map[findingKind]*kindOfFindings{}}
	checker, err := k.format.Check(k.view, size, &disk.CheckOptions{
		Options: k.ref.options.Options, Device: disk.IsDevice(k.file), Deep: k.o.deep,
		Chain: !k.o.alone, Parents: k.ref.options.Parents, NoLock: k.ref.share, Progress: k.progress.update,
	})
	if err != nil {
		return checkCounts{}, k.openError(k.ref, err)
	}
	for f, err := range checker.Findings(ctx) {
		if err != nil {
			p.print(nil)
			return checkCounts{}, k.openError(k.ref, err)
		}
		p.add(f)
	}
	n := checker.Counts()
	counts := checkCounts{
		EndOffset: n.End, Total: n.Blocks, Allocated: n.Allocated, Fragmented: n.Fragmented,
		Corruptions: n.Errors, Leaks: n.Leaked, warnings: n.Warnings, blockSize: n.BlockSize,
	}
	p.print(checker.Diagnosis())
	if k.product != nil && k.format.examine != nil {
		broken, err := k.format.examine(&examineRequest{
			r: k.view, size: size, ref: k.ref, alone: k.o.alone, errors: n.Errors, product: k.product,
		})
		if err != nil {
			return counts, k.openError(k.ref, err)
		}
		k.setProduct(&counts, broken)
	}
	counts.Filename, counts.Format = k.ref.name, k.format.Name
	if k.o.output != "human" && !k.likeQEMU {
		counts.Warnings, counts.Findings, counts.Diagnosis = &counts.warnings, p.kept, checker.Diagnosis()
	}
	if !k.likeQEMU {
		counts.Orphaned = n.Orphaned
	}
	return counts, nil
}

// findingKind identifies findings that are printed together.
type findingKind struct{ file, id string }

// kindOfFindings are the findings of one kind.
type kindOfFindings struct {
	n     int64
	lines []string // the printed ones
}

// findingPrinter groups findings by kind for printing, and keeps all of them for JSON.
type findingPrinter struct {
	*checking
	kinds map[findingKind]*kindOfFindings
	order []findingKind // in the order of their first findings
	kept  []checkFinding
}

// talks reports whether findings are printed.
func (k *checking) talks() bool { return k.o.output == "human" && !k.o.quiet && !k.likeQEMU }

// add notes a finding.
func (p *findingPrinter) add(f disk.Finding) {
	f.Note = forFile(f.Note, cmp.Or(f.File, p.ref.name))
	if p.o.output != "human" && !p.likeQEMU {
		p.kept = append(p.kept, newCheckFinding(f))
	}
	if !p.talks() {
		return
	}
	key := findingKind{f.File, f.ID}
	kind := p.kinds[key]
	if kind == nil {
		kind = &kindOfFindings{}
		p.kinds[key] = kind
		p.order = append(p.order, key)
	}
	if kind.n++; kind.n > shownFindings && !p.o.all {
		return
	}
	file := ""
	if f.File != "" {
		file = p.printedName(f.File) + ": "
	}
	line := fmt.Sprintf("%v: %s%s: %v\n", f.Severity, file, f.ID, f)
	if f.Note != "" {
		line += fmt.Sprintf("  %s\n", f.Note)
	}
	kind.lines = append(kind.lines, line)
}

// newCheckFinding converts a finding for JSON.
func newCheckFinding(f disk.Finding) checkFinding {
	x := checkFinding{
		Check: f.ID, Severity: f.Severity.String(), Offset: f.Offset, Field: f.Field, Found: f.Got, Wanted: f.Want, Number: f.Number,
		Repair: f.Remedy, Text: f.Text, File: f.File, Note: f.Note, Bytes: f.Bytes,
	}
	if f.Count > 1 {
		x.Count = f.Count
	}
	for _, r := range f.Disk {
		x.Disk = append(x.Disk, diskRange{r.Off, r.N})
	}
	return x
}

// print prints the diagnosis, and then the findings by kind.
func (p *findingPrinter) print(diagnosis []string) {
	if !p.talks() {
		return
	}
	for _, sentence := range diagnosis {
		fmt.Fprintln(p.stdout, sentence)
	}
	if len(diagnosis) > 0 {
		fmt.Fprintln(p.stdout)
	}
	for _, key := range p.order {
		kind := p.kinds[key]
		for _, line := range kind.lines {
			fmt.Fprint(p.stdout, line)
		}
		if n := kind.n - int64(len(kind.lines)); n > 0 {
			fmt.Fprintf(p.stdout, "  and %s more of %s (--all shows them)\n", humanize.Comma(n), key.id)
		}
	}
}

// report prints the summary, and returns the exit status.
func (k *checking) report(counts checkCounts) error {
	var err error
	switch {
	case k.o.output == "json":
		err = printJSON(k.stdout, counts)
	case !k.o.quiet:
		err = counts.print(k.stdout)
		if err == nil && counts.Leaks > 0 && !k.likeQEMU {
			_, err = fmt.Fprintln(k.stdout, counts.leaked())
		}
	}
	switch {
	case err != nil:
		return err
	case counts.Corruptions > 0, counts.Product != nil && !counts.Product.Accepted:
		return &statusError{code: checkCorrupt}
	case counts.Leaks > 0:
		return &statusError{code: checkLeaks}
	}
	return nil
}

// formatToCheck returns the format for the check of a file. A damaged file is checked as the format
// whose marks it has.
func (c *cli) formatToCheck(ref imageRef, r io.ReaderAt, size int64) (*format, error) {
	if name := ref.options.Format; name != "" {
		f, err := formatByName(name)
		if err != nil {
			return nil, c.openError(ref, qemuErrorf("Unknown driver '%s'", name))
		}
		return f, nil
	}
	for _, f := range allFormats {
		if f.Check == nil {
			continue
		}
		var damaged *vhd.FormatError
		if err := f.Probe(r, size); err == nil || errors.As(err, &damaged) && !(c.likeQEMU && noFooter(err)) {
			return f, nil
		}
	}
	f, err := formats.Probe(r, size)
	if err != nil {
		return nil, c.openError(ref, err)
	}
	if f == rawFormat.Format && !c.likeQEMU {
		head, err := headOf(r)
		if err == nil {
			err = refuseStream(head, ref.name)
		}
		if err != nil {
			return nil, c.openError(ref, err)
		}
	}
	return formatOf(f), c.doubtRaw(ref)
}

// leaked returns how much space is leaked, as text.
func (n *checkCounts) leaked() string {
	return fmt.Sprintf("%s (%s)", english.Plural(int(n.Leaks), "leaked block", ""), humanize.IBytes(uint64(n.Leaks*n.blockSize)))
}

// print prints qemu-img's summary.
func (n *checkCounts) print(w io.Writer) error {
	var s string
	if n.Corruptions == 0 && n.Leaks == 0 && !n.unchecked {
		s = "No errors were found on the image.\n"
	}
	if n.Corruptions > 0 {
		s += fmt.Sprintf("\n%d errors were found on the image.\n"+
			"Data may be corrupted, or further writes to the image may corrupt it.\n", n.Corruptions)
	}
	if n.Leaks > 0 {
		s += fmt.Sprintf("\n%d leaked clusters were found on the image.\n", n.Leaks)
		if n.Orphaned > 0 {
			s += fmt.Sprintf("%d of them are orphaned: they hold data, which may be lost blocks.\n", n.Orphaned)
		} else {
			s += "This means waste of disk space, but no harm to data.\n"
		}
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
	if n.Product != nil {
		s += n.Product.String() + "\n"
	}
	_, err := io.WriteString(w, s)
	return err
}
