package vhdx_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/internal/decompress"
	"github.com/vhdtool/vhdtool/pkg/vhdx"
)

// TestSamples reads the images that scripts/vhdx-samples.sh created. The manifest has the
// checksums of the disks as their producers read them.
func TestSamples(t *testing.T) {
	f, err := os.Open(filepath.Join("testdata", "manifest.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines, err := csv.NewReader(f).ReadAll()
	if err != nil || len(lines) < 2 {
		t.Fatalf("%d lines, %v", len(lines), err)
	}
	for _, line := range lines[1:] {
		t.Run(line[0], func(t *testing.T) {
			image := unpack(t, line[0])
			img, err := vhdx.NewImage(bytes.NewReader(image), int64(len(image)), nil)
			if err != nil {
				t.Fatal(err)
			}
			b := contents(t, img)
			sum := sha256.Sum256(b)
			if got := hex.EncodeToString(sum[:]); fmt.Sprint(len(b)) != line[1] || got != line[2] {
				t.Errorf("%d bytes with the SHA-256 %s, want %s with %s", len(b), got, line[1], line[2])
			}
			if pending := img.PendingLogEntries(); (pending > 0) != strings.Contains(line[0], "log") {
				t.Errorf("%d log entries to replay", pending)
			}
			for f, err := range vhdx.NewChecker(bytes.NewReader(image), int64(len(image)), nil).Findings(t.Context()) {
				if err != nil || f.ID != "region-optional" && f.ID != "log-pending" && f.ID != "leak" {
					t.Errorf("finding %v, %v", f, err)
				}
			}
		})
	}
}

// unpack returns the contents of a sample.
func unpack(t *testing.T, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".zst"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, _, err := decompress.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
