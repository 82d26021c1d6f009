package templates

import (
	"errors"
	"fmt"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// maxText bounds what a template may grow to, in bytes.
const maxText = 16 << 20

// Render renders a text that begins at pos. Its error is an [inventory.Error] at the place of the mistake; when the
// parser of text/template knows the line alone, at the first action of that line.
func Render(text string, pos inventory.Position, data Data) (string, error) {
	out, err := render(text, data)
	if err != nil {
		return "", inventory.Error{Pos: pos.After(text[:err.offset]), Msg: err.msg}
	}
	return out, nil
}

// RenderNode renders every string in a tree and returns the new tree; the positions stay. What is no template stays the
// same Node. All mistakes are returned, and the tree is nil if there is one.
func RenderNode(n *inventory.Node, data Data) (*inventory.Node, inventory.Errors) {
	var errs inventory.Errors
	out := renderNode(n, data, &errs)
	if len(errs) > 0 {
		return nil, errs.Sorted()
	}
	return out, nil
}

func renderNode(n *inventory.Node, data Data, errs *inventory.Errors) *inventory.Node {
	switch n.Kind {
	case inventory.KindString:
		if !strings.Contains(n.Str, "{{") {
			return n
		}
		value, err := renderValue(n.Str, data, nil)
		if err != nil {
			errs.Add(n.PosAt(err.offset), "%s", err.msg)
			return n
		}
		out, ok := inventory.NewNode(n.Pos, value)
		if !ok {
			errs.Add(n.Pos, "the template yields %s, which a value cannot be", describe(value))
			return n
		}
		return out
	case inventory.KindList:
		list := *n
		list.Items = make([]*inventory.Node, len(n.Items))
		changed := false
		for i, item := range n.Items {
			list.Items[i] = renderNode(item, data, errs)
			changed = changed || list.Items[i] != item
		}
		if changed {
			return &list
		}
	case inventory.KindTable:
		table := *n
		table.Keys = make([]inventory.Key, len(n.Keys))
		changed := false
		for i, k := range n.Keys {
			if strings.Contains(k.Name, "{{") {
				errs.Add(k.Pos, "a key cannot be a template")
			}
			k.Value = renderNode(k.Value, data, errs)
			table.Keys[i] = k
			changed = changed || k.Value != n.Keys[i].Value
		}
		if changed {
			return &table
		}
	}
	return n
}

// EvalWhen returns what the expression of a task's when yields: true or false. It is written without braces, such as
//
//	ge .Instance.Version 15
//
// Anything but a boolean is an error, so that the string "false" cannot be taken for true. Its errors are
// [inventory.Error].
func EvalWhen(when inventory.Positioned[string], data Data) (bool, error) {
	at := func(offset int, format string, args ...any) error {
		pos := when.Pos()
		if when.Node != nil {
			pos = when.Node.PosAt(offset)
		}
		return inventory.Error{Pos: pos, Msg: "when: " + fmt.Sprintf(format, args...)}
	}
	expr := when.Value
	if i := strings.Index(expr, "{{"); i >= 0 {
		return false, at(i, "write the expression without braces, such as ge .Instance.Version 15")
	}
	if strings.TrimSpace(expr) == "" {
		return false, at(0, "an expression is missing, such as ge .Instance.Version 15")
	}
	const before, after = "{{(", ")}}"
	value, rerr := renderValue(before+expr+after, data, template.FuncMap{
		"secret": func(string) (string, error) { return "", errors.New("a secret is not known while planning") },
	})
	if rerr != nil {
		return false, at(min(max(rerr.offset-len(before), 0), len(expr)), "%s", rerr.msg)
	}
	b, ok := value.(bool)
	if !ok {
		return false, at(0, "the expression yields %s; it must be true or false, such as eq .Vars.region \"eu\"", describe(value))
	}
	return b, nil
}

// Each returns the data for every element of a task's for_each: a list whose strings may be templates, the name of a
// variable that holds a list, or a template that yields one. Without for_each (nil) it returns data alone.
func Each(forEach *inventory.Node, data Data) ([]Data, inventory.Errors) {
	if forEach == nil {
		return []Data{data}, nil
	}
	var errs inventory.Errors
	list := forEach
	switch {
	case forEach.Kind == inventory.KindString && !strings.Contains(forEach.Str, "{{"):
		value, ok := data.Vars[strings.TrimSpace(forEach.Str)]
		if !ok {
			errs.Add(forEach.Pos, "for_each: %s", noVariable(forEach.Str, data.Vars))
			return nil, errs
		}
		list, _ = inventory.NewNode(forEach.Pos, value)
	default:
		list, errs = RenderNode(forEach, data)
		if len(errs) > 0 {
			return nil, errs
		}
	}
	if list.Kind != inventory.KindList {
		errs.Add(forEach.Pos, "for_each: want a list, found %s", describe(list.Value()))
		return nil, errs
	}
	all := make([]Data, 0, len(list.Items))
	seen := map[string]bool{}
	for i, item := range list.Items {
		d := data.withEach(item.Value(), i+1)
		if seen[d.each] {
			errs.Add(item.Pos, "for_each: %q is here for the second time", d.each)
			continue
		}
		seen[d.each] = true
		all = append(all, d)
	}
	return all, errs
}

// A renderError is a mistake at an offset of the template's text.
type renderError struct {
	offset int
	msg    string
}

// render returns the text that a template yields.
func render(text string, data Data) (string, *renderError) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	t, rerr := parseTemplate(text)
	if rerr != nil {
		return "", rerr
	}
	return execute(t, text, data)
}

