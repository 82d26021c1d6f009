package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/aymanbagabas/go-udiff"

	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/tasks"
)

// A planText writes plans for the reader. Instances for which the same steps
// are due are shown together, and a diff that is the same for many is shown
// once.
type planText struct {
	strings.Builder
	style   style
	verbose bool
	shown   map[tasks.Diff]string // diffs that were shown, and for whom
}

// renderPlans returns what is due, for all instances.
func renderPlans(known []rollout.Known, st style, verbose bool) string {
	var blocks []string
	shown := map[tasks.Diff]string{}
	for _, group := range groupBy(planned(known), shape) {
		t := &planText{style: st, verbose: verbose, shown: shown}
		t.group(group)
		if t.Len() > 0 {
			blocks = append(blocks, st.bold(names(group))+"\n"+t.String())
		}
	}
	var failed []failure
	for _, k := range known {
		if k.Err != nil {
			failed = append(failed, failure{k.Instance.ID(), k.Err})
		}
	}
	if len(failed) > 0 {
		blocks = append(blocks, renderFailures(failed, st))
	}
	return strings.Join(blocks, "\n")
}

// planned returns those for which there is a plan.
func planned(known []rollout.Known) []rollout.Known {
	return slices.DeleteFunc(slices.Clone(known), func(k rollout.Known) bool { return k.Err != nil || k.Plan == nil })
}

// shape is equal for instances whose plans have the same steps with changes of
// the same things.
func shape(k rollout.Known) string {
	var b strings.Builder
	for _, s := range k.Plan.Steps {
		fmt.Fprintf(&b, "%q\n", s.Title())
		for _, c := range s.Changes {
			fmt.Fprintf(&b, "\t%q %t %t %q\n", c.Key, c.Before == tasks.Absent, c.After == tasks.Absent, kindOf(c))
		}
	}
	return b.String()
}

// groupBy puts what has the same key together, in the order of first
// appearance.
func groupBy[T any, K comparable](list []T, key func(T) K) [][]T {
	var groups [][]T
	at := map[K]int{}
	for _, x := range list {
		k := key(x)
		i, ok := at[k]
		if !ok {
			i = len(groups)
			at[k] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], x)
	}
	return groups
}

func names(known []rollout.Known) string {
	var list []string
	for _, k := range known {
		list = append(list, string(k.Instance.ID()))
	}
	return strings.Join(list, ", ")
}

// group shows instances of one shape.
func (t *planText) group(group []rollout.Known) {
	if t.verbose || slices.ContainsFunc(group[0].Plan.Steps, shown) {
		for i := range group[0].Plan.Steps {
			t.step(group, i)
		}
	}
	t.lockouts(group)
	t.notes(group, "warning", t.style.yellow, func(p *tasks.Plan) []tasks.Note { return p.Warnings })
	t.notes(group, "unknown", t.style.yellow, func(p *tasks.Plan) []tasks.Note { return p.Unknown })
	t.notes(group, "orphan", t.style.yellow, orphanNotes)
	if t.verbose {
		t.notes(group, "skipped", t.style.faint, skippedNotes)
	}
}

func orphanNotes(p *tasks.Plan) []tasks.Note {
	var list []tasks.Note
	for _, path := range p.Orphans {
		list = append(list, tasks.Note{Text: path + " was written by pgfleet and is in no task any more; a task with state = \"absent\" removes it"})
	}
	return list
}

func skippedNotes(p *tasks.Plan) []tasks.Note {
	var list []tasks.Note
	for _, name := range p.Skipped {
		list = append(list, tasks.Note{Text: name + " is not for a " + p.Role})
	}
	return list
}

// runs reports whether a step does something that has to be asked for: a change,
// a command that runs at every apply, or what is decided only then.
func runs(s tasks.Step) bool {
	return s.Writes() || slices.ContainsFunc(s.Changes, func(c tasks.Change) bool {
		kind := kindOf(c)
		return kind == "always" || kind == "later"
	})
}

// shown reports whether a step has to be seen without -v.
func shown(s tasks.Step) bool { return runs(s) || kindOf(s.Changes[0]) == "replicated" }

