package main

import (
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

// Exit statuses of check, as qemu-img's.
const (
	checkCorrupt     = 2
	checkLeaks       = 3
	checkUnsupported = 63
)

// checkFinding is one thing found wrong.
type checkFinding struct {
	Check    string      `json:"check"` // stable name of the rule
	Severity string      `json:"severity"`
	Offset   int64       `json:"offset"`
	Field    string      `json:"field"`
	Found    string      `json:"found"`
	Wanted   string      `json:"wanted"`
	Count    int64       `json:"count,omitempty"`       // faults that it stands for, if more than one
	Repair   string      `json:"repair,omitempty"`      // what -r would do
	File     string      `json:"file,omitempty"`        // the parent that it is about
	Note     string      `json:"note,omitempty"`        // what it may mean and what to do
	Bytes    int64       `json:"bytes,omitempty"`       // of the file that are missing, were added or are not referenced
	Disk     []diskRange `json:"disk-ranges,omitempty"` // that it affects
}

// diskRange is bytes of the disk.
type diskRange struct {
	Start  int64 `json:"start"`
	Length int64 `json:"length"`
}

// doubtful is bytes of the disk that a repair could not restore.
type doubtful struct {
	Start  int64  `json:"start"`
	Length int64  `json:"length"`
	Check  string `json:"check"` // what was repaired
}

// checkCounts sum a check up, in the order of qemu-img's JSON.
type checkCounts struct {
	EndOffset   int64          `json:"image-end-offset"`
	Total       int64          `json:"total-clusters"`
	CheckErrors int64          `json:"check-errors"`
	Corruptions int64          `json:"corruptions,omitempty"`
	Leaks       int64          `json:"leaks,omitempty"`
	Allocated   int64          `json:"allocated-clusters"`
	Compressed  int64          `json:"compressed-clusters,omitempty"`
	Fragmented  int64          `json:"fragmented-clusters,omitempty"`
	Product     *productResult `json:"product,omitempty"`
	Filename    string         `json:"filename"`
	Format      string         `json:"format"`
	LeaksFixed  int64          `json:"leaks-fixed,omitempty"`
	Fixed       int64          `json:"corruptions-fixed,omitempty"`
	Warnings    *int64         `json:"warnings,omitempty"`
	Diagnosis   []string       `json:"diagnosis,omitempty"`
	Findings    []checkFinding `json:"findings,omitempty"`
	Repairs     []string       `json:"repairs,omitempty"`
	Doubtful    []doubtful     `json:"doubtful,omitempty"`
	Orphaned    int64          `json:"orphaned,omitempty"` // of the leaks, those with data

	warnings  int64
	blockSize int64
	unchecked bool // the format has nothing to check
}

type checkCmdOptions struct {
	source  sourceFlags
	output  string
	quiet   bool
	deep    bool
	alone   bool
	force   bool
	discard bool // orphans
	all     bool // findings
	repair  string
	dryRun  bool
	backup  string
	restore string
	product string // to check the image for
	args    []string
}

func (c *cli) newCheckCmd() *cobra.Command {
	var o checkCmdOptions
	cmd := &cobra.Command{
		Use:   "check [-f FORMAT] [--deep] [-r leaks|all] [--for PRODUCT] [--output=human|json] [-q] FILE",
		Short: "Examine an image for damage, and repair it",
		Long: `Examine an image, say what happened to it, and list what is wrong. Nothing is
changed without -r, and the check works on damaged images too. The first three
findings of a kind are printed, and all of them with --all or in JSON.

The parents of a differencing image are checked as well, each as an image of its
own. Errors in them count; leaked space in them is told, but is theirs to give
back. -r never changes them.

-r leaks returns space that nothing refers to to the file system. -r all also
repairs footers, header and BAT, as far as that loses no data. Unreferenced space
that holds data may be lost blocks: it stays in the file unless --backup saves it
or --discard-orphans gives it up. --dry-run shows what would be done.

--backup saves everything that is overwritten or cut off in a new file. --restore
undoes the repair with that file. It refuses any other image, and the repaired
image once it was used again.

--for also checks the rules of a product, which are no damage: each has a name, such
as azure-size-multiple. The man page and docs/products.md list them with their
reasons. Raw disks break the rule about the footer.

Exit status: 0 nothing wrong (there may be warnings), 1 the check could not be
made, 2 errors or a broken rule of the product, 3 no errors but leaked space, 63
the format has nothing to check (raw). After a repair it is that of what is left.`,
		Example: "  vhdtool check disk.vhd\n  vhdtool check --for azure disk.vhd\n" +
			"  vhdtool check -r all --dry-run disk.vhd\n  vhdtool check -r all --backup disk.undo disk.vhd",
		Annotations: onlyReads, // but for -r and --restore
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			return c.runCheck(cmd.Context(), &o)
		},
	}
	o.source.add(cmd, "format")
	addOutputFlag(cmd, &o.output)
	addProductFlag(cmd, &o.product, "also check that this product accepts the image")
	fl := cmd.Flags()
	fl.BoolVar(&o.deep, "deep", false, "also look into the blocks, for data that readers would not see")
	fl.BoolVar(&o.all, "all", false, "print all findings, not only the first of each kind")
	fl.BoolVar(&o.alone, "no-parents", false, "do not look at the image's parents")
	fl.StringVarP(&o.repair, "repair", "r", "", "repair leaks, or all")
	fl.BoolVar(&o.dryRun, "dry-run", false, "with -r: only tell what would be done")
	fl.StringVar(&o.backup, "backup", "", "with -r: save what is overwritten in this new file")
	fl.StringVar(&o.restore, "restore", "", "put back what --backup has saved in this file")
	fl.BoolVar(&o.force, "force", false, "with -r: also repair the image of a suspended virtual machine")
	fl.BoolVar(&o.discard, "discard-orphans", false, "with -r: return unreferenced space even if it holds data")
	markOwn(cmd, "all", "deep", "dry-run", "backup", "restore", "force", "discard-orphans", "no-parents")
	fl.StringP("cache", "T", "", "accepted for compatibility")
	fl.BoolVarP(&o.quiet, "quiet", "q", false, "print nothing but errors")
	_ = cmd.RegisterFlagCompletionFunc("repair", cobra.FixedCompletions([]string{"leaks", "all"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// valid finds contradictions between the flags.
func (o *checkCmdOptions) valid() error {
	if err := checkOutput(o.output); err != nil {
		return err
	}
	switch o.repair {
	case "":
		if o.dryRun || o.backup != "" || o.force || o.discard {
			return usagef("--dry-run, --backup, --force and --discard-orphans go with -r")
		}
	case "leaks", "all":
	default:
		return usagef("Unknown option value for -r (expecting 'leaks' or 'all'): %s", o.repair)
	}
	if o.restore != "" && o.repair != "" {
		return usagef("--restore goes without -r")
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
	write := o.repair != "" && !o.dryRun || o.restore != ""
	if write { // a signal ends a repair between two steps; putting back goes on to its end
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
	k.file, k.format = file, f
	if f.Check == nil {
		if k.product == nil {
			return &statusError{checkUnsupported, qemuErrorf("This image format does not support checks")}
		}
		return k.report(k.withoutFooter())
	}
	if write && f.Repair == nil {
		return fmt.Errorf("%s: images of format %s cannot be repaired", ref.name, f.Name)
	}
	counts, err := k.pass(ctx, size)
	if errors.Is(err, vhd.ErrNotVHD) && k.product != nil {
		return k.report(k.withoutFooter())
	}
	if err != nil {
		return err
	}
	if write {
		if counts, err = k.repair(ctx, counts, size); err != nil {
			return err
		}
	}
	return k.report(counts)
}

// restore puts back what a repair has overwritten.
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
			err = &hintError{err, "restore the file that was repaired, as it was right after the repair; nothing was written"}
		}
		return err
	}
	if !o.quiet {
		fmt.Fprintf(c.stdout, "%s is as it was before the repair.\n", name)
	}
	return nil
}

// checking is a check of one file.
type checking struct {
	*cli
	o       *checkCmdOptions
	ref     imageRef
	product *product.Product // that the image is to be for, or nil
	file    *os.File
	format  *format

	progress progress
}

// withoutFooter is the result for a file that has no footer, which is examined for a
// product only.
func (k *checking) withoutFooter() checkCounts {
	counts := checkCounts{Filename: k.ref.name, Format: k.format.Name, unchecked: true}
	k.setProduct(&counts, k.product.ExamineUnreadable(false, 0))
	if k.o.output != "human" && !k.likeQEMU {
		counts.Warnings = &counts.warnings
	}
	return counts
}

// setProduct notes which rules of the product are broken, and prints them for people.
func (k *checking) setProduct(counts *checkCounts, broken []product.BrokenRule) {
	result := newProductResult(k.product, broken)
	counts.Product = &result
	if k.talks() {
		for _, b := range broken {
			fmt.Fprintf(k.stdout, "rule %v\n", b)
		}
	}
}

// pass checks once, and prints for people what happened and what it found.
func (k *checking) pass(ctx context.Context, size int64) (checkCounts, error) {
	p := findingPrinter{checking: k, kinds: map[findingKind]*kindOfFindings{}}
	checker, err := k.format.Check(k.file, size, &disk.CheckOptions{
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
		EndOffset: n.End, Total: n.Blocks, Allocated: n.Allocated, Fragmented: n.Fragmented, Compressed: n.Compressed,
		Corruptions: n.Errors, Leaks: n.Leaked, warnings: n.Warnings, blockSize: n.BlockSize,
	}
	p.print(checker.Diagnosis())
	if k.product != nil && k.format.examine != nil {
		broken, err := k.format.examine(&examineRequest{
			r: k.file, size: size, ref: k.ref, alone: k.o.alone, errors: n.Errors, product: k.product,
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

// findingKind is what findings that are printed together have in common.
type findingKind struct{ file, id string }

// kindOfFindings is the findings of one kind.
type kindOfFindings struct {
	n     int64
	lines []string // of those that are printed
}

// findingPrinter groups findings by kind for people, and keeps all for the JSON.
type findingPrinter struct {
	*checking
	kinds map[findingKind]*kindOfFindings
	order []findingKind // in which they were found first
	kept  []checkFinding
}

// talks reports whether findings are printed.
func (k *checking) talks() bool { return k.o.output == "human" && !k.o.quiet && !k.likeQEMU }

// add notes a finding.
func (p *findingPrinter) add(f disk.Finding) {
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
		file = f.File + ": "
	}
	line := fmt.Sprintf("%v: %s%s: %s at offset %d: found %s, wanted %s\n", f.Severity, file, f.ID, f.Field, f.Offset, f.Got, f.Want)
	if f.Note != "" {
		line += fmt.Sprintf("  %s\n", f.Note)
	}
	if p.o.dryRun && f.Remedy != "" && f.File == "" && (p.o.repair == "all" || f.Severity == disk.Leak) {
		line += fmt.Sprintf("  would %s\n", f.Remedy)
	}
	kind.lines = append(kind.lines, line)
}

// newCheckFinding is the finding as it is in the JSON.
func newCheckFinding(f disk.Finding) checkFinding {
	x := checkFinding{
		Check: f.ID, Severity: f.Severity.String(), Offset: f.Offset, Field: f.Field, Found: f.Got, Wanted: f.Want,
		Repair: f.Remedy, File: f.File, Note: f.Note, Bytes: f.Bytes,
	}
	if f.Count > 1 {
		x.Count = f.Count
	}
	for _, r := range f.Disk {
		x.Disk = append(x.Disk, diskRange{r.Off, r.N})
	}
	return x
}

// print prints what happened, and then the findings by kind.
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

// repair repairs what it can, and checks again if that was anything.
func (k *checking) repair(ctx context.Context, before checkCounts, size int64) (checkCounts, error) {
	done, err := k.repairFile(ctx, size)
	var texts []string
	var doubt []doubtful
	for _, x := range done {
		texts = append(texts, x.Text)
		for _, lost := range x.Doubtful {
			if lost.N > 0 {
				doubt = append(doubt, doubtful{lost.Off, lost.N, x.ID})
			}
		}
		if k.talks() {
			fmt.Fprintf(k.stdout, "repaired: %s\n", x.Text)
		}
	}
	var backup *backupError
	switch err = withoutPath(err); {
	case errors.As(err, &backup):
		return before, err
	case errors.Is(err, vhd.ErrSavedState):
		return before, &hintError{fmt.Errorf("%s: %w", k.ref.name, err), "resume and shut down the machine first, or use --force; the machine cannot be resumed after that"}
	case errors.Is(err, vhd.ErrOrphans):
		k.cli.report(&hintError{fmt.Errorf("%s: %w", k.ref.name, err), "keep it as it is, save it with --backup FILE, or discard it with --discard-orphans"})
	case errors.Is(err, vhd.ErrTwoIDs):
		k.cli.report(&hintError{fmt.Errorf("%s: %w", k.ref.name, err), "find out which image it is; 'vhdtool set --uuid ID' gives both copies one id"})
	case errors.Is(err, vhd.ErrShifted):
		k.cli.report(&hintError{fmt.Errorf("%s: %w", k.ref.name, err), "copy the file again from its source, in binary mode"})
	case errors.Is(err, vhd.ErrBeyondRepair):
		k.cli.report(fmt.Errorf("%s: %w", k.ref.name, err))
	case err != nil:
		return before, fmt.Errorf("%s: %w", k.ref.name, err)
	}
	if len(done) == 0 {
		return before, nil
	}
	if size, err = k.file.Seek(0, io.SeekEnd); err != nil {
		return before, err
	}
	if k.o.output == "human" && !k.o.quiet {
		fmt.Fprint(k.stdout, "Double checking the fixed image now...\n")
	}
	after, err := k.pass(ctx, size)
	after.LeaksFixed, after.Fixed = max(0, before.Leaks-after.Leaks), max(0, before.Corruptions-after.Corruptions)
	if after.LeaksFixed+after.Fixed > 0 && k.o.output == "human" && !k.o.quiet {
		fmt.Fprintf(k.stdout, "The following inconsistencies were found and repaired:\n\n    %d leaked clusters\n    %d corruptions\n\n", after.LeaksFixed, after.Fixed)
	}
	if !k.likeQEMU {
		after.Repairs, after.Doubtful = texts, doubt
	}
	return after, err
}

// repairFile repairs the image, and saves what is overwritten if that was asked for.
func (k *checking) repairFile(ctx context.Context, size int64) ([]disk.Repaired, error) {
	o := &disk.RepairOptions{All: k.o.repair == "all", Deep: k.o.deep, Force: k.o.force, Saved: k.o.backup != "", DiscardOrphans: k.o.discard, Progress: k.progress.update}
	if k.o.backup == "" {
		return k.format.Repair(ctx, k.file, size, o)
	}
	id, err := vhd.Identify(k.file, size)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", vhd.ErrBeyondRepair, err)
	}
	saved, err := undo.Create(k.o.backup, k.file, size, id.UniqueID)
	if err != nil {
		return nil, &backupError{k.o.backup, withoutPath(err)}
	}
	done, err := k.format.Repair(ctx, saved, size, o)
	if cerr := closeUndo(saved); cerr != nil && err == nil {
		err = &backupError{k.o.backup, withoutPath(cerr)}
	}
	return done, err
}

// closeUndo completes an undo file with what identifies the repaired image.
func closeUndo(saved *undo.File) error {
	var identify []undo.Span
	size, err := saved.Size()
	if err == nil {
		var id vhd.Identity
		id, err = vhd.Identify(saved, size)
		for _, x := range id.Metadata {
			identify = append(identify, undo.Span{Start: x[0], End: x[1]})
		}
	}
	return errors.Join(err, saved.Close(identify...))
}

// backupError is an error about the undo file, and not about the image.
type backupError struct {
	name string
	err  error
}

func (e *backupError) Error() string { return fmt.Sprintf("%s: %v", e.name, e.err) }
func (e *backupError) Unwrap() error { return e.err }

// report prints the summary, and gives the exit status.
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
	for _, f := range allFormats {
		if f.Check == nil {
			continue
		}
		var damaged *vhd.FormatError
		if err := f.Probe(r, size); err == nil || errors.As(err, &damaged) {
			return f, nil
		}
	}
	f, err := formats.Probe(r, size)
	if err != nil {
		return nil, c.openError(ref, err)
	}
	return formatOf(f), nil
}

// leaked says how much space leaks.
func (n *checkCounts) leaked() string {
	return fmt.Sprintf("%s (%s)", english.Plural(int(n.Leaks), "leaked block", ""), humanize.IBytes(uint64(n.Leaks*n.blockSize)))
}

// print writes qemu-img's summary.
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
			s += fmt.Sprintf("%d of them hold data that nothing refers to, which may be lost blocks.\n", n.Orphaned)
		} else {
			s += "This means waste of disk space, but no harm to data.\n"
		}
	}
	if n.Total > 0 {
		fragmented, compressed := 0.0, 0.0
		if n.Allocated > 0 {
			fragmented = 100 * float64(n.Fragmented) / float64(n.Allocated)
			compressed = 100 * float64(n.Compressed) / float64(n.Allocated)
		}
		s += fmt.Sprintf("%d/%d = %0.2f%% allocated, %0.2f%% fragmented, %0.2f%% compressed clusters\n",
			n.Allocated, n.Total, 100*float64(n.Allocated)/float64(n.Total), fragmented, compressed)
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
