package catalog

import (
	"strconv"
	"strings"
)

// argumentTypes returns the types of a list of arguments as format_type names
// them, without their modes.
func argumentTypes(list string) []string {
	if strings.TrimSpace(list) == "" {
		return nil
	}
	var types []string
	depth, quoted, from := 0, false, 0
	for i, r := range list {
		switch {
		case r == '"':
			quoted = !quoted
		case quoted:
		case r == '(':
			depth++
		case r == ')':
			depth--
		case r == ',' && depth == 0:
			types = append(types, typeName(list[from:i]))
			from = i + 1
		}
	}
	return append(types, typeName(list[from:]))
}

// typeName returns a type as the server's format_type names it without a
// modifier: "integer" for int4, "character varying" for varchar(20).
func typeName(text string) string {
	text, array := strings.CutSuffix(strings.Join(strings.Fields(text), " "), "[]")
	for again := array; again; { // an array of arrays is an array
		text, again = strings.CutSuffix(strings.TrimSpace(text), "[]")
	}
	name := strings.TrimSpace(text)
	if !strings.Contains(name, `"`) {
		name = builtinName(strings.ToLower(name))
	}
	if array {
		return name + "[]"
	}
	return name
}

func builtinName(name string) string {
	for _, mode := range []string{"in ", "inout ", "out ", "variadic "} {
		name = strings.TrimPrefix(name, mode)
	}
	name = strings.TrimPrefix(name, "pg_catalog.")
	before, rest, _ := strings.Cut(name, "(")
	modifier, after, found := strings.Cut(rest, ")")
	if found {
		name = strings.TrimSpace(before) + after
	}
	if digits, err := strconv.Atoi(modifier); name == "float" && err == nil && digits <= 24 {
		return "real"
	}
	switch name {
	case "int", "int4":
		return "integer"
	case "int2":
		return "smallint"
	case "int8":
		return "bigint"
	case "bool":
		return "boolean"
	case "float4":
		return "real"
	case "float", "float8":
		return "double precision"
	case "dec", "decimal":
		return "numeric"
	case "varchar", "char varying":
		return "character varying"
	case "char", "bpchar", "nchar":
		return "character"
	case "varbit":
		return "bit varying"
	case "timestamp":
		return "timestamp without time zone"
	case "timestamptz":
		return "timestamp with time zone"
	case "time":
		return "time without time zone"
	case "timetz":
		return "time with time zone"
	}
	return name
}

func sameType(a, b string) bool { return a == b }

// sameBareType compares types whose schemas one of both does not say.
func sameBareType(a, b string) bool { return bareType(a) == bareType(b) }

func bareType(name string) string {
	return name[strings.LastIndexByte(name, '.')+1:]
}