// kindOf sorts changes for the reader.
func kindOf(c tasks.Change) string {
	switch a := c.Action.(type) {
	case tasks.Restart:
		return "restart"
	case tasks.WriteFile, tasks.IssueCertificate, tasks.WriteRevocationLists, tasks.SetPackages:
		if c.Before == tasks.Absent {
			return "create"
		}
	case tasks.RemoveFile:
		return "remove"
	case tasks.RunCommand:
		return kindOfRun(a.Always, a.Maybe)
	case tasks.RunScript:
		return kindOfRun(a.Always, a.Maybe)
	case tasks.Execute:
		return kindOfStatement(a.Statement)
	case tasks.Replicated:
		return "replicated"
	case tasks.Replan:
		return "later"
	}
	if !tasks.Writes(c.Action) {
		return "check"
	}
	return "change"
}

func kindOfRun(always, maybe bool) string {
	switch {
	case always:
		return "always"
	case maybe:
		return "maybe"
	}
	return "run"
}

// sign returns the character before a change, and its colour.
func (t *planText) sign(kind string) (string, func(string) string) {
	switch kind {
	case "create":
		return "+", t.style.green
	case "remove":
		return "-", t.style.red
	case "restart":
		return "!", t.style.red
	case "always":
		return ">", t.style.faint
	case "replicated":
		return "<", t.style.faint
	case "check", "maybe", "later":
		return "?", t.style.faint
	}
	return "~", t.style.yellow
}

const (
	changeIndent = "     "
	diffIndent   = "         "
)

func (t *planText) step(group []rollout.Known, i int) {
	first := group[0].Plan.Steps[i]
	title, of := first.Title(), taskNames(first)
	fmt.Fprintf(t, "  %d. %s", i+1, clean(title))
	if !strings.HasPrefix(title, of) {
		t.WriteString(t.style.faint(clean(": " + of)))
	}
	if db := whereOf(first); db != "" {
		t.WriteString(t.style.faint(clean(", in database " + db)))
	}
	t.WriteByte('\n')
	folded := 0
	for j, c := range first.Changes {
		if _, sql := databaseOf(c); sql != "" && j >= longList && !t.verbose && danger(first.Changes, j) == "" {
			folded++
			continue
		}
		t.change(group, i, j)
	}
	if folded > 0 {
		fmt.Fprintf(t, "%s%s\n", changeIndent, t.style.faint(fmt.Sprintf("and %s; -v shows them", count(folded, "more statement", "more statements"))))
	}
}

func taskNames(s tasks.Step) string {
	var names []string
	for _, b := range s.Tasks {
		names = append(names, b.Name)
	}
	return strings.Join(names, ", ")
}

// change shows a change once for all instances for which it is the same.
func (t *planText) change(group []rollout.Known, i, j int) {
	at := func(k rollout.Known) tasks.Change { return k.Plan.Steps[i].Changes[j] }
	byIntent := groupBy(group, func(k rollout.Known) string {
		return strings.Join(append([]string{at(k).Intent}, at(k).Effects...), "\x00")
	})
	for _, same := range byIntent {
		c := at(same[0])
		sign, color := t.sign(kindOf(c))
		remark := ""
		if why := danger(same[0].Plan.Steps[i].Changes, j); why != "" {
			sign, color, remark = "!", t.style.red, "  -- "+clean(why)
		}
		whose := ""
		if len(byIntent) > 1 {
			whose = t.style.faint("  [" + names(same) + "]")
		}
		for n, line := range strings.Split(clean(c.Intent)+remark, "\n") {
			if n == 0 {
				line = sign + " " + line
			} else {
				line = "  " + line
			}
			fmt.Fprintf(t, "%s%s%s\n", changeIndent, color(line), whose)
			whose = ""
		}
		byDiff := groupBy(same, func(k rollout.Known) tasks.Diff {
			if d := at(k).Diff; d != nil {
				return *d
			}
			return tasks.Diff{}
		})
		for _, equal := range byDiff {
			d := at(equal[0]).Diff
			if d == nil || d.Old == d.New {
				continue
			}
			if len(byDiff) > 1 {
				fmt.Fprintf(t, "%s%s\n", diffIndent[2:], t.style.bold(names(equal)+":"))
			}
			t.diff(*d, names(equal))
		}
		t.effects(c.Effects)
	}
}

