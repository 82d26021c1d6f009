package postgres

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os/user"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// hbaCorpus are lines whose acceptance and reading is compared with the server's.
var hbaCorpus = []string{
	"local all all peer", "local all all ident", "local all all trust", "local all all md5", "local all all gss", "local all all cert", "local all all reject",
	"local all all scram-sha-256", "local all all scram", "local all all SCRAM-SHA-256", "local all all pam", "local all all sspi", "local all all bsd", "local all all krb5",
	"local all all", "local all", "local", "locla all all peer", "LOCAL all all peer", `"local" all all peer`, "local,host all all peer", "local all all peer,trust",
	"host all all all md5", "host all all 10.0.0.0/8 md5", "host all all 10.0.0.1/8 md5", "host all all 10.0.0.1 255.0.0.0 md5", "host all all 10.0.0.1 255.0.255.0 md5",
	"host all all 10.0.0.1 md5", "host all all 10.0.0.1", "host all all 10.0.0.1 ::1 md5", "host all all ::1 255.255.255.255 md5", "host all all 10.0.0.0/33 md5",
	"host all all 10.0.0.0/-1 md5", "host all all 10.0.0.0/ md5", "host all all 10.0.0.0/x md5", "host all all 10.0.0.0/+8 md5", "host all all 10.0.0.0/08 md5", "host all all 10.0.0.0/8/8 md5",
	"host all all ::1/128 md5", "host all all ::/0 md5", "host all all ::1/129 md5", "host all all fe80::/10 md5", "host all all FE80::1/128 md5", "host all all ::ffff:10.0.0.1/128 md5",
	"host all all 1:2:3 md5", "host all all ::1 ffff:: md5", "host all all ::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff md5", "host all all 10 255.0.0.0 md5", "host all all 10/8 md5",
	"host all all 10.1/16 md5", "host all all 0x7f.1/32 md5", "host all all 010.0.0.1/32 md5", "host all all 256.0.0.1/32 md5", "host all all 256.0.0.1 md5", "host all all 1.2.3.4.5 md5",
	"host all all 1.2.3.4.5/8 md5", "host all all 127.0.0.01/32 md5", "host all all 4294967295/32 md5", "host all all 4294967296/32 md5", "host all all 1_0.0.0.1/32 md5", "host all all 0b1/32 md5",
	"host all all db.example.com md5", "host all all .example.com md5", "host all all db.example.com/24 md5", "host all all db_1 md5", "host all all samehost md5", "host all all samenet md5",
	"host all all samenet/24 md5", `host all all "all" md5`, `host all all "samenet" md5`, "host all all 10.0.0.0/8,11.0.0.0/8 md5", "host all all 0.0.0.0/0 reject", "host all all md5", "host all all trust map=x",
	"hostssl all all all cert", "hostssl all all all cert map=m", "host all all all cert", "hostnossl all all all cert", "hostnossl all all all md5", "hostssl all all all peer", "host all all all ident",
	"host all all all ident map=m", "host all all all md5 map=m", "hostgssenc all all all gss", "hostgssenc all all all md5", "hostgssenc all all all trust", "hostnogssenc all all all reject",
	"host all all all gss", "host all all all gss include_realm=0", "host all all all gss include_realm=1 krb_realm=EXAMPLE.COM map=m", "host all all all md5 krb_realm=X", "host all all all gss compat_realm=1",
	"hostssl all all all md5 clientcert=verify-ca", "hostssl all all all md5 clientcert=verify-full", "hostssl all all all md5 clientcert=1", "hostssl all all all md5 clientcert=0",
	"hostssl all all all md5 clientcert=no-verify", "hostssl all all all md5 clientcert=x", "hostssl all all all cert clientcert=verify-ca", "hostssl all all all cert clientcert=verify-full",
	"hostssl all all all cert clientcert=no-verify", "hostssl all all all cert clientcert=1", "host all all all md5 clientcert=verify-full", "hostssl all all all cert clientname=DN", "hostssl all all all cert clientname=CN",
	"hostssl all all all cert clientname=XX", "host all all all md5 clientname=DN", "hostssl all all all md5 clientname=DN", "local all all peer map=m", "local all all peer MAP=m", "local all all peer map", "local all all peer map=",
	"local all all peer map=a map=b", "local all all peer foo=bar", "local all all peer map=a,map=b", `local all all peer "map=a b"`, `local all all peer map="a b"`,
	"host all all all pam pamservice=pg", "host all all all pam pam_use_hostname=1", "host all all all md5 pamservice=pg", "host all all all oauth", "host all all all oauth issuer=x scope=y",
	"host all all all ldap", "host all all all ldap ldapserver=x", "host all all all ldap ldapserver=x ldapprefix=cn=", "host all all all ldap ldapserver=x ldapprefix=cn= ldapsuffix=,dc=x",
	`host all all all ldap ldapserver=x ldapprefix="cn=" ldapsuffix=", dc=x"`, "host all all all ldap ldapserver=x ldapbasedn=dc", "host all all all ldap ldapserver=x ldapbasedn=dc ldapprefix=cn",
	"host all all all ldap ldapserver=x ldapbasedn=dc ldapbinddn=d ldapbindpasswd=p ldapsearchattribute=uid", "host all all all ldap ldapserver=x ldapbasedn=dc ldapsearchattribute=uid ldapsearchfilter=f",
	"host all all all ldap ldapserver=x ldapbasedn=dc ldapport=389", "host all all all ldap ldapserver=x ldapbasedn=dc ldapport=x", "host all all all ldap ldapserver=x ldapbasedn=dc ldapport=0", "host all all all ldap ldapserver=x ldapbasedn=dc ldaptls=1",
	"host all all all ldap ldapserver=x ldapbasedn=dc ldaptls=0", "host all all all ldap ldapserver=x ldapbasedn=dc ldapscheme=ldaps", "host all all all ldap ldapbasedn=dc", "host all all all md5 ldaptls=1",
	"host all all all ldap ldapserver=x ldapsuffix=s ldapbinddn=d",
	"host all all all radius", "host all all all radius radiusservers=127.0.0.1", "host all all all radius radiusservers=127.0.0.1 radiussecrets=s", `host all all all radius radiusservers="127.0.0.1,127.0.0.2" radiussecrets="s,t"`,
	`host all all all radius radiusservers="127.0.0.1,127.0.0.2" radiussecrets="s,t,u"`, `host all all all radius radiusservers="127.0.0.1,127.0.0.2" radiussecrets=s radiusports="1,2"`,
	`host all all all radius radiusservers=127.0.0.1 radiussecrets=s radiusports="1,2"`, "host all all all radius radiusservers=127.0.0.1 radiussecrets=s radiusports=x", `host all all all radius radiusservers="" radiussecrets=s`,
	"host a,b,c x,y all md5", "host a, b x ,y all md5", "host a,b, x all md5", `host "all" "all" all md5`, `host "a b" "c,d" all md5`, `host "a""b" x all md5`, `host a"b c"d x all md5`, `host "" x all md5`, `host "open x all md5`,
	"host replication all all md5", "host all,replication all all md5", "host sameuser,samerole,samegroup +grp all md5", "host all +a,+b,c all md5", `host all "+a" all md5`, "host all all all md5 # comment", "host all all all md5#comment",
	"host all al#l all md5", `host all "a#b" all md5`, "# only a comment", "", "   ", ",", ",,host all all all md5", "host\tall\tall\tall\tmd5", "host all all all md5\r", "host all all all md5 ,", "host @ x all md5", `host "@x" x all md5`,
	"host /a.*b x all md5", "host all /^u all md5", "host /( x all md5", `host all "/[" all md5`, "include x.conf y", "include_dir", "host + x all md5", "host all + all md5", "hostsll all all all md5", "hosts all all all md5", "reject",
}

