package inventory

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An Unmarshaler decodes itself, for values that may be written in more than one way. It reports every mistake. A type
// that implements it should implement [Schemer] too.
type Unmarshaler interface {
	UnmarshalNode(*Node) Errors
}

// Decode stores n into the value that into points to, strictly: a key without a field, a value of another type, a
// missing required key are mistakes, and all of them are returned, each at its position.
//
// Structs take tables; their fields are named by the tag `toml:"name"`, and fields without that tag are left alone. A
// struct that is embedded without a tag has its fields at the same level. Further tags:
//
//	required:"true"   the key must be there
//	enum:"a,b,c"      a string (or each string of a list) must be one of these
//	min:"1" max:"9"   bounds of a number
//	doc:"..."         what the field means, for the JSON Schema
//
// Strings, booleans, integers, float64 (which takes integers too), time.Time, time.Duration (written "30s"), slices,
// maps with string keys, pointers, any, and *Node for a raw tree can be decoded into, as can an [Unmarshaler].
func Decode(n *Node, into any) Errors {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		panic(fmt.Sprintf("inventory: Decode into %T, which is no pointer", into))
	}
	var d decoder
	d.value(n, v.Elem(), "", "")
	return d.errs
}

var (
	nodeType     = reflect.TypeFor[*Node]()
	timeType     = reflect.TypeFor[time.Time]()
	durationType = reflect.TypeFor[time.Duration]()
)

// A wrapper is a [Positioned] value.
type wrapper interface {
	inside(*Node) reflect.Value
}

type decoder struct {
	errs Errors
}

// mismatch reports that n is of another type than wanted. name is the key that n belongs to.
func (d *decoder) mismatch(n *Node, name, wanted string) {
	d.errs.Add(n.Pos, "%swant %s, found %s", prefix(name), wanted, n.describe())
}

func prefix(name string) string {
	if name == "" {
		return ""
	}
	return name + ": "
}

func (d *decoder) value(n *Node, v reflect.Value, name string, tag reflect.StructTag) {
	if u, ok := v.Addr().Interface().(Unmarshaler); ok {
		errs := u.UnmarshalNode(n)
		for _, e := range errs {
			if strings.HasPrefix(e.Msg, "want ") {
				e.Msg = prefix(name) + e.Msg
			}
			d.errs = append(d.errs, e)
		}
		return
	}
	if p, ok := v.Addr().Interface().(wrapper); ok {
		d.value(n, p.inside(n), name, tag)
		return
	}
	switch v.Type() {
	case nodeType:
		v.Set(reflect.ValueOf(n))
		return
	case timeType:
		if n.Kind != KindDatetime {
			d.mismatch(n, name, "a date or time")
			return
		}
		v.Set(reflect.ValueOf(n.Time))
		return
	case durationType:
		d.duration(n, v, name)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), name, tag)
	case reflect.Interface:
		v.Set(reflect.ValueOf(n.Value()))
	case reflect.String:
		d.string(n, v, name, tag)
	case reflect.Bool:
		if n.Kind != KindBool {
			d.mismatch(n, name, "true or false")
			return
		}
		v.SetBool(n.Bool)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if n.Kind != KindInt {
			d.mismatch(n, name, "a whole number")
			return
		}
		if v.OverflowInt(n.Int) {
			d.errs.Add(n.Pos, "%s%d is too large a number", prefix(name), n.Int)
			return
		}
		if d.bounds(n, float64(n.Int), name, tag) {
			v.SetInt(n.Int)
		}
	case reflect.Float64:
		f := n.Float
		if n.Kind == KindInt {
			f = float64(n.Int)
		} else if n.Kind != KindFloat {
			d.mismatch(n, name, "a number")
			return
		}
		if d.bounds(n, f, name, tag) {
			v.SetFloat(f)
		}
	case reflect.Slice:
		if n.Kind != KindList {
			d.mismatch(n, name, "a list")
			return
		}
		list := reflect.MakeSlice(v.Type(), len(n.Items), len(n.Items))
		for i, item := range n.Items {
			d.value(item, list.Index(i), name, tag)
		}
		v.Set(list)
	case reflect.Map:
		if n.Kind != KindTable {
			d.mismatch(n, name, "a table")
			return
		}
		table := reflect.MakeMapWithSize(v.Type(), len(n.Keys))
		for _, k := range n.Keys {
			value := reflect.New(v.Type().Elem()).Elem()
			d.value(k.Value, value, k.Name, tag)
			table.SetMapIndex(reflect.ValueOf(k.Name).Convert(v.Type().Key()), value)
		}
		v.Set(table)
	case reflect.Struct:
		d.table(n, v, name)
	default:
		panic(fmt.Sprintf("inventory: cannot decode into a %s", v.Type()))
	}
}

