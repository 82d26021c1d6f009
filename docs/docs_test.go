// Package docs_test keeps the documentation true: every TOML block of a page is loaded and expanded, every command line is
// checked for flags that exist, what can be run without hosts is run and its output compared, the tables of keys are
// those of the program, and links lead somewhere.
//
// Words after the language of a block tell what it is:
//
//	toml                  a fleet.toml, or a part of one: what it lacks is added
//	toml file=hosts.toml  the same, and a file beside the following blocks
//	toml bad              has mistakes, which a following block shows
//	console               commands after "$ ", and what they print; the flags are checked
//	console run           the same, and run here; "..." on a line of its own stands for any lines
package docs_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"github.com/pgfleet/pgfleet/internal/pki"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/tasks"
)

var update = flag.Bool("update", false, "write the tables of keys anew")

// A block is a fenced block of a page.
type block struct {
	line  int // of its first line in the page
	words []string
	text  string
}

func (b block) has(word string) bool { return slices.Contains(b.words, word) }

// file is the name that the block is kept under for later ones, if any.
func (b block) file() string {
	for _, w := range b.words {
		if name, ok := strings.CutPrefix(w, "file="); ok {
			return name
		}
	}
	return ""
}

// pages are the documentation's files, with the README of the project.
func pages(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("*.md")
	if err != nil || len(names) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	return append(names, "../README.md")
}

func blocks(t *testing.T, page string) []block {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var list []block
	var open *block
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		fence, isFence := strings.CutPrefix(strings.TrimRight(line, "\n"), "```")
		switch {
		case isFence && open == nil:
			open = &block{line: number + 1, words: strings.Fields(fence)}
		case isFence:
			list = append(list, *open)
			open = nil
		case open != nil:
			open.text += line
		}
	}
	if open != nil {
		t.Errorf("%s:%d: the block has no end", page, open.line-1)
	}
	return list
}

func TestPages(t *testing.T) {
	bin := build(t)
	for _, page := range pages(t) {
		t.Run(filepath.Base(filepath.Dir(page))+"/"+filepath.Base(page), func(t *testing.T) {
			dir := folder(t)
			for _, b := range blocks(t, page) {
				if len(b.words) == 0 {
					t.Errorf("%s:%d: the block has no language", page, b.line)
					continue
				}
				switch b.words[0] {
				case "toml":
					checkTOML(t, page, dir, b)
				case "console":
					checkFlags(t, page, bin, b)
					if b.has("run") {
						run(t, page, dir, bin, b)
					}
				}
			}
		})
	}
}

// folder is where a page's blocks live, with the files that they name.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	ca, err := pki.NewCA(pki.CAOptions{CommonName: "prod CA 2026", Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	list, err := ca.RevocationList(nil, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"recipients.txt":                    id.Recipient().String() + "\n",
		"home/.config/pgfleet/identity.txt": id.String() + "\n",
		"ca.pem":                            string(ca.CertificatePEM()),
		"intermediate.pem":                  string(ca.CertificatePEM()), // which is enough of one
		"root.crl":                          string(list),
		"files/rsyslog.conf":                "# {{ .Vars.audit_log }}\n",
		"files/pgpass":                      "*:*:*:{{ .Vars.app_user }}:{{ secret \"env:APP_PASSWORD\" | passfile }}\n",
		"sql/views.sql":                     "CREATE VIEW v AS SELECT 1;\n",
		"home/.keep":                        "",
	} {
		write(t, filepath.Join(dir, name), text)
	}
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// completions are what a part of a fleet.toml may lack, by what shows that it does not.
var completions = []struct{ has, text string }{
	{"[fleet]", "[fleet]\nname = \"prod\"\n"},
	{"[postgres]", "[postgres]\nversion = 15\n"},
	{"[ca]", "[ca]\ncertificate = \"ca.pem\"\nkey = \"age:ca#key\"\n"},
	{"[vars]", "[vars]\napp_network = \"10.0.8.0/24\"\napp_database = \"appdb\"\napp_user = \"appuser\"\naudit_log = \"/var/log/postgresql/audit.log\"\n"},
	{"[hosts.", "[hosts.pg01]\naddress = \"10.0.0.11\"\nreplication = \"orders\"\n[hosts.pg02]\naddress = \"10.0.0.12\"\nreplication = \"orders\"\n[hosts.app1]\naddress = \"10.0.8.5\"\n"},
}

