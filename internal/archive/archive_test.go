package archive

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"testing"
)

func TestFormat(t *testing.T) {
	for _, f := range []tar.Format{tar.FormatUSTAR, tar.FormatPAX, tar.FormatGNU} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: "disk.raw", Size: 3, Mode: 0o644, Format: f}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("abc")); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		head := b.Bytes()[:HeadSize]
		if got := Format(head); got != "tar" {
			t.Errorf("%v: Format is %q, want tar", f, got)
		}
		if got := Format(head[:HeadSize-1]); got != "" {
			t.Errorf("%v, one byte short: Format is %q, want none", f, got)
		}
		head[0] ^= 1
		if got := Format(head); got != "" {
			t.Errorf("%v, with a wrong checksum: Format is %q, want none", f, got)
		}
	}

	var b bytes.Buffer
	w := zip.NewWriter(&b)
	if _, err := w.Create("disk.raw"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, head, want string
	}{
		{"zip", b.String(), "zip"},
		{"empty zip", "PK\x05\x06", "zip"},
		{"split zip", "PK\x07\x08PK\x03\x04", "zip"},
		{"7z", "7z\xbc\xaf\x27\x1c\x00\x04", "7z"},
		{"rar 4", "Rar!\x1a\x07\x00", "rar"},
		{"rar 5", "Rar!\x1a\x07\x01\x00", "rar"},
		{"nothing", "", ""},
		{"letters", "PK is a name", ""},
		{"boot sector", "\xeb\x63\x90" + string(make([]byte, 509)), ""},
	} {
		if got := Format([]byte(c.head)); got != c.want {
			t.Errorf("%s: Format is %q, want %q", c.name, got, c.want)
		}
	}
}
