package inventory

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Rollout is the table [rollout]: how apply goes from host to host. Without it all hosts are one wave, and the failure of one
// stops nobody but the members of its replication cluster.
type Rollout struct {
	Canary      Canary
	Batches     []Share // sizes of the waves after the canary, in hosts; the last one repeats; nil for all at once
	Pause       time.Duration
	MaxFailures *Share // how many hosts may be in trouble; nil for any number
	Order       []Selector
	Gate        string
	GateTimeout time.Duration
	MaxLag      Size
	// TransactionWait is how long a restart waits for transactions that are open for long; nil when not said.
	TransactionWait *time.Duration
	DeadMan         time.Duration // 0 when not said
}

// A Canary is the first wave: a number of hosts, or certain ones. The zero Canary is none.
type Canary struct {
	Count int
	Hosts []Selector
}

// rolloutTable is what [rollout] may hold.
type rolloutTable struct {
	Canary          canaryValue            `toml:"canary" doc:"The first wave: a number of hosts, or a list of selectors. Any failure in it stops the rollout."`
	Batches         Positioned[shares]     `toml:"batches" doc:"How many hosts the next waves have: a number, a percentage of all (rounded up), or a list of these, of which the last one repeats. All that are left by default."`
	Pause           time.Duration          `toml:"pause" doc:"How long to wait between waves, such as \"2m\"."`
	MaxFailures     Positioned[*Share]     `toml:"max_failures" doc:"How many hosts may fail, as a number or a percentage of all: reserved before a host starts, so that no more are worked on at once than may still fail. Any number by default."`
	Order           []Positioned[string]   `toml:"order" doc:"Selectors: whose hosts come first. Hosts that none of them means come last, all in the order of this file."`
	Gate            string                 `toml:"gate" doc:"A command on this machine that must exit with 0 after each wave, before the next one begins."`
	GateTimeout     time.Duration          `toml:"gate_timeout" doc:"How long hosts of a wave may take until their clients and standbys are back, and how long the command may run; \"1m\" by default."`
	MaxLag          Size                   `toml:"max_lag" doc:"How far the standbys may be behind before a member of their cluster restarts, such as \"64MB\", the default."`
	TransactionWait Positioned[timeOrNone] `toml:"transaction_wait" doc:"How long a restart waits for transactions that have been open for more than 5s; after that the host is left alone. Backups are waited for as long. \"1m\" by default; \"0s\" cuts transactions off at once, and waits for backups 1m."`
	DeadMan         time.Duration          `toml:"dead_man" doc:"After how long a host puts a change back by itself when pgfleet is not heard of any more; \"5m\" by default."`
}

// rollout makes the Rollout of [rollout]. Selectors are checked, so the hosts have to be known.
func (l *loader) rollout() {
	t := l.file.Rollout
	r := Rollout{
		Pause: t.Pause, MaxFailures: t.MaxFailures.Value, Gate: t.Gate, GateTimeout: t.GateTimeout, MaxLag: t.MaxLag,
		Batches: t.Batches.Value, TransactionWait: t.TransactionWait.Value.d, DeadMan: t.DeadMan, Canary: Canary{Count: t.Canary.count},
	}
	if m := r.MaxFailures; m != nil && m.Of(math.MaxInt32) == 0 {
		l.errs.Add(t.MaxFailures.Pos(), "max_failures: want at least 1: with it the first failure stops the rollout")
	}
	for _, b := range r.Batches {
		if b.Of(math.MaxInt32) == 0 {
			l.errs.Add(t.Batches.Pos(), "batches: a wave has at least 1 host")
		}
	}
	for _, s := range t.Canary.hosts {
		if sel, ok := l.selector("canary", s); ok {
			r.Canary.Hosts = append(r.Canary.Hosts, sel)
		}
	}
	for _, s := range t.Order {
		if sel, ok := l.selector("order", s); ok {
			r.Order = append(r.Order, sel)
		}
	}
	l.fleet.Rollout = r
}

// A canaryValue is a number of hosts or a list of selectors.
type canaryValue struct {
	count int
	hosts []Positioned[string]
}

// UnmarshalNode takes a number, a string or a list of strings.
func (c *canaryValue) UnmarshalNode(n *Node) Errors {
	var errs Errors
	switch n.Kind {
	case KindInt:
		if n.Int < 0 {
			errs.Add(n.Pos, "want a number of hosts or a list of selectors, found %d", n.Int)
		}
		c.count = int(n.Int)
	case KindString, KindList:
		items := n.Items
		if n.Kind == KindString {
			items = []*Node{n}
		}
		for _, item := range items {
			if item.Kind != KindString {
				errs.Add(item.Pos, "want a selector such as \"pg03\", found %s", item.describe())
				continue
			}
			c.hosts = append(c.hosts, Positioned[string]{item.Str, item})
		}
	default:
		errs.Add(n.Pos, "want a number of hosts or a list of selectors, found %s", n.describe())
	}
	return errs
}

