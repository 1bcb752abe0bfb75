package input

import (
	"encoding/json"
	"fmt"
	"reflect"
)

// generate makes the schema from the structs; schema.json is held to it.
func generate() ([]byte, error) {
	s, err := schemaOf(reflect.TypeFor[Document]())
	if err != nil {
		return nil, err
	}
	s["$schema"] = "http://json-schema.org/draft-07/schema#"
	s["title"] = Schema
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

func schemaOf(t reflect.Type) (map[string]any, error) {
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem())
	case reflect.Struct:
		props := map[string]any{}
		required := []string{}
		for _, f := range fieldsOf(t) {
			if f.name == "" || f.name == "-" {
				return nil, fmt.Errorf("%s.%s has no name in the document", t, t.Field(f.index).Name)
			}
			p, err := schemaOf(t.Field(f.index).Type)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.name, err)
			}
			props[f.name] = p
			if !f.optional {
				required = append(required, f.name)
			}
		}
		return map[string]any{
			"type": "object", "properties": props, "required": required, "additionalProperties": false,
		}, nil
	case reflect.Slice:
		items, err := schemaOf(t.Elem())
		if err != nil {
			return nil, err
		}
		return map[string]any{"type": "array", "items": items}, nil
	case reflect.Map:
		if t != reflect.TypeFor[map[string]string]() {
			return nil, fmt.Errorf("a map of type %s", t)
		}
		return map[string]any{"type": "object", "additionalProperties": map[string]any{"type": "string"}}, nil
	case reflect.String:
		return map[string]any{"type": "string"}, nil
	case reflect.Bool:
		return map[string]any{"type": "boolean"}, nil
	case reflect.Int32, reflect.Int64, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return map[string]any{"type": "integer"}, nil
	}
	return nil, fmt.Errorf("a field of kind %s", t.Kind())
}
