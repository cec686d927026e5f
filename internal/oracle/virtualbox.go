package oracle

import (
	"os"
	"path/filepath"
	"testing"
)

const vboxDir = "/usr/lib/virtualbox/"

var virtualBox = newRoot("virtualbox", false, vboxDir+"vbox-img", "--version")

// VirtualBox is VirtualBox with settings of its own. Its registry of media, in which
// VBoxManage looks for the parents of images, is empty at first.
type VirtualBox struct {
	home string
}

// NeedVirtualBox skips the test unless VirtualBox is there.
func NeedVirtualBox(t testing.TB) *VirtualBox {
	t.Helper()
	virtualBox.need(t)
	// Not t.TempDir: the last part of the name must be unique, see TryManage.
	home, err := os.MkdirTemp("", "vhdtool-virtualbox-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	return &VirtualBox{home}
}

// Img runs vbox-img, which must succeed. It opens images without their parents.
func (v *VirtualBox) Img(t testing.TB, args ...string) string {
	t.Helper()
	out, code := v.TryImg(t, args...)
	if code != 0 {
		t.Fatalf("vbox-img %q: exit status %d: %s", args, code, out)
	}
	return out
}

// TryImg runs vbox-img and returns what it printed, and its exit status.
func (v *VirtualBox) TryImg(t testing.TB, args ...string) (string, int) {
	t.Helper()
	return try(t, virtualBox.program(t, append([]string{vboxDir + "vbox-img"}, args...)...))
}

// Manage runs VBoxManage, which must succeed.
func (v *VirtualBox) Manage(t testing.TB, args ...string) string {
	t.Helper()
	out, code := v.TryManage(t, args...)
	if code != 0 {
		t.Fatalf("VBoxManage %q: exit status %d: %s", args, code, out)
	}
	return out
}

// TryManage runs VBoxManage and returns what it printed, and its exit status. Its server
// ends with it. Calls of one VirtualBox must not run side by side.
func (v *VirtualBox) TryManage(t testing.TB, args ...string) (string, int) {
	t.Helper()
	// The server's socket is in a directory of this name, and outlives the server.
	id := filepath.Base(v.home)
	defer os.RemoveAll("/tmp/.vbox-" + id + "-ipc")
	cmd := virtualBox.program(t, append([]string{vboxDir + "VBoxManage"}, args...)...)
	cmd.Env = append(os.Environ(), "VBOX_USER_HOME="+v.home, "VBOX_IPC_SOCKETID="+id)
	return try(t, cmd)
}
