package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"filippo.io/age"

	"github.com/pgfleet/pgfleet/lab"
)

// backupRows is how many rows the larger database has, 400 MB of them; the smaller one has a quarter.
const backupRows = 3_350_000

// backupTable is the [[backup]] of which each measurement has its own.
const backupTable = `
[[backup]]
name = "%[1]s"
recipients = ["recipients.txt"]
keep = 1
check = "%[2]s"
databases = ["%[3]s"]
%[4]s
`

// seedBackups fills the databases, and makes the unit of the plain pipeline: the same account, priorities and programs as pgfleet's, without its
// sandbox. It encrypts to the same recipients.
const seedBackups = `set -eu; cd /
for d in small:%[1]d large:%[2]d; do
	runuser -u postgres -- createdb ${d%%:*}
	runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 -d ${d%%:*} -c "CREATE TABLE filled AS SELECT g AS id, md5(g::text) AS one, md5((-g)::text) AS two, now() AS at, g %% 1000 AS amount
		FROM generate_series(1, ${d#*:}) g" -c 'VACUUM ANALYZE filled' -c CHECKPOINT
done
cat >/usr/local/bin/plain <<'END'
#!/bin/sh
set -eu
cd /var/backups/none
/usr/lib/postgresql/17/bin/pg_dump -h /var/run/postgresql -Fc -C -d large | age -R /etc/pgfleet/backup/none-17-main.recipients >plain.age && sync plain.age
END
chmod 755 /usr/local/bin/plain
cat >/etc/systemd/system/plain.service <<'END'
[Service]
Type=oneshot
ExecStart=/usr/local/bin/plain
User=pgfleet_backup
Nice=10
IOSchedulingClass=best-effort
IOSchedulingPriority=7
END
systemctl daemon-reload
runuser -u postgres -- psql -XAtq -d large -c 'SELECT pg_database_size(current_database()) / 1000000'
`

// peakOfUnit prints the most memory that the account's processes had together while a unit ran, in kB: the proportional set size, looked at ten
// times a second.
const peakOfUnit = `systemctl start %s & started=$!
while kill -0 $started 2>/dev/null; do
	for p in $(pgrep -u pgfleet_backup); do cat /proc/$p/smaps_rollup 2>/dev/null; done | awk '/^Pss:/ { sum += $2 } END { print sum + 0 }'
	sleep 0.1
done | sort -n | tail -n 1
wait $started
`

// backups times backups of a database of 400 MB on one host against `pg_dump -Fc | age` there, in turn, and prints how much memory they take.
func (b *bench) backups(ctx context.Context, runs int) error {
	var err error
	b.lab, err = lab.Up(ctx, lab.Options{Hosts: []lab.Host{{Name: "pg01", Postgres: 17}}, Log: os.Stderr})
	if err != nil {
		return err
	}
	defer func() { _ = b.lab.Down() }()
	host := b.lab.Hosts()[0]
	// The backups are on this machine's disk, the databases in memory.
	disk := filepath.Join(b.dir, "disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		return err
	}
	if err := host.Mount(ctx, disk, "/var/backups"); err != nil {
		return err
	}
	if err := b.backupFleet(ctx); err != nil {
		return err
	}
	size, err := host.Exec(ctx, fmt.Sprintf(seedBackups, backupRows/4, backupRows))
	if err != nil {
		return err
	}

	unit := func(name string) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			start := time.Now()
			_, err := host.Exec(ctx, "systemctl start "+name)
			return time.Since(start), err
		}
	}
	fmt.Printf("backup of a database of %s MB, %d runs each, in turn\n%-44s %10s %10s   plain pipeline / this, best and median\n", strings.TrimSpace(size), runs, "", "best", "median")
	kinds := []struct {
		name string
		run  func() (time.Duration, error)
		took []time.Duration
	}{
		{name: "pg_dump -Fc | age > file && sync file", run: unit("plain")},
		{name: `the unit, check = "none"`, run: unit("pgfleet-backup-none-17-main")},
		{name: `the unit, check = "rows"`, run: unit("pgfleet-backup-rows-17-main")},
		{name: `pgfleet backup run to here, check = "none"`, run: func() (time.Duration, error) { took, _, err := b.pulled(ctx, "here"); return took, err }},
	}
	for i := range runs + 1 {
		for k := range kinds {
			took, err := kinds[k].run()
			if err != nil {
				return fmt.Errorf("%s: %w", kinds[k].name, err)
			}
			if i > 0 { // the first warms the machine up
				kinds[k].took = append(kinds[k].took, took)
			}
		}
	}
	var plain []time.Duration
	for _, k := range kinds {
		slices.Sort(k.took)
		if plain == nil {
			plain = k.took
		}
		ratio := func(i int) float64 { return float64(plain[i]) / float64(k.took[i]) }
		fmt.Printf("%-44s %9.2fs %9.2fs   %.2f  %.2f\n", k.name, k.took[0].Seconds(), k.took[runs/2].Seconds(), ratio(0), ratio(runs/2))
	}
	fmt.Println("0.95 or more is wanted of the unit without checks, which is the pipeline with all that is around it")
	return b.backupMemory(ctx, host)
}

