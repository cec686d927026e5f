//go:build !linux || portable

package main

import "os"

// isClosedInput reports nothing: a closed stdin cannot be recognised here.
func isClosedInput(*os.File) bool { return false }

// isClosedOutput reports nothing: a closed stdout cannot be recognised here.
func isClosedOutput(*os.File) bool { return false }
