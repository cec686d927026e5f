package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is the version that the linker sets for releases, or "".
var version string

// programVersion returns the version of the program, and the commit or "". linked is the version
// that the linker has set, or "". Without it the module's version is used, which 'go install
// MODULE@VERSION' and builds in a clone record.
func programVersion(linked string, info *debug.BuildInfo) (version, commit string) {
	version = "devel"
	if info != nil {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = s.Value[:min(12, len(s.Value))]
			}
		}
		if v := info.Main.Version; v != "" && v != "(devel)" {
			version = v
		}
	}
	if linked != "" {
		version = linked
	}
	return version, commit
}

func (c *cli) printVersion() {
	info, _ := debug.ReadBuildInfo()
	v, commit := programVersion(version, info)
	if commit != "" {
		commit = ", commit " + commit
	}
	fmt.Fprintf(c.stdout, "%s version %s (vhdtool%s, %s %s/%s)\n",
		c.name, v, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
