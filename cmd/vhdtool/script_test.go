package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/vhdtool/vhdtool/internal/filesystem"
	"github.com/vhdtool/vhdtool/internal/oracle"
	"github.com/vhdtool/vhdtool/pkg/disk"
	"github.com/vhdtool/vhdtool/pkg/vhd"
)

// TestMain makes the test binary also the program: as vhdtool, and as qemu-img-like under the name
// of qemu-img.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"vhdtool": func() { os.Exit(runValidated()) },
		"qemu-img-like": func() {
			os.Args[0] = "qemu-img"
			os.Exit(runMain())
		},
	})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	if errSchemaDir != nil {
		t.Fatal(errSchemaDir)
	}
	testscript.Run(t, testscript.Params{
		Setup: func(e *testscript.Env) error {
			e.Setenv(schemaDirVar, schemaDir)
			return nil
		},
		Dir:                "../../testdata/script",
		Condition:          scriptCondition,
		RequireUniqueNames: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status":    statusCmd,
			"stdout-is": func(ts *testscript.TestScript, neg bool, args []string) { outputIs(ts, neg, "stdout", args) },
			"stderr-is": func(ts *testscript.TestScript, neg bool, args []string) { outputIs(ts, neg, "stderr", args) },
			"like":      likeCmd,
			"dir":       dirCmd,
			"truncate":  truncateCmd,
			"writeat":   writeAtCmd,
			"random":    randomCmd,
			"seal":      sealCmd,
			"field":     fieldCmd,
			"zeros":     zerosCmd,
			"same":      sameCmd,
			"same-id":   sameIDCmd,
			"size":      sizeCmd,
			"takes":     takesCmd,
			"link":      linkCmd,
			"parent":    parentCmd,
			"levels":    levelsCmd,
		},
	})
}

// scriptCondition evaluates conditions. [qemu-img] and [vhdiinfo]: the program is installed; it is
// an error if a required one is missing. [full]: there is a device that is always full. [portable]:
// without the fast paths of the system. [qemu-7]: the output of qemu-img can be compared. [holes]:
// holes of files are found. [root]: the user is root, for whom no file is read-only.
func scriptCondition(cond string) (bool, error) {
	switch cond {
	case "root":
		return os.Geteuid() == 0, nil
	case "portable":
		return isPortable(), nil
	case "full":
		_, err := os.Stat("/dev/full")
		return err == nil, nil
	case "qemu-7":
		return qemu7(), nil
	case "holes":
		return findsHoles()
	case "qemu-img", "vhdiinfo":
		_, err := exec.LookPath(cond)
		if err != nil && os.Getenv("VHDTOOL_REQUIRE_PEERS") != "" {
			return false, fmt.Errorf("%w, and VHDTOOL_REQUIRE_PEERS is set: run scripts/install-peers.sh", err)
		}
		return err == nil, nil
	}
	return false, fmt.Errorf("unknown condition %q", cond)
}

// isPortable reports whether the program is built without the fast paths of the system.
func isPortable() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-tags", Value: "portable"})
}

// findsHoles reports whether holes of files are found here.
func findsHoles() (bool, error) {
	f, err := os.CreateTemp("", "holes-")
	if err != nil {
		return false, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := f.Truncate(1 << 20); err != nil {
		return false, err
	}
	_, data, err := filesystem.NewHoleMap(f).At(0, 1<<20)
	return !data, err
}

// qemu7 reports whether the qemu-img here has the release whose lines are printed under its name.
// Later ones print more.
func qemu7() bool {
	out, err := exec.Command("qemu-img", "--version").Output()
	return err == nil && bytes.HasPrefix(out, []byte("qemu-img version 7."))
}

// arguments checks the usage of a script command.
func arguments(ts *testscript.TestScript, neg bool, args []string, want int, usage string) {
	if neg {
		ts.Fatalf("unsupported: ! %s", usage)
	}
	if want >= 0 && len(args) != want {
		ts.Fatalf("usage: %s", usage)
	}
}

// number parses a count of bytes: decimal or 0x, with k, M or G for KiB, MiB, GiB.
func number(ts *testscript.TestScript, s string) int64 {
	shift := 0
	if i := strings.IndexByte("kMG", s[len(s)-1]); i >= 0 {
		s, shift = s[:len(s)-1], 10*(i+1)
	}
	n, err := strconv.ParseInt(s, 0, 64)
	ts.Check(err)
	return n << shift
}

// content parses bytes written as in a Go string: cxsparse, \x00\xff.
func content(ts *testscript.TestScript, s string) []byte {
	b, err := strconv.Unquote(`"` + s + `"`)
	ts.Check(err)
	return []byte(b)
}

// openAt opens or creates a file, and resolves an offset. A negative one counts from the end of the
// file.
func openAt(ts *testscript.TestScript, name, off string) (*os.File, int64) {
	f, err := os.OpenFile(ts.MkAbs(name), os.O_RDWR|os.O_CREATE, 0o666)
	ts.Check(err)
	at := number(ts, off)
	if at < 0 {
		st, err := f.Stat()
		ts.Check(err)
		at += st.Size()
	}
	return f, at
}

func readAt(ts *testscript.TestScript, name, off string, n int) []byte {
	f, at := openAt(ts, name, off)
	defer f.Close()
	b := make([]byte, n)
	_, err := f.ReadAt(b, at)
	ts.Check(err)
	return b
}

func writeAt(ts *testscript.TestScript, name, off string, b []byte) {
	f, at := openAt(ts, name, off)
	_, err := f.WriteAt(b, at)
	ts.Check(err)
	ts.Check(f.Close())
}

// statusCmd runs a program that must exit with this status.
func statusCmd(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args[:min(len(args), 2)], 2, "status N program [args...]")
	got := 0
	err := ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got, err = exit.ExitCode(), nil
	}
	ts.Check(err)
	if want := int(number(ts, args[0])); got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// outputIs compares the output of the last program with the given lines.
