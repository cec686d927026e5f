package main

import "testing"

func TestHumanSize(t *testing.T) {
	for n, want := range map[int64]string{
		0:         "0 bytes",
		1:         "1 byte",
		512:       "512 bytes",
		1023:      "1,023 bytes",
		1024:      "1.0 KiB (1,024 bytes)",
		8_405_504: "8.0 MiB (8,405,504 bytes)",
		49178624:  "47 MiB (49,178,624 bytes)",
		1<<63 - 1: "8.0 EiB (9,223,372,036,854,775,807 bytes)",
	} {
		if got := humanSize(n); got != want {
			t.Errorf("humanSize(%d) = %q, want %q", n, got, want)
		}
	}
}
