package oracle

import (
	"encoding/json"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// QEMU is a release of qemu-img and qemu-io.
type QEMU struct {
	Version string   // such as "10.0.13"
	prefix  []string // of the command line
}

var (
	qemu10   = newRoot("qemu-10", true, "qemu-img", "--version")
	qemuSid  = newRoot("qemu-sid", false, "qemu-img", "--version")
	versions = regexp.MustCompile(`^qemu-img version ([.\d]*)`)
)

// qemus are the releases whose qemu-img runs, the installed one first.
var qemus = sync.OnceValue(func() []QEMU {
	prefixes := [][]string{nil}
	for _, r := range []*root{qemu10, qemuSid} {
		if prefix, ok := r.command(); ok && r.starts() {
			prefixes = append(prefixes, prefix)
		}
	}
	var found []QEMU
	for _, prefix := range prefixes {
		q := QEMU{prefix: prefix}
		out, err := q.Command("qemu-img", "--version").Output()
		m := versions.FindSubmatch(out)
		if err != nil || m == nil {
			continue
		}
		q.Version = string(m[1])
		found = append(found, q)
	}
	return found
})

// QEMUs returns the available releases of qemu-img, the installed one first. It skips the test
// if none is installed. It fails the test if VHDTOOL_REQUIRE_PEERS is set and qemu 10 or the
// installed one is missing.
func QEMUs(t testing.TB) []QEMU {
	t.Helper()
	Need(t, "qemu-img", "qemu-io")
	if requirePeers() {
		qemu10.need(t)
	}
	return qemus()
}

// Major is the first number of the version.
func (q QEMU) Major() int {
	n, _, _ := strings.Cut(q.Version, ".")
	major, _ := strconv.Atoi(n) // the version is digits and dots
	return major
}

// Command returns a command that runs a program of this release.
func (q QEMU) Command(name string, args ...string) *exec.Cmd {
	line := slices.Concat(q.prefix, []string{name}, args)
	return exec.Command(line[0], line[1:]...)
}

// Try runs a program of this release and returns its output and exit status.
func (q QEMU) Try(t testing.TB, name string, args ...string) (string, int) {
	t.Helper()
	return try(t, q.Command(name, args...))
}

// Run runs a program of this release and returns its output. The test fails if the program
// fails.
func (q QEMU) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, code := q.Try(t, name, args...)
	if code != 0 {
		t.Fatalf("%s %s %q: exit status %d: %s", name, q.Version, args, code, out)
	}
	return out
}

// Img runs qemu-img. The test fails if it fails.
func (q QEMU) Img(t testing.TB, args ...string) string {
	t.Helper()
	return q.Run(t, "qemu-img", args...)
}

// IO runs qemu-io commands on an image of the format.
func (q QEMU) IO(t testing.TB, format, image string, commands ...string) {
	t.Helper()
	args := []string{"-f", format}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	q.Run(t, "qemu-io", append(args, image)...)
}

// VirtualSize returns the size in bytes of the disk in an image of the format, according to
// this release.
func (q QEMU) VirtualSize(t testing.TB, format, image string) int64 {
	t.Helper()
	var info struct {
		VirtualSize int64 `json:"virtual-size"`
	}
	out := q.Img(t, "info", "-f", format, "--output=json", image)
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		t.Fatalf("qemu-img %s info: %v: %s", q.Version, err, out)
	}
	return info.VirtualSize
}
