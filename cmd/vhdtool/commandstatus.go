package main

import (
	"cmp"
	"fmt"
	"slices"

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
	if cmd.Flags().Lookup("salvage") != nil {
		statuses = append(statuses, exitStatus{statusLost, "success, but parts of a disk are lost (--salvage)"})
	}
	statuses = append(statuses, exitStatus{exitOutputLost, "stdout could not be written"})
	slices.SortFunc(statuses, func(a, b exitStatus) int { return cmp.Compare(a.code, b.code) })
	return statuses
}

// addExitStatuses makes the help of the subcommands end with their exit statuses.
func addExitStatuses(root *cobra.Command) {
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		help(cmd, args)
		if cmd == root {
			return
		}
		fmt.Fprintln(cmd.OutOrStdout(), "\nExit status:")
		for _, s := range exitStatuses(cmd) {
			fmt.Fprintf(cmd.OutOrStdout(), "  %-2d  %s\n", s.code, s.meaning)
		}
	})
}
