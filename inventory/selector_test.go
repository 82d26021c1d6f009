package inventory

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const selectorFleet = `
[fleet]
name = "f"
[postgres]
version = 15
[hosts.pg01]
replication = "orders"
[hosts.pg02]
replication = "orders"
[hosts.pg10.instances.main]
replication = "stock"
[hosts.pg10.instances.second]
port = 5433
[groups.eu]
hosts = ["pg0*"]
[groups.world]
hosts = ["eu", "pg10"]
[groups.empty]
`

// selectorRole says that pg01 is a primary and pg02 a standby, and nothing of pg10.
func selectorRole(id InstanceID) (string, bool) {
	role, ok := map[InstanceID]string{"pg01": "primary", "pg02": "standby"}[id]
	return role, ok
}

func TestSelector(t *testing.T) {
	f := mustLoad(t, selectorFleet)
	const everything = "pg01 pg02 pg10/main pg10/second"
	tests := []struct{ selector, yes, unknown string }{
		{"", everything, ""},
		{"all", everything, ""},
		{"pg01", "pg01", ""},
		{"pg01/main", "pg01", ""},
		{"pg10", "pg10/main pg10/second", ""},
		{"pg10/second", "pg10/second", ""},
		{"pg1*/*", "pg10/main pg10/second", ""},
		{"*/second", "pg10/second", ""},
		{"pg?[12]", "pg01 pg02", ""},
		{"orders", "pg01 pg02", ""},
		{"eu", "pg01 pg02", ""},
		{"world", everything, ""},
		{"empty", "", ""},
		{"empty,stock", "pg10/main", ""},
		{"eu:!pg02", "pg01", ""},
		{"!pg02:eu", "pg01", ""},
		{" eu : ! pg02 , stock ", "pg01 pg10/main", ""},
		{"!pg02", "pg01 pg10/main pg10/second", ""},
		{"world,!pg02", "pg01 pg10/main pg10/second", ""},
		{"!eu:!stock", "pg10/second", ""},
		{"pg01:pg02", "", ""},
		{"role=primary", "pg01", "pg10/main pg10/second"},
		{"role=primary|standby", everything, ""},
		{"!role=standby", "pg01", "pg10/main pg10/second"},
		{"eu:role=standby", "pg02", ""},
		{"stock,role=standby", "pg02 pg10/main", "pg10/second"},
	}
	for _, tt := range tests {
		t.Run(tt.selector, func(t *testing.T) {
			s, err := ParseSelector(tt.selector)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Check(f); err != nil {
				t.Error(err)
			}
			yes, unknown := s.Select(f, selectorRole)
			if got := ids(yes); got != tt.yes {
				t.Errorf("selects %s, want %s", got, tt.yes)
			}
			if got := ids(unknown); got != tt.unknown {
				t.Errorf("does not know of %s, want %s", got, tt.unknown)
			}
			if want := strings.Contains(tt.selector, "role="); s.NeedsRole() != want {
				t.Errorf("NeedsRole is %t, want %t", !want, want)
			}
		})
	}
}

func ids(instances []Instance) string {
	var list []string
	for _, i := range instances {
		list = append(list, string(i.ID()))
	}
	return strings.Join(list, " ")
}

