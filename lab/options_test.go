package lab

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOptionsAddresses(t *testing.T) {
	o := Options{Bridge: "pglab2", Hosts: []Host{
		{Name: "a"},
		{Name: "b", Address: netip.MustParseAddr("10.81.0.11"), Postgres: 17},
		{Name: "c"},
	}}
	if err := o.complete(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, h := range o.Hosts {
		got = append(got, h.Address.String())
	}
	if diff := cmp.Diff([]string{"10.81.0.12", "10.81.0.11", "10.81.0.13"}, got); diff != "" {
		t.Error(diff)
	}
	if o.Applications.String() != "10.82.0.0/24" {
		t.Errorf("applications' network is %s", o.Applications)
	}
	if o.Hosts[0].Postgres != DefaultPostgres || o.Hosts[1].Postgres != 17 {
		t.Errorf("versions are %d and %d", o.Hosts[0].Postgres, o.Hosts[1].Postgres)
	}
}

func TestOptionsRefused(t *testing.T) {
	outside := netip.MustParseAddr("10.1.0.11")
	taken := netip.MustParseAddr("10.77.0.12")
	for _, test := range []struct {
		name  string
		opts  Options
		wants string
	}{
		{"no hosts", Options{}, "no hosts"},
		{"bridge", Options{Bridge: "eth0", Hosts: []Host{{Name: "a"}}}, `bridge "eth0"`},
		{"network", Options{Network: netip.MustParsePrefix("10.0.0.0/16"), Hosts: []Host{{Name: "a"}}}, "/24"},
		{"name", Options{Hosts: []Host{{Name: "A b"}}}, "lower-case"},
		{"twice", Options{Hosts: []Host{{Name: "a"}, {Name: "a"}}}, `two hosts are named "a"`},
		{"version", Options{Hosts: []Host{{Name: "a", Postgres: 9}}}, "no base has PostgreSQL 9"},
		{"outside", Options{Hosts: []Host{{Name: "a", Address: outside}}}, "is not in 10.77.0.0/24"},
		{"taken", Options{Hosts: []Host{{Name: "a", Address: taken}, {Name: "b", Address: taken}}}, "address 10.77.0.12 is a's"},
		{"operator", Options{Hosts: []Host{{Name: "a", Address: netip.MustParseAddr("10.77.0.1")}}}, "this machine's"},
		{"primary", Options{Hosts: []Host{{Name: "a", StandbyOf: "b"}}}, `primary "b" is not in the list`},
		{"cascade", Options{Hosts: []Host{{Name: "a"}, {Name: "b", StandbyOf: "a"}, {Name: "c", StandbyOf: "b"}}}, "be a primary"},
		{"versions", Options{Hosts: []Host{{Name: "a"}, {Name: "b", StandbyOf: "a", Postgres: 17}}}, "17 cannot follow"},
		{"root", Options{Hosts: []Host{{Name: "a", RootLogin: true, SudoPassword: "x"}}}, "both"},
		{"port", Options{Hosts: []Host{{Name: "a", Instances: []Instance{{Cluster: "b", Port: 5432}}}}}, "not taken"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.opts.Bridge == "" {
				test.opts.Bridge = "pglab0"
			}
			err := test.opts.complete()
			if err == nil || !strings.Contains(err.Error(), test.wants) {
				t.Errorf("got %v, want an error with %q", err, test.wants)
			}
		})
	}
}
