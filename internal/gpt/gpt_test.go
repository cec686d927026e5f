package gpt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vhdtool/vhdtool/internal/gpt"
	"github.com/vhdtool/vhdtool/internal/oracle"
)

// table returns a disk with the start of a GPT header in its second sector.
func table(signature string, backup uint64) []byte {
	b := make([]byte, 4096)
	copy(b[512:], signature)
	binary.LittleEndian.PutUint64(b[512+24:], 1) // the header's own sector
	binary.LittleEndian.PutUint64(b[512+32:], backup)
	binary.LittleEndian.PutUint64(b[512+40:], 34)
	return b
}

func TestBackupLBA(t *testing.T) {
	for name, c := range map[string]struct {
		disk []byte
		lba  int64
		ok   bool
	}{
		"table":               {table("EFI PART", 0x0102030405), 0x0102030405, true},
		"largest":             {table("EFI PART", 1<<54-2), 1<<54 - 2, true},
		"beyond any disk":     {table("EFI PART", 1<<54-1), 0, false},
		"all ones":            {table("EFI PART", ^uint64(0)), 0, false},
		"just long enough":    {table("EFI PART", 77)[:512+40], 77, true},
		"cut":                 {table("EFI PART", 77)[:512+39], 0, false},
		"one sector":          {make([]byte, 512), 0, false},
		"nothing":             {nil, 0, false},
		"zeros":               {make([]byte, 4096), 0, false},
		"another signature":   {table("EFI PARt", 77), 0, false},
		"in the first sector": {append([]byte("EFI PART"), make([]byte, 4088)...), 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			lba, ok := gpt.BackupLBA(bytes.NewReader(c.disk))
			if ok != c.ok || ok && lba != c.lba {
				t.Errorf("got %d, %v; want %d, %v", lba, ok, c.lba, c.ok)
			}
		})
	}
}

// broken cannot be read.
type broken struct{}

func (broken) ReadAt([]byte, int64) (int, error) { return 0, errors.New("broken") }

func TestBackupLBAUnreadable(t *testing.T) {
	if lba, ok := gpt.BackupLBA(broken{}); ok {
		t.Errorf("got %d of a disk that cannot be read", lba)
	}
}

// TestBackupLBAOfSfdisk reads a table written by sfdisk.
func TestBackupLBAOfSfdisk(t *testing.T) {
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	oracle.Need(t, "sfdisk")
	name := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(name, make([]byte, 4<<20), 0o666); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", name)
	cmd.Stdin = bytes.NewReader([]byte("label: gpt\n,1M\n"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v: %s", err, out)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if lba, ok := gpt.BackupLBA(f); !ok || lba != 4<<20/512-1 {
		t.Errorf("got %d, %v; want the last sector, %d", lba, ok, 4<<20/512-1)
	}
}
