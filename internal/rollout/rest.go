package rollout

import (
	"slices"
	"strings"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

// HoldRest is Hold for a run that goes on where an earlier one of the same plan
// was cut off: not all of the plan has to be due any more, but nothing else may
// be. Removing what the earlier run had staged is not of the plan, and allowed.
func (p *SavedPlan) HoldRest(known []Known, d *secrets.Digester, mask func(string) string) error {
	return p.hold(known, d, mask, notIn)
}

// notIn says what is due now and is not in the plan.
func notIn(saved, now SavedInstance) []string {
	var list []string
	left := flatten(saved)
	for _, c := range flatten(now) {
		// The intent may give another reason for the same reload.
		i := slices.IndexFunc(left, func(o plannedChange) bool {
			return o.Key == c.Key && o.Before == c.Before && o.After == c.After && o.Action == c.Action
		})
		switch {
		case i >= 0:
			left = slices.Delete(left, i, i+1)
		case strings.HasPrefix(c.Key, "staging:"):
		case slices.ContainsFunc(left, func(o plannedChange) bool { return o.Key == c.Key && o.Before != c.Before }):
			list = append(list, c.Key+" has changed on the host since")
		default:
			list = append(list, "not in the plan: "+c.Intent)
		}
	}
	return list
}
