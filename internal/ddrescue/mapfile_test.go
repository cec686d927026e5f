package ddrescue

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

func lostRange(off, n int64, doubtful bool, reason string) disk.LostRange {
	return disk.LostRange{Range: disk.Range{Off: off, N: n}, Doubtful: doubtful, Reason: reason}
}

// TestWriteMapfile compares the text with what ddrescue writes for the same statuses, and
// has ddrescuelog read it where that is installed.
func TestWriteMapfile(t *testing.T) {
	const head = "# Mapfile. Created by vhdtool\n# current_pos  current_status  current_pass\n" +
		"0x00000000     +               1\n#      pos        size  status\n"
	for name, c := range map[string]struct {
		size    int64
		lost    []disk.LostRange
		want    string
		sectors string // of the bad sectors, as ddrescuelog lists them
	}{
		"nothing": {0x2000, nil, "0x00000000  0x00002000  +\n", ""},
		"inside": {
			0x2000,
			[]disk.LostRange{lostRange(0x1000, 0x400, false, "a")},
			"0x00000000  0x00001000  +\n0x00001000  0x00000400  -\n0x00001400  0x00000C00  +\n", "8\n9\n",
		},
		"start and end": {
			0x600,
			[]disk.LostRange{lostRange(0, 0x200, false, "a"), lostRange(0x400, 0x200, false, "a")},
			"0x00000000  0x00000200  -\n0x00000200  0x00000200  +\n0x00000400  0x00000200  -\n", "0\n2\n",
		},
		"reasons and doubt": {
			0x800,
			[]disk.LostRange{lostRange(0, 0x200, false, "a"), lostRange(0x200, 0x200, false, "b"), lostRange(0x400, 0x200, true, "c")},
			"0x00000000  0x00000400  -\n0x00000400  0x00000200  ?\n0x00000600  0x00000200  +\n", "0\n1\n",
		},
		"empty disk": {0, nil, "", ""},
		"beyond 4 GiB": {
			1 << 41,
			[]disk.LostRange{lostRange(1<<40, 0x200, false, "a")},
			"0x00000000  0x10000000000  +\n0x10000000000  0x00000200  -\n0x10000000200  0xFFFFFFFE00  +\n", "2147483648\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := WriteMapfile(&b, c.size, c.lost); err != nil {
				t.Fatal(err)
			}
			if b.String() != head+c.want {
				t.Errorf("got\n%s, want\n%s", b.String(), head+c.want)
			}
			program, err := exec.LookPath("ddrescuelog")
			if err != nil || c.size == 0 {
				return
			}
			file := filepath.Join(t.TempDir(), "map")
			if err := os.WriteFile(file, b.Bytes(), 0o666); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(program, "--list-blocks=-", file).CombinedOutput()
			if err != nil || string(out) != c.sectors {
				t.Errorf("ddrescuelog: %q, %v; want %q", out, err, c.sectors)
			}
		})
	}
}