// backupFleet writes a fleet with all backups, and applies it.
func (b *bench) backupFleet(ctx context.Context) error {
	dir := filepath.Join(b.dir, "backups")
	var recipients strings.Builder
	for range 2 {
		identity, err := age.GenerateX25519Identity()
		if err != nil {
			return err
		}
		fmt.Fprintln(&recipients, identity.Recipient())
	}
	fleet := b.lab.Fleet()
	for _, t := range [][4]string{
		{"none", "none", "large", `to.path = "/var/backups/none"`},
		{"rows", "rows", "large", `to.path = "/var/backups/rows"`},
		{"small", "rows", "small", `to.path = "/var/backups/small"`},
		{"here", "none", "large", `to.here = "sets"`},
		{"here-small", "none", "small", `to.here = "sets"`},
	} {
		fleet += fmt.Sprintf(backupTable, t[0], t[1], t[2], t[3])
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for name, text := range map[string]string{"recipients.txt": recipients.String(), "fleet.toml": fleet} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	_, err := b.time(ctx, b.pgfleet, "-f", b.file("backups"), "apply", "--yes")
	return err
}

// backupMemory prints the peaks of a database, and of one four times as large.
func (b *bench) backupMemory(ctx context.Context, host *lab.Running) error {
	var peaks [4]float64 // MB
	for i, name := range []string{"small", "rows"} {
		out, err := host.Exec(ctx, fmt.Sprintf(peakOfUnit, "pgfleet-backup-"+name+"-17-main"))
		if err != nil {
			return err
		}
		kB, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
		if err != nil {
			return err
		}
		peaks[i] = kB / 1000
	}
	for i, name := range []string{"here-small", "here"} {
		_, peak, err := b.pulled(ctx, name)
		if err != nil {
			return err
		}
		peaks[2+i] = float64(peak) / 1e6
	}
	fmt.Printf("memory at most, for a quarter of the database and for all of it\nthe unit's processes, check = \"rows\"  %.1f MB  %.1f MB\npgfleet backup run to here           %.1f MB  %.1f MB\n", peaks[0], peaks[1], peaks[2], peaks[3])
	return nil
}

// pulled times `pgfleet backup run`, and returns the most memory that it had, in bytes.
func (b *bench) pulled(ctx context.Context, name string) (took time.Duration, peak int64, err error) {
	cmd := exec.CommandContext(ctx, b.pgfleet, "-f", b.file("backups"), "backup", "run", name, "--yes")
	cmd.Env = append(os.Environ(), "HOME="+b.dir, "XDG_CONFIG_HOME=")
	start := time.Now()
	out, err := cmd.CombinedOutput()
	took = time.Since(start)
	if err != nil {
		return 0, 0, fmt.Errorf("pgfleet backup run %s: %w\n%s", name, err, out)
	}
	return took, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10, nil
}