func TestRealHBA(t *testing.T) {
	t.Parallel()
	eachServer(t, func(t *testing.T, s *realServer) {
		t.Run("corpus", func(t *testing.T) { testHBACorpus(t, s) })
		t.Run("continued lines", func(t *testing.T) { testHBAContinued(t, s) })
		t.Run("who gets in", func(t *testing.T) { testEvaluate(t, s) })
		t.Run("password", func(t *testing.T) { testVerifier(t, s) })
		t.Run("ident", func(t *testing.T) { testIdentCorpus(t, s) })
		t.Run("who may be whom", func(t *testing.T) { testMatchIdent(t, s) })
	})
}

// hbaRows asks the server what it makes of the file on disk.
func (s *realServer) hbaRows(t *testing.T) []HBARow {
	t.Helper()
	number, file := "0", "''"
	if s.version.Major() >= 16 {
		number, file = "coalesce(rule_number, 0)", "file_name"
	}
	rows, err := s.Admin.Query(t.Context(), fmt.Sprintf(`SELECT %s AS rule_number, %s AS file, line_number AS line, coalesce(type, '') AS type, database, user_name AS user,
		coalesce(address, '') AS address, coalesce(netmask, '') AS netmask, coalesce(auth_method, '') AS method, options, coalesce(error, '') AS error
		FROM pg_hba_file_rules ORDER BY line_number`, number, file))
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByName[HBARow])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// testHBACorpus: each line is taken or refused as the server does, and read the same; what is rendered is read the same too.
func testHBACorpus(t *testing.T, s *realServer) {
	defer s.Write(t, "pg_hba.conf", adminRule)
	s.Write(t, "pg_hba.conf", strings.Join(hbaCorpus, "\n")+"\n")
	byLine := make(map[int]HBARow)
	for _, row := range s.hbaRows(t) {
		byLine[row.Line] = row
	}
	var good []HBARule
	for i, text := range hbaCorpus {
		theirs, listed := byLine[i+1]
		lines, err := ParseHBA(text, s.version)
		switch {
		case err != nil && !(listed && theirs.Refused()):
			t.Errorf("%q: the server takes it: %v", text, err)
		case err == nil && strings.HasPrefix(theirs.Error, "oauth_validator_libraries must be set"): // needs another setting
		case err == nil && listed && theirs.Refused():
			t.Errorf("%q: taken, but the server: %s", text, theirs.Error)
		case err != nil:
			if say := ParseErrors(err)[0].Msg; say != theirs.Error {
				t.Logf("%q: says %q, the server %q", text, say, theirs.Error)
			}
		default:
			rules, err := HBARules(lines)
			if err != nil || len(rules) == 1 != listed {
				t.Errorf("%q: %d rules, %v", text, len(rules), err)
			}
			if len(rules) == 1 {
				good = append(good, rules[0])
				if want := NormalizeRules(rules); !EqualRows(want, []HBARow{theirs}) {
					t.Errorf("%q: %s", text, cmp.Diff(want, []HBARow{theirs.normal()}))
				}
			}
		}
	}
	s.Write(t, "pg_hba.conf", RenderHBA("All that were taken", good))
	if want, got := NormalizeRules(good), s.hbaRows(t); !EqualRows(want, got) {
		t.Errorf("rendered: %s", cmp.Diff(want, got))
	}
}