// renderValue is like render, but where the template is one expression it returns what that yields, of whatever type.
// instead holds functions to use in the place of others.
func renderValue(text string, data Data, instead template.FuncMap) (any, *renderError) {
	t, rerr := parseTemplate(text)
	if rerr != nil {
		return nil, rerr
	}
	t.Funcs(instead)
	if t.Tree == nil || len(t.Root.Nodes) != 1 || t.Root.Nodes[0].Type() != parse.NodeAction {
		return execute(t, text, data)
	}
	pipe := t.Root.Nodes[0].(*parse.ActionNode).Pipe
	if len(pipe.Decl) > 0 {
		return execute(t, text, data)
	}
	var value any
	t.Funcs(template.FuncMap{emitName: func(v any) string { value = v; return "" }})
	if _, rerr := execute(t, text, data); rerr != nil {
		return nil, rerr
	}
	if s, ok := value.(string); ok {
		return value, changedSecret(s)
	}
	return value, nil
}

func execute(t *template.Template, text string, data Data) (string, *renderError) {
	w := limitedWriter{}
	if err := t.Execute(&w, data); err != nil {
		return "", explain(err, t, text, data)
	}
	out := w.text.String()
	if rerr := changedSecret(out); rerr != nil {
		return "", rerr
	}
	return out, nil
}

// changedSecret reports a placeholder that functions have changed so that it is none any more.
func changedSecret(text string) *renderError {
	if !secrets.HasPlaceholder(text) {
		return nil
	}
	if _, err := secrets.Find(text); err != nil {
		return &renderError{0, err.Error()}
	}
	return nil
}

// A limitedWriter holds the text so far.
type limitedWriter struct {
	text strings.Builder
}

var errTooLong = fmt.Errorf("the text grows beyond %d MiB", maxText>>20)

func (w *limitedWriter) Write(p []byte) (int, error) {
	if w.text.Len()+len(p) > maxText {
		return 0, errTooLong
	}
	return w.text.Write(p)
}

// templateName stands in text/template's errors, from which explain takes it again.
const templateName = "t"

// emitName is called at the end of every action: see emit. It begins with an underscore to keep out of the way.
const emitName = "_emit"

func parseTemplate(text string) (*template.Template, *renderError) {
	t, err := template.New(templateName).Option("missingkey=error").Funcs(functions).Parse(text)
	if err != nil {
		return nil, explainSyntax(err, text)
	}
	for _, inner := range t.Templates() {
		if inner.Tree != nil {
			addEmit(inner.Tree, inner.Root)
		}
	}
	return t, nil
}

// addEmit appends a call of emit to every action that prints something, as html/template does with its escaping.
func addEmit(tree *parse.Tree, n parse.Node) {
	branch := func(list, other *parse.ListNode) {
		addEmit(tree, list)
		if other != nil {
			addEmit(tree, other)
		}
	}
	switch n := n.(type) {
	case *parse.ListNode:
		for _, inner := range n.Nodes {
			addEmit(tree, inner)
		}
	case *parse.IfNode:
		branch(n.List, n.ElseList)
	case *parse.RangeNode:
		branch(n.List, n.ElseList)
	case *parse.WithNode:
		branch(n.List, n.ElseList)
	case *parse.ActionNode:
		if len(n.Pipe.Decl) == 0 {
			emit := parse.NewIdentifier(emitName).SetTree(tree).SetPos(n.Pipe.Pos)
			n.Pipe.Cmds = append(n.Pipe.Cmds, &parse.CommandNode{NodeType: parse.NodeCommand, Pos: n.Pipe.Pos, Args: []parse.Node{emit}})
		}
	}
}

// emit returns how a value is written in text. Lists and tables have no such form.
func emit(v any) (string, error) {
	s, err := scalar(v)
	if err == nil {
		return s, nil
	}
	switch describe(v) {
	case "nothing":
		return "", errors.New("there is no value")
	case "a list":
		return "", errors.New(`this is a list; write its elements one after the other, as in {{ join ", " .Vars.list }}`)
	case "a table":
		return "", errors.New("this is a table; name one of its keys")
	}
	return "", err
}
