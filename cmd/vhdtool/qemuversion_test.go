package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/vhdtool/vhdtool/internal/oracle"
)

// passing matches output that differs in each run of qemu-img.
var passing = regexp.MustCompile(`(persistent bitmaps to )[#\w]+|(Run completed in )[.\d]+`)

// releaseOf returns the release for a program called qemu-img.
func releaseOf(t *testing.T, q oracle.QEMU) qemuVersion {
	t.Helper()
	t.Setenv(qemuVersionVariable, q.Version)
	v, err := qemuVersionFromEnv()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestLikeEachRelease runs lines with each available qemu-img, and under its name as that release.
// All output and the status must be equal.
func TestLikeEachRelease(t *testing.T) {
	releases := oracle.QEMUs(t)
	lines := []struct {
		since int // the first release with the line
		line  string
	}{
		{7, `info a.raw`},
		{7, `info d.vhd`},
		{7, `info --output=json d.vhd`},
		{7, `info --output=json k.raw`},
		{7, `info -f vpc f.vhd`},
		{7, `info entries.vhd`},
		{7, `info more.vhd`},
		{7, `info -f vpc empty.raw`},
		{7, `info -f vpc tiny.vhd`},
		{7, `map --output=json d.vhd`},
		{7, `map --output=json odd.raw`},
		{7, `map odd.raw`},
		{7, `map --output=json k.raw`},
		{7, `map --output=xml a.raw`},
		{7, `create y 1X`},
		{7, `create y 9E`},
		{7, `create -f raw -o preallocation=falloc y 1M`},
		{7, `create -f raw -o preallocation=full y 1M`},
		{7, `create -f raw -o preallocation=metadata y 1M`},
		{7, `create -f raw -o preallocation=bogus y 1M`},
		{7, `create -f vpc -o preallocation=bogus y 1M`},
		{7, `create -f raw -o extent_size_hint=1M,nocow=on y 1M`},
		{7, `create -f raw -o extent_size_hint=x y 1M`},
		{7, `create -f raw -o nocow=x y 1M`},
		{7, `create -f vpc -o subformat=fixed,preallocation=full y 1M`},
		{7, `create -f vpc -o preallocation=full,extent_size_hint=1M y 1M`},
		{7, `create -f raw -o help y`},
		{7, `create -f vpc -o help y`},
		{7, `create -f vpc -o help`},
		{7, `convert -O raw -o preallocation=bogus a.raw y`},
		{7, `convert -O raw -o preallocation=falloc a.raw y`},
		{7, `resize --preallocation=falloc -f raw a.raw 9M`},
		{7, `resize --preallocation=falloc -f raw a.raw 6M`},
		{7, `resize --preallocation=metadata -f raw a.raw 9M`},
		{7, `resize --preallocation=full --shrink -f raw a.raw 1M`},
		{7, `create -f vpc -b a.raw -F raw x.vhd`},
		{7, `create -f vpc -F raw x.vhd 1M`},
		{7, `rebase -b a.raw -F raw d.vhd`},
		{7, `rebase d.vhd`},
		{7, `rebase -u -b a.raw d.vhd`},
		{7, `rebase -b '' a.raw`},
		{7, `convert -B a.raw -O vpc a.raw x.vhd`},
		{7, `convert -F raw -O vpc a.raw x.vhd`},
		{7, `measure -l s1 a.raw`},
		{7, `measure -l s1 --size 1M`},
		{7, `measure -l s1 -O vpc d.vhd`},
		{7, `measure -l s1`},
		{7, `convert -l s1 -O raw a.raw x.raw`},
		{7, `convert -l snapshot.id=1 -O raw a.raw x.raw`},
		{7, `convert -l snapshot.foo=1 -O raw a.raw x.raw`},
		{7, `convert -l s1 -O raw a.raw d.vhd x.raw`},
		{7, `convert -l '' -O raw a.raw x.raw`},
		{7, `snapshot -l d.vhd`},
		{7, `snapshot d.vhd`},
		{7, `snapshot -c s1 d.vhd`},
		{7, `snapshot -a s1 d.vhd`},
		{7, `snapshot -d s1 d.vhd`},
		{7, `snapshot -l -c s1 d.vhd`},
		{7, `snapshot`},
		{7, `snapshot -l missing`},
		{7, `snapshot -c s1 a.raw`},
		{7, `snapshot -U -c x d.vhd`},
		{7, `convert --bitmaps -O vpc a.raw x.vhd`},
		{7, `convert --skip-broken-bitmaps -O vpc a.raw x.vhd`},
		{7, `bitmap --add d.vhd b0`},
		{7, `bitmap d.vhd b0`},
		{7, `bitmap --remove d.vhd b0`},
		{7, `bitmap --clear d.vhd b0`},
		{7, `bitmap --merge b1 d.vhd b0`},
		{7, `bitmap --add -g 64k a.raw b0`},
		{7, `bitmap --add -g 3 d.vhd b0`},
		{7, `bitmap --add -g x d.vhd b0`},
		{7, `bitmap --add d.vhd`},
		{7, `bitmap`},
		{7, `bitmap --add missing b0`},
		{7, `bitmap -b f.vhd --add d.vhd b0`},
		{7, `bitmap -F vpc --add d.vhd b0`},
		{7, `bitmap -g 4k --remove d.vhd b0`},
		{7, `bitmap --merge b1 -b missing -F raw d.vhd b0`},
		{7, `amend -o force_size=on d.vhd`},
		{7, `amend d.vhd`},
		{7, `amend -o help d.vhd`},
		{7, `amend -f vpc -o help`},
		{7, `amend -o size=3M a.raw`},
		{7, `amend -o , d.vhd`},
		{7, `amend -f bogus -o a d.vhd`},
		{7, `amend -p -o force_size=on d.vhd`},
		{7, `amend -q -o force_size=on -t zz d.vhd`},
		{7, `amend --force -o force_size missing`},
		{7, `amend -o a=b`},
		{7, `commit -r 1M d.vhd`},
		{7, `commit -r x d.vhd`},
		{7, `commit d.vhd`},
		{7, `commit -b x d.vhd`},
		{7, `commit -t zz d.vhd`},
		{7, `commit a.raw`},
		{7, `create --object secret,id=sec0,data=x -f vpc x.vhd 1M`},
		{7, `create --object bogus,id=a -f vpc x.vhd 1M`},
		{7, `create --object secret -f vpc x.vhd 1M`},
		{7, `info --object '' d.vhd`},
		{7, `map --object foo,id=1 a.raw`},
		{7, `check --object secret,id=s,data=1 a.raw`},
		{7, `convert -S x a.raw y`},
		{7, `convert -m 0 a.raw y`},
		{7, `convert -m x a.raw y`},
		{7, `convert -r x a.raw y`},
		{7, `dd bs=x if=a.raw of=y`},
		{7, `map -s x a.raw`},
		{7, `map -s 9E a.raw`},
		{7, `measure --size x`},
		{7, `info -Z a.raw`},
		{7, `info --zz a.raw`},
		{7, `info -f`},
		{7, `info --output`},
		{7, `bogus`},
		{7, `info`},
		{7, `create`},
		{7, `create -f raw a 1M b`},
		{7, `bench -c 5 d.vhd`},
		{7, `bench -c 5 -d 2 -s 512 -S 1k -o 64k d.vhd`},
		{7, `bench -c 10 -w -d 2 --pattern 5 --flush-interval 3 d.vhd`},
		{7, `bench -c 2 -o x d.vhd`},
		{7, `bench -c 2 -S x d.vhd`},
		{7, `bench -c 2 -s x d.vhd`},
		{7, `bench -c 2 -i zz d.vhd`},
		{7, `bench -c 2 --flush-interval 3 d.vhd`},
		{7, `bench -c 5 -w --flush-interval 3 d.vhd`},
		{7, `bench`},
		{7, `bench -c 1 -t zz d.vhd`},
		{7, `bench -c 1 -w --pattern 300 d.vhd`},
		{7, `bench -c 1 -w --pattern x d.vhd`},
		{7, `bench -d x d.vhd`},
		{7, `bench -c x d.vhd`},
		{7, `bench -c 4 -s 9999999999 d.vhd`},
		{7, `bench -o 100G -c 1 -d 1 d.vhd`},
		{7, `bench -n -c 3 d.vhd`},
		{7, `bench -c 3 -w a.raw`},
		{7, `convert -p odd.raw x.raw`},
		{7, `convert -p -O vpc odd.raw x.vhd`},
		{7, `convert -p hole.raw x.raw`},
		{7, `convert -p -S 0 hole.raw x.raw`},
		{11, `info -t none d.vhd`},
		{11, `info -t zz d.vhd`},
		{11, `info --limits d.vhd`},
		{11, `info --limits --output=json a.raw`},
		{11, `create -f vpc -b a.raw -B raw x.vhd`},
		{11, `rebase -B raw -b a.raw d.vhd`},
		{10, `rebase -c -b a.raw d.vhd`},
		{11, `convert -b a.raw -O vpc a.raw x.vhd`},
		{11, `bitmap --remove-all d.vhd`},
		{11, `convert --target-format-options subformat=fixed -O vpc a.raw x.vhd`},
		{10, `snapshot -l -f vpc d.vhd`},
	}
	from := t.TempDir()
	lineFiles(t, from)
	tooManyEntryFiles(t, from)
	for _, q := range releases {
		v := releaseOf(t, q)
		var known []string
		for _, l := range lines {
			if q.Major() >= l.since {
				known = append(known, l.line)
			}
		}
		theirs := qemuTranscripts(t, q, from, known)
		for i, line := range known {
			t.Run(q.Version+"/"+line, func(t *testing.T) {
				dir := t.TempDir()
				if err := copyNamed(from, dir, line); err != nil {
					t.Fatal(err)
				}
				t.Chdir(dir)
				var stdout, stderr strings.Builder
				c := &cli{name: "qemu-img", likeQEMU: true, qemu: v, stdin: os.Stdin, stdout: &stdout, stderr: &stderr}
				status := c.execute(t.Context(), lineArgs(line))
				if ours := passing.ReplaceAllString(transcript(status, &stdout, &stderr), "$1$2"); ours != theirs[i] {
					t.Errorf("qemu-img %s: %s\nwe: %s", q.Version, theirs[i], ours)
				}
			})
		}
	}
}

// lineArgs returns the arguments of a line. A pair of quotes is an empty argument.
func lineArgs(line string) []string {
	args := strings.Fields(line)
	for i, a := range args {
		args[i] = strings.ReplaceAll(a, "''", "")
	}
	return args
}

// copyNamed copies only those files of a directory that a line names. Copying all of them for each
// line takes longer than the line.
func copyNamed(from, to, line string) error {
	files, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, f := range files {
		if !strings.Contains(line, f.Name()) {
			continue
		}
		out, err := exec.Command("cp", "--sparse=always", filepath.Join(from, f.Name()), to).CombinedOutput()
		if err != nil {
			return fmt.Errorf("cp: %w: %s", err, out)
		}
	}
	return nil
}

// qemuTranscripts runs lines with a qemu-img, each in a directory of its own. Several start at a
// time, because a start mostly waits for the system to make its root.
func qemuTranscripts(t *testing.T, q oracle.QEMU, from string, lines []string) []string {
	t.Helper()
	said := make([]string, len(lines))
	var group errgroup.Group
	group.SetLimit(4 * runtime.GOMAXPROCS(0))
	for i, line := range lines {
		dir := t.TempDir()
		group.Go(func() error {
			if err := copyNamed(from, dir, line); err != nil {
				return err
			}
			var stdout, stderr strings.Builder
			cmd := q.Command("qemu-img", lineArgs(line)...)
			cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
			if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
				return err
			}
			said[i] = passing.ReplaceAllString(transcript(cmd.ProcessState.ExitCode(), &stdout, &stderr), "$1$2")
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	return said
}

// tooManyEntryFiles creates files that qemu-img refuses to open.
func tooManyEntryFiles(t *testing.T, dir string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "e.vhd"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"tiny.vhd": make([]byte, 100)}
	for name, entries := range map[string]uint32{"entries.vhd": 1 << 29, "more.vhd": 0xf0000000} {
		file := slices.Clone(b)
		header := file[512:1536]
		binary.BigEndian.PutUint32(header[28:], entries)
		clear(header[36:40])
		sum := uint32(0)
		for _, c := range header {
			sum += uint32(c)
		}
		binary.BigEndian.PutUint32(header[36:], ^sum)
		files[name] = file
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// helpOption matches the names of options at the start of an entry of a help page of
// qemu-img 10 or newer: "  -f, --format FMT", "  --enable, --disable", "  -o OPTIONS".
var helpOption = regexp.MustCompile(`^  (-[-\w]+(?:, ?-[-\w]+)*)`)

// usageOption matches options in the list of commands that qemu-img 7 prints.
var usageOption = regexp.MustCompile(`(?:^|[[( ])(--?[a-zA-Z][-\w]*)`)

// helpOptions returns the options of a command in qemu-img's help.
func helpOptions(t *testing.T, q oracle.QEMU, command string) []string {
	t.Helper()
	var found []string
	if q.Major() >= 10 {
		help, _ := q.Try(t, "qemu-img", command, "--help")
		for line := range strings.Lines(help) {
			if m := helpOption.FindStringSubmatch(line); m != nil {
				found = append(found, strings.Split(strings.ReplaceAll(m[1], " ", ""), ",")...)
			}
		}
		return found
	}
	help, _ := q.Try(t, "qemu-img", "--help")
	_, help, _ = strings.Cut(help, "Command syntax:")
	help, _, _ = strings.Cut(help, "Command parameters:")
	for line := range strings.Lines(help) {
		if rest, ok := strings.CutPrefix(line, "  "+command+" "); ok {
			for _, m := range usageOption.FindAllStringSubmatch(rest, -1) {
				found = append(found, m[1])
			}
		}
	}
	return found
}

// Every option in the help of a qemu-img exists here.
func TestOptionsOfEachRelease(t *testing.T) {
	// qemu-img itself does not accept these.
	misprinted := []string{"check -u"}
	for _, q := range oracle.QEMUs(t) {
		for _, name := range []string{
			"amend", "bench", "bitmap", "check", "commit", "compare", "convert", "create", "dd", "info", "map", "measure",
			"rebase", "resize", "snapshot",
		} {
			options := helpOptions(t, q, name)
			if len(options) < 3 {
				t.Errorf("qemu-img %s %s: the help names only %q", q.Version, name, options)
			}
			cmd := commands[name](&cli{})
			addObjectFlag(cmd)
			cmd.InitDefaultHelpFlag()
			for _, option := range options {
				var flag *pflag.Flag
				if long, ok := strings.CutPrefix(option, "--"); ok {
					flag = cmd.Flags().Lookup(long)
					// Options can be abbreviated.
					if args := expandLongOptions(cmd, []string{option}); flag == nil && args[0] != option {
						flag = cmd.Flags().Lookup(strings.TrimPrefix(args[0], "--"))
					}
				} else {
					flag = cmd.Flags().ShorthandLookup(option[1:])
				}
				if flag == nil && !slices.Contains(misprinted, name+" "+option) {
					t.Errorf("%s of qemu-img %s has the option %s", name, q.Version, option)
				}
			}
		}
	}
}

func TestQEMUVersion(t *testing.T) {
	for s, want := range map[string]qemuVersion{
		"": qemu72, "7.2": qemu72, "5.0": qemu72, "8": 800, "8.2.1": 802, "10.0.13": 1000, "11.1": 1101,
	} {
		t.Setenv(qemuVersionVariable, s)
		if v, err := qemuVersionFromEnv(); v != want || err != nil {
			t.Errorf("%q: %d, %v; want %d", s, v, err, want)
		}
	}
	for _, s := range []string{"new", "7.x", "-1", "7.100", "v10"} {
		t.Setenv(qemuVersionVariable, s)
		if v, err := qemuVersionFromEnv(); err == nil {
			t.Errorf("%q: %d, want an error", s, v)
		}
	}
}