func testHBAContinued(t *testing.T, s *realServer) {
	defer s.Write(t, "pg_hba.conf", adminRule)
	for _, text := range []string{
		"host all \\\nall all md5\nlocal all all peer\n",
		"# comment \\\nhost all all all md5\nlocal all all trust\n",
		"host all all a\\\nll md5\n",
		"host all all all md5 \\\n\nlocal all all trust\n",
		"host all all all md5\\\\\n\nlocal all all trust\n",
		"local all all trust\n\\\n\\\nlocal all all reject\n",
		"local all all trust \\",
		"local all all trust",
		"local all all \"a\\\nb\" trust\nlocal x y bad\n",
	} {
		s.Write(t, "pg_hba.conf", text)
		var want []string
		for _, row := range s.hbaRows(t) {
			if row.Refused() {
				want = append(want, fmt.Sprintf("%d bad", row.Line))
			} else {
				want = append(want, fmt.Sprintf("%d %s", row.Line, row.Method))
			}
		}
		lines, err := ParseHBA(text, s.version)
		rules, _ := HBARules(lines)
		var got []string
		for _, r := range rules {
			got = append(got, fmt.Sprintf("%d %s", r.Line, r.Method))
		}
		if len(ParseErrors(err)) > 0 { // compared without order: errors carry the physical line
			if len(got)+len(ParseErrors(err)) != len(want) {
				t.Errorf("%q: %v and %v, the server %v", text, got, err, want)
			}
			continue
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %v, the server %v", text, got, want)
		}
	}
}

