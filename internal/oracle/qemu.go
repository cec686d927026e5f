package oracle

import (
	"encoding/json"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"testing"
)

// QEMU is a release of qemu-img.
type QEMU struct {
	Version string // such as "10.0.13"
	Major   int
	prefix  []string // of the command line, before "qemu-img"
}

var (
	qemu10   = newRoot("qemu-10", true, "qemu-img", "--version")
	qemuSid  = newRoot("qemu-sid", false, "qemu-img", "--version")
	versions = regexp.MustCompile(`^qemu-img version (\d+)[.\d]*`)
)

// qemus are the releases whose qemu-img starts: the installed one first.
var qemus = sync.OnceValue(func() []QEMU {
	prefixes := [][]string{nil}
	for _, r := range []*root{qemu10, qemuSid} {
		if prefix, ok := r.command(); ok && r.starts() {
			prefixes = append(prefixes, prefix)
		}
	}
	var found []QEMU
	for _, prefix := range prefixes {
		line := append(prefix[:len(prefix):len(prefix)], "qemu-img", "--version")
		out, err := exec.Command(line[0], line[1:]...).Output()
		m := versions.FindSubmatch(out)
		if err != nil || m == nil {
			continue
		}
		major, _ := strconv.Atoi(string(m[1])) // digits
		found = append(found, QEMU{Version: string(m[0][len("qemu-img version "):]), Major: major, prefix: prefix})
	}
	return found
})

// QEMUs returns the releases of qemu-img that are there, of which the first is the one
// that is installed. It skips the test where none is installed. It fails the test where
// VHDTOOL_REQUIRE_PEERS is set and qemu 10 or the installed one is missing.
func QEMUs(t testing.TB) []QEMU {
	t.Helper()
	Need(t, "qemu-img")
	if !qemu10.starts() && requirePeers() {
		qemu10.need(t)
	}
	return qemus()
}

// NeedNewestQEMU skips the test unless qemu-img of Debian's sid is there, and returns it.
func NeedNewestQEMU(t testing.TB) QEMU {
	t.Helper()
	qemuSid.need(t)
	all := qemus()
	return all[len(all)-1]
}

// Img runs this release's qemu-img, which must succeed.
func (q QEMU) Img(t testing.TB, args ...string) string {
	t.Helper()
	line := append(append(q.prefix[:len(q.prefix):len(q.prefix)], "qemu-img"), args...)
	return Run(t, line[0], line[1:]...)
}

// VirtualSize is the size in bytes of the disk in an image of the format, as this
// release sees it.
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
