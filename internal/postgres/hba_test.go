package postgres

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var sameHBA = cmp.Options{
	cmpopts.IgnoreFields(HBARule{}, "Line", "Comment"),
	cmpopts.IgnoreFields(IdentRule{}, "Line", "Comment"),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
}

// mustRules parses rules that a test takes for granted.
func mustRules(t *testing.T, text string, version Version) []HBARule {
	t.Helper()
	lines, err := ParseHBA(text, version)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := HBARules(lines)
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

func TestParseHBAErrors(t *testing.T) {
	text := `host all all 10.0.0.0/8 scram
hostsll all all all md5
# fine
local all all peer map=x  # why
host all all 10.0.0.0/33 md5
host all all db.example.com/24 md5
host all all 10.0.0.1 md5
host all all scram-sha-256
host all all all \
  peer
host all all all ldap ldapserver=x ldapbasedn=dc ldapbindpasswd=two words
hostssl all all all cert clientcrt=verify-full
include more.conf
host all all all oauth issuer=x scope=y
local all`
	_, err := ParseHBA(text, 150000)
	want := []string{
		`line 1, column 25: invalid authentication method "scram" (did you mean "scram-sha-256"?)`,
		`line 2, column 1: invalid connection type "hostsll" (did you mean "hostssl"?)`,
		`line 5, column 14: invalid CIDR mask in address "10.0.0.0/33" (0 to 32)`,
		`line 6, column 14: specifying both host name and CIDR mask is invalid: "db.example.com/24" (a range is: 10.0.0.0/24; a host name stands alone)`,
		`line 7, column 23: invalid IP mask "md5" (write 10.0.0.1/32 for this one address)`,
		`line 8, column 14: end-of-line before authentication method (the address is missing before the method; all is any address)`,
		`line 10, column 3: peer authentication is only supported on local sockets (use scram-sha-256, or a local rule)`,
		`line 11, column 69: authentication option not in name=value format (an option is: name=value, in double quotes if it has blanks)`,
		`line 12, column 26: unrecognized authentication option name: "clientcrt" (did you mean "clientcert"?)`,
		`line 13, column 1: invalid connection type "include" (it exists from PostgreSQL 16 on; put the rules into this file)`,
		`line 14, column 18: invalid authentication method "oauth" (it exists from PostgreSQL 18 on)`,
		`line 15, column 10: end-of-line before role specification (a line is: local DATABASE USER METHOD)`,
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Error(diff)
	}
}

func TestParseHBAVersions(t *testing.T) {
	for _, test := range []struct {
		text string
		good []int // majors that take it
	}{
		{"hostssl all all all md5 clientcert=1", []int{13}},
		{"hostssl all all all cert clientcert=verify-ca", []int{13}},
		{"hostssl all all all cert clientname=DN", []int{14, 15, 16, 17, 18}},
		{"host all all all oauth issuer=x scope=y", []int{18}},
		{"host all /( all md5", []int{13, 14, 15}},
		{"host all all \\\nall md5", []int{14, 15, 16, 17, 18}},
		{"include_dir 'x'", []int{16, 17, 18}},
	} {
		var good []int
		for major := 13; major <= 18; major++ {
			if _, err := ParseHBA(test.text, MajorVersion(major)); err == nil {
				good = append(good, major)
			}
		}
		if diff := cmp.Diff(test.good, good); diff != "" {
			t.Errorf("%q: %s", test.text, diff)
		}
	}
}

func TestHBALines(t *testing.T) {
	lines, err := ParseHBA("# head\n\nlocal all all peer # own\ninclude \"a b\"\n", 160000)
	if err != nil {
		t.Fatal(err)
	}
	if len(lines) != 4 || lines[0].Comment != "head" || lines[2].Rule.Comment != "own" || lines[2].Rule.Line != 3 ||
		lines[3].Include.String() != `include "a b"` {
		t.Errorf("%+v", lines)
	}
	if _, err := HBARules(lines); err == nil {
		t.Error("an include is passed over")
	}
}

func TestRenderHBA(t *testing.T) {
	rules := []HBARule{
		{Type: "local", Databases: []HBAToken{{Text: "all"}}, Users: []HBAToken{HBAName("postgres")}, Method: "peer", Options: []HBAOption{{"map", "a b"}}},
		{Type: "hostssl", Databases: []HBAToken{HBAName("all"), HBAName("app db")}, Users: []HBAToken{HBAName("+x"), {Text: "+grp"}},
			Address: HBAPrefix(netip.MustParsePrefix("10.77.0.0/24")), Method: "scram-sha-256", Comment: "the\napplication \\"},
		{Type: "host", Databases: []HBAToken{{Text: "all"}}, Users: []HBAToken{{Text: "all"}}, Address: HBAAddress{Keyword: "all"}, Method: "reject"},
	}
	want := `# Kept by a test.

# TYPE   DATABASE        USER       ADDRESS       METHOD
local    all             postgres                 peer "map=a b"
hostssl  "all","app db"  "+x",+grp  10.77.0.0/24  scram-sha-256  # the application
host     all             all        all           reject
`
	got := RenderHBA("Kept by a test.", rules)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(rules, mustRules(t, got, 150000), sameHBA); diff != "" {
		t.Error(diff)
	}
}

func TestEvaluateUncertain(t *testing.T) {
	rules := mustRules(t, "host all all db.example.com ldap ldapserver=x ldapbasedn=d ldapbinddn=b ldapbindpasswd=hushhush\nhost all +grp all md5\nhost all all samenet trust\nhost @f all all md5\nhost all all 10.0.0.0/8 reject", 150000)
	conn := HBAConn{Database: "app", User: "u", Addr: netip.MustParseAddr("10.1.2.3")}
	matched, ok, why := Evaluate(rules, conn)
	if !ok || matched.Line != 5 || !strings.Contains(why, `line 1: the rule "host all all db.example.com ldap`) || strings.Contains(why, "hushhush") {
		t.Error(matched, ok, why)
	}
	if _, ok, why := Evaluate(rules[1:2], conn); ok || !strings.Contains(why, `"grp"`) {
		t.Error(ok, why)
	}
	if _, ok, why := Evaluate(rules[2:3], conn); ok || !strings.Contains(why, "own addresses") {
		t.Error(ok, why)
	}
	if _, ok, why := Evaluate(rules[3:4], conn); ok || !strings.Contains(why, "@f") {
		t.Error(ok, why)
	}
	if _, ok, why := Evaluate(mustRules(t, `host /^a(?=p) all all trust`, 160000), conn); ok || !strings.Contains(why, "regular expression") {
		t.Error(ok, why)
	}
}

func TestUnreachable(t *testing.T) {
	for _, test := range []struct {
		text string
		want string // lines of the shadowed rules and of what shadows them
	}{
		{"host all all all md5\nhostssl app u 10.0.0.0/8 md5", "2<1"},
		{"hostssl app u 10.0.0.0/8 md5\nhost all all all md5", ""},
		{"host all all all md5\nhost replication all all md5", ""},
		{"host all,replication all all md5\nhost replication r ::1/128 md5", "2<1"},
		{"host all all 10.0.0.0/8 md5\nhost all all 10.1.0.0/16 md5\nhost all all 11.0.0.0/8 md5\nhost all all ::/0 md5", "2<1"},
		{"host all all 0.0.0.0/0 reject\nhost all all samenet md5", ""},
		{"local all all peer\nhost all all all md5\nlocal app u md5", "3<1"},
		{"host a,b u all md5\nhost a u,v all md5\nhost b u all md5", "3<1"},
		{"host \"all\" u all md5\nhost all u all md5\nhost all \"u\" all md5", "3<2"},
		{"hostnossl all all all md5\nhostgssenc all all all gss\nhostssl all all all md5", "2<1"},
		{"host all +g all md5\nhost all u all md5\nhost all +g all md5", "3<1"},
		{"host all all .example.com md5\nhost all all db.Example.com md5", "2<1"},
		{"host samerole all all md5\nhost sameuser all all md5\nhost all all all md5\nhost @f all all md5", ""},
	} {
		var got []string
		for _, s := range Unreachable(mustRules(t, test.text, 150000)) {
			got = append(got, string(rune('0'+s.Rule.Line))+"<"+string(rune('0'+s.By.Line)))
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%q: %v, want %s", test.text, got, test.want)
		}
	}
}

func TestQuoteHBA(t *testing.T) {
	for _, name := range []string{"app", "all", "replication", "sameuser", "+x", "@x", "a b", "a,b", `a"b`, "#x", "x#", "ä", `x\`, " ", "include"} {
		text := "host " + QuoteHBA(name) + " " + QuoteHBA(name) + " all md5"
		rules := mustRules(t, text, 150000)
		if rules[0].Databases[0].Text != name || len(rules[0].Databases) != 1 {
			t.Errorf("%q reads back as %q", name, rules[0].Databases)
		}
		conn := HBAConn{Database: name, User: name, Addr: netip.MustParseAddr("::1"), Version: 150000}
		if _, ok, why := Evaluate(rules, conn); !ok || why != "" {
			t.Errorf("%q does not match itself", name)
		}
	}
}

func FuzzParseHBA(f *testing.F) {
	for _, line := range hbaCorpus {
		f.Add(line, 15)
		f.Add(line, 18)
	}
	f.Add("host all \\\nall all md5", 14)
	f.Fuzz(func(t *testing.T, text string, major int) {
		version := MajorVersion(13 + (major%6+6)%6)
		lines, err := ParseHBA(text, version)
		for _, e := range ParseErrors(err) {
			if e.Line < 1 || e.Line > strings.Count(text, "\n")+1 || e.Column < 0 {
				t.Errorf("position %d:%d", e.Line, e.Column)
			}
		}
		var rules []HBARule
		for _, l := range lines {
			if l.Rule != nil {
				rules = append(rules, *l.Rule)
			}
		}
		again, err := ParseHBA(RenderHBA(text, rules), version)
		if err != nil {
			t.Fatalf("%v in:\n%s", err, RenderHBA("", rules))
		}
		back, err := HBARules(again)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(rules, back, sameHBA); diff != "" {
			t.Fatal(diff)
		}
		Unreachable(rules)
		NormalizeRules(rules)
		Evaluate(rules, HBAConn{Database: "a", User: "b", Addr: netip.MustParseAddr("10.0.0.1")})
	})
}
