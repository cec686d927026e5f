package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
)

// schemaDirVar names the variable with the directory of the schemas.
const schemaDirVar = "VHDTOOL_TEST_SCHEMAS"

// schemaCommands are the commands that print JSON.
var schemaCommands = []string{"check", "info", "map", "measure"}

// schemaDir is the directory of the schemas, as an absolute path: tests change directory.
var schemaDir, errSchemaDir = filepath.Abs("../../docs/schema")

// readSchema reads the schema of a command's JSON. The result forbids keys that it does not name.
func readSchema(dir, command string) (map[string]any, error) {
	b, err := os.ReadFile(filepath.Join(dir, command+".json"))
	if err != nil {
		return nil, err
	}
	var schema map[string]any
	if err := json.Unmarshal(b, &schema); err != nil {
		return nil, fmt.Errorf("%s.json: %w", command, err)
	}
	closeObjects(schema)
	return schema, nil
}

// closeObjects forbids keys that are not listed.
func closeObjects(node any) {
	switch node := node.(type) {
	case map[string]any:
		if node["type"] == "object" {
			node["additionalProperties"] = false
		}
		for _, v := range node {
			closeObjects(v)
		}
	case []any:
		for _, v := range node {
			closeObjects(v)
		}
	}
}

// validateJSON validates the output of a command, unless it is text.
func validateJSON(dir, command string, out []byte) error {
	if len(out) == 0 || out[0] != '{' && out[0] != '[' || !slices.Contains(schemaCommands, command) {
		return nil
	}
	tree, err := readSchema(dir, command)
	if err != nil {
		return err
	}
	b, err := json.Marshal(tree)
	if err != nil {
		return err
	}
	var schema jsonschema.Schema
	if err := json.Unmarshal(b, &schema); err != nil {
		return err
	}
	resolved, err := schema.Resolve(nil)
	if err != nil {
		return err
	}
	var v any
	if err := json.Unmarshal(out, &v); err != nil {
		return err
	}
	return resolved.Validate(v)
}

// runValidated is runMain for scripts: JSON that the schemas do not allow ends it with an
// error. Only output through a pipe is validated.
func runValidated() int {
	dir := os.Getenv(schemaDirVar)
	st, err := os.Stdout.Stat()
	if dir == "" || err != nil || st.Mode()&fs.ModeNamedPipe == 0 || len(os.Args) < 2 || !slices.Contains(schemaCommands, os.Args[1]) {
		return runMain()
	}
	stdout := os.Stdout
	r, w, err := os.Pipe()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Stdout = w
	var out bytes.Buffer
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(io.MultiWriter(stdout, &out), r)
		_ = r.Close() // if the reader is gone, the next write fails
	}()
	status := runMain()
	_ = w.Close()
	<-copied
	if err := validateJSON(dir, os.Args[1], out.Bytes()); err != nil {
		fmt.Fprintf(os.Stderr, "the schema of %s does not allow this output: %v\n", os.Args[1], err)
		return 99
	}
	return status
}

// TestSchemaKeys compares the keys of the schemas with those of the printed structs. A key in only
// one of them is undocumented or dead.
func TestSchemaKeys(t *testing.T) {
	for command, printed := range map[string]any{"info": imageInfo{}, "check": checkCounts{}, "measure": measurement{}} {
		tree, err := readSchema(schemaDir, command)
		if err != nil {
			t.Fatal(err)
		}
		node := any(tree)
		if any, ok := tree["anyOf"].([]any); ok { // an image, or an array of them
			node = any[0]
		}
		compareKeys(t, command, tree, node, reflect.TypeOf(printed))
	}
}

// detailTypes are the types of the format-specific data of info, by format.
var detailTypes = map[string]reflect.Type{
	vpcFormat.Name:   reflect.TypeFor[vpcDetails](),
	vhdxFormat.Name:  reflect.TypeFor[vhdxDetails](),
	qcow2Format.Name: reflect.TypeFor[qcow2Details](),
}

// compareKeys compares an object of the schema, which is part of tree, with a struct.
func compareKeys(t *testing.T, path string, tree map[string]any, node any, typ reflect.Type) {
	t.Helper()
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	object, _ := node.(map[string]any)
	if typ == reflect.TypeFor[description]() {
		if len(object["anyOf"].([]any)) != len(detailTypes) {
			t.Errorf("%s: the schema has other formats than %v", path, detailTypes)
		}
		for name, details := range detailTypes {
			compareKeys(t, path+"."+name, tree, map[string]any{"$ref": "#/$defs/" + name}, details)
		}
		return
	}
	for object["items"] != nil || object["$ref"] != nil {
		if ref, ok := object["$ref"].(string); ok {
			defs := tree["$defs"].(map[string]any)
			object, _ = defs[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
		} else {
			object, _ = object["items"].(map[string]any)
		}
	}
	if typ.Kind() != reflect.Struct {
		return
	}
	properties, _ := object["properties"].(map[string]any)
	fields := map[string]reflect.Type{}
	optional := map[string]bool{}
	for f := range typ.Fields() {
		name, rest, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name != "" && f.Name != "Children" { // only qemu-img prints Children
			fields[name] = f.Type
			optional[name] = rest == "omitempty"
		}
	}
	want, got := slices.Sorted(maps.Keys(fields)), slices.Sorted(maps.Keys(properties))
	if !slices.Equal(got, want) {
		t.Errorf("%s: the schema has the keys %q, the output has %q", path, got, want)
	}
	required, _ := object["required"].([]any)
	for _, key := range required {
		// The output always has these, unless called as qemu-img.
		if name := key.(string); optional[name] && name != "file-length" && name != "warnings" {
			t.Errorf("%s: the schema requires %s, which the output omits when it is empty", path, name)
		}
	}
	for name, field := range fields {
		if properties[name] != nil {
			compareKeys(t, path+"."+name, tree, properties[name], field)
		}
	}
}
