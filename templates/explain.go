package templates

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/pgfleet/pgfleet/inventory"
)

// What text/template's errors look like (text/template/exec.go and parse.go); it has no other way to ask.
var (
	syntaxError  = regexp.MustCompile(`(?s)^template: ` + templateName + `:(\d+): (.*)$`)
	execError    = regexp.MustCompile(`(?s)^template: ` + templateName + `:(\d+):(\d+): executing "[^"]*" at <(.*?)>: (.*)$`)
	missingKey   = regexp.MustCompile(`map has no entry for key "(.*)"$`)
	missingField = regexp.MustCompile(`can't evaluate field (\w+) in type (\S+)$`)
	missingFunc  = regexp.MustCompile(`function "(\w+)" not defined`)
	callError    = regexp.MustCompile(`(?s)^error calling \w+: (.*)$`)
)

// explainSyntax makes an error of text/template's parser readable.
func explainSyntax(err error, text string) *renderError {
	m := syntaxError.FindStringSubmatch(err.Error())
	if m == nil {
		return &renderError{0, err.Error()}
	}
	start := lineStart(text, m[1])
	line, _, _ := strings.Cut(text[start:], "\n")
	offset, msg := start+max(strings.Index(line, "{{"), 0), m[2]
	if f := missingFunc.FindStringSubmatch(msg); f != nil {
		if i := regexp.MustCompile(`\b` + f[1] + `\b`).FindStringIndex(line); i != nil {
			offset = start + i[0]
		}
		msg = fmt.Sprintf("there is no function %q%s", f[1], inventory.DidYouMean(f[1], functionNames()))
	}
	return &renderError{offset, msg}
}

// explain makes an error of executing t readable.
func explain(err error, t *template.Template, text string, data Data) *renderError {
	if errors.Is(err, errTooLong) {
		return &renderError{0, errTooLong.Error()}
	}
	m := execError.FindStringSubmatch(err.Error())
	if m == nil {
		return &renderError{0, err.Error()}
	}
	start := lineStart(text, m[1])
	column, _ := strconv.Atoi(m[2])
	offset, msg := min(start+column, len(text)), m[4]
	if c := callError.FindStringSubmatch(msg); c != nil {
		return &renderError{offset, c[1]}
	}
	at := chains(t, m[1]+":"+m[2])
	if k := missingKey.FindStringSubmatch(msg); k != nil {
		key := k[1]
		msg = fmt.Sprintf("there is no key %q", key)
		for _, chain := range at {
			if m, ok := missing(chain, key, data); ok {
				msg = m
				break
			}
		}
		return &renderError{find(text, offset, key), msg}
	}
	if f := missingField.FindStringSubmatch(msg); f != nil {
		return &renderError{find(text, offset, f[1]), fmt.Sprintf("there is no %q%s", f[1], inventory.DidYouMean(f[1], fieldsOf(f[2])))}
	}
	if msg == "nil data; no entry for key" || strings.HasPrefix(msg, "nil pointer evaluating") {
		msg = "there is no value"
		if data.Each == nil && slices.ContainsFunc(at, func(chain []string) bool { return chain[0] == "Each" }) {
			msg = "there is no .Each without for_each"
		}
	}
	return &renderError{offset, msg}
}

// find returns where a field is written: text/template gives the place of a chain's second field.
func find(text string, offset int, key string) int {
	if strings.HasSuffix(text[:offset], "."+key) {
		return offset - len(key)
	}
	if i := strings.Index(text[offset:], "."+key); i >= 0 {
		return offset + i + 1
	}
	return offset
}

// fieldsOf returns what a template can name in one of this package's types, by the type's name.
func fieldsOf(name string) []string {
	for _, t := range []reflect.Type{reflect.TypeFor[Data](), reflect.TypeFor[Fleet](), reflect.TypeFor[Host](), reflect.TypeFor[Instance]()} {
		if t.String() == name {
			_, known := lookup(reflect.Zero(t), "")
			return known
		}
	}
	return nil
}