func TestSelectorMistakes(t *testing.T) {
	f := mustLoad(t, selectorFleet)
	tests := []struct{ selector, want string }{
		{",", "column 1: a name is missing here"},
		{"eu,", "column 4: a name is missing here"},
		{"eu:", "column 4: a name is missing here"},
		{"eu, !", "column 6: a name is missing here"},
		{"eu, pg€", "column 7: '€' is not part of a name"},
		{"eu pg01", "column 3: ' ' is not part of a name"},
		{"pg[", `column 1: "pg[" is no valid glob`},
		{"rolle=primary", `column 1: "rolle" cannot be asked for; only role=primary and role=standby can`},
		{"eu:role=primary|standbye", `column 17: there is no role "standbye" (did you mean "standby"?); a server is primary or standby`},
		{"role=", `column 6: there is no role ""; a server is primary or standby`},
		{"ue,ordres,!zz*", "column 1: there is no host, group or replication cluster \"ue\" (did you mean \"eu\"?)\n" +
			"column 4: there is no host, group or replication cluster \"ordres\" (did you mean \"orders\"?)\n" +
			`column 12: "zz*" matches no host`},
		{"pg10/secnd", `column 1: there is no host, group or replication cluster "pg10/secnd" (did you mean "pg10/second"?)`},
	}
	for _, tt := range tests {
		t.Run(tt.selector, func(t *testing.T) {
			s, err := ParseSelector(tt.selector)
			if err == nil {
				err = s.Check(f)
			}
			var serr *SelectorError
			if !errors.As(err, &serr) {
				t.Fatalf("%v, want a SelectorError", err)
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestSelectorAlgebra compares selectors with operations on sets of names, for random fleets and expressions.
func TestSelectorAlgebra(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts := rapid.IntRange(1, 6).Draw(t, "hosts")
		groups := rapid.IntRange(0, 3).Draw(t, "groups")
		var text strings.Builder
		text.WriteString("[fleet]\nname = 'f'\n[postgres]\nversion = 15\n")
		sets := map[string]map[string]bool{"all": {}} // what each name stands for, worked out here
		names := []string{"all"}
		put := func(name, host string) {
			if sets[name] == nil {
				sets[name] = map[string]bool{}
				names = append(names, name)
			}
			if host != "" {
				sets[name][host] = true
			}
		}
		for h := range hosts {
			host := fmt.Sprintf("h%d", h)
			replication := fmt.Sprintf("r%d", rapid.IntRange(0, 2).Draw(t, "replication"))
			fmt.Fprintf(&text, "[hosts.%s]\nreplication = '%s'\n", host, replication)
			for _, name := range []string{"all", "h*", host, replication, "role=" + role(InstanceID(host))} {
				put(name, host)
			}
		}
		for g := range groups {
			group := fmt.Sprintf("g%d", g)
			put(group, "")
			var members []string
			for h := range hosts {
				if host := fmt.Sprintf("h%d", h); rapid.Bool().Draw(t, "member") {
					members = append(members, "'"+host+"'")
					put(group, host)
				}
			}
			fmt.Fprintf(&text, "[groups.%s]\nhosts = [%s]\n", group, strings.Join(members, ", "))
		}
		f, err := Load("fleet.toml", Options{FS: files(map[string]string{"fleet.toml": text.String()})})
		if err != nil {
			t.Fatal(err)
		}

		// A selector, and the set that it means by its definition.
		in, out, positive := map[string]bool{}, map[string]bool{}, false
		var alternatives []string
		for range rapid.IntRange(1, 4).Draw(t, "alternatives") {
			alt, negatives, terms := clone(sets["all"]), 0, []string{}
			for range rapid.IntRange(1, 3).Draw(t, "terms") {
				name := rapid.SampledFrom(names).Draw(t, "name")
				not := rapid.Bool().Draw(t, "not")
				for host := range sets["all"] {
					if sets[name][host] == not {
						delete(alt, host)
					}
				}
				if not {
					negatives++
					name = "!" + name
				}
				terms = append(terms, name)
			}
			alternatives = append(alternatives, strings.Join(terms, ":"))
			if negatives == len(terms) {
				for host := range sets["all"] {
					if !alt[host] {
						out[host] = true
					}
				}
				continue
			}
			positive = true
			for host := range alt {
				in[host] = true
			}
		}
		if !positive {
			in = clone(sets["all"])
		}
		var want []string
		for host := range in {
			if !out[host] {
				want = append(want, host)
			}
		}
		slices.Sort(want)

		match := func(text string) string {
			s, err := ParseSelector(text)
			if err != nil {
				t.Fatal(err)
			}
			yes, unknown := s.Select(f, func(id InstanceID) (string, bool) { return role(id), true })
			if len(unknown) > 0 {
				t.Fatalf("%s: unknown though every role is known", text)
			}
			// What is certain without the roles must stay so with them.
			for _, i := range f.Instances() {
				if a := s.Match(i, nil); a != Unknown && (a == Yes) != slices.ContainsFunc(yes, func(y Instance) bool { return y.ID() == i.ID() }) {
					t.Fatalf("%s: %s is %s without roles and otherwise with them", text, i.ID(), a)
				}
			}
			return ids(yes)
		}
		selector := strings.Join(alternatives, ",")
		if got := match(selector); got != strings.Join(want, " ") {
			t.Fatalf("%s selects %q, want %q in\n%s", selector, got, want, text.String())
		}
		slices.Reverse(alternatives)
		if reversed := strings.Join(alternatives, ","); match(selector) != match(reversed) {
			t.Fatalf("%s and %s differ", selector, reversed)
		}
	})
}

// role makes every second host a primary.
func role(id InstanceID) string {
	if (id[len(id)-1]-'0')%2 == 0 {
		return "primary"
	}
	return "standby"
}

// clone returns a copy.
func clone(m map[string]bool) map[string]bool {
	c := map[string]bool{}
	for k := range m {
		c[k] = true
	}
	return c
}

func FuzzParseSelector(f *testing.F) {
	for _, s := range []string{"", "eu:!pg02", "a,b,!c", "role=primary|standby", "pg[0-9]*/x", " ! ä", "!,:|="} {
		f.Add(s)
	}
	fleet, err := Load("fleet.toml", Options{FS: files(map[string]string{"fleet.toml": selectorFleet})})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSelector(text)
		var serr *SelectorError
		if errors.As(err, &serr) {
			if serr.Offset < 0 || serr.Offset > len(text) || serr.Column < 1 || serr.Column > len(text)+1 {
				t.Errorf("%q: %v is outside of the text", text, serr)
			}
			return
		}
		if err != nil {
			t.Fatalf("%q: %v is no SelectorError", text, err)
		}
		if s.String() != text {
			t.Errorf("String is %q, want %q", s, text)
		}
		_ = s.Check(fleet)
		s.Select(fleet, selectorRole)
	})
}
