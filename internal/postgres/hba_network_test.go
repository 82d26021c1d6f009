package postgres

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// ranges evaluates a network and returns each range with its rule.
func ranges(t *testing.T, rules, network string, conn HBAConn) []string {
	t.Helper()
	lines, err := ParseHBA(rules, 0)
	if err != nil {
		t.Fatal(err)
	}
	list, err := HBARules(lines)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range EvaluateNetwork(list, conn, netip.MustParsePrefix(network)) {
		line := r.From.String() + ":"
		for _, m := range r.Maybe {
			line += fmt.Sprintf(" perhaps %d", m.Line)
		}
		if r.First == nil {
			got = append(got, line+" none")
			continue
		}
		got = append(got, fmt.Sprintf("%s %d %s", line, r.First.Line, r.First.Method))
	}
	return got
}

func TestEvaluateNetwork(t *testing.T) {
	app := HBAConn{User: "app", Database: "app", TLS: true}
	for name, c := range map[string]struct {
		rules, network string
		conn           HBAConn
		want           []string
	}{
		"one rule holds it": {"host app app 10.0.0.0/8 md5", "10.1.2.0/24", app, []string{"10.1.2.0/24: 1 md5"}},
		"none does":         {"host app app 10.0.0.0/8 md5", "11.1.2.0/24", app, []string{"11.1.2.0/24: none"}},
		"half of it":        {"host app app 10.0.0.0/25 md5", "10.0.0.0/24", app, []string{"10.0.0.0/25: 1 md5", "10.0.0.128/25: none"}},
		"a hole": {"host app app 10.0.0.64/26 reject\nhost app app 10.0.0.0/24 md5", "10.0.0.0/24", app,
			[]string{"10.0.0.0/26: 2 md5", "10.0.0.64/26: 1 reject", "10.0.0.128/25: 2 md5"}},
		"rules for others do not cut it": {"host app other 10.0.0.64/26 reject\nhostnossl app app 10.0.0.3/32 reject\nhost app app 10.0.0.0/24 md5", "10.0.0.0/24", app,
			[]string{"10.0.0.0/24: 3 md5"}},
		"the halves of two rules are not one": {"host app app 10.0.0.0/25 md5\nhost app app 10.0.0.128/25 md5", "10.0.0.0/24", app,
			[]string{"10.0.0.0/25: 1 md5", "10.0.0.128/25: 2 md5"}},
		"IPv6": {"host app app 2001:db8::1/128 reject\nhost app app 2001:db8::/32 md5", "2001:db8::/126", app,
			[]string{"2001:db8::/128: 2 md5", "2001:db8::1/128: 1 reject", "2001:db8::2/127: 2 md5"}},
		"the other family": {"host app app 0.0.0.0/0 reject\nhost app app ::/0 md5", "2001:db8::/64", app, []string{"2001:db8::/64: 2 md5"}},
		"a mask with a hole": {"host app app 10.0.0.1 255.255.255.1 reject\nhost app app all md5", "10.0.0.0/30", app,
			[]string{"10.0.0.0 255.255.255.253: 2 md5", "10.0.0.1 255.255.255.253: 1 reject"}},
		"a host name": {"host app app .example.org reject\nhost app app 10.0.0.0/25 md5", "10.0.0.0/24", app,
			[]string{"10.0.0.0/25: perhaps 1 2 md5", "10.0.0.128/25: perhaps 1 none"}},
		"the server's own network": {"host app app samenet md5", "10.0.0.0/24",
			HBAConn{User: "app", Database: "app", ServerAddrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.9/25")}}, []string{"10.0.0.0/25: 1 md5", "10.0.0.128/25: none"}},
		"it is not known": {"host app app samenet md5", "10.0.0.0/24", app, []string{"10.0.0.0/24: perhaps 1 none"}},
		"the socket":      {"host all all all md5\nlocal all all peer", "10.0.0.0/24", HBAConn{User: "app", Database: "app", Local: true}, []string{": 2 peer"}},
		"replication":     {"host all all all md5\nhost replication all 10.0.0.0/24 md5", "10.0.0.0/24", HBAConn{User: "app", Replication: true}, []string{"10.0.0.0/24: 2 md5"}},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(c.want, ranges(t, c.rules, c.network, c.conn)); d != "" {
				t.Error(d)
			}
		})
	}
}

// What is said of a network is what Evaluate says of each of its addresses.
func TestEvaluateNetworkAgrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v6 := rapid.Bool().Draw(t, "IPv6")
		bits, base := 32, "10.0.0."
		if v6 {
			bits, base = 128, "2001:db8::"
		}
		low := func(label string) string { return fmt.Sprintf("%s%d", base, rapid.IntRange(0, 9).Draw(t, label)) }
		var lines []string
		for i := range rapid.IntRange(0, 6).Draw(t, "rules") {
			address := low("address") + fmt.Sprintf("/%d", rapid.IntRange(bits-8, bits).Draw(t, "bits"))
			switch rapid.IntRange(0, 9).Draw(t, "sort") {
			case 0:
				address = "all"
			case 1:
				address = "db.example.org"
			case 2:
				address = "samenet"
			case 3:
				if !v6 {
					address = low("address") + fmt.Sprintf(" 255.255.255.%d", rapid.IntRange(0, 255).Draw(t, "mask"))
				}
			}
			lines = append(lines, fmt.Sprintf("%s %s %s %s %s",
				rapid.SampledFrom([]string{"host", "hostssl", "hostnossl"}).Draw(t, "type"), rapid.SampledFrom([]string{"all", "app", "other", "samerole"}).Draw(t, "database"),
				rapid.SampledFrom([]string{"all", "app", "+group", "other"}).Draw(t, "user"), address, rapid.SampledFrom([]string{"md5", "reject"}).Draw(t, fmt.Sprint("method", i))))
		}
		parsed, err := ParseHBA(strings.Join(lines, "\n"), 0)
		if err != nil {
			t.Fatal(err)
		}
		rules, err := HBARules(parsed)
		if err != nil {
			t.Fatal(err)
		}
		conn := HBAConn{User: "app", Database: "app", TLS: rapid.Bool().Draw(t, "TLS")}
		if rapid.Bool().Draw(t, "memberships are known") {
			member := rapid.Bool().Draw(t, "member")
			conn.MemberOf = func(string) bool { return member }
		}
		if rapid.Bool().Draw(t, "own addresses are known") {
			conn.ServerAddrs = []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("%s/%d", low("own"), rapid.IntRange(bits-8, bits).Draw(t, "own network")))}
		}
		network := netip.PrefixFrom(netip.MustParseAddr(low("network")), rapid.IntRange(bits-6, bits).Draw(t, "network's bits")).Masked()
		found := EvaluateNetwork(rules, conn, network)
		for a := network.Addr(); network.Contains(a); a = a.Next() {
			conn.Addr = a
			first, _, uncertain := Evaluate(rules, conn)
			in := 0
			for _, r := range found {
				if !r.From.contains(a) {
					continue
				}
				in++
				if r.First != first || (len(r.Maybe) > 0) != (uncertain != "") {
					t.Fatalf("%s: %v after %d that cannot be decided, and for the address alone %v (%s)\n%s", a, r.First, len(r.Maybe), first, uncertain, strings.Join(lines, "\n"))
				}
			}
			if in != 1 {
				t.Fatalf("%s is in %d ranges of %v", a, in, found)
			}
		}
	})
}
