//go:build lab

package transport_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/internal/secrets"
	"github.com/pgfleet/pgfleet/lab"
)

// A standby is asked like its primary and says the same; nothing is rehearsed
// there.
func TestLabStandby(t *testing.T) {
	l := upLab(t, lab.Host{Name: "old", Postgres: 13}, lab.Host{Name: "old-standby", Postgres: 13, StandbyOf: "old"},
		lab.Host{Name: "new", Postgres: 18}, lab.Host{Name: "new-standby", Postgres: 18, StandbyOf: "new"})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	const prepare = `cd / && runuser -u postgres -- psql -qX -v ON_ERROR_STOP=1 -c "CREATE ROLE app LOGIN PASSWORD 'x'" -c 'CREATE DATABASE appdb OWNER app' &&
runuser -u postgres -- psql -qX -v ON_ERROR_STOP=1 -d appdb -c 'CREATE TABLE orders (id int, tenant text)' -c 'GRANT SELECT ON orders TO app' -c 'ALTER TABLE orders ENABLE ROW LEVEL SECURITY' -c "CREATE POLICY p ON orders USING (tenant = current_setting('app.tenant'))"`
	cluster, contents := facts.Cluster{Port: 5432}, facts.Contents{Port: 5432, Database: "appdb"}
	deparse := facts.Deparse{Port: 5432, Database: "appdb", Schema: "public", Table: "orders", Expr: "tenant = current_setting('app.tenant')"}
	for primary, standby := range map[string]string{"old": "old-standby", "new": "new-standby"} {
		if _, err := l.Host(primary).Exec(ctx, prepare); err != nil {
			t.Fatal(err)
		}
		const replayed = `cd /; for i in $(seq 100); do [ "$(runuser -u postgres -- psql -AtXd appdb -c 'SELECT count(*) FROM pg_policy' 2>/dev/null)" = 1 ] && exit; sleep 0.1; done; exit 1`
		if _, err := l.Host(standby).Exec(ctx, replayed); err != nil {
			t.Fatal(err)
		}
		read := func(host string) map[facts.Read]facts.Answer {
			t.Helper()
			answers, err := dial(t, dialer(t), labTarget(l, host)).Read(ctx, []facts.Read{cluster, contents, deparse})
			if err != nil {
				t.Fatal(err)
			}
			return answers
		}
		here, there := read(primary), read(standby)
		if d := cmp.Diff(here, there, cmp.Comparer(secrets.Secret.Equal)); d != "" {
			t.Errorf("%s (-primary +standby):\n%s", standby, d)
		}
		if there[cluster].Value.(facts.ClusterInfo).Cluster == nil || there[contents].Value.(facts.ContentsInfo).Contents == nil || there[deparse].Value.(facts.Deparsed).Text == "" {
			t.Errorf("%s: %+v", standby, there)
		}
		for _, sql := range []string{"SELECT 1", "CREATE TABLE x ()"} {
			rehearse := facts.Rehearse{Port: 5432, Database: "appdb", SQL: sql, Timeout: 1000}
			answers, err := dial(t, dialer(t), labTarget(l, standby)).Read(ctx, []facts.Read{rehearse})
			if got, _ := answers[rehearse].Value.(facts.Rehearsed); err != nil || got.Problem != "the server is a standby, where nothing can be rehearsed" {
				t.Errorf("%s: %v, %+v", standby, err, got)
			}
		}
	}
}
