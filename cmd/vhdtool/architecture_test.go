package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var mermaidBlock = regexp.MustCompile("(?s)```mermaid\n.*?```\n")

// TestArchitecturePicture compares the picture of the packages in
// docs/architecture.md with what they import. 'make man' draws it again.
func TestArchitecturePicture(t *testing.T) {
	const name = "../../docs/architecture.md"
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	shown := mermaidBlock.Find(text)
	if shown == nil {
		t.Fatalf("%s has no picture", name)
	}
	want := drawPackages(t)
	for _, never := range []string{"pkg/disk --> ", "pkg/convert --> pkg/vhd", "pkg/convert --> pkg/raw", "pkg/raw --> pkg/vhd"} {
		if strings.Contains(want, "    "+never) {
			t.Errorf("there is an import that must not be: %s", never)
		}
	}
	if *updateMan {
		if err := os.WriteFile(name, mermaidBlock.ReplaceAllLiteral(text, []byte(want)), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(shown) == want {
		return
	}
	lines := func(s string) []string { return strings.Split(s, "\n") }
	for _, l := range lines(want) {
		if !slices.Contains(lines(string(shown)), l) {
			t.Errorf("%s lacks %q", name, strings.TrimSpace(l))
		}
	}
	for _, l := range lines(string(shown)) {
		if !slices.Contains(lines(want), l) {
			t.Errorf("%s has %q, which is not so", name, strings.TrimSpace(l))
		}
	}
	t.Error("run 'make man', and look whether the arrows are as they should be")
}

// drawPackages draws the packages, and their imports of each other on Linux without tests.
func drawPackages(t *testing.T) string {
	const module = "github.com/vhdtool/vhdtool/"
	cmd := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "./cmd/...", "./pkg/...", "./internal/...")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "GOOS=linux")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var b, arrows strings.Builder
	b.WriteString("```mermaid\nflowchart TD\n")
	group := ""
	for line := range strings.Lines(string(out)) {
		var paths []string
		for _, p := range strings.Fields(line) {
			if p, ours := strings.CutPrefix(p, module); ours {
				paths = append(paths, p)
			}
		}
		if next, _, _ := strings.Cut(paths[0], "/"); next != group {
			if group != "" {
				b.WriteString("    end\n")
			}
			fmt.Fprintf(&b, "    subgraph %s\n", next)
			group = next
		}
		fmt.Fprintf(&b, "        %s\n", paths[0])
		for _, p := range paths[1:] {
			fmt.Fprintf(&arrows, "    %s --> %s\n", paths[0], p)
		}
	}
	return b.String() + "    end\n" + arrows.String() + "```\n"
}
