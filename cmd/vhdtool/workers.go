package main

import (
	"os"
	"runtime"
)

// workers returns how many goroutines copy when so many are asked for, 0 for as many
// as there are processors. It lets one more run than that: while each processor
// waits for the system to read or write, the runtime's watchdog would else wake up
// again and again to take the processors away from them.
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

// maxWorkers is what -m takes at most.
const maxWorkers = 16
