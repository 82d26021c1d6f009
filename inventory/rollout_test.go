package inventory

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const twoHosts = "[fleet]\nname = \"x\"\n[postgres]\nversion = 15\n[hosts.pg01]\n[hosts.pg02]\n"

func TestRollout(t *testing.T) {
	r := mustLoad(t, twoHosts+`
[rollout]
canary = ["pg02", "role=standby"]
batches = [1, "10%", "50 %"]
pause = "2m"
max_failures = "5%"
order = ["pg02"]
gate = "./smoke.sh"
max_lag = "16MB"
transaction_wait = "0s"
`).Rollout
	if len(r.Canary.Hosts) != 2 || r.Canary.Hosts[0].String() != "pg02" || len(r.Order) != 1 {
		t.Errorf("selectors: %v", r)
	}
	if d := cmp.Diff([]Share{{Count: 1}, {Percent: 10}, {Percent: 50}}, r.Batches); d != "" {
		t.Error(d)
	}
	if r.Pause != 2*time.Minute || r.MaxFailures.String() != "5%" || r.MaxLag != 16<<20 || r.MaxLag.String() != "16MB" || r.Gate != "./smoke.sh" {
		t.Errorf("%+v", r)
	}
	if r.TransactionWait == nil || *r.TransactionWait != 0 {
		t.Error("a wait of no time is taken for none")
	}
	if r := mustLoad(t, twoHosts).Rollout; r.TransactionWait != nil || r.MaxFailures != nil || r.Batches != nil {
		t.Errorf("without a table: %+v", r)
	}
	if r := mustLoad(t, twoHosts+"[rollout]\ncanary = 1\nbatches = \"25%\"\n").Rollout; r.Canary.Count != 1 || len(r.Batches) != 1 {
		t.Errorf("%+v", r)
	}
}

func TestRolloutMistakes(t *testing.T) {
	for text, want := range map[string]string{
		`canary = -1`:               "8:10: canary: want a number of hosts or a list of selectors, found -1",
		`canary = true`:             "8:10: canary: want a number of hosts or a list of selectors, found a boolean",
		`canary = ["pg03"]`:         `8:12: canary: there is no host, group or replication cluster "pg03" (did you mean`,
		`order = ["pg01:"]`:         "8:16: order: a name is missing here",
		`batches = "many"`:          `8:11: batches: want a number of hosts or a percentage such as "25%", found "many"`,
		`batches = ["50%", "120%"]`: `8:19: batches: want a number of hosts or a percentage such as "25%", found "120%"`,
		`batches = [1, 0]`:          "8:11: batches: a wave has at least 1 host",
		`max_failures = 0`:          "8:16: max_failures: want at least 1",
		`max_lag = "16 apples"`:     `8:11: max_lag: want a size such as "64MB" (kB, MB, GB, TB), found "16 apples"`,
		`pause = "soon"`:            `8:9: pause: "soon" is no duration`,
		`batchs = 1`:                `unknown key "batchs" (did you mean "batches"?)`,
	} {
		_, err := Load("fleet.toml", Options{FS: files(map[string]string{"fleet.toml": twoHosts + "[rollout]\n" + text + "\n"})})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestShareOf(t *testing.T) {
	for _, c := range []struct {
		share Share
		n     int
		want  int
	}{
		{Share{Count: 3}, 12, 3}, {Share{Count: 30}, 12, 12}, {Share{Percent: 25}, 12, 3}, {Share{Percent: 25}, 13, 4},
		{Share{Percent: 30}, 10, 3}, {Share{Percent: 1}, 12, 1}, {Share{Percent: 100}, 7, 7}, {Share{Percent: 0.5}, 200, 1},
	} {
		if got := c.share.Of(c.n); got != c.want {
			t.Errorf("%v of %d: %d, want %d", c.share, c.n, got, c.want)
		}
	}
}
