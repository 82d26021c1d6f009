package rollout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/transport"
)

// What a restart waits for where [rollout] does not say.
const (
	defaultMaxLag          = 64 << 20
	defaultTransactionWait = time.Minute
	defaultGateTimeout     = time.Minute
	longTransaction        = 5 * time.Second
	readyEvery             = 200 * time.Millisecond
)

// gateTimeout is how long the members of a cluster get to be well again.
func (r *Run) gateTimeout() time.Duration {
	if t := r.Fleet.Rollout.GateTimeout; t > 0 {
		return t
	}
	return defaultGateTimeout
}

func (r *Run) transactionWait() time.Duration {
	if t := r.Fleet.Rollout.TransactionWait; t != nil {
		return *t
	}
	return defaultTransactionWait
}

func (r *Run) maxLag() int64 {
	if l := r.Fleet.Rollout.MaxLag; l > 0 {
		return int64(l)
	}
	return defaultMaxLag
}

// ready waits until the server may restart: the other standbys of its cluster
// stream and are not far behind, so that never two members are missing; a commit
// on the primary would not wait for this one alone; a standby will not have less of
// a parameter than its primary; no backup runs, and nobody has had a transaction
// open for long. What was well may be so no longer after a wait, so all is asked
// again until nothing had to be waited for. The error says what is in the way, after
// the limits that [rollout] sets; nothing was changed then.
func (x *executor) ready(ctx context.Context) error {
	if err := x.peers.allAsked(); err != nil {
		return err
	}
	if x.peers.unchecked != "" {
		x.phase("not checked: " + x.peers.unchecked)
	}
	cluster, replay := newPatience(x.run.gateTimeout()), newPatience(x.run.gateTimeout())
	inUse := newPatience(cmp.Or(x.run.transactionWait(), defaultTransactionWait)) // of 0, only backups are waited for
	for {
		waited, err := x.readyNow(ctx, cluster, replay, inUse)
		if err != nil || !waited {
			return err
		}
	}
}

// readyNow asks for everything once that a restart needs, and waits for it. It
// reports whether it had to, so that the first answers may be old.
func (x *executor) readyNow(ctx context.Context, cluster, replay, inUse *patience) (waited bool, err error) {
	forCluster, err := x.wait(ctx, cluster, "waiting for its cluster", x.clusterProblem)
	if err != nil {
		return false, err
	}
	for _, p := range x.peers.primaries {
		if x.peers.cascades {
			break // no commit waits for a standby of a standby
		}
		if err := x.commitsGoOn(ctx, p); err != nil {
			return false, err
		}
	}
	forReplay, err := x.enough(ctx, replay)
	if err != nil {
		return false, err
	}
	forOthers, err := x.wait(ctx, inUse, "waiting for transactions", x.busy)
	return forCluster || forReplay || forOthers, err
}

// A patience is how long something is waited for, all times together.
type patience struct{ limit, left time.Duration }

func newPatience(limit time.Duration) *patience { return &patience{limit, limit} }

// wait asks again and again what is in the way, until nothing is or the time is
// up, or the run is told to stop: nothing was changed yet. What is in the way is
// said as the step's phase. Waited says whether anything was.
func (x *executor) wait(ctx context.Context, p *patience, phase string, problem func(context.Context) (string, error)) (waited bool, err error) {
	began := time.Now()
	deadline := began.Add(p.left)
	said := ""
	for {
		why, err := problem(ctx)
		if err != nil {
			return said != "", err
		}
		if why == "" {
			if said != "" {
				p.left -= time.Since(began)
			}
			return said != "", nil
		}
		if time.Now().After(deadline) {
			return said != "", fmt.Errorf("it was not restarted, and nothing was changed, because after %v %s", p.limit, why)
		}
		if why != said {
			said = why
			x.phase(phase + ": " + why)
		}
		select {
		case <-time.After(readyEvery):
		case <-x.stop:
			return true, errStoppedWaiting
		case <-ctx.Done():
			return true, ctx.Err()
		}
	}
}

