package postgres

import "testing"

func TestRemoteRule(t *testing.T) {
	for text, want := range map[string]int{
		"local all all peer":                                                             0,
		"host all all all scram-sha-256":                                                 1,
		"hostssl appdb appuser 10.0.0.0/8 scram-sha-256":                                 0,
		"host all postgres all reject\nhost all all all scram-sha-256":                   0,
		"hostssl all postgres all reject\nhost all all all trust":                        2,
		"host app postgres all reject\nhost all all all trust":                           2,
		"host all postgres 10.0.0.0/8 reject\nhost all all ::0/0 trust":                  2,
		"host replication +admins all trust":                                             1,
		"host all +admins all reject\nhost replication postgres all md5":                 2,
		"host all all 0.0.0.0/0 reject\nhost all all ::/0 reject\nhost all all all md5":  0,
		"host all all 0.0.0.0/0 reject\nhost all all samehost md5":                       2,
		"host all all 0.0.0.0/0 reject\nhost all all ::/0 reject\nhost all @f all trust": 0,
		"host all @f all reject\nhost all all all trust":                                 2,
	} {
		lines, err := ParseHBA(text, MajorVersion(15))
		if err != nil {
			t.Fatal(err)
		}
		rules, err := HBARules(lines)
		if err != nil {
			t.Fatal(err)
		}
		r, ok := RemoteRule(rules, HBAConn{User: "postgres", MemberOf: func(role string) bool { return role == "admins" }, Version: MajorVersion(15)})
		if ok != (want > 0) || r.Line != want {
			t.Errorf("%q: rule %d, want %d", text, r.Line, want)
		}
	}
}
