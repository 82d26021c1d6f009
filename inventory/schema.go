package inventory

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// A Schemer describes itself. An [Unmarshaler] has to be one, for only it knows what it takes.
type Schemer interface {
	JSONSchema() map[string]any
}

// A container is a [Schemer] that holds values of another type, which of describes.
type container interface {
	schema(of func(reflect.Type) map[string]any) map[string]any
}

// SchemaOf returns the JSON Schema (draft 2020-12) of what [Decode] takes for a value of v's type, or for v itself if it
// is a reflect.Type. The result is the caller's.
func SchemaOf(v any) map[string]any {
	return schemer{}.of(typeOf(v), "")
}

// FleetSchema returns the JSON Schema of fleet.toml. kinds holds, for each kind of task, a value or reflect.Type of the
// struct that its keys are decoded into, and rotation such a value for the entries of [[rotation]].
func FleetSchema(kinds map[string]any, rotation any) map[string]any {
	s := schemer{}.of(reflect.TypeFor[mainFile](), "")
	defs := map[string]any{}
	var entries []any
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		defs["task_"+kind] = taskSchema(kind, typeOf(kinds[kind]))
		entries = append(entries, map[string]any{"$ref": "#/$defs/task_" + kind})
	}
	task := map[string]any{"type": "object", "required": []string{"name", "kind"}}
	if len(entries) > 0 {
		task["oneOf"] = entries
	}
	s["properties"].(map[string]any)["task"] = map[string]any{
		"type": "array", "items": task, "description": "The tasks, in the order in which they are planned and applied.",
	}
	s["properties"].(map[string]any)["client"] = map[string]any{
		"type": "array", "items": schemer{templates: true}.of(reflect.TypeFor[clientTable](), ""), "description": "Who must be able to connect.",
	}
	s["properties"].(map[string]any)["rotation"] = map[string]any{
		"type": "array", "items": withKeys(reflect.TypeFor[rotationKeys](), typeOf(rotation)), "description": "Passwords that are rotated.",
	}
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "pgfleet's fleet.toml"
	s["$defs"] = defs
	return s
}

// taskSchema describes an entry of [[task]] of one kind: the keys of every task and the kind's own.
func taskSchema(kind string, t reflect.Type) map[string]any {
	s := withKeys(reflect.TypeFor[taskKeys](), t)
	s["properties"].(map[string]any)["kind"] = map[string]any{"const": kind}
	return s
}

// withKeys describes a table whose keys are those of common, and those of own, which may be templates.
func withKeys(common, own reflect.Type) map[string]any {
	s := schemer{}.of(common, "")
	more := schemer{templates: true}.of(own, "")
	if p, ok := more["properties"].(map[string]any); ok {
		maps.Copy(s["properties"].(map[string]any), p)
	}
	required, _ := s["required"].([]string)
	if r, ok := more["required"].([]string); ok {
		required = append(required, r...)
	}
	s["required"] = required
	return s
}

func typeOf(v any) reflect.Type {
	if t, ok := v.(reflect.Type); ok {
		return t
	}
	return reflect.TypeOf(v)
}

// A schemer makes schemas. With templates, a key that takes anything but a string also takes a template, which is one.
type schemer struct {
	templates bool
}

func (s schemer) of(t reflect.Type, tag reflect.StructTag) map[string]any {
	if t == nil {
		return map[string]any{}
	}
	switch v := reflect.New(t).Interface().(type) {
	case Schemer:
		return v.JSONSchema()
	case container:
		return v.schema(func(t reflect.Type) map[string]any { return s.of(t, "") })
	case wrapper:
		f, _ := t.FieldByName("Value")
		return s.of(f.Type, tag)
	case Unmarshaler:
		panic(fmt.Sprintf("inventory: %s decodes itself and so needs a method JSONSchema", t))
	}
	switch t {
	case nodeType:
		return map[string]any{}
	case timeType:
		return map[string]any{"type": "string", "format": "date-time"}
	case durationType:
		return map[string]any{"type": "string", "pattern": `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.of(t.Elem(), tag)
	case reflect.Interface:
		return map[string]any{}
	case reflect.String:
		m := map[string]any{"type": "string"}
		if enum := tag.Get("enum"); enum != "" {
			m["enum"] = strings.Split(enum, ",")
		}
		return m
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return bounded("integer", tag)
	case reflect.Float64:
		return bounded("number", tag)
	case reflect.Slice:
		return map[string]any{"type": "array", "items": s.template(s.of(t.Elem(), tag))}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": s.template(s.of(t.Elem(), tag))}
	case reflect.Struct:
		return s.object(t)
	}
	panic(fmt.Sprintf("inventory: no schema for a %s", t))
}

func bounded(kind string, tag reflect.StructTag) map[string]any {
	m := map[string]any{"type": kind}
	if low, ok := bound(tag, "min"); ok {
		m["minimum"] = low
	}
	if high, ok := bound(tag, "max"); ok {
		m["maximum"] = high
	}
	return m
}

func (s schemer) object(t reflect.Type) map[string]any {
	properties := map[string]any{}
	var required []string
	for _, f := range fieldsOf(t) {
		p := s.template(s.of(f.typ, f.tag))
		if doc := f.tag.Get("doc"); doc != "" {
			p["description"] = doc
		}
		properties[f.name] = p
		if f.tag.Get("required") == "true" {
			required = append(required, f.name)
		}
	}
	m := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if required != nil {
		m["required"] = required
	}
	return m
}

// template lets a template stand for what m describes, unless that takes any string anyway.
func (s schemer) template(m map[string]any) map[string]any {
	anyString := m["type"] == "string" && m["enum"] == nil && m["pattern"] == nil && m["format"] == nil
	if !s.templates || len(m) == 0 || anyString {
		return m
	}
	return map[string]any{"anyOf": []any{m, map[string]any{"type": "string", "pattern": `\{\{`}}}
}