// errStoppedWaiting is why a step did nothing that was told to stop while it waited.
var errStoppedWaiting = errors.New("stopped while it waited to restart, and nothing was changed; run it again to go on")

// clusterProblem says which standby does not follow closely, or which member cannot
// be kept from being changed by others meanwhile; "" if all is well.
func (x *executor) clusterProblem(ctx context.Context) (string, error) {
	for _, in := range slices.Concat(x.peers.primaries, x.peers.standbys) {
		err := x.leased(ctx, in)
		switch {
		case leaseLost(err):
			return "", fmt.Errorf("it was not restarted, and nothing was changed, because the lease of %s, which belongs to its cluster, is not this run's any more: see pgfleet log, and plan again", in.Host.Name)
		case errors.Is(err, errNoLease) || errors.Is(err, errLeftAlone):
			return "", fmt.Errorf("it was not restarted, because %s belongs to its cluster: %w", in.ID(), err)
		case err != nil:
			return fmt.Sprintf("%s of its cluster does not answer: %v", in.ID(), err), nil
		}
	}
	if len(x.peers.standbys) == 0 {
		return "", nil
	}
	lsn, err := x.written(ctx)
	if err != nil {
		return err.Error(), nil
	}
	for _, s := range x.peers.standbys {
		f, err := x.following(ctx, s, lsn)
		switch {
		case err != nil:
			return fmt.Sprintf("the standby %s of its cluster does not answer: %v", s.ID(), err), nil
		case !f.standby:
			return "", fmt.Errorf("%s was a standby, and is a primary now: plan again", s.ID())
		case f.status != "streaming":
			return fmt.Sprintf("the standby %s of its cluster does not stream; pg_stat_wal_receiver there says %s", s.ID(), orSay(f.status, "nothing")), nil
		case f.paused && slices.ContainsFunc(x.peers.below, func(b inventory.Instance) bool { return b.ID() == s.ID() }):
			return fmt.Sprintf("replay of the standby %s is paused, and then it does not stream again after a restart of %s: SELECT pg_wal_replay_resume() there goes on", s.ID(), x.instance.ID()), nil
		case f.lag > x.run.maxLag():
			return fmt.Sprintf("the standby %s of its cluster is %s behind, and max_lag is %s", s.ID(), kilobytes(f.lag), inventory.Size(x.run.maxLag())), nil
		}
	}
	return "", nil
}

// leased returns an error if the lease of a member's host is not the run's.
func (x *executor) leased(ctx context.Context, in inventory.Instance) error {
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	conn, err := x.run.Conn(ctx, in.Host)
	if err != nil {
		return err
	}
	_, err = conn.Run(ctx, transport.Command{Script: ":"}) // behind the fence
	return err
}

func kilobytes(bytes int64) string { return inventory.Size(bytes >> 10 << 10).String() }

// ReceivedLSN is how far a standby has the write-ahead log. After it has started,
// pg_last_wal_receive_lsn() is the begin of a segment until the primary writes
// again: the WAL receiver counts from what was replayed (walreceiver.c).
const receivedLSN = `coalesce(greatest(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn()), '0/0')`

// A following is how a standby follows its primary.
type following struct {
	standby bool
	status  string // of pg_stat_wal_receiver; "" where it has no row
	lag     int64  // bytes that it has not received
	paused  bool   // replay is
}

func (x *executor) following(ctx context.Context, standby inventory.Instance, lsn string) (following, error) {
	var f following
	err := x.query(ctx, standby, `SELECT pg_catalog.pg_is_in_recovery(), coalesce((SELECT status FROM pg_catalog.pg_stat_wal_receiver), ''),
		CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_wal_lsn_diff(`+postgres.QuoteLiteral(lsn)+`::pg_catalog.pg_lsn,
			`+receivedLSN+`)::pg_catalog.int8 ELSE 0 END,
		CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_is_wal_replay_paused() ELSE false END`, &f.standby, &f.status, &f.lag, &f.paused)
	return f, err
}

