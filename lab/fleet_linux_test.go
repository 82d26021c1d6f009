package lab

import (
	"fmt"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/pgfleet/pgfleet/inventory"
)

// TestFleet wants a description that pgfleet itself understands.
func TestFleet(t *testing.T) {
	o := Options{Bridge: "pglab0", Hosts: []Host{
		{Name: "pg01", Instances: []Instance{{Cluster: "second", Port: 5433}}},
		{Name: "pg02", StandbyOf: "pg01"},
		{Name: "pg03", Postgres: 17, RootLogin: true},
	}}
	if err := o.complete(); err != nil {
		t.Fatal(err)
	}
	text := newLab(o, 0).Fleet()
	fleet, err := inventory.Load("fleet.toml", inventory.Options{FS: fstest.MapFS{"fleet.toml": {Data: []byte(text)}}})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	var got []string
	for _, h := range fleet.Hosts {
		for _, in := range h.Instances {
			got = append(got, fmt.Sprintf("%s %s %s %d %s %d %q", in.ID(), h.Address, h.User, in.Version, in.Cluster, in.Port, in.Replication))
		}
	}
	want := []string{
		`pg01/main 10.77.0.11 ops 15 main 5432 "pg01-cluster"`,
		`pg01/second 10.77.0.11 ops 15 second 5433 ""`,
		`pg02 10.77.0.12 ops 15 main 5432 "pg01-cluster"`,
		`pg03 10.77.0.13 root 17 main 5432 ""`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
