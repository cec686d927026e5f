package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// exitStatus is an exit status of a command.
type exitStatus struct {
	code    int
	meaning string
}

// exitStatuses returns the exit statuses of the named command, in order. Its help and its
// man page print them.
func exitStatuses(command string) []exitStatus {
	switch command {
	case "check":
		return []exitStatus{
			{0, "no errors; warnings do not count"},
			{1, "the check failed"},
			{checkCorrupt, "errors, or a broken rule of the product of --for"},
			{checkLeaks, "no errors, but leaked space"},
			{checkUnsupported, "the format has nothing to check (raw)"},
		}
	case "compare":
		return []exitStatus{
			{0, "the disks are the same"},
			{compareDiffers, "the disks differ, or the command line is wrong"},
			{compareOpenFailed, "an image could not be opened"},
			{compareMapFailed, "the allocation of an image could not be read"},
			{compareReadFailed, "an image could not be read"},
		}
	}
	return []exitStatus{{0, "success"}, {1, "failure"}}
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
		for _, s := range exitStatuses(cmd.Name()) {
			fmt.Fprintf(cmd.OutOrStdout(), "  %-2d  %s\n", s.code, s.meaning)
		}
	})
}