func (d *decoder) string(n *Node, v reflect.Value, name string, tag reflect.StructTag) {
	if n.Kind != KindString {
		d.mismatch(n, name, "a string")
		return
	}
	if enum := tag.Get("enum"); enum != "" {
		if allowed := strings.Split(enum, ","); !slices.Contains(allowed, n.Str) {
			d.errs.Add(n.Pos, "%s%q is none of %s%s", prefix(name), n.Str, strings.Join(allowed, ", "), DidYouMean(n.Str, allowed))
			return
		}
	}
	v.SetString(n.Str)
}

func (d *decoder) duration(n *Node, v reflect.Value, name string) {
	if n.Kind != KindString {
		d.mismatch(n, name, `a duration such as "30s"`)
		return
	}
	dur, err := time.ParseDuration(n.Str)
	if err != nil {
		d.errs.Add(n.Pos, `%s%q is no duration; write one such as "30s", "5m" or "1h30m"`, prefix(name), n.Str)
		return
	}
	if dur < 0 {
		d.errs.Add(n.Pos, "%sa duration cannot be negative", prefix(name))
		return
	}
	v.SetInt(int64(dur))
}

// bounds checks the tags min and max.
func (d *decoder) bounds(n *Node, f float64, name string, tag reflect.StructTag) bool {
	if low, ok := bound(tag, "min"); ok && f < low {
		d.errs.Add(n.Pos, "%s%v is too small; the least is %v", prefix(name), f, low)
		return false
	}
	if high, ok := bound(tag, "max"); ok && f > high {
		d.errs.Add(n.Pos, "%s%v is too large; the most is %v", prefix(name), f, high)
		return false
	}
	return true
}

func bound(tag reflect.StructTag, name string) (float64, bool) {
	text, ok := tag.Lookup(name)
	if !ok {
		return 0, false
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		panic(fmt.Sprintf("inventory: tag %s:%q is no number", name, text))
	}
	return f, true
}

func (d *decoder) table(n *Node, v reflect.Value, name string) {
	if n.Kind != KindTable {
		d.mismatch(n, name, "a table")
		return
	}
	fields, names := fieldsOf(v.Type()), namesOf(v.Type())
	for _, k := range n.Keys {
		i := slices.Index(names, k.Name)
		if i < 0 {
			d.errs.Add(k.Pos, "unknown key %q%s", k.Name, hint(k.Name, names))
			continue
		}
		d.value(k.Value, v.FieldByIndex(fields[i].index), k.Name, fields[i].tag)
	}
	for _, f := range fields {
		if f.tag.Get("required") == "true" && n.key(f.name) == nil && !n.partial {
			d.errs.Add(n.Pos, "%smissing key %q", prefix(name), f.name)
		}
	}
}

// hint names the nearest of the known names, or all when none is near and they are few.
func hint(name string, known []string) string {
	if near := DidYouMean(name, known); near != "" || len(known) == 0 || len(known) > 16 {
		return near
	}
	return " (known: " + strings.Join(known, ", ") + ")"
}

// A field is a struct's field with a toml tag.
type field struct {
	name  string
	index []int
	tag   reflect.StructTag
	typ   reflect.Type
}

func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, tagged := f.Tag.Lookup("toml")
		switch {
		case f.Anonymous && !tagged && f.Type.Kind() == reflect.Struct:
			for _, inner := range fieldsOf(f.Type) {
				inner.index = append([]int{i}, inner.index...)
				fields = append(fields, inner)
			}
		case tagged && name != "-":
			fields = append(fields, field{name, []int{i}, f.Tag, f.Type})
		}
	}
	return fields
}

// namesOf returns the keys that a struct takes.
func namesOf(t reflect.Type) []string {
	var names []string
	for _, f := range fieldsOf(t) {
		names = append(names, f.name)
	}
	return names
}
