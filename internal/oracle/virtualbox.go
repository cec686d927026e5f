package oracle

import (
	"os"
	"path/filepath"
	"testing"
)

const vboxDir = "/usr/lib/virtualbox/"

var virtualBox = newRoot("virtualbox", false, vboxDir+"vbox-img", "--version")

// VirtualBox is VirtualBox with its own settings. VBoxManage searches for parents in its media
// registry, which is empty at first.
type VirtualBox struct {
	home string
}

// NeedVirtualBox skips the test unless VirtualBox is available.
func NeedVirtualBox(t testing.TB) *VirtualBox {
	t.Helper()
	virtualBox.need(t)
	// Not t.TempDir: the last element of the name must be unique, see TryManage.
	home, err := os.MkdirTemp("", "vhdtool-virtualbox-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	return &VirtualBox{home}
}

// Img runs vbox-img, which opens images without their parents. The test fails if it fails.
func (v *VirtualBox) Img(t testing.TB, args ...string) string {
	t.Helper()
	out, code := v.TryImg(t, args...)
	if code != 0 {
		t.Fatalf("vbox-img %q: exit status %d: %s", args, code, out)
	}
	return out
}

// TryImg runs vbox-img and returns its output and exit status.
func (v *VirtualBox) TryImg(t testing.TB, args ...string) (string, int) {
	t.Helper()
	return try(t, virtualBox.program(t, append([]string{vboxDir + "vbox-img"}, args...)...))
}

// Manage runs VBoxManage. The test fails if it fails.
func (v *VirtualBox) Manage(t testing.TB, args ...string) string {
	t.Helper()
	out, code := v.TryManage(t, args...)
	if code != 0 {
		t.Fatalf("VBoxManage %q: exit status %d: %s", args, code, out)
	}
	return out
}

// TryManage runs VBoxManage and returns its output and exit status. Its server ends with it. Do
// not call it concurrently on one VirtualBox.
func (v *VirtualBox) TryManage(t testing.TB, args ...string) (string, int) {
	t.Helper()
	// The socket of the server is in a directory of this name, which outlives the server.
	id := filepath.Base(v.home)
	defer os.RemoveAll("/tmp/.vbox-" + id + "-ipc")
	cmd := virtualBox.program(t, append([]string{vboxDir + "VBoxManage"}, args...)...)
	cmd.Env = append(os.Environ(), "VBOX_USER_HOME="+v.home, "VBOX_IPC_SOCKETID="+id)
	return try(t, cmd)
}