func outputIs(ts *testscript.TestScript, neg bool, stream string, lines []string) {
	arguments(ts, neg, lines, -1, stream+"-is [line...]")
	want := ""
	for _, l := range lines {
		want += l + "\n"
	}
	if got := ts.ReadFile(stream); got != want {
		ts.Fatalf("%s is %q, want %q", stream, got, want)
	}
}

// The storage depends on the file system, and the age on the day.
var (
	storage = regexp.MustCompile(`(disk size: |"actual-size": ).*`)
	age     = regexp.MustCompile(`(?m)^((?:created|parent last changed): .*)\(.* ago\)$`)
)

// stable returns a text without the parts that depend on the machine or the day.
func stable(text string) string {
	return age.ReplaceAllString(storage.ReplaceAllString(text, "${1}N"), "${1}(N ago)")
}

// likeCmd compares a file or stdout with a golden file, except storage and ages. A line "..." in
// the golden file matches any lines.
func likeCmd(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "like file golden")
	got := stable(ts.ReadFile(args[0]))
	want := stable(ts.ReadFile(args[1]))
	head, tail, gap := strings.Cut(want, "...\n")
	if got == want || gap && len(got) >= len(head)+len(tail) && strings.HasPrefix(got, head) && strings.HasSuffix(got, tail) {
		return
	}
	ts.Fatalf("%s is\n%s\nwant\n%s", args[0], got, want)
}

// dirCmd checks that a directory holds these names and no others.
func dirCmd(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args[:min(len(args), 1)], 1, "dir directory [name...]")
	entries, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want := slices.Sorted(slices.Values(args[1:]))
	if !slices.Equal(names, want) {
		ts.Fatalf("%s holds %q, want %q", args[0], names, want)
	}
}

// truncateCmd sets the length of a file, and creates it if necessary.
func truncateCmd(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "truncate file size")
	f, _ := openAt(ts, args[0], "0")
	ts.Check(f.Truncate(number(ts, args[1])))
	ts.Check(f.Close())
}

// writeAtCmd writes bytes into a file. A negative offset counts from its end.
func writeAtCmd(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 3, "writeat file offset bytes")
	writeAt(ts, args[0], args[1], content(ts, args[2]))
}

// randomCmd writes n bytes that depend only on the seed.
func randomCmd(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 4, "random file offset n seed")
	b := make([]byte, number(ts, args[2]))
	var seed [32]byte
	copy(seed[:], args[3])
	_, _ = rand.NewChaCha8(seed).Read(b)
	writeAt(ts, args[0], args[1], b)
}

// parentCmd changes the parent record of an image: the name, and the locators.
func parentCmd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: parent file name [code=text]...")
	}
	img, err := vhd.Open(ts.MkAbs(args[0]), &vhd.OpenOptions{Write: true, Parents: disk.ParentSearch{None: true}})
	ts.Check(err)
	p := vhd.ParentRecord{ID: img.ParentRecord().ID, Name: args[1]}
	for _, arg := range args[2:] {
		code, text, _ := strings.Cut(arg, "=")
		p.Locators = append(p.Locators, vhd.Locator{Code: code, Path: text})
	}
	ts.Check(img.SetParent(nil, p))
	ts.Check(img.Close())
}

