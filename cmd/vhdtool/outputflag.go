package main

import (
	"encoding/json"
	"io"

	"github.com/spf13/cobra"
)

// addOutputFlag adds --output=human|json.
func addOutputFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "output", "human", "`FORM` of the output: human or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"human", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

func checkOutput(output string) error {
	if output != "human" && output != "json" {
		return outputError(output)
	}
	return nil
}

// printJSON prints in qemu-img's layout.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "    ")
	return enc.Encode(v)
}
