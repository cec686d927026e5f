//go:build unix

package main

import (
	"fmt"
	"os"
	"syscall"
)

// duplicate returns another handle of the open file with that number. Both share one offset.
func duplicate(n int) (*os.File, error) {
	fd, err := syscall.Dup(n)
	if err != nil {
		return nil, err
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), fmt.Sprintf("/dev/fd/%d", n)), nil
}
