package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pgfleet/pgfleet/internal/rollout"
	"github.com/pgfleet/pgfleet/tasks"
)

// lockouts shows who would lose access.
func (t *planText) lockouts(group []rollout.Known) {
	t.notes(group, "would lose access", t.style.red, func(p *tasks.Plan) []tasks.Note {
		var list []tasks.Note
		for _, l := range p.Lockouts {
			list = append(list, tasks.Note{Text: l.String() + "; to go on: " + rollout.AllowFlag(l)})
		}
		return list
	})
}

// lockouts refuses the instances where somebody would lose access, before
// anybody is asked.
func (x *applying) lockouts(s *session, known []rollout.Known) error {
	if err := s.run.CheckAllowLockout(known); err != nil {
		return &inputError{err}
	}
	s.run.RefuseLockouts(known)
	if refused := lockedOut(known); refused > 0 && !x.yes && x.file == "" {
		x.app.ui.Note(fmt.Sprintf("%s refused, because somebody would lose access there", count(refused, "instance is", "instances are")))
	}
	return nil
}

func lockedOut(known []rollout.Known) int {
	n := 0
	for _, k := range known {
		if _, ok := errors.AsType[*rollout.LockoutError](k.Err); ok {
			n++
		}
	}
	return n
}

// completeLockouts completes the names that are known without asking a host.
func (a *app) completeLockouts(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	list := []string{tasks.Ourselves + "\tpgfleet's own connection", "all\teverybody"}
	fleet := a.known()
	for _, c := range fleet.Clients {
		list = append(list, c.Name+"\tclient")
	}
	for _, h := range fleet.Hosts {
		if len(h.Instances) > 0 && h.Instances[0].Replication != "" {
			list = append(list, "standby:"+h.Name)
		}
	}
	return matching(list, typed), cobra.ShellCompDirectiveNoFileComp
}
