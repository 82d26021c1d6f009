package backup

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// disproven is the state, here alone, of a set that is whole and that verify could not
// read or restore. Whether that is the set's fault is for somebody to find out, so it
// neither counts nor goes; the script on a host has the same rule.
const disproven State = "disproven"

// A Verdict says whether a set is to go.
type Verdict struct {
	Set    *Set
	Delete bool
	Reason string // why it goes or stays
}

// ahead is how far in the future a set may have begun before it is taken for one of a
// clock that was wrong.
const ahead = 24 * time.Hour

// Retain decides for each set, in the order of sets, whether it goes, so that the newest keep good ones
// of each backup, instance and database cluster (its system identifier) stay. Nothing goes while the newest run that has ended is
// not good, while one lies in the future, nor what no manifest lists. Active tells which sets are known to be in the
// making; nil for none.
func Retain(sets []Set, keep int, now time.Time, active func(*Set) bool) []Verdict {
	verdicts := make([]Verdict, len(sets))
	groups := make(map[[2]string][]int)
	for i := range sets {
		s := &sets[i]
		verdicts[i].Set = s
		key := [2]string{s.Backup, s.Instance}
		groups[key] = append(groups[key], i)
	}
	for _, members := range groups {
		retain(verdicts, members, keep, func(s *Set) (State, string) {
			st, why := s.State(now, active != nil && active(s))
			if p := s.Proven(); st == Good && p != nil && !p.OK {
				return disproven, "verify could not prove it: " + p.Message
			}
			return st, why
		}, now)
	}
	return verdicts
}

// retain decides for the sets of one backup and instance.
func retain(verdicts []Verdict, members []int, keep int, state func(*Set) (State, string), now time.Time) {
	newestFirst(verdicts, members)
	blocked := ""
	for _, i := range members {
		s := verdicts[i].Set
		if s.Began().Sub(now) > ahead {
			blocked = fmt.Sprintf("the set %s lies in the future, so a clock was wrong: nothing goes until it is removed by hand, or its time has come", s.ID)
			break
		}
		st, why := state(s)
		if st == Running {
			continue
		}
		if st != Good {
			blocked = fmt.Sprintf("the newest run, %s, is %s (%s): nothing goes until one is good again", s.ID, st, why)
		}
		break
	}
	newer := map[string]int{} // good ones, by the cluster
	for _, i := range members {
		v := &verdicts[i]
		st, why := state(v.Set)
		system := ""
		if v.Set.Manifest != nil {
			system = v.Set.Manifest.SystemIdentifier
		}
		if st == Good {
			newer[system]++
		}
		good := newer[system]
		switch {
		case st == Running:
			v.Reason = "running: " + why
		case st == Good && good <= max(keep, 1):
			v.Reason = fmt.Sprintf("good, %d of the %d that are kept", good, max(keep, 1))
		case blocked != "":
			v.Reason = blocked
		case st == Good:
			v.Delete, v.Reason = true, fmt.Sprintf("there are %d newer good sets", good-1)
		case st == Damaged && v.Set.Manifest != nil && good >= max(keep, 1):
			v.Delete, v.Reason = true, fmt.Sprintf("%s, and there are %d newer good sets", why, good)
		case st == Damaged, st == disproven:
			v.Reason = string(st) + ": " + why
		default:
			v.Reason = fmt.Sprintf("%s: no manifest lists its files, remove them by hand (%s)", st, why)
		}
	}
}

// newestFirst sorts indexes of sets by the sets' IDs, which are times.
func newestFirst(verdicts []Verdict, members []int) {
	slices.SortFunc(members, func(a, b int) int { return strings.Compare(verdicts[b].Set.ID, verdicts[a].Set.ID) })
}
