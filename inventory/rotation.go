package inventory

import (
	"reflect"
	"strconv"
	"strings"
	"time"
)

// A Rotation is one entry of [[rotation]]: a role whose password is changed together with the secret that holds it. Its values
// are raw, templates and all; package tasks decodes them once they are rendered for an instance.
type Rotation struct {
	Role  string
	Pos   Position // of the role
	Limit Selector // everything when not given
	Body  *Node    // the other keys
}

// rotationKeys are the keys of a rotation that are no templates.
type rotationKeys struct {
	Role  Positioned[string] `toml:"role" required:"true" doc:"The role whose password is rotated, and the name that pgfleet rotate takes. With strategy = \"alternate\" it is the NOLOGIN role that owns the grants."`
	Limit Positioned[string] `toml:"limit" doc:"A selector: which clusters the rotation is for; all by default."`
}

// checkRotations makes the list of rotations.
func (l *loader) checkRotations() {
	first := map[string]Position{}
	for _, n := range l.rotations {
		if n.Kind != KindTable {
			l.errs.Add(n.Pos, "rotation: want a table, found %s", n.describe())
			continue
		}
		common := namesOf(reflect.TypeFor[rotationKeys]())
		var keys rotationKeys
		l.errs = append(l.errs, Decode(n.only(common), &keys)...)
		r := Rotation{Role: keys.Role.Value, Pos: n.Pos, Body: n.Without(common...)}
		if name := keys.Role.Node; name != nil && name.Kind == KindString {
			r.Pos = name.Pos
			if pos, ok := first[r.Role]; ok {
				l.errs.Add(name.Pos, "the role %q is rotated already, by the table at %s", r.Role, pos)
			}
			first[r.Role] = name.Pos
		}
		limit, ok := l.limit(keys.Limit)
		r.Limit = limit
		if ok && r.Role != "" {
			l.fleet.Rotations = append(l.fleet.Rotations, r)
		}
	}
}

// An Age is a length of time that may be written in days, such as "90d", or in the units of Go, such as "36h".
type Age time.Duration

// UnmarshalNode takes a string.
func (a *Age) UnmarshalNode(n *Node) Errors {
	var errs Errors
	if n.Kind == KindString {
		if days, ok := strings.CutSuffix(n.Str, "d"); ok {
			if count, err := strconv.ParseUint(days, 10, 16); err == nil {
				*a = Age(time.Duration(count) * 24 * time.Hour)
				return nil
			}
		}
		if d, err := time.ParseDuration(n.Str); err == nil && d >= 0 {
			*a = Age(d)
			return nil
		}
	}
	errs.Add(n.Pos, `want a length of time such as "90d" or "36h", found %s`, n.describe())
	return errs
}

// String returns whole days as days.
func (a Age) String() string {
	const day = 24 * time.Hour
	if d := time.Duration(a); d >= day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	return time.Duration(a).String()
}

// JSONSchema describes the string.
func (Age) JSONSchema() map[string]any {
	return map[string]any{"type": "string", "pattern": `^([0-9]+d|([0-9.]+(ns|us|µs|ms|s|m|h))+)$`}
}
