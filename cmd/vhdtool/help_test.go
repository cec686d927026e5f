package main

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// helpOf runs the program by this name, and returns its output and exit status.
func helpOf(t *testing.T, name string, args ...string) (string, int) {
	t.Helper()
	var out, errs strings.Builder
	c := newCLI(name)
	c.stdout, c.stderr = &out, &errs
	status := c.execute(t.Context(), args)
	return out.String() + errs.String(), status
}

// eachCommand calls test with each command of the program, hidden ones included.
func eachCommand(t *testing.T, test func(t *testing.T, cmd *cobra.Command)) {
	for _, name := range append(allCommands(), "help", "completion") {
		t.Run(name, func(t *testing.T) {
			root := newCLI("vhdtool").newRootCmd(allCommands())
			root.InitDefaultCompletionCmd()
			root.InitDefaultHelpCmd()
			cmd, _, err := root.Find([]string{name})
			if err != nil || cmd.Name() != name {
				t.Fatalf("found %q, %v", cmd.Name(), err)
			}
			test(t, cmd)
		})
	}
}

// TestHelpForm: the help of each command starts with a short imperative and its usage, and has
// no line over 80 columns. Each value of a flag has a name.
func TestHelpForm(t *testing.T) {
	eachCommand(t, func(t *testing.T, cmd *cobra.Command) {
		if n := len(cmd.Short); n == 0 || n >= 60 || strings.HasSuffix(cmd.Short, ".") || !unicode.IsUpper(rune(cmd.Short[0])) {
			t.Errorf("the first line %q: want a sentence of less than 60 characters, without a full stop", cmd.Short)
		}
		text, status := helpOf(t, "vhdtool", "help", cmd.Name())
		if status != 0 {
			t.Errorf("exit status %d", status)
		}
		if want := cmd.Short + "\n\nUsage:\n  vhdtool " + cmd.Name(); !strings.HasPrefix(text, want) {
			t.Errorf("got %q, want it to start with %q", text, want)
		}
		if !cmd.Hidden && cmd.Name() != "completion" && !strings.Contains(text, "\nExamples:\n  vhdtool ") {
			t.Errorf("no example in\n%s", text)
		}
		for line := range strings.Lines(text) {
			if n := utf8.RuneCountInString(line) - 1; n > 80 {
				t.Errorf("a line of %d columns: %s", n, line)
			}
			for _, word := range []string{" string ", " stringArray ", " VALUE ", "`", "accepted for compatibility"} {
				if strings.Contains(line, word) {
					t.Errorf("found %q in %s", word, line)
				}
			}
		}
		for _, flag := range []string{"-h", "--help"} {
			if same, _ := helpOf(t, "vhdtool", cmd.Name(), flag); same != text && cmd.Name() != "help" {
				t.Errorf("%s %s prints\n%s\nwant\n%s", cmd.Name(), flag, same, text)
			}
		}
	})
}

// TestHelpName: usage and examples have the name that the program is called by.
func TestHelpName(t *testing.T) {
	text, _ := helpOf(t, "/usr/local/bin/vt", "help", "info")
	if strings.Contains(text, "vhdtool ") || !strings.Contains(text, "\n  vt info [") || !strings.Contains(text, "\n  vt info disk.vhd\n") {
		t.Errorf("the help of a link lacks its name:\n%s", text)
	}
}

// TestHelpGroups: the help of the program lists each command once, in its group.
func TestHelpGroups(t *testing.T) {
	text, _ := helpOf(t, "vhdtool", "--help")
	again, _ := helpOf(t, "vhdtool", "help")
	if again != text {
		t.Errorf("help prints\n%s\nwant what --help prints:\n%s", again, text)
	}
	grouped := map[string]bool{}
	for _, g := range commandGroups {
		_, below, _ := strings.Cut(text, "\n"+g.title+":\n")
		below, _, _ = strings.Cut(below, "\n\n")
		for _, name := range g.commands {
			grouped[name] = true
			if !strings.Contains("\n"+below, "\n  "+name+" ") {
				t.Errorf("%s is not below %q:\n%s", name, g.title, text)
			}
		}
	}
	for _, name := range allCommands() {
		if !grouped[name] && !hiddenCommands[name] {
			t.Errorf("%s is in no group", name)
		}
		if n := strings.Count(text, "\n  "+name+" "); n != 1 && !hiddenCommands[name] || n != 0 && hiddenCommands[name] {
			t.Errorf("%s is listed %d times", name, n)
		}
	}
}

// TestHelpTopics: each topic has a text; 'help -o' prints the text of 'help options'.
func TestHelpTopics(t *testing.T) {
	options, status := helpOf(t, "vhdtool", "help", "options")
	if status != 0 {
		t.Errorf("exit status %d", status)
	}
	for _, f := range allFormats {
		for _, s := range f.createOptions {
			if !strings.Contains(options, "\n  "+s.name+"="+s.allowed("|")+"\n") {
				t.Errorf("help options lacks %s=%s", s.name, s.allowed("|"))
			}
		}
	}
	if same, _ := helpOf(t, "vhdtool", "help", "-o"); same != options {
		t.Errorf("help -o prints\n%s", same)
	}
	for topic, want := range map[string]string{
		"options": "  subformat=dynamic|fixed\n", "products": "  azure ", "sizes": "10M is 10 MiB",
	} {
		text, _ := helpOf(t, "vhdtool", "help", topic)
		if !strings.Contains(text, want) {
			t.Errorf("help %s lacks %q:\n%s", topic, want, text)
		}
		for line := range strings.Lines(text) {
			if n := utf8.RuneCountInString(line) - 1; n > 80 {
				t.Errorf("help %s: a line of %d columns: %s", topic, n, line)
			}
		}
	}
	for _, args := range [][]string{{"help", "NOSUCH"}, {"help", "info", "NOSUCH"}} {
		if text, status := helpOf(t, "vhdtool", args...); status != 1 || !strings.HasPrefix(text, "vhdtool: No help for '") {
			t.Errorf("%q: exit status %d\n%s", args, status, text)
		}
	}
}

// TestHelpIgnored: flags without effect are named at the end, but qemu-img's help has them among
// the others.
func TestHelpIgnored(t *testing.T) {
	text, _ := helpOf(t, "vhdtool", "help", "convert")
	const want = "\nAccepted for compatibility with qemu-img, without effect:\n  -C (--copy-range-offloading), -W (--oob-writes), -T (--source-cache)\n\nExit status:\n"
	if !strings.Contains(text, want) {
		t.Errorf("got\n%s\nwant in it %s", text, want)
	}
	if text, _ := helpOf(t, "qemu-img", "convert", "--help"); !strings.Contains(text, "\n  -W, --oob-writes ") {
		t.Errorf("the help of qemu-img lacks -W:\n%s", text)
	}
}

func TestWrapUsage(t *testing.T) {
	got := strings.Join(wrapUsage("vhdtool x [-a | -b FILE] {c | d} EE...", 24), "\n")
	if want := "vhdtool x\n    [-a | -b FILE]\n    {c | d} EE..."; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
