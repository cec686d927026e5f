//go:build !unix

package main

import (
	"errors"
	"os"
)

// duplicate fails: open files have no names here.
func duplicate(int) (*os.File, error) { return nil, errors.ErrUnsupported }
