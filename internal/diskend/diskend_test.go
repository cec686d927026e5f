package diskend_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/internal/diskend"
	"github.com/vhdtool/vhdtool/internal/oracle"
)

// TestFind compares with the programs that create the structures.
func TestFind(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		command string // $1 is a file of 64 MiB
		end     int64
		by      string
	}{
		{`printf 'label: gpt\n,1M\n' | sfdisk -q "$1"`, 64 * mib, "the GPT"},
		{`printf 'label: dos\n,8M\n,16M\n' | sfdisk -q "$1"`, 25 * mib, "the MBR"},
		{`printf 'label: dos\n,8M\n,\n' | sfdisk -q "$1"`, 64 * mib, "the MBR"},
		{`mkfs.ext4 -q "$1"`, 64 * mib, "the ext file system"},
		{`mkfs.ext4 -q -O ^64bit -b 1024 "$1" 20000`, 20000 << 10, "the ext file system"},
	} {
		t.Run(c.command, func(t *testing.T) {
			t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
			program := strings.Fields(c.command[strings.LastIndex(c.command, "|")+1:])[0]
			oracle.Need(t, program)
			name := filepath.Join(t.TempDir(), "disk")
			if err := os.WriteFile(name, nil, 0o666); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(name, 64*mib); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("sh", "-c", c.command, "sh", name).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			f, err := os.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			end, ok := diskend.Find(f)
			if !ok || end.Off != c.end || end.By != c.by || end.Exact != (c.by == "the GPT") {
				t.Errorf("got %+v, %v; want %d by %s", end, ok, c.end, c.by)
			}
			if got := diskend.HasBackupGPT(f, 64*mib); got != (c.by == "the GPT") {
				t.Errorf("HasBackupGPT: got %v", got)
			}
		})
	}
}

// mbr is the start of a disk with one partition.
func mbr(kind byte, start, n uint32) []byte {
	b := make([]byte, 4096)
	b[450] = kind
	binary.LittleEndian.PutUint32(b[454:], start)
	binary.LittleEndian.PutUint32(b[458:], n)
	b[510], b[511] = 0x55, 0xaa
	return b
}

// TestFindMBR needs no other program.
func TestFindMBR(t *testing.T) {
	want := diskend.End{Off: (2048 + 0xf0000000) * 512, By: "the MBR"}
	if end, ok := diskend.Find(bytes.NewReader(mbr(7, 2048, 0xf0000000))); !ok || end != want {
		t.Errorf("got %+v, %v; want %+v", end, ok, want)
	}
}

func TestFindNothing(t *testing.T) {
	code := bytes.Repeat([]byte{0xeb}, 4096)
	code[510], code[511] = 0x55, 0xaa
	protective, far := mbr(0xee, 1, 0xffffffff), make([]byte, 4096)
	copy(far[512:], "EFI PART")
	binary.LittleEndian.PutUint64(far[544:], 1<<54-2)
	for name, b := range map[string][]byte{
		"a GPT's MBR without the GPT": protective, "a GPT that ends after all disks": far, "an empty partition": mbr(0x83, 1, 0),
		"nothing": nil, "short": make([]byte, 600), "zeros": make([]byte, 4096), "ones": bytes.Repeat([]byte{0xff}, 4096), "boot code": code,
	} {
		if end, ok := diskend.Find(bytes.NewReader(b)); ok {
			t.Errorf("%s: got %+v", name, end)
		}
	}
}
