//go:build linux && !portable

package convert

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// mountNew creates a file system in a file and mounts it, or skips the test.
func mountNew(t *testing.T, kind string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root may mount a file system")
	}
	mkfs, err := exec.LookPath("mkfs." + kind)
	if err != nil {
		t.Skipf("mkfs.%s is not installed", kind)
	}
	dir := t.TempDir()
	image, mnt := filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
	if err := os.WriteFile(image, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 768<<20); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(mnt, 0o777); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, "-q", image).CombinedOutput(); err != nil {
		t.Skipf("mkfs.%s: %v: %s", kind, err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, mnt).CombinedOutput(); err != nil {
		t.Skipf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", mnt).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return mnt
}

// Files share storage if the file system can. They equal files that are read and written.
func TestShare(t *testing.T) {
	for kind, want := range map[string]way{"ext4": written, "xfs": cloned, "btrfs": cloned} {
		t.Run(kind, func(t *testing.T) {
			mnt := mountNew(t, kind)
			testShare(t, mnt, mnt, nil, want)
		})
	}
}

// Nothing is shared between two file systems.
func TestShareAcross(t *testing.T) {
	testShare(t, mountNew(t, "xfs"), mountNew(t, "xfs"), nil, written)
}

// Shared data uses no space.
func TestShareSpace(t *testing.T) {
	mnt := mountNew(t, "xfs")
	sources, _ := shareSources(t, mnt)
	used := func() int64 {
		unix.Sync()
		var st unix.Statfs_t
		if err := unix.Statfs(mnt, &st); err != nil {
			t.Fatal(err)
		}
		return int64(st.Blocks-st.Bfree) * int64(st.Bsize)
	}
	for _, target := range []string{"raw", "fixed", "dynamic"} {
		before := used()
		copyShared(t, filepath.Join(mnt, "target "+target), target, sources["raw"], Options{}, false, nil)
		if took := used() - before; took > 2<<20 {
			t.Errorf("a target %s of about 8 MiB of data took %d bytes", target, took)
		}
	}
}
