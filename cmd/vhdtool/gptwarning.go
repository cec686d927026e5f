package main

import (
	"fmt"

	"github.com/vhdtool/vhdtool/pkg/disk"
)

// moveBackupGPT is the remedy for every disk.
const moveBackupGPT = "'sgdisk -e' or 'sfdisk --relocate gpt-bak-std' moves it there, in the running system or on a raw disk"

// gptRemedy returns the hint for a target that is larger than its source. If the geometry
// made it larger, force_size avoids that.
func (v *conversion) gptRemedy() string {
	if v.format == &vpcFormat && v.wanted == (targetFlags{}) && !v.noRounding() {
		return "-o force_size makes the disk exactly as large as the source; else " + moveBackupGPT
	}
	return moveBackupGPT
}

// noRounding reports whether the options determine the size, instead of the geometry.
func (v *conversion) noRounding() bool {
	for _, key := range []string{"force_size", alignOption.name, "min_size"} {
		if value := v.options[key]; value != "" && value != "off" {
			return true
		}
	}
	return false
}

// warnResizedGPT warns about a disk whose backup GPT is expected at the old end.
func (c *cli) warnResizedGPT(name string, backup, old, now int64) {
	end := (backup + 1) * disk.SectorSize
	switch {
	case c.likeQEMU || old == now || end != old:
		return
	case now > old:
		c.message("warning: %s: the disk ends %s after the backup of its GPT, which belongs in the last sector", name, humanSize(now-end))
	default:
		c.message("warning: %s: the backup of its GPT was in the last sector, and is cut off", name)
	}
	fmt.Fprintln(c.stderr, "hint: "+moveBackupGPT)
}