// lineStart returns the offset of a line of text, counted from 1.
func lineStart(text, line string) int {
	offset := 0
	for n, _ := strconv.Atoi(line); n > 1; n-- {
		i := strings.IndexByte(text[offset:], '\n')
		if i < 0 {
			break
		}
		offset += i + 1
	}
	return offset
}

// chains returns the fields, such as Vars, app_network, that a template evaluates at a location, line:column.
func chains(t *template.Template, location string) [][]string {
	var found [][]string
	for _, inner := range t.Templates() {
		if inner.Tree == nil {
			continue
		}
		walk(reflect.ValueOf(inner.Root), func(n parse.Node) {
			var idents []string
			switch n := n.(type) {
			case *parse.FieldNode:
				idents = n.Ident
			case *parse.VariableNode:
				if n.Ident[0] == "$" {
					idents = n.Ident[1:]
				}
			}
			if len(idents) == 0 {
				return
			}
			if at, _ := inner.ErrorContext(n); strings.HasSuffix(at, ":"+location) {
				found = append(found, idents)
			}
		})
	}
	return found
}

// walk visits every node of a template's tree.
func walk(v reflect.Value, visit func(parse.Node)) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() || v.Type() == reflect.TypeFor[*parse.Tree]() {
			return
		}
		if n, ok := v.Interface().(parse.Node); ok && v.Kind() == reflect.Pointer {
			visit(n)
		}
		walk(v.Elem(), visit)
	case reflect.Slice:
		for i := range v.Len() {
			walk(v.Index(i), visit)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				walk(v.Field(i), visit)
			}
		}
	}
}

// missing explains which of a chain of fields is the key that is missing.
func missing(chain []string, key string, data Data) (string, bool) {
	v := reflect.ValueOf(data)
	for i, name := range chain {
		next, known := lookup(v, name)
		if next.IsValid() {
			v = next
			continue
		}
		if name != key {
			return "", false
		}
		if i == 1 && chain[0] == "Vars" {
			return noVariable(name, data.Vars), true
		}
		within := ""
		if i > 0 {
			within = " in ." + strings.Join(chain[:i], ".")
		}
		return fmt.Sprintf("there is no %q%s%s", name, within, inventory.DidYouMean(name, known)), true
	}
	return "", false
}

// lookup returns the value of a field, method or key, or none and the names that there are.
func lookup(v reflect.Value, name string) (reflect.Value, []string) {
	for v.IsValid() && v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	if !v.IsValid() {
		return v, nil
	}
	var known []string
	switch v.Kind() {
	case reflect.Map:
		if m, ok := v.Interface().(map[string]any); ok {
			if value, ok := m[name]; ok {
				return reflect.ValueOf(value), nil
			}
			return reflect.Value{}, slices.Sorted(maps.Keys(m))
		}
	case reflect.Struct:
		if m := v.MethodByName(name); m.IsValid() && m.Type().NumIn() == 0 {
			return m.Call(nil)[0], nil
		}
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				if f.Name == name {
					return v.Field(i), nil
				}
				known = append(known, f.Name)
			}
		}
		for i := range v.NumMethod() {
			known = append(known, v.Type().Method(i).Name)
		}
	}
	return reflect.Value{}, known
}

// noVariable says that a variable does not exist.
func noVariable(name string, vars map[string]any) string {
	return fmt.Sprintf("there is no variable %q%s", name, inventory.DidYouMean(name, slices.Sorted(maps.Keys(vars))))
}

// functionNames returns what a template can call, text/template's own functions included.
func functionNames() []string {
	own := slices.DeleteFunc(slices.Collect(maps.Keys(functions)), func(name string) bool { return name == emitName })
	all := append(slices.Clone(own), "and", "call", "eq", "ge", "gt", "html", "index", "js", "le", "len", "lt", "ne", "not", "or", "print",
		"printf", "println", "slice", "urlquery")
	slices.Sort(all)
	return all
}
