package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/backup"
	"github.com/pgfleet/pgfleet/tasks"
)

func (a *app) backupListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list [NAME]",
		Short: "Show sets, what they are good for, and when the next one is made",
		Long: `List shows for each instance its sets, what state they are in and what they were proven to be good for, when the timer
makes the next one, how the last run ended, what is wrong, and what pgBackRest, Barman and WAL-G cover.`,
		Example: `  pgfleet backup list
  pgfleet backup list --detailed-exitcode    exits 1 when something is wrong`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeBackup,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.backupList(cmd.Context(), first(args), asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the list as JSON")
	cmd.Flags().BoolVar(&a.detailed, "detailed-exitcode", false, "exit with 1 when something is wrong with a backup, and after any error")
	return cmd
}

type backupsDocument struct {
	Format  int          `json:"format"`
	Backups []backupLine `json:"backups"`
}

// A backupLine is what there is of one backup and instance.
type backupLine struct {
	Backup   string     `json:"backup"`
	Instance string     `json:"instance"`
	Target   string     `json:"target,omitempty"`
	Hosted   bool       `json:"hosted"`
	Declared bool       `json:"declared"` // fleet.toml has the instance
	Keep     int        `json:"keep"`
	Unit     *unitState `json:"unit,omitempty"`
	Sets     []setLine  `json:"sets"` // the newest first
	Others   []string   `json:"others,omitempty"`
	LeftOver []string   `json:"left_over,omitempty"` // what a restore may have left on the server
	Wrong    []string   `json:"wrong,omitempty"`     // why this is no backup to rely on
	Problem  string     `json:"problem,omitempty"`   // why this is not all that there is to know

	beside []string // of Wrong, what sets and unit do not show
}

type setLine struct {
	ID        string        `json:"id"`
	Began     time.Time     `json:"began"`
	Bytes     int64         `json:"bytes"`
	State     backup.State  `json:"state"`
	Why       string        `json:"why,omitempty"`
	Databases []string      `json:"databases,omitempty"`
	Proof     *backup.Proof `json:"proof,omitempty"`
}

func (a *app) backupList(ctx context.Context, name string, asJSON bool) error {
	s, err := a.open(ctx, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	backups, err := backupsNamed(s.fleet, name)
	if err != nil {
		return err
	}
	holdings := a.holdings(ctx, s, backups)
	lines := make([]backupLine, len(holdings))
	each(a.forks, holdings, func(h *holding) {
		i := slices.IndexFunc(holdings, func(o holding) bool { return o.backup == h.backup && o.instance == h.instance })
		lines[i] = s.listOne(ctx, h, holdings)
	})
	now := time.Now()
	if asJSON {
		err = a.ui.JSON(backupsDocument{jsonFormat, lines})
	} else {
		var b strings.Builder
		for _, l := range lines {
			b.WriteString(renderBackup(l, now, a.ui.style) + "\n")
		}
		a.ui.Print(b.String() + "These are logical dumps: each is of the moment at which it was begun. They are no point-in-time recovery.")
	}
	if err == nil && slices.ContainsFunc(lines, func(l backupLine) bool { return l.Problem != "" || a.detailed && len(l.Wrong) > 0 }) {
		return errHostFailed
	}
	return err
}

// listOne asks the host what the target does not say.
func (s *session) listOne(ctx context.Context, h *holding, all []holding) backupLine {
	l := backupLine{Backup: h.backup.Name, Instance: string(h.instance), Hosted: h.backup.Hosted(), Declared: h.in != nil, Keep: h.backup.Keep, Sets: []setLine{}}
	if h.target != nil {
		l.Target = h.target.String()
	}
	var problems []string
	if h.err != nil {
		problems = append(problems, h.err.Error())
	}
	if h.in != nil {
		if err := s.askHost(ctx, h, &l); err != nil && !slices.Contains(problems, err.Error()) {
			problems = append(problems, err.Error())
		}
	}
	l.Problem = strings.Join(problems, "\n")
	now := time.Now()
	x := h.health(all, now)
	l.beside = append(l.beside, x.beside...)
	l.Wrong = slices.Concat(x.shown, l.beside)
	if x.none {
		l.Wrong = append(l.Wrong, "there is no good set")
	}
	if why := h.disproof(now); why != "" {
		l.Wrong = append(l.Wrong, why)
	}
	for i := len(h.sets) - 1; i >= 0; i-- {
		set := &h.sets[i]
		state, why := h.state(set)
		x := setLine{ID: set.ID, Began: set.Began(), Bytes: set.Bytes(), State: state, Why: why, Proof: set.Proven()}
		if set.Manifest != nil {
			x.Databases = set.Manifest.Databases()
		}
		l.Sets = append(l.Sets, x)
	}
	return l
}

func (s *session) askHost(ctx context.Context, h *holding, l *backupLine) error {
	conn, err := s.run.Conn(ctx, h.in.Host)
	if err != nil {
		return err
	}
	if h.backup.Hosted() {
		if h.unit == nil {
			return fmt.Errorf("systemd says nothing about %s", h.backup.Unit(*h.in))
		}
		if err := s.askWhy(ctx, h); err != nil {
			return err
		}
		l.Unit = h.unit
	}
	l.Others, l.LeftOver, err = askOthers(ctx, conn, h.in.Port)
	return err
}

// failureIn finds in a unit's journal why it failed.
func failureIn(journal string) string {
	lines := strings.Split(journal, "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if rest, ok := strings.CutPrefix(lines[i], "The backup has failed: "); ok {
			return rest
		}
	}
	for i := len(lines) - 1; i >= 0; i-- { // what systemd itself adds says less
		line := lines[i]
		if line != "" && !strings.Contains(line, ".service: ") && !strings.HasPrefix(line, "Failed to start ") {
			return line
		}
	}
	return lastSaid(journal)
}

