package input

import (
	"bytes"
	"flag"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "write schema.json anew")

func TestSchemaIsGenerated(t *testing.T) {
	want, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("schema.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(SchemaJSON, want) {
		t.Fatal("schema.json is stale: go test ./policy/input -run TestSchemaIsGenerated -update")
	}
}

// TestSchemaIsClosed walks the schema: every object but the label and
// annotation maps names all its properties.
func TestSchemaIsClosed(t *testing.T) {
	var s map[string]any
	unmarshal(t, SchemaJSON, &s)
	var walk func(path string, s map[string]any)
	walk = func(path string, s map[string]any) {
		switch s["type"] {
		case "object":
			if s["additionalProperties"] != false {
				if _, ok := s["properties"]; ok {
					t.Errorf("%s: open object with properties", path)
				}
				if !bytes.HasSuffix([]byte(path), []byte(".labels")) && !bytes.HasSuffix([]byte(path), []byte(".annotations")) {
					t.Errorf("%s: open object", path)
				}
				return
			}
			for k, v := range s["properties"].(map[string]any) {
				walk(path+"."+k, v.(map[string]any))
			}
		case "array":
			walk(path+"[]", s["items"].(map[string]any))
		}
	}
	walk("input", s)
}
