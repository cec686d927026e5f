package oracle

import "testing"

var libvhdi = newRoot("libvhdi", false, "vhdimount", "-V")

// NeedVHDIMount skips the test unless the newest vhdimount is available.
func NeedVHDIMount(t testing.TB) {
	t.Helper()
	libvhdi.need(t)
}

// VHDIMount mounts an image with the newest vhdimount on the empty directory on, and copies the
// disk to the file raw. The mount ends with the program. Only root can mount.
func VHDIMount(t testing.TB, image, on, raw string) {
	t.Helper()
	// vhdimount shows each image of the chain, the image itself last.
	const mount = `vhdimount "$1" "$2" && cat "$(ls -v -d "$2"/vhdi* | tail -n 1)" > "$3"`
	if out, code := try(t, libvhdi.program(t, "sh", "-c", mount, "sh", image, on, raw)); code != 0 {
		t.Fatalf("vhdimount %s: exit status %d: %s", image, code, out)
	}
}
