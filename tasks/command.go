package tasks

import (
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/inventory"
)

// Command runs a command on the host. What it would change cannot be known, so
// it has to say when it is due: creates, unless or onlyif; or always, and then
// its run is not counted as a change.
type Command struct {
	Common
	Run     inventory.Positioned[string] `toml:"run" required:"true" doc:"The command, given to sh."`
	Creates string                       `toml:"creates" doc:"A file that the command makes: it runs when the file is missing."`
	Unless  inventory.Positioned[string] `toml:"unless" doc:"A command that only looks: exit code 0 means there is nothing to do. It runs while planning."`
	OnlyIf  inventory.Positioned[string] `toml:"onlyif" doc:"A command that only looks: an exit code other than 0 means there is nothing to do. It runs while planning."`
	Always  bool                         `toml:"always" doc:"Run at every apply, not counted as a change."`
	User    string                       `toml:"user" doc:"Whose rights; root by default."`
	Dir     string                       `toml:"dir" doc:"The folder to run in."`
	Timeout time.Duration                `toml:"timeout" doc:"How long it may take; 10m by default."`
}

// Check wants to know when the command is due.
func (t *Command) Check(inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	if t.Creates == "" && t.Unless.Value == "" && t.OnlyIf.Value == "" && !t.Always {
		errs.Add(t.node.Pos, "say when the command is due: creates, unless, onlyif, or always = true")
	}
	if t.Always && (t.Creates != "" || t.Unless.Value != "" || t.OnlyIf.Value != "") {
		errs.Add(t.at("always"), "always: contradicts creates, unless and onlyif")
	}
	if t.Creates != "" && !strings.HasPrefix(t.Creates, "/") {
		errs.Add(t.at("creates"), "creates: want an absolute path, found %q", t.Creates)
	}
	if t.here && t.User != "" {
		errs.Add(t.at("user"), "user: on the operator's machine a command runs as the operator")
	}
	for _, text := range []inventory.Positioned[string]{t.Run, t.Unless, t.OnlyIf} {
		if secrets.HasPlaceholder(text.Value) {
			errs.Add(text.Pos(), "a secret in a command can be seen in the host's process list; put it into a file")
		}
	}
	return errs
}

func (t *Command) user() string { return orElse(t.User, "root") }

// probe is the question that a script of the task answers.
func (t *Command) probe(script string) facts.Read {
	if t.here {
		return facts.LocalProbe{Script: script}
	}
	return facts.Probe{Script: script, User: t.user()}
}

// exists is the question whether the file that the command creates is there.
func (t *Command) exists() facts.Read { return t.probe(existsScript(t.Creates)) }

func existsScript(file string) string {
	word, err := secrets.Quote(file, secrets.Shell)
	if err != nil {
		word = "''" // a path with a zero byte is the path of nothing
	}
	return "test -e " + word
}

// Reads asks what says whether the command is due.
func (t *Command) Reads(inventory.Instance, *State) []facts.Read {
	var reads []facts.Read
	if t.Creates != "" {
		reads = append(reads, t.exists())
	}
	for _, probe := range t.probes() {
		reads = append(reads, t.probe(probe.Script))
	}
	return reads
}

// Plan runs the command when it is due. After earlier changes that it may look
// at, what a probe said while planning may be out of date: then it is asked again
// before the command, and whether that runs is unknown until then.
func (t *Command) Plan(_ inventory.Instance, s *State) (Outcome, error) {
	var out Outcome
	run := RunCommand{
		Script: t.Run.Value, User: t.user(), Dir: t.Dir, Here: t.here,
		Timeout: orTimeout(t.Timeout, 10*time.Minute), Always: t.Always,
	}
	due, why := true, "always"
	if t.Creates != "" {
		r, err := ask[facts.ProbeResult](s, t.exists())
		if err != nil {
			return out, err
		}
		if f, ok := s.files[t.Creates]; r.ExitCode == 0 || ok && f.Exists && !t.here {
			due = false
		}
		why = t.Creates + " is missing"
		run.Probes = append(run.Probes, Probe{existsScript(t.Creates), true})
	}
	for _, probe := range t.probes() {
		r, err := ask[facts.ProbeResult](s, t.probe(probe.Script))
		if err != nil {
			return out, err
		}
		if (r.ExitCode == 0) == probe.Done {
			due = false
		}
		why = map[bool]string{true: "unless", false: "onlyif"}[probe.Done] + " says so"
		run.Probes = append(run.Probes, probe)
	}
	if s.ranBefore[run.key()] || !due && !s.moved {
		return out, nil // nothing to do, or done for another instance of the host
	}
	if !due {
		run.Maybe, why = true, "known after the changes before it"
		out.Unknown = append(out.Unknown, "whether it is due: it is not now, and is asked again after the changes before it")
	}
	out.Changes = []Change{{Key: "command:" + t.Name, Intent: "run " + firstLine(t.Run.Value) + " (" + why + ")", Action: run}}
	return out, nil
}

// probes are the task's own.
func (t *Command) probes() []Probe {
	var list []Probe
	if t.Unless.Value != "" {
		list = append(list, Probe{t.Unless.Value, true})
	}
	if t.OnlyIf.Value != "" {
		list = append(list, Probe{t.OnlyIf.Value, false})
	}
	return list
}

func (t *Command) needsServer() {}
func (t *Command) runsHere()    {}

func orTimeout(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

func firstLine(text string) string {
	line, rest, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if rest != "" {
		return line + " …"
	}
	return line
}