// testEvaluate: real connections are let in, rejected or not matched as Evaluate says.
func testEvaluate(t *testing.T, s *realServer) {
	s.Exec(t, "CREATE ROLE grp")
	s.Exec(t, "CREATE ROLE sub IN ROLE grp")
	s.Exec(t, "CREATE ROLE alice LOGIN IN ROLE sub")
	s.Exec(t, "CREATE ROLE bob LOGIN SUPERUSER REPLICATION")
	s.Exec(t, `CREATE ROLE "all" LOGIN`)
	for _, database := range []string{"alice", "grp", "replication", `"all"`} {
		s.Exec(t, "CREATE DATABASE "+database)
	}
	members := map[string][]string{"alice": {"alice", "sub", "grp"}, "bob": {"bob"}, "all": {"all"}}
	rulesets := []string{
		"", "host all all all trust", "hostssl all all all trust", "hostnossl all all all trust\nhostssl all alice all reject", "local all all trust", "host all all 127.0.0.1/32 trust",
		"host all all 127.0.0.0/8 reject\nhost all all all trust", "host all all ::1/128 trust", "host all all samehost trust", "host all all samenet trust", "host all all 127.0.0.9 255.255.255.0 trust", "host all all 10.0.0.0/8 trust",
		"host sameuser all all trust", "host samerole all all trust", "host all +grp all trust", `host all "+grp" all trust`, "host all +alice all trust", "host replication all all trust", "host all,replication bob all trust",
		`host "replication" all all trust`, `host "all" all all trust`, `host all "all" all trust`, `local "all" "all" trust`, "host grp,alice bob,alice all trust", "host all bob all reject\nhost all all all trust", "local samerole alice trust\nlocal all all reject",
		"hostgssenc all all all trust", "hostnogssenc all all all trust", "host all Alice all trust", "local replication bob trust",
	}
	if s.version.Major() >= 16 {
		rulesets = append(rulesets, "host /^a all all trust", "host all /^al all trust", `local all "/b$" trust`)
	} else {
		rulesets = append(rulesets, "host /^a all all trust")
	}
	for _, text := range rulesets {
		s.Write(t, "pg_hba.conf", adminRule+text+"\n")
		s.Reload(t)
		lines, err := ParseHBA(adminRule+text+"\n", s.version)
		if err != nil {
			t.Fatal(err)
		}
		rules, err := HBARules(lines)
		if err != nil {
			t.Fatal(err)
		}
		users, databases := []string{"alice", "bob"}, []string{"alice", "grp"}
		if strings.Contains(text, `"`) { // keywords as names
			users, databases = append(users, "all"), append(databases, "all", "replication")
		}
		for _, user := range users {
			for _, database := range databases {
				for _, how := range []string{"local", "tls", "plain", "local replication", "tls replication"} {
					conn := HBAConn{Local: strings.HasPrefix(how, "local"), TLS: strings.HasPrefix(how, "tls"), Database: database, User: user,
						Addr: netip.MustParseAddr("127.0.0.1"), Replication: strings.HasSuffix(how, "replication"),
						ServerAddrs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}, Version: s.version,
						MemberOf: func(role string) bool { return slices.Contains(members[user], role) }}
					if conn.Replication && user != "bob" {
						continue
					}
					matched, ok, uncertain := Evaluate(rules, conn)
					want := "no entry"
					if ok && matched.Method == "reject" {
						want = "rejected"
					} else if ok {
						want = "in"
					}
					if got := s.login(t, conn); got != want || uncertain != "" {
						t.Errorf("%q, %s, %s on %s: %s, the server: %s (%s)", text, how, user, database, want, got, uncertain)
					}
				}
			}
		}
	}
	s.Write(t, "pg_hba.conf", adminRule)
	s.Reload(t)
}

