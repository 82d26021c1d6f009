package tasks

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
)

// AuditLogging is a fragment of conf.d with pgaudit and the logging around it,
// and the proof that what is written arrives where it is read.
type AuditLogging struct {
	Settings
	Log     string        `toml:"log" doc:"pgaudit.log: which classes of statements; \"ddl, write, role\" by default."`
	Prove   *bool         `toml:"prove" doc:"At every apply, write a record and find it again in every place that log_destination names; true by default."`
	Timeout time.Duration `toml:"timeout" doc:"How long the record may take to arrive; 10s by default."`
}

// auditDefaults are what the task sets unless its settings say otherwise. Of the
// guide's parameters, log_failed_attempts does not exist (failed logins are
// logged anyway), and log_statement would log passwords.
func (t *AuditLogging) auditDefaults(in inventory.Instance) [][2]string {
	return [][2]string{
		{"shared_preload_libraries", "pgaudit"},
		{"pgaudit.log", orElse(t.Log, "ddl, write, role")},
		{"log_connections", "on"},
		{"log_disconnections", "on"},
		{"log_checkpoints", "on"},
		{"log_lock_waits", "on"},
		{"log_line_prefix", "%m [%p] %q%u@%d %a %h "},
		{"log_destination", "stderr,syslog"},
		{"syslog_facility", "LOCAL0"},
		{"syslog_ident", "postgres-" + in.Cluster},
	}
}

// Check adds the defaults and checks all as a settings task does.
func (t *AuditLogging) Check(in inventory.Instance) inventory.Errors {
	var errs inventory.Errors
	if t.State != "absent" {
		t.complete(in, &errs)
	}
	return append(errs, t.Settings.Check(in)...)
}

// complete adds the parameters that the task's settings do not have, and pgaudit
// to the libraries that they do.
func (t *AuditLogging) complete(in inventory.Instance, errs *inventory.Errors) {
	var all parameters
	for _, d := range t.auditDefaults(in) {
		node := t.node
		if n := t.node.Get("log"); d[0] == "pgaudit.log" && n != nil {
			node = n
		}
		at := slices.IndexFunc(t.Settings.Settings, func(p parameter) bool { return strings.EqualFold(p.name, d[0]) })
		if at < 0 {
			all = append(all, parameter{name: d[0], pos: node.Pos, node: node, value: d[1]})
			continue
		}
		given := &t.Settings.Settings[at]
		switch {
		case isPreload(d[0]):
			if merged, err := postgres.MergeList(d[0], given.value, d[1]); err == nil { // what is malformed is found when it is compared with the server's
				given.value = merged
			}
		case d[0] == "pgaudit.log" && node != t.node && given.node != node:
			errs.Add(node.Pos, "log: settings has pgaudit.log as well; say it once")
		}
	}
	t.Settings.Settings = append(all, t.Settings.Settings...)
}

// Plan plans the fragment, and warns of what would put passwords or personal
// data into the log.
func (t *AuditLogging) Plan(in inventory.Instance, s *State) (Outcome, error) {
	out, err := t.Settings.Plan(in, s)
	if err != nil || t.State == "absent" {
		return out, err
	}
	for _, c := range out.Changes {
		s = s.Foresee(c)
	}
	s = t.declared(s)
	rows := s.Catalog()
	for _, risk := range []struct{ name, harmless, what string }{
		{"log_statement", "none", "statements as they are, passwords of ALTER ROLE among them"},
		{"log_min_duration_statement", "-1", "slow statements as they are, passwords among them"},
		{"log_min_duration_sample", "-1", "a sample of slow statements as they are, passwords among them"},
		{"log_transaction_sample_rate", "0", "the statements of some transactions as they are, passwords among them"},
		{"pgaudit.log_parameter", "off", "what applications store, personal data among it"},
	} {
		value := s.configuration().value(risk.name)
		if value != "" && !sameValue(rows, risk.name, value, risk.harmless) {
			out.Warnings = append(out.Warnings, fmt.Sprintf("%s = %s logs %s", risk.name, value, risk.what))
		}
	}
	return out, nil
}

// Finish finishes the settings, and then proves the log.
func (t *AuditLogging) Finish(in inventory.Instance, s *State) (Outcome, error) {
	out, err := t.Settings.Finish(in, s)
	switch {
	case err != nil || t.State == "absent" || t.Prove != nil && !*t.Prove:
	case s.Server() == nil && !s.restarted:
		out.Unknown = append(out.Unknown, "whether the audit log works: the server does not answer")
	case s.Server() != nil && !s.preloaded("pgaudit"):
		out.Unknown = append(out.Unknown, "whether the audit log works: it is proven once a restart has loaded pgaudit")
	default:
		out.Changes = append(out.Changes, Change{
			Key: "verify:" + t.Name, Intent: "write an audit record, and find it where log_destination says",
			Action: ProveLog{Server: s.serverOf(), Timeout: orTimeout(t.Timeout, 10*time.Second)},
		})
	}
	return out, err
}

// narrowed says which classes of statements are not audited in sessions that
// have a pgaudit.log of their own; "" where none is lost.
func narrowed(global, own string) string {
	wide, err := auditClasses(global)
	if err != nil {
		return ""
	}
	narrow, err := auditClasses(own)
	if err != nil {
		return "all of it: " + err.Error()
	}
	var lost []string
	for _, class := range wide {
		// SET is audited by misc as well as by misc_set.
		if !slices.Contains(narrow, class) && (class != "misc_set" || !slices.Contains(narrow, "misc")) {
			lost = append(lost, class)
		}
	}
	return strings.Join(lost, ", ")
}

// auditClasses returns the classes that a value of pgaudit.log comes to, as
// check_pgaudit_log adds them up from left to right.
func auditClasses(value string) ([]string, error) {
	words, err := postgres.ParseList("pgaudit.log", value)
	if err != nil {
		return nil, err
	}
	every := []string{"read", "write", "function", "role", "ddl", "misc", "misc_set"}
	var classes []string
	for _, word := range words {
		class, minus := strings.CutPrefix(strings.ToLower(strings.TrimSpace(word)), "-")
		meant := []string{class}
		switch class {
		case "all":
			meant = every
		case "none":
			meant = nil // adds nothing, and takes nothing away
		}
		for _, m := range meant {
			at := slices.Index(classes, m)
			switch {
			case !slices.Contains(every, m):
				return nil, fmt.Errorf("%q is no class of statements", m)
			case minus && at >= 0:
				classes = slices.Delete(classes, at, at+1)
			case !minus && at < 0:
				classes = append(classes, m)
			}
		}
	}
	return classes, nil
}
