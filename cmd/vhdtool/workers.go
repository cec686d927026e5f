package main

import (
	"os"
	"runtime"
)

// workers returns the number of goroutines that copy, for the number of -m. 0 means the number of
// processors. One more runs than requested. Otherwise the runtime takes processors away while they
// wait for the system, again and again.
func workers(asked int) int {
	n := runtime.GOMAXPROCS(0)
	if asked == 0 {
		asked = min(n, maxWorkers)
	}
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(n + 1)
	}
	return asked
}

// maxWorkers is the largest -m.
const maxWorkers = 16
