package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vhdtool/vhdtool/internal/samples"
)

// ran is the output and the exit status of a command.
type ran struct {
	stdout, stderr string
	status         int
}

func runCLI(t *testing.T, args ...string) ran {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c := newCLI("vhdtool")
	c.stdout, c.stderr = &stdout, &stderr
	status := c.execute(t.Context(), args)
	return ran{stdout.String(), stderr.String(), status}
}

// inConditional converts the output of a repair to that of a dry run.
func inConditional(out string) string {
	lines := strings.SplitAfter(out, "\n")
	for i, line := range lines {
		switch {
		case strings.HasPrefix(line, "repaired: "):
			line = "would repair: " + conditional.Replace(strings.TrimPrefix(line, "repaired: "))
		case strings.HasPrefix(line, "not repaired: "):
			line = "would not repair: " + strings.TrimPrefix(line, "not repaired: ")
		case strings.HasPrefix(line, "Double checking"):
			line = "Double checking the image as it would be...\n"
		case strings.HasPrefix(line, "The following inconsistencies"):
			line = "The following inconsistencies would be repaired:\n"
		}
		lines[i] = line
	}
	return strings.Join(lines, "")
}

// damagedFile returns the damaged image, and a function that writes it to x.vhd in a new
// current directory.
func damagedFile(t *testing.T, d *samples.Damage) (content []byte, renew func()) {
	t.Helper()
	content, err := os.ReadFile(d.Unpack(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	return content, func() {
		if err := os.WriteFile("x.vhd", content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A dry run prints the output of the repair in the conditional, exits with the same status, and
// changes nothing.
func TestDryRunForetells(t *testing.T) {
	for _, d := range samples.Damages(t) {
		t.Run(d.Name, func(t *testing.T) {
			content, renew := damagedFile(t, &d)
			for _, flags := range [][]string{
				{"-r", "all"},
				{"-r", "leaks"},
				{"-r", "all", "--deep", "--force", "--discard-orphans", "--discard-lost"},
				{"-r", "all", "--backup", "x.undo"},
			} {
				for _, output := range []string{"human", "json"} {
					args := slices.Concat([]string{"check", "--output", output}, flags, []string{"x.vhd"})
					renew()
					dry := runCLI(t, append(args, "--dry-run")...)
					if now, err := os.ReadFile("x.vhd"); err != nil || !bytes.Equal(now, content) {
						t.Fatalf("%q: the dry run changes the file (%v)", args, err)
					}
					if files, _ := filepath.Glob("*"); len(files) != 1 {
						t.Fatalf("%q: the dry run leaves %q", args, files)
					}
					real := runCLI(t, args...)
					_ = os.Remove("x.undo")
					if dry.status != real.status || dry.stderr != real.stderr {
						t.Errorf("%q: the dry run ends with %d and %q, the repair with %d and %q", args, dry.status, dry.stderr, real.status, real.stderr)
					}
					want := inConditional(real.stdout)
					if output == "json" {
						want = dryJSON(t, real.stdout)
						dry.stdout = sameJSON(t, dry.stdout)
					}
					if diff := cmp.Diff(want, dry.stdout); diff != "" {
						t.Errorf("%q (-the repair, +the dry run):\n%s", args, diff)
					}
				}
			}
		})
	}
}

// dryJSON converts the JSON of a repair to that of a dry run.
func dryJSON(t *testing.T, out string) string {
	t.Helper()
	if out == "" {
		return ""
	}
	var x map[string]any
	if err := json.Unmarshal([]byte(out), &x); err != nil {
		t.Fatal(err)
	}
	x["dry-run"] = true
	if repairs, ok := x["repairs"].([]any); ok {
		for i, text := range repairs {
			repairs[i] = conditional.Replace(text.(string))
		}
	}
	b, err := json.MarshalIndent(x, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func sameJSON(t *testing.T, out string) string {
	t.Helper()
	if out == "" {
		return ""
	}
	var x map[string]any
	if err := json.Unmarshal([]byte(out), &x); err != nil {
		t.Fatal(err)
	}
	b, err := json.MarshalIndent(x, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The next commands that a repair names succeed on the repaired image, and are not named again.
// --orphans changes nothing in the image.
func TestNextCommands(t *testing.T) {
	tried := map[string]bool{}
	for _, d := range samples.Damages(t) {
		t.Run(d.Name, func(t *testing.T) {
			_, renew := damagedFile(t, &d)
			for _, how := range []string{"all", "leaks"} {
				renew()
				var report struct {
					NotRepaired []struct{ Check, Next string } `json:"not-repaired"`
				}
				out := runCLI(t, "check", "-r", how, "--output=json", "x.vhd").stdout
				if out == "" {
					continue
				}
				if err := json.Unmarshal([]byte(out), &report); err != nil {
					t.Fatal(err)
				}
				left, err := os.ReadFile("x.vhd")
				if err != nil {
					t.Fatal(err)
				}
				for _, x := range report.NotRepaired {
					args := strings.Fields(x.Next)
					if len(args) == 0 || args[1] == "convert" {
						continue
					}
					if err := os.WriteFile("x.vhd", left, 0o600); err != nil {
						t.Fatal(err)
					}
					if got := runCLI(t, args[1:]...); got.status == 1 {
						t.Errorf("%s: %q fails: %s", x.Check, x.Next, got.stderr)
					}
					var after struct {
						NotRepaired []struct{ Check, Next string } `json:"not-repaired"`
					}
					out := runCLI(t, "check", "-r", how, "--dry-run", "--output=json", "x.vhd").stdout
					if err := json.Unmarshal([]byte(out), &after); err != nil {
						t.Fatal(err)
					}
					for _, y := range after.NotRepaired {
						if y == x && !strings.Contains(x.Next, "--orphans") {
							t.Errorf("%s: after %q the next command is still the same", x.Check, x.Next)
						}
					}
					tried[strings.Join(args[1:len(args)-1], " ")] = true
					_ = os.Remove("x.vhd.undo")
					_ = os.RemoveAll("x.vhd.orphans")
				}
			}
		})
	}
	for _, want := range []string{"check -r all", "check -r all --backup x.vhd.undo", "set --uuid new", "check --reconnect 0=2048 --backup x.vhd.undo"} {
		if !tried[want] {
			t.Errorf("no repair names %q; tried: %v", want, tried)
		}
	}
}
