//go:build !linux

package main

import "os"

// setNoCOW does nothing: only btrfs has the flag.
func setNoCOW(*os.File) {}