// login tries a connection and returns "in", "rejected" or "no entry".
func (s *realServer) login(t *testing.T, conn HBAConn) string {
	t.Helper()
	host, mode, replication := "127.0.0.1", "disable", ""
	if conn.Local {
		host = s.Sockets
	}
	if conn.TLS {
		mode = "require"
	}
	if conn.Replication {
		replication = " replication=true"
	}
	c, err := pgconn.Connect(t.Context(), fmt.Sprintf("host=%s port=%d dbname=%s user=%s sslmode=%s%s", host, s.Port, conn.Database, conn.User, mode, replication))
	if err == nil {
		c.Close(t.Context())
		return "in"
	}
	var refused *pgconn.PgError
	if !errors.As(err, &refused) {
		t.Fatal(err)
	}
	switch {
	case strings.Contains(refused.Message, "pg_hba.conf rejects"):
		return "rejected"
	case strings.Contains(refused.Message, "no pg_hba.conf entry"):
		return "no entry"
	}
	return refused.Message
}

// testVerifier: a verifier made here is stored verbatim, lets the password in and no other.
func testVerifier(t *testing.T, s *realServer) {
	s.Write(t, "pg_hba.conf", adminRule+"host all scrammer all scram-sha-256\n")
	s.Reload(t)
	s.Exec(t, "CREATE ROLE scrammer LOGIN")
	for _, password := range []string{"correct horse battery staple", `q'u"o\te%d!`, strings.Repeat("x", 200), " "} {
		salt := make([]byte, SCRAMSaltLen)
		_, _ = rand.Read(salt)
		verifier, err := SCRAMVerifier(password, salt, SCRAMIterations+len(password))
		if err != nil {
			t.Fatal(err)
		}
		s.Exec(t, "ALTER ROLE scrammer PASSWORD "+QuoteLiteral(verifier))
		var stored string
		if err := s.Admin.QueryRow(t.Context(), "SELECT rolpassword FROM pg_authid WHERE rolname = 'scrammer'").Scan(&stored); err != nil {
			t.Fatal(err)
		}
		if stored != verifier || !Matches(stored, password) || Matches(stored, password+"x") {
			t.Error("the verifier is not stored as it was made, or does not match")
		}
		for try, want := range map[string]bool{password: true, password + "x": false} {
			config, err := pgx.ParseConfig(fmt.Sprintf("host=127.0.0.1 port=%d dbname=postgres user=scrammer sslmode=disable", s.Port))
			if err != nil {
				t.Fatal(err)
			}
			config.Password = try
			c, err := pgx.ConnectConfig(t.Context(), config)
			if (err == nil) != want {
				t.Errorf("login: %v", err)
			}
			if err == nil {
				c.Close(t.Context())
			}
		}
	}
	// What the server makes of a password itself is recognised as that password's.
	s.Exec(t, "SET password_encryption = 'scram-sha-256'")
	s.Exec(t, "ALTER ROLE scrammer PASSWORD 'made by the server'")
	var stored string
	if err := s.Admin.QueryRow(t.Context(), "SELECT rolpassword FROM pg_authid WHERE rolname = 'scrammer'").Scan(&stored); err != nil {
		t.Fatal(err)
	}
	if v, err := ParseVerifier(stored); err != nil || v.String() != stored || !Matches(stored, "made by the server") {
		t.Errorf("a verifier of the server's own is not understood: %v", err)
	}
}