// query asks a member of the fleet for one row, in a session of its own.
func (x *executor) query(ctx context.Context, in inventory.Instance, sql string, into ...any) error {
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	host, err := x.run.Conn(ctx, in.Host)
	if err != nil {
		return err
	}
	conn, err := host.Postgres(ctx, transport.Endpoint{Port: in.Port})
	if err != nil {
		return err
	}
	defer closeSession(ctx, conn)
	return conn.QueryRow(ctx, sql, pgx.QueryExecModeSimpleProtocol).Scan(into...)
}

// commitsGoOn refuses to restart a standby without which commits on its primary
// would wait for ever (manual, 26.2.8 Synchronous Replication).
func (x *executor) commitsGoOn(ctx context.Context, primary inventory.Instance) error {
	var setting, names string
	err := x.query(ctx, primary, `SELECT pg_catalog.current_setting('synchronous_standby_names'),
		coalesce((SELECT pg_catalog.string_agg(a.application_name, E'\n') FROM pg_catalog.pg_stat_get_wal_senders() r
			JOIN pg_catalog.pg_stat_get_activity(NULL) a USING (pid) WHERE r.state = 'streaming'), '')`, &setting, &names)
	if err != nil {
		return fmt.Errorf("the primary %s cannot be asked for its synchronous standbys: %w", primary.ID(), err)
	}
	sync, err := postgres.ParseSynchronousStandbyNames(setting)
	if err != nil {
		return fmt.Errorf("synchronous_standby_names of %s: %w", primary.ID(), err)
	}
	var own string
	err = x.query(ctx, x.instance, `SELECT coalesce((SELECT (pg_catalog.regexp_match(conninfo, 'application_name=''?([^'' ]*)'))[1] FROM pg_catalog.pg_stat_wal_receiver), '')`, &own)
	if err != nil {
		return err
	}
	left, removed := 0, false
	for _, name := range strings.Split(names, "\n") {
		switch {
		case name == "" || !sync.Match(name):
		case !removed && own != "" && strings.EqualFold(name, own):
			removed = true
		default:
			left++
		}
	}
	if left < sync.Number {
		return fmt.Errorf("it was not restarted, and nothing was changed, because commits on %s would wait until it is back: synchronous_standby_names = %s wants %d, and without it %d stream; have another standby follow, or take it out of the list first",
			primary.ID(), postgres.QuoteLiteral(setting), sync.Number, left)
	}
	return nil
}

// busy says what a restart would cut off: a backup, or a transaction that has
// been open for long, unless transaction_wait is 0. Statements are not shown: they
// may hold anything.
func (x *executor) busy(ctx context.Context) (string, error) {
	exclusive := "false"
	if x.instance.Version < 15 {
		exclusive = "CASE WHEN pg_catalog.pg_is_in_recovery() THEN false ELSE pg_catalog.pg_is_in_backup() END"
	}
	open := "true"
	if x.run.transactionWait() == 0 {
		open = "false"
	}
	var why string
	err := x.query(ctx, x.instance, `SELECT coalesce(
		(SELECT 'a base backup is running (pid ' || pid || ', ' || phase || ')' FROM pg_catalog.pg_stat_progress_basebackup LIMIT 1),
		CASE WHEN `+exclusive+` THEN 'a backup has been started by pg_start_backup()' END,
		(SELECT pg_catalog.format('%s is running (pid %s, database %s, for %s s)', application_name, pid, datname, extract(epoch FROM pg_catalog.clock_timestamp() - backend_start)::pg_catalog.int8)
			FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend' AND application_name ~* '`+backups+`' ORDER BY backend_start LIMIT 1),
		(SELECT pg_catalog.format('%s has started a backup (pid %s, %s)', usename, pid, coalesce(nullif(application_name, ''), 'no application_name'))
			FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> 'pgfleet'
			AND query ~* '`+startsBackup+`' AND query !~* '`+endsBackup+`' LIMIT 1),
		(SELECT pg_catalog.format('%s has a transaction open for %s s (pid %s, database %s, %s, %s): end it, or let transaction_wait be longer',
				usename, extract(epoch FROM pg_catalog.clock_timestamp() - xact_start)::pg_catalog.int8, pid, datname, coalesce(nullif(application_name, ''), 'no application_name'), state)
			FROM pg_catalog.pg_stat_activity WHERE `+open+` AND backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid() AND application_name <> 'pgfleet'
			AND xact_start < pg_catalog.clock_timestamp() - interval '`+fmt.Sprint(longTransaction.Seconds())+` seconds' ORDER BY xact_start LIMIT 1), '')`, &why)
	if err != nil {
		return "", fmt.Errorf("what a restart would cut off is not known: %w", err)
	}
	if why == "" {
		return x.walG(ctx)
	}
	return why, nil
}

