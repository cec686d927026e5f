// Package loopdevice attaches files as block devices, for tests.
package loopdevice

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Attach returns the path of a block device of size bytes with the given logical sector size.
// The device contains bytes other than zeros. It is detached when the test ends.
//
// Loop devices need Linux, root, losetup and /dev/loop-control; otherwise the test is skipped.
// If VHDTOOL_REQUIRE_PEERS is set, the test fails when it runs as root with /dev/loop-control
// and attaching fails.
func Attach(t testing.TB, size int64, sectorSize int) string {
	t.Helper()
	_, err := os.Stat("/dev/loop-control")
	if err != nil || os.Getuid() != 0 {
		t.Skip("loop devices need root and /dev/loop-control")
	}
	file := filepath.Join(t.TempDir(), "device")
	if err := fill(file, size); err != nil {
		t.Fatal(err)
	}
	// Another process may use the free device that losetup found.
	for range 10 {
		var out []byte
		out, err = exec.Command("losetup", "--find", "--show", "--sector-size", fmt.Sprint(sectorSize), file).CombinedOutput()
		if err == nil {
			dev := strings.TrimSpace(string(out))
			t.Cleanup(func() {
				if out, err := exec.Command("losetup", "--detach", dev).CombinedOutput(); err != nil {
					t.Errorf("losetup --detach %s: %v: %s", dev, err, out)
				}
			})
			return dev
		}
		err = fmt.Errorf("losetup: %w: %s", err, out)
	}
	if os.Getenv("VHDTOOL_REQUIRE_PEERS") != "" {
		t.Fatalf("%v, and VHDTOOL_REQUIRE_PEERS is set", err)
	}
	t.Skip(err)
	return ""
}

// fill creates a file of size bytes without zeros.
func fill(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	b := []byte(strings.Repeat("old contents of the device: ", 4096))
	for off := int64(0); off < size; off += int64(len(b)) {
		if _, err := f.WriteAt(b[:min(int64(len(b)), size-off)], off); err != nil {
			return err
		}
	}
	return f.Close()
}