// levelsCmd makes n images in a directory, 0.vhd and so on, each a child of the one before.
func levelsCmd(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "levels n directory")
	dir := ts.MkAbs(args[1])
	ts.Check(os.MkdirAll(dir, 0o777))
	o := vhd.CreateOptions{Size: 8192, Exact: true, BlockSize: 4096}
	for i := range number(ts, args[0]) {
		img, err := vhd.Create(filepath.Join(dir, fmt.Sprintf("%d.vhd", i)), &o)
		ts.Check(err)
		ts.Check(img.Close())
		o = vhd.CreateOptions{BlockSize: 4096}
		name := fmt.Sprintf("%d.vhd", i)
		o.Parent, err = vhd.Open(filepath.Join(dir, name), &vhd.OpenOptions{Parents: disk.ParentSearch{None: true}})
		ts.Check(err)
		o.ParentRecord = vhd.ParentRecord{Name: name, Locators: []vhd.Locator{{Code: "W2ru", Path: `.\` + name}}}
	}
	ts.Check(o.Parent.Close())
}

// sameIDCmd compares the unique ids of two images.
func sameIDCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: [!] same-id file file")
	}
	const off, n = "-444", 16 // in the trailing footer
	one, two := readAt(ts, args[0], off, n), readAt(ts, args[1], off, n)
	if bytes.Equal(one, two) == neg {
		ts.Fatalf("the unique ids of %s and %s are %x and %x", args[0], args[1], one, two)
	}
}

// sealCmd corrects the checksum of the footer or header at an offset.
func sealCmd(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 3, "seal file offset footer|header")
	n, at := 512, 64
	if args[2] == "header" {
		n, at = 1024, 36
	}
	b := readAt(ts, args[0], args[1], n)
	clear(b[at : at+4])
	var sum uint32
	for _, c := range b {
		sum += uint32(c)
	}
	binary.BigEndian.PutUint32(b[at:], ^sum)
	writeAt(ts, args[0], args[1], b)
}

// fieldCmd compares bytes of a file. A negative offset counts from its end.
func fieldCmd(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 3, "field file offset bytes")
	want := content(ts, args[2])
	if got := readAt(ts, args[0], args[1], len(want)); !bytes.Equal(got, want) {
		ts.Fatalf("%s at %s: found %q, want %q", args[0], args[1], got, want)
	}
}

// zerosCmd checks that a part of a file is zeros.
func zerosCmd(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 3, "zeros file offset n")
	b := readAt(ts, args[0], args[1], int(number(ts, args[2])))
	if i := bytes.IndexFunc(b, func(r rune) bool { return r != 0 }); i >= 0 {
		ts.Fatalf("%s: byte %d after %s is %#x, want zeros", args[0], i, args[1], b[i])
	}
}

// sameCmd compares two files, or the first n bytes of them.
func sameCmd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 3 {
		n := int(number(ts, args[2]))
		if !bytes.Equal(readAt(ts, args[0], "0", n), readAt(ts, args[1], "0", n)) {
			ts.Fatalf("the first %d bytes of %s and %s differ", n, args[0], args[1])
		}
		return
	}
	arguments(ts, neg, args, 2, "same file file [n]")
	if ts.ReadFile(args[0]) != ts.ReadFile(args[1]) {
		ts.Fatalf("%s and %s differ", args[0], args[1])
	}
}

// sizeCmd checks the length of a file.
func sizeCmd(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "size file n")
	st, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if want := number(ts, args[1]); st.Size() != want {
		ts.Fatalf("%s has %d bytes, want %d", args[0], st.Size(), want)
	}
}

// takesCmd checks the storage of a file: the minimum and the maximum.
func takesCmd(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 3, "takes file min max")
	st, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if n := actualSize(st); n < number(ts, args[1]) || n > number(ts, args[2]) {
		ts.Fatalf("%s takes %d bytes, want %s to %s", args[0], n, args[1], args[2])
	}
}

// linkCmd creates a hard link.
func linkCmd(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "link old new")
	ts.Check(os.Link(ts.MkAbs(args[0]), ts.MkAbs(args[1])))
}

// TestSameAsQEMU runs command lines with qemu-img and under its name. It compares the output, line
// for line, and the exit status.
func TestSameAsQEMU(t *testing.T) {
	t.Parallel()
	oracle.Need(t, "qemu-img")
	if !qemu7() {
		t.Skip("other releases than qemu 7 print other lines")
	}
	dir := t.TempDir()
	files := map[string][]byte{"r.raw": make([]byte, 100_000), "s.raw": make([]byte, 1000)}
	for name, options := range map[string]string{"d.vhd": "subformat=dynamic", "f.vhd": "subformat=fixed"} {
		image := filepath.Join(dir, name)
		oracle.QemuImg(t, "create", "-q", "-f", "vpc", "-o", options, image, "100k")
		content, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = content
	}
	for _, line := range []string{
		"",
		"bogus",
		"-Z",
		"create",
		"create -f",
		"create -Z",
		"create -f vpc",
		"create -f vpc x.vhd",
		"create -f vpc x.vhd 10M",
		"create -fvpc x.vhd 10M",
		"create x.vhd 10M",
		"create -f vpc x.vhd 10485763",
		"create -f vpc x.vhd 1M extra",
		"create -f vpc x.vhd 10MB",
		"create -f vpc x.vhd 1.5",
		"create -f vpc x.vhd 1.5k",
		"create -f vpc x.vhd 0x10000",
		"create -f vpc x.vhd 1e6",
		"create -f vpc x.vhd 9E",
		"create -f vpc x.vhd -1",
		"create -f vpc x.vhd 2040G",
		"create -f vpc x.vhd 2041G",
		"create -f vpc -o force_size,subformat=fixed x.vhd 10M",
		"create -f vpc -o subformat=dynamic,force_size=off x.vhd 10M",
		"create -f vpc -o subformat=fixed -o force_size=yes -o subformat=dynamic x.vhd 1M",
		"create -f vpc -o noforce_size x.vhd 1M",
		"create -f vpc -o nosubformat x.vhd 1M",
		"create -f vpc -o force_size=1 x.vhd 1M",
		"create -f vpc -o force_size=true x.vhd 1M",
		"create -f vpc -o subformat=foo x.vhd 1M",
		"create -f vpc -o bogus x.vhd 1M",
		"create -f vpc -o nobogus x.vhd 1M",
		"create -f vpc -o bogus=1 x.vhd 1M",
		"create -f vpc -o , x.vhd 1M",
		"create -f vpc -o size=5M x.vhd",
		"create -f vpc -o size=5M x.vhd 5M",
		"create -f vpc -o size=5X x.vhd",
		"create -f vpc -o help",
		"create -f raw -o subformat=fixed x.vhd 1M",
		"create -f vpc -b y.vhd x.vhd 1M",
		"create -f foo x.vhd 1M",
		"create -f vpc nodir/x.vhd 1M",
		"create -q -f vpc x.vhd 1M",
		"create -f raw x.raw 10",
		"info d.vhd",
		"info -f vpc f.vhd",
		"info -f raw d.vhd",
		"info r.raw",
		"info -U r.raw",
		"info --output=json d.vhd",
		"info --output=json -f vpc f.vhd",
		"info --output=json r.raw",
		"info --output json --backing-chain d.vhd",
		"info --backing-chain d.vhd",
		"info --output=xml d.vhd",
		"info --output",
		"info",
		"info d.vhd r.raw",
		"info missing",
		"info -f bogus d.vhd",
		"info -f vpc r.raw",
		"info --image-opts -f vpc driver=vpc",
		"info --image-opts driver=vpc,file.filename=f.vhd",
		"info --image-opts driver=vpc,file.filename=d.vhd,force_size_calc=chs",
		"info --image-opts driver=vpc,file.filename=d.vhd,force_size_calc=zzz",
		"info --image-opts driver=bogus,file.filename=d.vhd",
		"info --image-opts driver=vpc",
		"check",
		"check r.raw",
		"check -q r.raw",
		"check --output=json r.raw",
		"check --output=xml r.raw",
		"check missing",
		"check -f vpc r.raw",
		"check -r foo r.raw",
		"convert",
		"convert r.raw",
		"convert r.raw x",
		"convert -O zzz r.raw x",
		"convert -O vpc -o zzz r.raw x",
		"convert -O vpc -o subformat=zz r.raw x",
		"convert -O vpc -o force_size=1 r.raw x",
		"convert -O vpc -o , r.raw x",
		"convert -O vpc -o help",
		"convert -c -O vpc r.raw x",
		"convert -n -o subformat=fixed -O vpc r.raw d.vhd",
		"convert -n r.raw missing",
		"convert -n s.raw r.raw",
		"convert -n r.raw s.raw",
		"convert --target-is-zero r.raw x",
		"convert -S 3 r.raw x",
		"convert -S x r.raw x",
		"convert -m 0 r.raw x",
		"convert -m 17 r.raw x",
		"convert -t zz r.raw x",
		"convert -T zz r.raw x",
		"convert r.raw r.raw",
		"convert -O vpc r.raw r.raw",
		"convert -O vpc r.raw nodir/x.vhd",
		"convert missing x",
		"convert -f vpc r.raw x",
		"convert -f bogus r.raw x",
		"convert -f",
		"convert --image-opts driver=bogus,file.filename=r.raw x",
		"convert --image-opts -f vpc driver=vpc x",
		"dd",
		"dd if=r.raw",
		"dd of=x",
		"dd if=r.raw of=x foo",
		"dd if=r.raw of=x foo=1",
		"dd if=r.raw of=x bs=0",
		"dd if=r.raw of=x bs=1x",
		"dd if=r.raw of=x bs=-1",
		"dd if=r.raw of=x bs=4G",
		"dd if=r.raw of=x count=1MB",
		"dd if=r.raw of=x skip=zz",
		"dd if=r.raw of=x bs=1M count=1",
		"dd if=r.raw of=x bs=1M skip=400",
		"dd if=missing of=x",
		"dd -f bogus if=r.raw of=x",
		"dd -O bogus if=r.raw of=x",
		"dd if=r.raw of=nodir/x",
	} {
		t.Run(line, func(t *testing.T) {
			t.Parallel()
			run := func(program string) string {
				dir := t.TempDir()
				for name, content := range files {
					if err := os.WriteFile(filepath.Join(dir, name), content, 0o666); err != nil {
						t.Fatal(err)
					}
				}
				cmd := exec.Command(program, strings.Fields(line)...)
				cmd.Dir = dir
				var stdout, stderr strings.Builder
				cmd.Stdout, cmd.Stderr = &stdout, &stderr
				if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
					t.Fatal(err)
				}
				s := fmt.Sprintf("exit status %d, stdout:\n%sstderr:\n%s", cmd.ProcessState.ExitCode(), stdout.String(), stderr.String())
				return storage.ReplaceAllString(s, "${1}N")
			}
			if got, want := run("qemu-img-like"), run("qemu-img"); got != want {
				t.Errorf("got %s\nqemu-img: %s", got, want)
			}
		})
	}
}

// TestInterrupt interrupts a conversion. It must leave no file, and the old target unchanged.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot be sent an interrupt here")
	}
	dir := t.TempDir()
	// 16 MiB of data, copied 256 times: much more than is copied between the first printed progress
	// and the signal.
	source := make([]byte, 16<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(source)
	write := func(name string, b []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, b, 0o666); err != nil {
			t.Fatal(err)
		}
		return name
	}
	src := write("source.raw", source)
	old := []byte("an older file")
	for _, target := range []string{"target.raw", "target.vhd"} {
		t.Run(target, func(t *testing.T) {
			args := append([]string{"convert", "-p"}, slices.Repeat([]string{src}, 256)...)
			cmd := exec.Command("vhdtool", append(args, write(target, old))...)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var printed []byte
			sent := false
			for buf := make([]byte, 256); ; {
				n, err := stdout.Read(buf)
				printed = append(printed, buf[:n]...)
				if !sent && bytes.Count(printed, []byte("\r")) >= 3 { // 0 %, and some more
					sent = true
					if err := cmd.Process.Signal(os.Interrupt); err != nil {
						t.Fatal(err)
					}
				}
				if err != nil {
					break
				}
			}
			_ = cmd.Wait()
			if got := cmd.ProcessState.String(); got != "signal: interrupt" {
				t.Errorf("the program ended by %q, want the signal", got)
			}
			if got, want := stderr.String(), "vhdtool: interrupted\n"; got != want {
				t.Errorf("stderr %q, want %q", got, want)
			}
			if bytes.Contains(printed, []byte("(100.00/100%)")) {
				t.Error("the conversion was complete before it was interrupted")
			}
			if got, err := os.ReadFile(filepath.Join(dir, target)); err != nil || !bytes.Equal(got, old) {
				t.Errorf("the old target holds %d bytes (%v), want %q", len(got), err, old)
			}
			if err := os.Remove(filepath.Join(dir, target)); err != nil {
				t.Fatal(err)
			}
			var left []string
			_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err == nil && path != dir && path != src {
					left = append(left, path)
				}
				return err
			})
			if len(left) > 0 {
				t.Errorf("files left: %q", left)
			}
		})
	}
}
