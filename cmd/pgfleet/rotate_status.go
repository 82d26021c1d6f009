package main

import (
	"context"
	"time"

	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/tasks"
)

// A rotationStatus is one line of rotate --status.
type rotationStatus struct {
	Role     string `json:"role"`
	Cluster  string `json:"cluster"`
	Strategy string `json:"strategy"`
	Secret   string `json:"secret"`
	Stage    string `json:"stage,omitempty"`
	// User is who logs in now, and Version what the store calls the password.
	User    string     `json:"user,omitempty"`
	Version string     `json:"version,omitempty"`
	Rotated *time.Time `json:"rotated,omitempty"` // when the current password was written
	MaxAge  string     `json:"max_age,omitempty"`
	Due     bool       `json:"due"`
	// OldSessions are those of the role that is not in use, which still has its old
	// password if OldPassword is set.
	OldRole     string `json:"old_role,omitempty"`
	OldSessions int    `json:"old_sessions"`
	OldPassword bool   `json:"old_password"`
	Problem     string `json:"problem,omitempty"`
}

type rotationsDocument struct {
	Format    int              `json:"format"`
	Pgfleet   string           `json:"pgfleet"`
	Fleet     string           `json:"fleet"`
	Rotations []rotationStatus `json:"rotations"`
}

// rotationStatus lists where each rotation stands on each cluster.
func (a *app) rotationStatus(ctx context.Context, r rotating, asJSON bool) error {
	s, err := a.open(ctx, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	known, bound, err := r.survey(ctx, s, s.instances)
	if err != nil {
		return err
	}
	now, list, failed := time.Now(), []rotationStatus{}, false
	said := map[string]bool{}
	for _, standby := range []bool{false, true} {
		for _, k := range known {
			if isStandby := k.State == nil || k.State.Role() != "primary"; isStandby != standby {
				continue
			}
			for _, b := range bound[k.Instance.ID()] {
				t := b.Task.(*tasks.Rotation)
				key := t.Role() + "\x00" + t.Cluster()
				if said[key] {
					continue
				}
				said[key] = true
				x := statusOf(t, now)
				switch {
				case k.State == nil:
					x.Problem = k.Err.Error()
				case standby:
					x.Problem = "no primary of the cluster was found"
				default:
					x.find(t, k.State)
				}
				failed = failed || x.Problem != ""
				list = append(list, x)
			}
		}
	}
	if asJSON {
		err = a.ui.JSON(rotationsDocument{jsonFormat, version(), s.fleet.Name, list})
	} else {
		a.ui.Print(renderRotations(list, now, a.ui.style))
	}
	if err == nil && failed {
		return errHostFailed
	}
	return err
}

// statusOf is what the store says.
func statusOf(t *tasks.Rotation, now time.Time) rotationStatus {
	ref := t.Ref()
	x := rotationStatus{Role: t.Role(), Cluster: t.Cluster(), Strategy: t.Strategy, Secret: secrets.Ref{Store: ref.Store, Path: ref.Path}.String(), Due: t.Due(now) != ""}
	if t.MaxAge > 0 {
		x.MaxAge = t.MaxAge.String()
	}
	if e := t.Current(); e != nil {
		x.Version = e.ID
		if !e.Created.IsZero() {
			x.Rotated = &e.Created
		}
	}
	return x
}

// find adds what the server says.
func (x *rotationStatus) find(t *tasks.Rotation, s *tasks.State) {
	st, err := t.Find(s)
	if err != nil {
		x.Problem = err.Error()
		return
	}
	x.Stage, x.User, x.Problem = string(st.Stage), st.User, st.Why
	if t.Strategy == tasks.Alternate {
		x.OldRole, x.OldSessions, x.OldPassword = st.Next, st.NextSessions, st.Lingers
	}
}

// renderRotations returns a table, and what is wrong.
func renderRotations(list []rotationStatus, now time.Time, st style) string {
	rows := [][]string{{st.bold("ROLE"), st.bold("CLUSTER"), st.bold("STRATEGY"), st.bold("STATE"), st.bold("IN USE"), st.bold("AGE"), st.bold("NOT IN USE")}}
	text := ""
	for _, x := range list {
		age := "unknown"
		if x.Rotated != nil {
			age = tasks.AgeText(now.Sub(*x.Rotated))
		}
		if x.MaxAge != "" {
			age += " of " + x.MaxAge
		}
		if x.Due {
			age = st.yellow(age + ", due")
		}
		old := ""
		if x.OldRole != "" {
			old = x.OldRole + ": " + count(x.OldSessions, "session", "sessions")
			if x.OldPassword {
				old += ", has its old password"
			}
		}
		stage := x.Stage
		switch {
		case x.Problem != "":
			if stage == "" {
				stage = "failed"
			}
			stage = st.red(stage)
			text += st.red(x.Role+" on "+x.Cluster+":") + " " + clean(x.Problem) + "\n"
		case stage != string(tasks.Settled):
			stage = st.yellow(stage)
		}
		rows = append(rows, []string{clean(x.Role), clean(x.Cluster), x.Strategy, stage, clean(x.User), age, clean(old)})
	}
	return columns(rows) + text
}