// What sessions of backups are called, in any case: pg_dump and pg_dumpall, "pgBackRest
// [backup]", "barman" and "barman_cloud_backup". The base backups of Barman and others
// are in pg_stat_progress_basebackup.
const backups = "^(pg_dump|pgbackrest|barman)"

// A session that has started a backup, and whose last statement was that, is what
// the backup ends with (manual, 25.3.3 Making a Base Backup Using the Low Level API).
const (
	startsBackup = `pg_(backup_start|start_backup)\s*\(`
	endsBackup   = `pg_(backup_stop|stop_backup)\s*\(`
)

// walG says whether WAL-G makes a backup of a server of the host. Its session has
// no application_name and asks for other things meanwhile; but it runs where the
// server does, so its process can be seen.
func (x *executor) walG(ctx context.Context) (string, error) {
	out, err := x.conn.Run(ctx, transport.Command{Script: "grep -azlx '[b]ackup-push' /proc/[0-9]*/cmdline 2>/dev/null | head -n 1", User: "postgres", Unfenced: true})
	if err != nil {
		return "", fmt.Errorf("what a restart would cut off is not known: %w", err)
	}
	pid := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(string(out.Stdout)), "/proc/"), "/cmdline")
	if pid == "" {
		return "", nil
	}
	return fmt.Sprintf("WAL-G makes a backup on this host (backup-push, process %s)", pid), nil
}

// streams waits, after a restart, until the cluster is whole again: a standby
// streams, and those do that stream from the server.
func (x *executor) streams(ctx context.Context, wasStreaming bool) error {
	standbys := x.peers.below
	if wasStreaming {
		standbys = append([]inventory.Instance{x.instance}, standbys...)
	}
	if len(standbys) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, x.run.gateTimeout(), errors.New("time is up"))
	defer cancel()
	why, said := "", ""
	for {
		why = ""
		for _, s := range standbys {
			f, err := x.following(ctx, s, "0/0")
			switch {
			case err != nil && ctx.Err() != nil:
				why = orSay(said, "it is not known whether "+string(s.ID())+" streams")
			case gone(err) && s.Host.Name == x.instance.Host.Name:
				return fmt.Errorf("it restarted, and whether %s streams is not known: %w", s.ID(), err)
			case err != nil:
				why = fmt.Sprintf("%s does not answer: %v", s.ID(), err)
			case f.status != "streaming":
				why = fmt.Sprintf("%s does not stream; pg_stat_wal_receiver says %s", s.ID(), orSay(f.status, "nothing"))
			}
		}
		if why == "" {
			return nil
		}
		if why != said {
			said = why
			x.phase("waiting for streaming replication: " + why)
		}
		select {
		case <-time.After(readyEvery):
			continue
		case <-ctx.Done():
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("it restarted, and %v later %s", x.run.gateTimeout(), why)
		}
		return ctx.Err()
	}
}

// streaming reports whether the instance is a standby that streams.
func (x *executor) streaming(ctx context.Context) bool {
	f, err := x.following(ctx, x.instance, "0/0")
	return err == nil && f.standby && f.status == "streaming"
}
