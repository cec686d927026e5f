package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// exitStatus is an exit status of a command.
type exitStatus struct {
	code    int
	meaning string
}

// exitStatuses returns the exit statuses of the command, in order. Its help and its man
// page print them.
func exitStatuses(cmd *cobra.Command) []exitStatus {
	statuses := []exitStatus{{0, "success"}, {1, "failure"}}
	switch cmd.Name() {
	case "check":
		statuses = []exitStatus{
			{0, "no errors; warnings do not count"},
			{1, "the check failed"},
			{checkCorrupt, "errors, or a broken rule of the product of --for"},
			{checkLeaks, "no errors, but leaked space"},
			{checkUnsupported, "the format has nothing to check (raw)"},
		}
	case "compare":
		statuses = []exitStatus{
			{0, "the disks are the same"},
			{compareDiffers, "the disks differ, or the command line is wrong"},
			{compareOpenFailed, "an image could not be opened"},
			{compareMapFailed, "the allocation of an image could not be read"},
			{compareReadFailed, "an image could not be read"},
		}
	}
	switch {
	case cmd.Name() == "compare":
		statuses = append(statuses, exitStatus{statusLost, "the disks are the same, except in lost ranges (--salvage)"})
	case cmd.Flags().Lookup("salvage") != nil:
		statuses = append(statuses, exitStatus{statusLost, "success, but parts of a disk are lost (--salvage)"})
	}
	statuses = append(statuses, exitStatus{exitOutputLost, "stdout could not be written"})
	slices.SortFunc(statuses, func(a, b exitStatus) int { return cmp.Compare(a.code, b.code) })
	return statuses
}

// listExitStatuses prints the exit statuses of the command in lines of at most columns.
func listExitStatuses(w io.Writer, cmd *cobra.Command, columns int) {
	fmt.Fprintln(w, "\nExit status:")
	for _, s := range exitStatuses(cmd) {
		meaning := strings.ReplaceAll(wrapText(s.meaning, columns-6), "\n", "\n      ")
		fmt.Fprintf(w, "  %-2d  %s\n", s.code, meaning)
	}
}