func checkTOML(t *testing.T, page, dir string, b block) {
	t.Helper()
	name := b.file()
	if name != "" {
		write(t, filepath.Join(dir, name), b.text)
		if name != "fleet.toml" {
			return // loaded by the one that includes it
		}
	}
	if b.has("bad") {
		return
	}
	text := b.text
	for _, c := range completions {
		if !strings.Contains(text, c.has) && !strings.Contains(text, "include =") {
			text += "\n" + c.text
		}
	}
	if !strings.Contains(text, "[fleet]") {
		text += "\n[fleet]\nname = \"prod\"\n"
	}
	path := filepath.Join(dir, fmt.Sprintf("line-%d.toml", b.line))
	write(t, path, text)
	fleet, err := inventory.Load(path, inventory.Options{Kinds: tasks.Kinds()})
	if err != nil {
		t.Errorf("%s:%d: %v", page, b.line, err)
		return
	}
	local := func(name string) ([]byte, error) { return os.ReadFile(fleet.File(name)) }
	if _, errs := tasks.Expand(fleet, fleet.Instances(), tasks.Options{Local: local}); len(errs) > 0 {
		t.Errorf("%s:%d: %v", page, b.line, errs)
	}
}

// build makes the program once.
func build(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "pgfleet")
	cmd := exec.Command("go", "build", "-o", bin, "../cmd/pgfleet")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// commands returns the command lines of a block, each with the lines that it prints.
func commands(b block) (list [][2]string) {
	joined := strings.ReplaceAll(b.text, "\\\n", "")
	for line := range strings.Lines(joined) {
		if c, ok := strings.CutPrefix(line, "$ "); ok {
			list = append(list, [2]string{strings.TrimSpace(c), ""})
		} else if len(list) > 0 {
			list[len(list)-1][1] += line
		}
	}
	if len(list) > 0 {
		return list
	}
	// A block without prompts holds commands alone.
	for line := range strings.Lines(joined) {
		if line = strings.TrimSpace(line); line != "" {
			list = append(list, [2]string{line, ""})
		}
	}
	return list
}

// checkFlags gives every invocation of pgfleet to the program with --help, which refuses flags that do not exist and
// values that they do not take, and does nothing else.
func checkFlags(t *testing.T, page, bin string, b block) {
	t.Helper()
	known, err := exec.Command(bin, "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range commands(b) {
		for _, args := range invocations(c[0]) {
			if len(args) == 0 {
				continue
			}
			if !strings.HasPrefix(args[0], "-") && !regexp.MustCompile(`(?m)^  `+regexp.QuoteMeta(args[0])+` `).Match(known) {
				t.Errorf("%s:%d: there is no command %q", page, b.line, args[0])
				continue
			}
			at := slices.Index(args, "--")
			if at < 0 {
				at = len(args)
			}
			if out, err := exec.Command(bin, slices.Insert(slices.Clone(args), at, "--help")...).CombinedOutput(); err != nil {
				t.Errorf("%s:%d: %s: %v\n%s", page, b.line, c[0], err, out)
			}
		}
	}
}

// invocations returns the arguments of each pgfleet in a shell's command line.
func invocations(line string) [][]string {
	var list [][]string
	var args []string
	in := false
	end := func() {
		if in {
			list = append(list, args)
		}
		args, in = nil, false
	}
	first := true
	for _, w := range words(line) {
		switch {
		case w == "|" || w == "&&" || w == "||" || w == ";" || w == ">" || w == ">>" || w == "&":
			end()
			first = true
			continue
		case strings.HasPrefix(w, "#"):
			end()
			return list
		case first && strings.Contains(w, "="): // a variable for the command
			continue
		case first:
			in = w == "pgfleet" || w == "bin/pgfleet"
		case in:
			args = append(args, w)
		}
		first = false
	}
	end()
	return list
}

