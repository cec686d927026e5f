package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/vhdtool/vhdtool/pkg/vhd/product"
)

// TestProductsPage compares the tables of docs/products.md with the rules. With
// -update-man it writes them.
func TestProductsPage(t *testing.T) {
	const name = "../../docs/products.md"
	const mark = "<!-- The tables below are made from the rules by 'make man'. -->\n"
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	head, tables, ok := strings.Cut(string(b), mark)
	if !ok {
		t.Fatalf("%s has no line %q", name, mark)
	}
	var want strings.Builder
	for _, p := range product.All() {
		fmt.Fprintf(&want, "\n## %s (`--for %s`)\n\n| rule | field | wanted | reason | source |\n|---|---|---|---|---|\n", p.Title, p.Name)
		for _, r := range p.Rules() {
			fmt.Fprintf(&want, "| `%s` | %s | %s | %s | %s |\n", r.Name, r.Field, r.Wants, r.Reason, r.Source)
		}
	}
	if *updateMan {
		if err := os.WriteFile(name, []byte(head+mark+want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if tables != want.String() {
		t.Errorf("%s is not what the rules say now: run 'make man'", name)
	}
}
