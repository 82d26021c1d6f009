//go:build lab

package property

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/lab"
)

// versions are the major versions that worlds are made on.
func versions() []int { return []int{13, 15, 17, 18} }

// hosts is the lab that is booted once for the package.
var hosts *lab.Lab

func TestMain(m *testing.M) {
	code, err := withLab(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "the lab cannot start:", err)
		code = 1
	}
	os.Exit(code)
}

func withLab(m *testing.M) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	var list []lab.Host
	for _, v := range versions() {
		list = append(list, lab.Host{Name: fmt.Sprintf("pg%d", v), Postgres: v})
	}
	var err error
	if hosts, err = lab.Up(ctx, lab.Options{Hosts: list, Log: os.Stderr}); err != nil {
		return 1, err
	}
	defer hosts.Down()
	return m.Run(), nil
}

// size is how many worlds are made on each version, and how many lists of tasks
// are tried in each.
func size() (worlds, cases int) {
	if os.Getenv("PGFLEET_SOAK") != "" {
		return 200, 6
	}
	return 7, 6
}

// TestLabProperty tries random tasks on servers that hold random things.
func TestLabProperty(t *testing.T) {
	worlds, cases := size()
	seed := uint64(1)
	if os.Getenv("PGFLEET_SOAK") != "" {
		seed = rand.Uint64() >> 16
	}
	if text := os.Getenv("PGFLEET_PROPERTY_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("PGFLEET_PROPERTY_SEED: %v", err)
		}
		worlds = 1
	}
	for _, v := range versions() {
		t.Run(fmt.Sprintf("postgres-%d", v), func(t *testing.T) {
			t.Parallel()
			h := newHost(t, v)
			for i := range uint64(worlds) {
				w := h.newWorld(seed + i)
				for range cases {
					w.try()
				}
				if t.Failed() && h.failures >= 3 {
					break
				}
			}
			h.report(worlds)
		})
	}
}