// words splits a command line as sh would, as far as the pages need it.
func words(line string) []string {
	var list []string
	var w strings.Builder
	open, quote := false, rune(0)
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			w.WriteRune(r)
		case r == '\'' || r == '"':
			quote, open = r, true
		case r == ' ' || r == '\t':
			if open {
				list = append(list, w.String())
				w.Reset()
				open = false
			}
		default:
			w.WriteRune(r)
			open = true
		}
	}
	if open {
		list = append(list, w.String())
	}
	return list
}

func run(t *testing.T, page, dir, bin string, b block) {
	t.Helper()
	for _, c := range commands(b) {
		cmd := exec.Command("bash", "-c", c[0])
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + filepath.Dir(bin) + ":" + os.Getenv("PATH"), "HOME=" + filepath.Join(dir, "home"), "LC_ALL=C.UTF-8"}
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		_ = cmd.Run() // commands that fail are shown too
		if !bytes.HasSuffix(out.Bytes(), []byte("\n")) {
			out.WriteByte('\n') // as the page has it
		}
		if !matches(c[1], out.String()) {
			t.Errorf("%s:%d: %s prints something else (-page +program):\n%s", page, b.line, c[0], cmp.Diff(c[1], out.String()))
		}
	}
}

// matches compares output with what a page shows, where a line of "..." stands for any lines.
func matches(page, output string) bool {
	if strings.TrimSpace(page) == "" {
		return strings.TrimSpace(output) == ""
	}
	var re strings.Builder
	re.WriteString(`(?s)\A`)
	for line := range strings.Lines(strings.TrimRight(page, "\n") + "\n") {
		if strings.TrimSpace(line) == "..." {
			re.WriteString(`(?:.*\n)?`)
			continue
		}
		re.WriteString(regexp.QuoteMeta(strings.TrimRight(line, " \n")) + ` *\n`)
	}
	re.WriteString(`\n*\z`)
	return regexp.MustCompile(re.String()).MatchString(strings.TrimLeft(output, "\n"))
}

// The tables of keys stand between these comments.
var table = regexp.MustCompile(`(?s)(<!-- keys of ([a-z_.]+) -->\n)(.*?)(<!-- end of keys -->)`)