// effects shows what a rehearsal of a script changed.
func (t *planText) effects(list []string) {
	for i, e := range list {
		if i == longList && !t.verbose {
			fmt.Fprintf(t, "%s%s\n", diffIndent, t.style.faint(fmt.Sprintf("and %d more; -v shows them", len(list)-i)))
			return
		}
		for line := range strings.SplitSeq(clean(e), "\n") {
			fmt.Fprintf(t, "%s%s\n", diffIndent, line)
		}
	}
}

// longDiff is how many lines of a diff are shown without -v.
const longDiff = 200

// diff shows a diff, or where it was shown already.
func (t *planText) diff(d tasks.Diff, who string) {
	if first, ok := t.shown[d]; ok {
		fmt.Fprintf(t, "%s%s\n", diffIndent, t.style.faint("the same diff as for "+first+" above"))
		return
	}
	lines := diffLines(d)
	if len(lines) > 6 {
		t.shown[d] = who
	}
	if !t.verbose {
		lines = foldComments(lines)
	}
	rest := 0
	if len(lines) > longDiff && !t.verbose {
		rest = len(lines) - longDiff
		lines = lines[:longDiff]
	}
	for _, line := range lines {
		switch {
		case strings.HasPrefix(line, "@@"), strings.HasPrefix(line, `\`):
			line = t.style.faint(line)
		case strings.HasPrefix(line, "+"):
			line = t.style.green(line)
		case strings.HasPrefix(line, "-"):
			line = t.style.red(line)
		}
		fmt.Fprintf(t, "%s%s\n", diffIndent, line)
	}
	if rest > 0 {
		fmt.Fprintf(t, "%s%s\n", diffIndent, t.style.faint(fmt.Sprintf("and %d more lines; -v shows them", rest)))
	}
}

// foldComments makes one line of many removed ones that hold nothing but
// comments: the manual that Debian's files begin with.
func foldComments(lines []string) []string {
	const least = 4
	idle := func(line string) bool {
		rest, removed := strings.CutPrefix(line, "-")
		rest = strings.TrimSpace(rest)
		return removed && (rest == "" || rest[0] == '#')
	}
	var folded []string
	for i := 0; i < len(lines); {
		end := i
		for end < len(lines) && idle(lines[end]) {
			end++
		}
		switch {
		case end-i >= least:
			folded = append(folded, fmt.Sprintf("-  (%d lines of comments; -v shows them)", end-i))
			i = end
		case end > i:
			folded = append(folded, lines[i:end]...)
			i = end
		default:
			folded = append(folded, lines[i])
			i++
		}
	}
	return folded
}

// diffLines returns the hunks of a unified diff without the file names, which
// the change already says.
func diffLines(d tasks.Diff) []string {
	text := strings.TrimSuffix(udiff.Unified("old", "new", clean(d.Old), clean(d.New)), "\n")
	lines := strings.Split(text, "\n")
	if len(lines) < 2 {
		return nil
	}
	return lines[2:]
}

// notes shows remarks, each once, with the names of those that it is about
// where it is not all.
func (t *planText) notes(group []rollout.Known, word string, color func(string) string, of func(*tasks.Plan) []tasks.Note) {
	type about struct {
		note tasks.Note
		who  []rollout.Known
	}
	var all []about
	for _, k := range group {
		for _, n := range of(k.Plan) {
			i := slices.IndexFunc(all, func(a about) bool { return a.note == n })
			if i < 0 {
				i = len(all)
				all = append(all, about{note: n})
			}
			if !slices.ContainsFunc(all[i].who, func(w rollout.Known) bool { return w.Instance.ID() == k.Instance.ID() }) {
				all[i].who = append(all[i].who, k)
			}
		}
	}
	for _, a := range all {
		text := a.note.Text
		if a.note.Task != "" {
			text = a.note.Task + ": " + text
		}
		whose := ""
		if len(a.who) < len(group) {
			whose = "  [" + names(a.who) + "]"
		}
		for i, line := range strings.Split(clean(text), "\n") {
			if i > 0 {
				line = "  " + line
			}
			fmt.Fprintf(t, "  %s: %s%s\n", color(word), line, t.style.faint(whose))
			whose = ""
		}
	}
}
