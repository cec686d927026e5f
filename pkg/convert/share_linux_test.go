//go:build linux && !portable

package convert

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhdtool/vhdtool/internal/oracle"
)

// mountNew makes a file system in a file and mounts it.
//
// Mounting needs Linux, root and /dev/loop-control; otherwise the test is skipped. If
// VHDTOOL_REQUIRE_PEERS is set, the test fails when mkfs is missing or mounting fails.
func mountNew(t *testing.T, kind string) string {
	t.Helper()
	if _, err := os.Stat("/dev/loop-control"); err != nil || os.Getuid() != 0 {
		t.Skipf("mounting %s needs root and /dev/loop-control", kind)
	}
	mkfs := "mkfs." + kind
	oracle.Need(t, mkfs)
	giveUp := t.Skipf
	if os.Getenv("VHDTOOL_REQUIRE_PEERS") != "" {
		giveUp = t.Fatalf
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
		giveUp("%s: %v: %s", mkfs, err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, mnt).CombinedOutput(); err != nil {
		giveUp("mount: %v: %s", err, out)
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