// JSONSchema describes both forms.
func (canaryValue) JSONSchema() map[string]any {
	return map[string]any{"anyOf": []any{map[string]any{"type": "integer", "minimum": 0}, Strings{}.JSONSchema()}}
}

// A Share is a number of hosts, or a percentage of all of them.
type Share struct {
	Count   int
	Percent float64 // counts if it is not 0
}

// Of returns how many of n hosts the share is: percentages are rounded up, and it is never more than n.
func (s Share) Of(n int) int {
	if s.Percent > 0 {
		// 30% of 10 is 3.0000000000000004 in floating point.
		return min(n, int(math.Ceil(s.Percent*float64(n)/100-1e-9)))
	}
	return min(n, s.Count)
}

// String returns the share as it is written.
func (s Share) String() string {
	if s.Percent > 0 {
		return strconv.FormatFloat(s.Percent, 'f', -1, 64) + "%"
	}
	return strconv.Itoa(s.Count)
}

// UnmarshalNode takes a number or a percentage.
func (s *Share) UnmarshalNode(n *Node) Errors {
	var errs Errors
	switch n.Kind {
	case KindInt:
		if n.Int < 0 || n.Int > math.MaxInt32 {
			errs.Add(n.Pos, "want a number of hosts or a percentage such as \"25%%\", found %d", n.Int)
			return errs
		}
		s.Count = int(n.Int)
	case KindString:
		text, ok := strings.CutSuffix(strings.TrimSpace(n.Str), "%")
		p, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		if !ok || err != nil || !(p > 0 && p <= 100) {
			errs.Add(n.Pos, "want a number of hosts or a percentage such as \"25%%\", found %q", n.Str)
			return errs
		}
		s.Percent = p
	default:
		errs.Add(n.Pos, "want a number of hosts or a percentage such as \"25%%\", found %s", n.describe())
	}
	return errs
}

// JSONSchema describes both forms.
func (Share) JSONSchema() map[string]any {
	return map[string]any{"anyOf": []any{
		map[string]any{"type": "integer", "minimum": 0},
		map[string]any{"type": "string", "pattern": `^ *[0-9]+([.][0-9]+)? *% *$`},
	}}
}

// shares are one Share or a list of them.
type shares []Share

// UnmarshalNode takes one or a list.
func (s *shares) UnmarshalNode(n *Node) Errors {
	items := n.Items
	if n.Kind != KindList {
		items = []*Node{n}
	}
	var errs Errors
	for _, item := range items {
		var one Share
		errs = append(errs, one.UnmarshalNode(item)...)
		*s = append(*s, one)
	}
	return errs
}

// JSONSchema describes one or a list.
func (shares) JSONSchema() map[string]any {
	one := Share{}.JSONSchema()
	return map[string]any{"anyOf": append(one["anyOf"].([]any), map[string]any{"type": "array", "items": one})}
}

// A Size is a number of bytes.
type Size int64

// UnmarshalNode takes a number of bytes, or one with a unit as in postgresql.conf: kB, MB, GB or TB, each 1024 times the one
// before.
func (s *Size) UnmarshalNode(n *Node) Errors {
	var errs Errors
	if n.Kind == KindInt && n.Int >= 0 {
		*s = Size(n.Int)
		return errs
	}
	text := strings.TrimSpace(n.Str)
	for i, unit := range []string{"kB", "MB", "GB", "TB"} {
		number, ok := strings.CutSuffix(text, unit)
		if v, err := strconv.ParseInt(strings.TrimSpace(number), 10, 32); ok && err == nil && v >= 0 {
			*s = Size(v << (10 * (i + 1)))
			return errs
		}
	}
	found := n.describe()
	if n.Kind == KindString {
		found = strconv.Quote(n.Str)
	}
	errs.Add(n.Pos, "want a size such as \"64MB\" (kB, MB, GB, TB), found %s", found)
	return errs
}

// JSONSchema describes both forms.
func (Size) JSONSchema() map[string]any {
	return map[string]any{"anyOf": []any{
		map[string]any{"type": "integer", "minimum": 0},
		map[string]any{"type": "string", "pattern": "^ *[0-9]+ *(kB|MB|GB|TB) *$"},
	}}
}

// String returns the size with the largest unit that divides it.
func (s Size) String() string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	i := 0
	for s != 0 && s%1024 == 0 && i < len(units)-1 {
		s /= 1024
		i++
	}
	return fmt.Sprintf("%d%s", int64(s), units[i])
}

// A timeOrNone tells a duration of zero from one that is not given.
type timeOrNone struct{ d *time.Duration }

// UnmarshalNode takes a duration.
func (t *timeOrNone) UnmarshalNode(n *Node) Errors {
	t.d = new(time.Duration)
	return Decode(n, t.d)
}

// JSONSchema describes a duration.
func (timeOrNone) JSONSchema() map[string]any { return SchemaOf(time.Duration(0)) }
