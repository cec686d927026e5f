package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/internal/oracle"
)

// All available releases of qemu do the same here, and must agree.

// theirs writes with qemu-io. Each release does a part of the writes.
func theirs(t *testing.T, image string, ws []write) {
	t.Helper()
	all := oracle.QEMUs(t)
	for i, q := range all {
		var commands []string
		for _, w := range ws[len(ws)*i/len(all) : len(ws)*(i+1)/len(all)] {
			commands = append(commands, w.command())
		}
		if len(commands) > 0 {
			q.IO(t, "vpc", image, commands...)
		}
	}
}

// readTheirs returns the disk as qemu reads it.
func readTheirs(t *testing.T, image string) []byte {
	t.Helper()
	var first []byte
	for i, q := range oracle.QEMUs(t) {
		out := filepath.Join(t.TempDir(), "qemu.raw")
		q.Img(t, "convert", "-f", "vpc", "-O", "raw", image, out)
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		os.Remove(out)
		if i == 0 {
			first = b
		}
		same(t, fmt.Sprintf("%s: qemu %s, compared with the release that is installed", image, q.Version), b, first)
	}
	return first
}

// sizeTheirs returns the size of the disk according to qemu.
func sizeTheirs(t *testing.T, image string) int64 {
	t.Helper()
	var first int64
	for i, q := range oracle.QEMUs(t) {
		n := q.VirtualSize(t, "vpc", image)
		if i == 0 {
			first = n
		}
		if n != first {
			t.Fatalf("%s: qemu %s sees %d bytes, the release that is installed %d", image, q.Version, n, first)
		}
	}
	return first
}

// compareTheirs compares a VHD with a raw disk of the same size, with qemu-img.
func compareTheirs(t *testing.T, image, source string) {
	t.Helper()
	for _, q := range oracle.QEMUs(t) {
		if out := q.Img(t, "compare", "-f", "vpc", "-F", "raw", image, source); out != "Images are identical.\n" {
			t.Errorf("qemu-img %s compare: %s", q.Version, out)
		}
	}
}

// TestQEMUReleases logs the releases that the tests of this package use.
func TestQEMUReleases(t *testing.T) {
	newest := 0
	for _, q := range oracle.QEMUs(t) {
		t.Logf("qemu %s", q.Version)
		newest = max(newest, q.Major())
	}
	if newest <= 10 {
		t.Skip("qemu-sid does not start: nothing was compared with a qemu newer than 10")
	}
}
