// Package oracle runs the programs that tests compare vhdtool with.
//
// A test that needs an installed program calls [Need]. If the program is missing, the test is
// skipped. It fails if VHDTOOL_REQUIRE_PEERS is set, as in CI.
//
// [QEMUs], [NeedVirtualBox] and [NeedVHDIMount] do the same for programs that
// scripts/install-peers.sh unpacks instead of installing them. Programs of Debian sid are never
// required.
package oracle

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
)

// Need skips or fails the test unless all programs are installed.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err == nil {
			continue
		}
		if requirePeers() {
			t.Fatalf("%s is not installed, and VHDTOOL_REQUIRE_PEERS is set: run scripts/install-peers.sh", p)
		}
		t.Skipf("%s is not installed: run scripts/install-peers.sh", p)
	}
}

// requirePeers reports whether a missing program fails the test.
func requirePeers() bool { return os.Getenv("VHDTOOL_REQUIRE_PEERS") != "" }

// Run runs a program and returns its output. The test fails if the program fails.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, code := Try(t, name, args...)
	if code != 0 {
		t.Fatalf("%s %q: exit status %d: %s", name, args, code, out)
	}
	return out
}

// Try runs a program and returns what it prints on both outputs, and its exit status.
func Try(t testing.TB, name string, args ...string) (string, int) {
	t.Helper()
	return try(t, exec.Command(name, args...))
}

func try(t testing.TB, cmd *exec.Cmd) (string, int) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatalf("%s: %v", cmd.Path, err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// QemuImg runs the installed qemu-img. The test fails if it fails.
func QemuImg(t testing.TB, args ...string) string {
	t.Helper()
	return Run(t, "qemu-img", args...)
}

var mediaSize = regexp.MustCompile(`Media size\s*:.*\((\d+) bytes\)|Media size\s*:\s*(\d+) bytes`)

// VHDInfoSize returns the size of the disk in a VHD according to vhdiinfo.
func VHDInfoSize(t testing.TB, image string) int64 {
	t.Helper()
	out := Run(t, "vhdiinfo", image)
	m := mediaSize.FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("vhdiinfo %s: no media size in %q", image, out)
	}
	n, err := strconv.ParseInt(m[1]+m[2], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
