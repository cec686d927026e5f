//go:build !linux || portable

package convert

import "os"

func takesRoom(*os.File) bool { return false }

func leftRoom(*os.File, int64) (end, left int64) { return 0, 0 }

func takeRoom(*os.File, int64, int64, bool) int64 { return 0 }

func giveBack(*os.File, int64, int64, int64) {}