var identCorpus = []string{
	"m a b", "m a", "m", "m a b c", `"m n" "a b" "c d"`, `m /^(.*)@x$ \1`, `m /^.*@x$ \1`, "m /( b", "m /[ b", "m a,b c", "m a b,c", "m,n a b", "# c", "", `m "/^(.*)$" "x\1y"`, "m a b # c",
	"m a all", "m a +grp", "m a /^x", "m a /(", `m /(\d+)\w* \1`, "m @ b",
}

func testIdentCorpus(t *testing.T, s *realServer) {
	if s.version.Major() < 15 {
		t.Skip("pg_ident_file_mappings is new in 15")
	}
	ours := map[string]bool{"m a b c": true, `m /^.*@x$ \1`: true} // refused here, useless there
	s.Write(t, "pg_ident.conf", strings.Join(identCorpus, "\n")+"\n")
	rows, err := s.Admin.Query(t.Context(), "SELECT line_number, coalesce(error, ''), coalesce(map_name, '') || '|' || coalesce(sys_name, '') || '|' || coalesce(pg_username, '') FROM pg_ident_file_mappings")
	if err != nil {
		t.Fatal(err)
	}
	type answer struct{ mistake, columns string }
	byLine := make(map[int]answer)
	var number int
	var a answer
	if _, err := pgx.ForEachRow(rows, []any{&number, &a.mistake, &a.columns}, func() error { byLine[number] = a; return nil }); err != nil {
		t.Fatal(err)
	}
	for i, text := range identCorpus {
		lines, err := ParseIdent(text, s.version)
		theirs, listed := byLine[i+1]
		if (err != nil) != (theirs.mistake != "") && !ours[text] {
			t.Errorf("%q: %v, the server: %q", text, err, theirs.mistake)
			continue
		}
		rules, _ := IdentRules(lines)
		if err == nil && listed != (len(rules) == 1) {
			t.Errorf("%q: %d rules, the server: %v", text, len(rules), listed)
		}
		if err == nil && len(rules) == 1 {
			if got := rules[0].Map.Text + "|" + rules[0].SystemUser.Text + "|" + rules[0].User.Text; got != theirs.columns {
				t.Errorf("%q: %s, the server: %s", text, got, theirs.columns)
			}
		}
	}
}

// testMatchIdent: the system user that runs the test is let in by maps as MatchIdent says.
func testMatchIdent(t *testing.T, s *realServer) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s.Exec(t, "CREATE ROLE carol LOGIN IN ROLE grp")
	s.Exec(t, fmt.Sprintf("CREATE ROLE %s LOGIN", QuoteIdent("x"+me.Username)))
	s.Write(t, "pg_hba.conf", adminRule+"local all all peer map=m\n")
	first := me.Username[:1]
	for _, text := range []string{
		"m ME carol", "n ME carol", "m other carol", "m ME all", "m ME +grp", `m ME "all"`, `m ME "+grp"`, `m /^(.*)$ x\1`, `m /^F(.*)$ xF\1`, `m /^(F) \1`, "m /^F carol",
		"m /^zzz carol", "m ME /^c", "m ME carol\nm ME all", `m /^(.*)$ "\1"`, "m /F$ carol",
	} {
		text = strings.ReplaceAll(strings.ReplaceAll(text, "ME", me.Username), "F", first)
		s.Write(t, "pg_ident.conf", text+"\n")
		s.Reload(t)
		lines, err := ParseIdent(text, s.version)
		if err != nil {
			t.Fatal(err)
		}
		rules, err := IdentRules(lines)
		if err != nil {
			t.Fatal(err)
		}
		for _, role := range []string{"carol", "alice", "x" + me.Username} {
			members := map[string][]string{"carol": {"carol", "grp"}, "alice": {"alice", "sub", "grp"}, "x" + me.Username: {"x" + me.Username}}
			want, uncertain := MatchIdent(rules, "m", me.Username, role, s.version, func(r string) bool { return slices.Contains(members[role], r) })
			got := s.login(t, HBAConn{Local: true, Database: "alice", User: role})
			if (got == "in") != want || uncertain != "" {
				t.Errorf("%q as %s: %v, the server: %s (%s)", text, role, want, got, uncertain)
			}
		}
	}
}