func renderBackup(l backupLine, now time.Time, st style) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", st.bold(clean(l.Backup+" of "+l.Instance)), clean("in "+l.Target))
	if !l.Declared {
		b.WriteString("  fleet.toml has this instance no more\n")
	}
	if l.Problem != "" {
		for line := range strings.SplitSeq(clean(l.Problem), "\n") {
			b.WriteString("  " + st.red(line) + "\n")
		}
	}
	if text := unitText(l, now, st); text != "" {
		b.WriteString("  " + text + "\n")
	}
	for _, w := range l.beside {
		b.WriteString("  " + st.red(clean(w)) + "\n")
	}
	if len(l.Sets) == 0 && l.Problem == "" {
		b.WriteString("  " + st.yellow("there is no set yet") + "\n")
	}
	rows := [][]string{{"  SET", "AGE", "SIZE", "STATE", "PROVEN"}}
	notes := ""
	for _, x := range l.Sets {
		state := string(x.State)
		switch x.State {
		case backup.Good:
		case backup.Running:
			state = st.yellow(state)
		default:
			state = st.red(state)
			notes += "  " + st.red(x.ID+":") + " " + clean(x.Why) + "\n"
		}
		rows = append(rows, []string{"  " + x.ID, tasks.AgeText(now.Sub(x.Began)), bytesText(x.Bytes), state, proofText(x, now, st)})
	}
	if len(l.Sets) > 0 {
		b.WriteString(columns(rows) + notes)
	}
	for _, o := range l.LeftOver {
		b.WriteString("  " + st.yellow(clean(o)) + "\n")
	}
	for _, o := range l.Others {
		b.WriteString("  beside it: " + clean(o) + "\n")
	}
	return b.String()
}

// unitText says how the last run ended and when the next one begins.
func unitText(l backupLine, now time.Time, st style) string {
	u := l.Unit
	if u == nil {
		return ""
	}
	var parts []string
	switch {
	case !u.Loaded:
		return st.yellow("its unit is not on the host: pgfleet apply makes it")
	case u.running():
		parts = append(parts, st.yellow("a run goes on"))
	case u.Active == "failed":
		text := "the last run has failed"
		if u.Ended != nil {
			text += " " + tasks.AgeText(now.Sub(*u.Ended)) + " ago"
		}
		parts = append(parts, st.red(text+":")+" "+clean(u.Message))
	}
	switch {
	case u.Next != nil:
		parts = append(parts, "the next run is "+localTime(*u.Next))
	case !u.Timer:
		parts = append(parts, "there is no timer")
	}
	return strings.Join(parts, "; ")
}

func proofText(x setLine, now time.Time, st style) string {
	if x.State != backup.Good {
		return ""
	}
	p := x.Proof
	if p == nil {
		return st.yellow("no")
	}
	age := tasks.AgeText(now.Sub(p.At)) + " ago"
	switch {
	case !p.OK:
		return st.red("failed "+age+":") + " " + clean(firstLine(p.Message))
	case p.Level == backup.LevelRestore:
		return "restored " + age
	}
	return "read " + age
}