// Every kind of task has its table in tasks.md, every table of fleet.toml its own in inventory.md, and they say what
// the program says.
func TestKeys(t *testing.T) {
	schema := fleetSchema(t)
	documented := map[string]bool{}
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		wanted := table.ReplaceAllStringFunc(string(text), func(s string) string {
			m := table.FindStringSubmatch(s)
			documented[m[2]] = true
			rows, err := keys(schema, m[2])
			if err != nil {
				t.Errorf("%s: %v", page, err)
			}
			return m[1] + "\n" + rows + "\n" + m[4]
		})
		if *update {
			if err := os.WriteFile(page, []byte(wanted), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if diff := cmp.Diff(string(text), wanted); diff != "" {
			t.Errorf("%s: a table of keys is not the program's (go test ./docs -update writes it): -page +program\n%s", page, diff)
		}
	}
	for _, kind := range tasks.Kinds() {
		if !documented[kind] {
			t.Errorf("no page has the keys of the kind %q", kind)
		}
	}
	for _, name := range []string{"task", "fleet", "ssh", "postgres", "hosts", "groups", "client", "rotation", "backup", "secrets.age", "secrets.vault", "secrets.aws", "secrets.exec", "ca", "rollout"} {
		if !documented[name] {
			t.Errorf("no page has the keys of %q", name)
		}
	}
}

type object = map[string]any

func fleetSchema(t *testing.T) object {
	t.Helper()
	text, err := json.Marshal(inventory.FleetSchema(tasks.Schemas(), tasks.Rotation{}))
	if err != nil {
		t.Fatal(err)
	}
	var schema object
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	return schema
}

// keys returns the rows for a kind of task, for the keys that all kinds have ("task"), or for a table of fleet.toml.
func keys(schema object, name string) (string, error) {
	defs := schema["$defs"].(object)
	common := defs["task_command"].(object)["properties"].(object)
	everyTask := []string{"name", "kind", "on", "when", "for_each", "tags", "limit"}
	var of object
	skip := everyTask
	switch {
	case slices.Contains(tasks.Kinds(), name):
		of = defs["task_"+name].(object)
	case name == "task":
		p := object{}
		for _, k := range everyTask {
			p[k] = common[k]
		}
		p["kind"] = object{"type": "string", "description": "What kind of task it is, one of those below."}
		of, skip = object{"properties": p, "required": []any{"name", "kind"}}, nil
	default:
		of, skip = schema, nil
		for part := range strings.SplitSeq(name, ".") {
			properties, _ := of["properties"].(object)
			next, ok := properties[part].(object)
			if !ok {
				return "", fmt.Errorf("fleet.toml has no table %q", name)
			}
			of = next
		}
		if inner, ok := of["additionalProperties"].(object); ok {
			of = inner
		}
		if inner, ok := of["items"].(object); ok {
			of = inner
		}
	}
	var b strings.Builder
	b.WriteString("| key | value | |\n|---|---|---|\n")
	rows(&b, "", of, skip)
	return b.String(), nil
}

func rows(b *strings.Builder, prefix string, of object, skip []string) {
	properties, _ := of["properties"].(object)
	required, _ := of["required"].([]any)
	names := slices.Sorted(maps.Keys(properties))
	slices.SortStableFunc(names, func(x, y string) int { // what is needed comes first
		need := func(s string) int {
			if slices.Contains(required, any(s)) {
				return 0
			}
			return 1
		}
		return need(x) - need(y)
	})
	for _, name := range names {
		if slices.Contains(skip, name) {
			continue
		}
		p := properties[name].(object)
		text, _ := p["description"].(string)
		if slices.Contains(required, any(name)) {
			text = "**Needed.** " + text
		}
		fmt.Fprintf(b, "| `%s%s` | %s | %s |\n", prefix, name, value(p), strings.ReplaceAll(strings.TrimSpace(text), "|", "\\|"))
		if inner, ok := p["properties"].(object); ok && len(inner) > 0 {
			rows(b, prefix+name+".", p, nil)
		}
	}
}

// value says what a key takes.
func value(p object) string {
	if all, ok := p["anyOf"].([]any); ok {
		return value(all[0].(object)) // the other is a template
	}
	if enum, ok := p["enum"].([]any); ok {
		var list []string
		for _, e := range enum {
			list = append(list, fmt.Sprintf("`%q`", e))
		}
		return strings.Join(list, ", ")
	}
	switch p["type"] {
	case "integer":
		return "number"
	case "boolean":
		return "true, false"
	case "array":
		if items, ok := p["items"].(object); ok && items["type"] == "string" {
			return "list of strings"
		}
		return "list"
	case "object":
		return "table"
	case "string":
		return "string"
	}
	return "list, string"
}

// Links within the project lead somewhere.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#\s]+)(?:#([^)\s]*))?\)`)
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			target := filepath.Join(filepath.Dir(page), m[1])
			there, err := os.ReadFile(target)
			if err != nil {
				t.Errorf("%s: the link to %s leads nowhere", page, m[1])
				continue
			}
			if m[2] != "" && !slices.Contains(anchors(string(there)), m[2]) {
				t.Errorf("%s: %s has no heading #%s", page, m[1], m[2])
			}
		}
	}
	index, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages(t) {
		if !strings.Contains(string(index), "("+page+")") && page != "README.md" && page != "../README.md" {
			t.Errorf("%s is not in the index", page)
		}
	}
}

// anchors are the headings of a page as links name them.
func anchors(text string) []string {
	var list []string
	drop := regexp.MustCompile(`[^a-z0-9 _-]`)
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			title := strings.TrimSpace(strings.TrimLeft(line, "#"))
			list = append(list, strings.ReplaceAll(drop.ReplaceAllString(strings.ToLower(title), ""), " ", "-"))
		}
	}
	return list
}
