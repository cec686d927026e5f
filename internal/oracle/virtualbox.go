package oracle

import (
	"os"
	"path/filepath"
	"testing"
)

var virtualBox = newRoot("virtualbox", false, vboxDir+"vbox-img", "--version")

const vboxDir = "/usr/lib/virtualbox/"

// NeedVirtualBox skips the test unless VirtualBox is there.
func NeedVirtualBox(t testing.TB) {
	t.Helper()
	virtualBox.need(t)
}

// VBoxImg runs VirtualBox's vbox-img, which must succeed.
func VBoxImg(t testing.TB, args ...string) string {
	t.Helper()
	out, code := TryVBoxImg(t, args...)
	if code != 0 {
		t.Fatalf("vbox-img %q: exit status %d: %s", args, code, out)
	}
	return out
}

// TryVBoxImg runs vbox-img and returns what it printed, and its exit status.
func TryVBoxImg(t testing.TB, args ...string) (string, int) {
	t.Helper()
	return try(t, virtualBox.program(t, append([]string{vboxDir + "vbox-img"}, args...)...))
}

// VBoxManage runs VirtualBox's VBoxManage, which must succeed.
func VBoxManage(t testing.TB, args ...string) string {
	t.Helper()
	out, code := TryVBoxManage(t, args...)
	if code != 0 {
		t.Fatalf("VBoxManage %q: exit status %d: %s", args, code, out)
	}
	return out
}

// TryVBoxManage runs VBoxManage and returns what it printed, and its exit status. Each
// call has settings and a server of its own: it knows no media of earlier calls, and
// calls may run side by side.
func TryVBoxManage(t testing.TB, args ...string) (string, int) {
	t.Helper()
	home, err := os.MkdirTemp("", "vhdtool-vbox-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(home)
	// The server's socket is in a directory of this name, and outlives it.
	id := filepath.Base(home)
	defer os.RemoveAll("/tmp/.vbox-" + id + "-ipc")
	cmd := virtualBox.program(t, append([]string{vboxDir + "VBoxManage"}, args...)...)
	cmd.Env = append(os.Environ(), "VBOX_USER_HOME="+home, "VBOX_IPC_SOCKETID="+id)
	return try(t, cmd)
}
