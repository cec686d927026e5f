package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the linker.
var version = "0.1.0-dev"

func (c *cli) printVersion() {
	commit := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = ", commit " + s.Value[:min(12, len(s.Value))]
			}
		}
	}
	fmt.Fprintf(c.stdout, "%s version %s (vhdtool%s, %s %s/%s)\n",
		c.name, version, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
