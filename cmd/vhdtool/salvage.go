package main

import (
	"fmt"
	"os"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/vhdtool/vhdtool/internal/atomicfile"
	"github.com/vhdtool/vhdtool/internal/ddrescue"
	"github.com/vhdtool/vhdtool/internal/source"
	"github.com/vhdtool/vhdtool/pkg/disk"
)

// statusLost is the exit status of a command that succeeded, but with lost parts of the disk. No
// qemu-img command has it.
const statusLost = 5

// maxLostLines is how many lost ranges are printed; --salvage-log has all of them.
const maxLostLines = 8

// salvageFlags are the flags for damaged images and unreadable sectors.
type salvageFlags struct {
	on  bool
	log string // file for the map of the lost ranges
}

// salvageHelp is the text about --salvage in the help of a command.
const salvageHelp = `

With --salvage, a damaged image is read as far as possible. Unreadable data
becomes zeros. If any range of the disk is lost, it is listed, and the exit status
is 5.`

func (s *salvageFlags) add(cmd *cobra.Command, does string) {
	cmd.Flags().BoolVar(&s.on, "salvage", false, does)
	cmd.Flags().StringVar(&s.log, "salvage-log", "", "with --salvage: list the lost ranges in the file `LOG`, in ddrescue's form")
	markOwn(cmd, "salvage-log")
	if cmd.Name() != "convert" {
		markOwn(cmd, "salvage")
	}
}

// check returns an error if flags contradict each other.
func (s *salvageFlags) check() error {
	if s.log != "" && !s.on {
		return usagef("--salvage-log needs --salvage")
	}
	return nil
}

// checkSource refuses a stream, because no part of it can be skipped.
func (s *salvageFlags) checkSource(src *source.Source) error {
	if s.on && src.Disk == nil {
		return fmt.Errorf("%s: --salvage needs a source that can be read at any offset, not a stream", src.Name)
	}
	return nil
}

// lostRange is a lost range in JSON.
type lostRange struct {
	Start    int64  `json:"start"`
	Length   int64  `json:"length"`
	Doubtful bool   `json:"doubtful"` // the bytes may belong to another part of the disk
	Reason   string `json:"reason"`
}

// lostRanges converts ranges for JSON; nil if there are none.
func lostRanges(lost []disk.LostRange) []lostRange {
	var all []lostRange
	for _, r := range lost {
		all = append(all, lostRange{r.Off, r.N, r.Doubtful, r.Reason})
	}
	return all
}

// knownLost returns the lost ranges of an image that was opened with --salvage.
func knownLost(d disk.Disk) []disk.LostRange {
	if s, ok := d.(disk.Salvaged); ok {
		return s.Lost()
	}
	return nil
}

// reportLost lists the lost ranges of the named disk of size bytes, and writes the log. It returns
// an error with statusLost, or nil if nothing is lost.
func (c *cli) reportLost(s *salvageFlags, name string, size int64, lost []disk.LostRange, quiet bool) error {
	if s.log != "" {
		if err := writeSalvageLog(s.log, size, lost); err != nil {
			return err
		}
	}
	if len(lost) == 0 {
		return nil
	}
	if c.likeQEMU {
		if !quiet {
			c.printLostLikeQEMU(lost)
		}
		return nil
	}
	if !quiet {
		c.printLost(s, name, lost)
	}
	return &statusError{code: statusLost}
}

func (c *cli) printLost(s *salvageFlags, name string, lost []disk.LostRange) {
	var zeros, doubtful int64
	for _, r := range lost {
		if r.Doubtful {
			doubtful += r.N
		} else {
			zeros += r.N
		}
	}
	if zeros > 0 {
		c.message("warning: %s: %s of the disk are lost and read as zeros", name, humanSize(zeros))
	}
	if doubtful > 0 {
		c.message("warning: %s: %s of the disk are doubtful: they may belong to another part of it", name, humanSize(doubtful))
	}
	for i, r := range lost {
		if i == maxLostLines {
			c.message("%s: and %s more ranges", name, humanize.Comma(int64(len(lost)-i)))
			if s.log == "" {
				fmt.Fprintln(c.stderr, "hint: --salvage-log FILE lists all of them")
			}
			break
		}
		what := "lost"
		if r.Doubtful {
			what = "doubtful"
		}
		c.message("%s: %s: %s at offset %s: %s", name, what, humanSize(r.N), humanize.Comma(r.Off), r.Reason)
	}
}

// printLostLikeQEMU prints qemu-img convert's line for each sector.
func (c *cli) printLostLikeQEMU(lost []disk.LostRange) {
	for _, r := range lost {
		for off := r.Off; off < r.Off+r.N; off += disk.SectorSize {
			c.message("warning: error while reading offset %d: %s", off, capitalised(r.Reason))
		}
	}
}

// capitalised returns a reason as the C library writes it, with a capital.
func capitalised(s string) string {
	if s == "" || s[0] < 'a' || s[0] > 'z' {
		return s
	}
	return string(s[0]-'a'+'A') + s[1:]
}

// writeSalvageLog writes the map of the lost ranges to the named file.
func writeSalvageLog(name string, size int64, lost []disk.LostRange) error {
	fail := func(err error) error { return fmt.Errorf("%s: %w", name, withoutPath(err)) }
	if st, err := os.Stat(name); err == nil && !st.Mode().IsRegular() {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return fail(err)
		}
		err = ddrescue.WriteMapfile(f, size, lost)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return fail(err)
		}
		return nil
	}
	f, err := atomicfile.Create(name)
	if err != nil {
		return fail(err)
	}
	if err := ddrescue.WriteMapfile(f, size, lost); err != nil {
		f.Discard()
		return fail(err)
	}
	if err := f.Commit(false); err != nil {
		return fail(err)
	}
	return nil
}
