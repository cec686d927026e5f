//go:build linux && !portable

package atomicfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// acl is an access control list: rw for the owner, r for user 12345, nothing for the group. Its
// mask is rw, which stat shows for the group.
func acl() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{0x01, 6, 0xffffffff}, {0x02, 4, 12345}, {0x04, 0, 0xffffffff}, {0x10, 6, 0xffffffff}, {0x20, 0, 0xffffffff}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

func getXattr(t *testing.T, name, attr string) []byte {
	t.Helper()
	b := make([]byte, 256)
	n, err := unix.Getxattr(name, attr, b)
	if err != nil {
		return nil
	}
	return b[:n]
}

// replace replaces a file, and returns the information about the new one.
func replace(t *testing.T, name, contents string) os.FileInfo {
	t.Helper()
	f, err := Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(contents); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(false); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(name)
	if err != nil || string(got) != contents {
		t.Fatalf("%q, %v; want %q", got, err, contents)
	}
	st, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestKeepsAttributes(t *testing.T) {
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(name, []byte("old"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(name, "user.origin", []byte("here"), 0); err != nil {
		t.Skipf("no extended attributes: %v", err)
	}
	if err := unix.Setxattr(name, aclXattr, acl(), 0); err != nil {
		t.Skipf("no access control lists: %v", err)
	}
	wantACL := getXattr(t, name, aclXattr)
	if os.Getuid() == 0 {
		if err := os.Chown(name, 12345, 54321); err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	st := replace(t, name, "new")
	if os.SameFile(before, st) {
		t.Error("the file was written in place")
	}
	if got := getXattr(t, name, "user.origin"); string(got) != "here" {
		t.Errorf("user.origin is %q", got)
	}
	if got := getXattr(t, name, aclXattr); !bytes.Equal(got, wantACL) {
		t.Errorf("access control list %x, want %x", got, wantACL)
	}
	if st.Mode() != before.Mode() {
		t.Errorf("mode %v, want %v", st.Mode(), before.Mode())
	}
	old, now := before.Sys().(*syscall.Stat_t), st.Sys().(*syscall.Stat_t)
	if now.Uid != old.Uid || now.Gid != old.Gid {
		t.Errorf("owner %d:%d, want %d:%d", now.Uid, now.Gid, old.Uid, old.Gid)
	}
}

// A file without a list does not keep the default list of its directory.
func TestDefaultListIsNotAdded(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "disk")
	if err := os.WriteFile(name, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(dir, "system.posix_acl_default", acl(), 0); err != nil {
		t.Skipf("no access control lists: %v", err)
	}
	st := replace(t, name, "new")
	if got := getXattr(t, name, aclXattr); got != nil {
		t.Errorf("the file has the access control list %x", got)
	}
	if st.Mode().Perm() != 0o640 {
		t.Errorf("permissions %v, want 0640", st.Mode().Perm())
	}
}

// A file with a mount on it is written in place, and is empty after Discard.
func TestMountPoint(t *testing.T) {
	dir := t.TempDir()
	source, name := filepath.Join(dir, "source"), filepath.Join(dir, "disk")
	for _, n := range []string{source, name} {
		if err := os.WriteFile(n, []byte("old contents"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount(source, name, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("mount: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(name, unix.MNT_DETACH) })
	before, _ := os.Stat(name)
	f, err := Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if f.InPlace() == nil {
		t.Error("InPlace gives no reason")
	}
	f.Discard()
	if got, _ := os.ReadFile(name); len(got) != 0 {
		t.Errorf("after Discard the file holds %q", got)
	}
	if st := replace(t, name, "new"); !os.SameFile(st, before) {
		t.Error("the file was replaced")
	}
	if got, _ := os.ReadFile(source); string(got) != "new" {
		t.Errorf("the mounted file holds %q", got)
	}
}

// TestAsOtherUser runs this test binary as another user, who may write to a file, but not replace
// it or change owners.
func TestAsOtherUser(t *testing.T) {
	if name := os.Getenv("ATOMICFILE_TEST_TARGET"); name != "" {
		before, _ := os.Stat(name)
		if st := replace(t, name, "new"); !os.SameFile(st, before) {
			t.Error("the file was replaced")
		}
		return
	}
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	for name, dirMode := range map[string]os.FileMode{
		"directory of another user": 0o755,
		"sticky directory":          0o777 | os.ModeSticky,
		"owner cannot be kept":      0o777,
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("/tmp", "atomicfile-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			target, self := filepath.Join(dir, "disk"), filepath.Join(dir, "test")
			if err := os.WriteFile(target, []byte("old contents"), 0o666); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(os.Args[0])
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(self, b, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.Chmod(target, 0o666), os.Chmod(self, 0o755), os.Chmod(dir, dirMode)); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(self, "-test.run=^TestAsOtherUser$")
			cmd.Dir = "/"
			cmd.Env = append(os.Environ(), "ATOMICFILE_TEST_TARGET="+target)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, ".*.tmp")); len(left) > 0 {
				t.Errorf("temporary files are left: %q", left)
			}
		})
	}
}
