package oracle

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// A root is a directory with programs of another Debian suite, which scripts/install-peers.sh
// has unpacked into the user's cache directory. The programs see the files of the machine under
// their usual names.
type root struct {
	name     string // of its directory
	version  []string
	required bool // in CI; not for Debian sid, which changes daily
	// starts reports once whether the version command runs.
	starts func() bool
}

func newRoot(name string, required bool, version ...string) *root {
	r := &root{name: name, version: version, required: required}
	r.starts = sync.OnceValue(func() bool {
		line, ok := r.command(r.version...)
		return ok && exec.Command(line[0], line[1:]...).Run() == nil
	})
	return r
}

// need skips the test unless the programs of the root start. If the root is required, it fails
// the test instead.
func (r *root) need(t testing.TB) {
	t.Helper()
	switch {
	case r.starts():
	case r.required && requirePeers():
		t.Fatalf("%s does not start, and VHDTOOL_REQUIRE_PEERS is set: run scripts/install-peers.sh", r.name)
	default:
		t.Skipf("%s does not start: run scripts/install-peers.sh", r.name)
	}
}

// command returns the command line that runs a program of the root. ok is false if the root is
// not unpacked.
func (r *root) command(program ...string) (line []string, ok bool) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, false
	}
	dir := filepath.Join(cache, "vhdtool", "peers", r.name)
	if _, err := os.Stat(filepath.Join(dir, "contents")); err != nil {
		return nil, false
	}
	script, ok := peerRootScript()
	return append([]string{script, "run", dir}, program...), ok
}

// peerRootScript returns the path of scripts/peer-root.sh. Tests run in the directory of their
// package, which is below the module's.
var peerRootScript = sync.OnceValues(func() (string, bool) {
	dir, err := os.Getwd()
	if err != nil {
		return "", false
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "scripts", "peer-root.sh"), true
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", false
		}
		dir = up
	}
})

// program returns a command that runs a program of the root. It skips the test if the root is
// missing.
func (r *root) program(t testing.TB, line ...string) *exec.Cmd {
	t.Helper()
	r.need(t)
	line, _ = r.command(line...)
	return exec.Command(line[0], line[1:]...)
}
