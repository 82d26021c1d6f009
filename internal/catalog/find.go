package catalog

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

// Find returns the object that a text names in SQL's way: "public.orders",
// "\"Odd Name\".\"T\"", "public.f(integer, text)". A function that is the only
// one of its name is found without its arguments; types may be called by their
// other names, int or varchar(20). Databases and schemas are named as they are,
// without quotes.
func (c *Cluster) Find(db string, kind Kind, text string) (Object, error) {
	if kind == DatabaseKind {
		if c.Databases[text] == nil {
			return Object{}, fmt.Errorf("there is no database %q%s", text, inventory.DidYouMean(text, sortedKeys(c.Databases)))
		}
		return Object{Kind: kind, Name: text}, nil
	}
	held := c.Contents[db]
	if held == nil {
		return Object{}, fmt.Errorf("what database %q holds is not known", db)
	}
	switch kind {
	case SchemaKind:
		if held.Schemas[text] == nil {
			return Object{}, fmt.Errorf("there is no schema %q in database %s%s", text, db, inventory.DidYouMean(text, sortedKeys(held.Schemas)))
		}
		return Object{Kind: kind, Name: text}, nil
	case Routine:
		return held.findRoutine(db, text)
	default:
		return held.findRelation(db, kind, text)
	}
}

func (h *Contents) findRelation(db string, kind Kind, text string) (Object, error) {
	name, err := ParseName(text)
	if err != nil {
		return Object{}, err
	}
	r := h.Relations[name]
	if r == nil {
		return Object{}, fmt.Errorf("there is no %s %s in database %s%s", strings.ToLower(string(kind)), name, db, h.similar(name, kind))
	}
	if found := r.object().Kind; found != kind {
		return Object{}, fmt.Errorf("%s is a %s, not a %s", name, strings.ToLower(string(found)), strings.ToLower(string(kind)))
	}
	return r.object(), nil
}

func (h *Contents) similar(name Name, kind Kind) string {
	if h.Schemas[name.Schema] == nil {
		return fmt.Sprintf(": there is no schema %s%s", postgres.QuoteIdent(name.Schema), inventory.DidYouMean(name.Schema, sortedKeys(h.Schemas)))
	}
	var names []string
	for n, r := range h.Relations {
		if r.object().Kind == kind {
			names = append(names, n.String())
		}
	}
	slices.Sort(names)
	return inventory.DidYouMean(name.String(), names)
}

func (h *Contents) findRoutine(db, text string) (Object, error) {
	head, args, given := strings.Cut(text, "(")
	if strings.Contains(head, `"`) {
		head, args, given = cutArguments(text)
	}
	name, err := ParseName(head)
	if err != nil {
		return Object{}, err
	}
	var of []*Function
	for s, f := range h.Functions {
		if s.Schema == name.Schema && s.Name == name.Name {
			of = append(of, f)
		}
	}
	slices.SortFunc(of, func(a, b *Function) int { return strings.Compare(a.Args, b.Args) })
	var signatures []string
	for _, f := range of {
		signatures = append(signatures, f.String())
	}
	switch {
	case len(of) == 0 && h.Schemas[name.Schema] == nil:
		return Object{}, fmt.Errorf("there is no function %s in database %s: there is no schema %s%s", name, db,
			postgres.QuoteIdent(name.Schema), inventory.DidYouMean(name.Schema, sortedKeys(h.Schemas)))
	case len(of) == 0:
		return Object{}, fmt.Errorf("there is no function %s in database %s%s", name, db, inventory.DidYouMean(name.String(), h.routines()))
	case !given && len(of) == 1:
		return of[0].object(), nil
	case !given:
		return Object{}, fmt.Errorf("there are %d functions %s; say which: %s", len(of), name, strings.Join(signatures, ", "))
	}
	want, ok := strings.CutSuffix(strings.TrimSpace(args), ")")
	if !ok {
		return Object{}, fmt.Errorf("%q has no closing bracket", text)
	}
	types := argumentTypes(want)
	for _, same := range []func(string, string) bool{sameType, sameBareType} {
		for _, f := range of {
			if slices.EqualFunc(argumentTypes(f.Args), types, same) {
				return f.object(), nil
			}
		}
	}
	return Object{}, fmt.Errorf("there is no function %s(%s) in database %s, but %s", name, strings.Join(types, ", "), db, strings.Join(signatures, ", "))
}

func (h *Contents) routines() []string {
	var names []string
	for s := range h.Functions {
		names = append(names, Name{s.Schema, s.Name}.String())
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// cutArguments cuts a function's text at the bracket that is not within quotes.
func cutArguments(text string) (head, args string, given bool) {
	quoted := false
	for i, r := range text {
		switch {
		case r == '"':
			quoted = !quoted
		case r == '(' && !quoted:
			return text[:i], text[i+1:], true
		}
	}
	return text, "", false
}

// ParseName reads a name with its schema, as SQL has it: unquoted parts are
// folded to lower case.
func ParseName(text string) (Name, error) {
	var parts []string
	rest := strings.TrimSpace(text)
	for {
		part, after, err := identifier(rest)
		if err != nil {
			return Name{}, fmt.Errorf("%q is no name: %w", text, err)
		}
		parts = append(parts, part)
		after = strings.TrimSpace(after)
		if after == "" {
			break
		}
		if after[0] != '.' {
			return Name{}, fmt.Errorf("%q is no name: put what has blanks or signs in it into double quotes", text)
		}
		rest = strings.TrimSpace(after[1:])
	}
	switch len(parts) {
	case 1:
		return Name{}, fmt.Errorf("%s does not say its schema; write it as public.%s if it is there", text, postgres.QuoteIdent(parts[0]))
	case 2:
		return Name{parts[0], parts[1]}, nil
	}
	return Name{}, fmt.Errorf("%q has %d parts; it is written as schema.name", text, len(parts))
}

// identifier reads one from the start of s.
func identifier(s string) (name, rest string, err error) {
	if after, ok := strings.CutPrefix(s, `"`); ok {
		for i := 0; i < len(after); i++ {
			switch {
			case after[i] != '"':
			case strings.HasPrefix(after[i+1:], `"`):
				i++
			default:
				name = strings.ReplaceAll(after[:i], `""`, `"`)
				return name, after[i+1:], postgres.CheckIdent(name)
			}
		}
		return "", "", fmt.Errorf("a double quote has no end")
	}
	end := strings.IndexFunc(s, func(r rune) bool {
		return r != '_' && r != '$' && !unicode.IsDigit(r) && !unicode.IsLetter(r)
	})
	if end < 0 {
		end = len(s)
	}
	name = lowerASCII(s[:end])
	return name, s[end:], postgres.CheckIdent(name)
}

// lowerASCII folds as the server does in UTF-8: letters beyond ASCII stay.
func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}
