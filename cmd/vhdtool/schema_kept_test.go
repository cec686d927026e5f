package main

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestSchemasOnlyGrow compares the schemas with those of the last release. It is skipped in a
// clone without releases.
func TestSchemasOnlyGrow(t *testing.T) {
	out, err := exec.Command("git", "describe", "--tags", "--abbrev=0", "--match", "v*").Output()
	if err != nil {
		t.Skip("there is no release to compare with")
	}
	release := strings.TrimSpace(string(out))
	for _, command := range schemaCommands {
		b, err := exec.Command("git", "show", release+":docs/schema/"+command+".json").Output()
		if err != nil {
			continue // the command had none
		}
		var old map[string]any
		if err := json.Unmarshal(b, &old); err != nil {
			t.Fatal(err)
		}
		schema, err := readSchema(schemaDir, command)
		if err != nil {
			t.Fatal(err)
		}
		for _, broken := range schemaBreaks(command, old, schema) {
			t.Errorf("%s, unlike %s", broken, release)
		}
	}
}

// schemaBreaks lists the keys of an older schema that a newer one lacks, with another type, or no
// longer requires. Enums may get new values.
func schemaBreaks(path string, older, newer any) []string {
	var breaks []string
	was, _ := older.(map[string]any)
	is, _ := newer.(map[string]any)
	if is == nil && was != nil {
		return []string{path + " is missing"}
	}
	for _, key := range []string{"type", "$ref"} {
		if !reflect.DeepEqual(was[key], is[key]) {
			breaks = append(breaks, fmt.Sprintf("%s: %s is %v, not %v", path, key, is[key], was[key]))
		}
	}
	for _, key := range []string{"required", "enum"} {
		kept, _ := is[key].([]any)
		values, _ := was[key].([]any)
		for _, v := range values {
			if !slices.Contains(kept, v) {
				breaks = append(breaks, fmt.Sprintf("%s: %s lacks %v", path, key, v))
			}
		}
	}
	for _, key := range []string{"properties", "$defs"} {
		kept, _ := is[key].(map[string]any)
		values, _ := was[key].(map[string]any)
		for name, v := range values {
			breaks = append(breaks, schemaBreaks(path+"."+name, v, kept[name])...)
		}
	}
	if was["items"] != nil {
		breaks = append(breaks, schemaBreaks(path+"[]", was["items"], is["items"])...)
	}
	return breaks
}

func TestSchemaBreaks(t *testing.T) {
	const old = `{"type": "object", "required": ["a"], "properties": {
		"a": {"type": "integer"}, "b": {"type": "array", "items": {"type": "string", "enum": ["x", "y"]}}, "c": {"$ref": "#/$defs/d"}},
		"$defs": {"d": {"type": "string"}}}`
	for _, c := range []struct{ name, old, new, want string }{
		{"the same", "", "", ""},
		{"another key", `"c": {`, `"e": {"type": "string"}, "c": {`, ""},
		{"another value", `"x", "y"`, `"x", "y", "z"`, ""},
		{"no key", `"a": {"type": "integer"}, `, ``, "s.a is missing"},
		{"another type", `"integer"`, `"string"`, "s.a: type is string, not integer"},
		{"not required", `["a"]`, `[]`, "s: required lacks a"},
		{"no value", `"x", "y"`, `"x"`, "s.b[]: enum lacks y"},
		{"another type of elements", `{"type": "string", "enum"`, `{"type": "integer", "enum"`, "s.b[]: type is integer, not string"},
		{"another definition", `"d": {"type": "string"}`, `"d": {"type": "object"}`, "s.d: type is object, not string"},
		{"another reference", `#/$defs/d"}`, `#/$defs/e"}`, "s.c: $ref is #/$defs/e, not #/$defs/d"},
	} {
		var older, newer map[string]any
		if err := json.Unmarshal([]byte(old), &older); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(strings.Replace(old, c.old, c.new, 1)), &newer); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(schemaBreaks("s", older, newer), "; "); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
