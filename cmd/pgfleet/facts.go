package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/inventory"
)

func (a *app) factsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "facts [HOST...]",
		Short: "Show what hosts say of themselves",
		Long: `Facts shows the operating system, and the server's version, role, uptime and the
settings that differ from PostgreSQL's defaults. --json has all that is known.`,
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				if a.limit != "" {
					return &inputError{errors.New("give either hosts or --limit")}
				}
				a.limit = strings.Join(args, ",")
			}
			return a.facts(cmd.Context(), asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print all that is known, as JSON")
	return cmd
}

type factsDocument struct {
	Instance inventory.InstanceID `json:"instance"`
	Error    string               `json:"error,omitempty"`
	Role     string               `json:"role,omitempty"`
	OS       *facts.OSInfo        `json:"os,omitempty"`
	Unit     *facts.UnitInfo      `json:"unit,omitempty"`
	Server   *facts.Server        `json:"server,omitempty"`
	Problem  string               `json:"problem,omitempty"` // why the server could not be asked
}

func (a *app) facts(ctx context.Context, asJSON bool) error {
	s, err := a.open(ctx, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	known := s.survey(ctx, s.instances, nil)
	if ctx.Err() != nil {
		return errInterrupted
	}
	var failed []failure
	list := []factsDocument{}
	var texts []string
	for _, k := range known {
		if k.Err != nil {
			failed = append(failed, failure{k.Instance.ID(), k.Err})
			list = append(list, factsDocument{Instance: k.Instance.ID(), Error: k.Err.Error()})
			continue
		}
		f := factsOf(k)
		list = append(list, f)
		texts = append(texts, a.renderFacts(f))
	}
	if asJSON {
		instances, err := snakeKeys(list)
		if err != nil {
			return err
		}
		if err := a.ui.JSON(struct {
			Format    int `json:"format"`
			Instances any `json:"instances"`
		}{jsonFormat, instances}); err != nil {
			return err
		}
	} else {
		a.ui.Print(strings.Join(texts, "\n"))
	}
	return a.failures(failed)
}

func factsOf(k rollout.Known) factsDocument {
	f := factsDocument{Instance: k.Instance.ID(), Role: k.State.Role(), Server: k.State.Server()}
	if os, err := k.State.OS(); err == nil {
		f.OS = &os
	}
	if u, err := k.State.Unit(k.Instance.Unit()); err == nil {
		f.Unit = &u
	}
	if f.Server == nil {
		f.Problem = k.State.ServerProblem()
	}
	return f
}

// renderFacts returns the facts of one instance for the reader.
func (a *app) renderFacts(f factsDocument) string {
	rows := [][]string{}
	add := func(name, text string) { rows = append(rows, []string{"  " + name, clean(text)}) }
	if f.OS != nil {
		add("system", fmt.Sprintf("%s, %s, Linux %s", f.OS.Pretty, f.OS.Arch, f.OS.Kernel))
	}
	if f.Unit != nil {
		state := f.Unit.ActiveState + " (" + f.Unit.SubState + "), " + f.Unit.UnitFileState
		if f.Unit.NeedDaemonReload {
			state += ", its files changed since systemd read them"
		}
		add("unit", f.Unit.Name+": "+state)
	}
	if f.Server == nil {
		add("server", "not reached: "+f.Problem)
		return a.ui.style.bold(string(f.Instance)) + "\n" + columns(rows)
	}
	srv := f.Server
	add("server", fmt.Sprintf("PostgreSQL %v, %s", srv.Version, f.Role))
	add("running", fmt.Sprintf("since %s (%s), configuration loaded %s", stamp(srv.Started), span(srv.Clock.Sub(srv.Started)), stamp(srv.Loaded)))
	add("data", srv.DataDirectory)
	if srv.Upstream != "" {
		add("follows", srv.Upstream)
	}
	for _, st := range srv.Standbys {
		add("standby", fmt.Sprintf("%s at %s, %s, %s", st.Name, from(st.Addr), st.State, st.SyncState))
	}
	sessions := 0
	for _, c := range srv.Sessions {
		sessions += c.Count
	}
	add("sessions", fmt.Sprint(sessions))
	text := a.ui.style.bold(string(f.Instance)) + "\n" + columns(rows)

	var settings [][]string
	for _, x := range srv.Settings {
		value := clean(withUnit(x))
		switch x.Source {
		case "default", "override", "client", "session":
			continue
		case "configuration file":
		default:
			value += a.ui.style.faint("  (" + clean(x.Source) + ")")
		}
		settings = append(settings, []string{"    " + clean(x.Name), value})
	}
	if len(settings) > 0 {
		text += "  settings\n" + columns(settings)
	}
	return text
}

// withUnit returns a setting's value as SHOW does: 128MB where the server
// counts 16384 blocks of 8kB.
func withUnit(x postgres.Setting) string {
	n, err := strconv.ParseInt(x.Running(), 10, 64)
	if err != nil || x.Unit == "" || n <= 0 {
		return x.Running() // 0 and -1 stand for something else than a size
	}
	name := strings.TrimLeft(x.Unit, "0123456789")
	if blocks, err := strconv.ParseInt(x.Unit[:len(x.Unit)-len(name)], 10, 64); err == nil {
		n *= blocks
	}
	for _, larger := range []struct {
		name, of string
		times    int64
	}{
		{"kB", "B", 1024}, {"MB", "kB", 1024}, {"GB", "MB", 1024}, {"TB", "GB", 1024},
		{"s", "ms", 1000}, {"min", "s", 60}, {"h", "min", 60}, {"d", "h", 24},
	} {
		if name == larger.of && n%larger.times == 0 {
			name, n = larger.name, n/larger.times
		}
	}
	return strconv.FormatInt(n, 10) + name
}

// snakeKeys returns a value as encoding/json would decode it, with the names of
// Go's fields written as in the rest of the JSON: NeedDaemonReload is
// need_daemon_reload.
func snakeKeys(v any) (any, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var plain any
	if err := d.Decode(&plain); err != nil {
		return nil, err
	}
	return renamed(plain), nil
}

func renamed(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = renamed(v[i])
		}
	case map[string]any:
		m := make(map[string]any, len(v))
		for name, value := range v {
			m[snake(name)] = renamed(value)
		}
		return m
	}
	return v
}

// snake writes HBAFile as hba_file.
func snake(name string) string {
	upper := func(i int) bool { return i >= 0 && i < len(name) && name[i] >= 'A' && name[i] <= 'Z' }
	lower := func(i int) bool { return i >= 0 && i < len(name) && name[i] >= 'a' && name[i] <= 'z' }
	var b strings.Builder
	for i := range len(name) {
		if upper(i) && (lower(i-1) || upper(i-1) && lower(i+1)) {
			b.WriteByte('_')
		}
		b.WriteString(strings.ToLower(name[i : i+1]))
	}
	return b.String()
}

func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

func span(d time.Duration) string {
	if d >= 48*time.Hour {
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
	return d.Round(time.Second).String()
}

func from(a netip.Addr) string {
	if !a.IsValid() {
		return "the local socket"
	}
	return a.String()
}
