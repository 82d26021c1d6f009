package backup

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"filippo.io/age"

	"github.com/pgfleet/pgfleet/internal/backup/hosted"
	"github.com/pgfleet/pgfleet/transport"
)

// An Operator makes a set from here: programs on the host dump, and what they write comes
// over the connection and goes into the target as it comes. Nothing is kept in between.
type Operator struct {
	Conn   transport.Conn
	Target Target

	Backup, Instance string
	Role             string // the account that dumps, and the role of the server
	SocketDir        string
	Port             int
	BinDir           string // of pg_dump on the host
	LockTimeout      time.Duration
	Compression      string // of pg_dump -Z; "" for its own
	Check            string // "rows", "counts" or "none"

	Means func(database string) bool // whether a database is to be dumped
	Named []string                   // databases without which it is not what was asked for

	Written    []string        // the recipients, as they were written
	Recipients []age.Recipient // and what they stand for
	Here       bool            // encrypt here though the host may have age

	Now   func() time.Time
	Tell  func(string)  // is told what is being done; nil for nobody
	Bytes *atomic.Int64 // counts what has come into the target; nil for nobody
}

// A Server is what the host says of the server, and of its own programs.
type Server struct {
	Version          string            `json:"server_version"`
	Major            int               `json:"major"`
	Role             string            `json:"role"` // "primary" or "standby"
	SystemIdentifier string            `json:"system_identifier"`
	LSN              string            `json:"lsn"`
	Timeline         int64             `json:"timeline"`
	Databases        []ServersDatabase `json:"databases"` // that allow connections, but templates

	PgDump string `json:"-"` // its version
	Age    string `json:"-"` // its version; "" if the host has none
}

// A ServersDatabase is a database of a server.
type ServersDatabase struct {
	Name     string `json:"name"`
	Owner    string `json:"owner"`
	Encoding string `json:"encoding"`
}

const serverSQL = `SELECT json_build_object('server_version', current_setting('server_version'), 'major', current_setting('server_version_num')::int / 10000,
	'role', CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE 'primary' END, 'system_identifier', (pg_control_system()).system_identifier::text,
	'lsn', CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, 'timeline', (pg_control_checkpoint()).timeline_id,
	'databases', (SELECT coalesce(json_agg(json_build_object('name', datname, 'owner', pg_get_userbyid(datdba), 'encoding', pg_encoding_to_char(encoding)) ORDER BY datname COLLATE "C"), '[]')
		FROM pg_database WHERE datallowconn AND datname NOT IN ('template0', 'template1')))::text;
`

// environment is what every script begins with.
func (o *Operator) environment() string {
	return fmt.Sprintf("unset PGSERVICE PGSERVICEFILE PGOPTIONS PGPASSFILE PGDATABASE\nPGHOST=%s PGPORT=%d PGUSER=%s PGCONNECT_TIMEOUT=30 PGCLIENTENCODING=UTF8 PGAPPNAME=%s\n"+
		"export PGHOST PGPORT PGUSER PGCONNECT_TIMEOUT PGCLIENTENCODING PGAPPNAME\n",
		transport.Quote(o.SocketDir), o.Port, transport.Quote(o.Role), transport.Quote("pgfleet backup "+o.Backup))
}

func (o *Operator) program(name string) string { return transport.Quote(path.Join(o.BinDir, name)) }

// psql returns the command line of psql in a database.
func (o *Operator) psql(database string) string {
	return o.program("psql") + " -XAtqw -v ON_ERROR_STOP=1 -d " + transport.Quote("dbname="+conninfo(database)) + " -f -"
}

// Ask asks the server and the host.
func (o *Operator) Ask(ctx context.Context) (*Server, error) {
	script := o.environment() + o.program("pg_dump") + " --version || exit\nage --version 2>/dev/null || echo\nexec " + o.psql("postgres")
	out, err := o.Conn.Run(ctx, transport.Command{Script: script, User: o.Role, Stdin: []byte(serverSQL), Unfenced: true, MaxOutput: 64 << 20})
	if err != nil {
		return nil, err
	}
	if out.ExitCode != 0 {
		return nil, fmt.Errorf("the server cannot be asked as %s: %s; pgfleet apply makes what a backup needs", o.Role, said(out))
	}
	lines := strings.SplitN(string(out.Stdout), "\n", 3)
	var s Server
	if len(lines) < 3 {
		return nil, errors.New("the host's answer is cut off")
	}
	if err := json.Unmarshal([]byte(lines[2]), &s); err != nil {
		return nil, fmt.Errorf("the server's answer cannot be read: %w", err)
	}
	s.PgDump = strings.TrimPrefix(lines[0], "pg_dump (PostgreSQL) ")
	s.Age = lines[1]
	var major int
	if _, err := fmt.Sscanf(s.PgDump, "%d", &major); err != nil || major < s.Major {
		return nil, fmt.Errorf("pg_dump is version %s, and the server is %d: a dump needs pg_dump of at least the server's version", s.PgDump, s.Major)
	}
	return &s, nil
}

// A stepError says at which step of a run something failed.
type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string { return e.step + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// tidyTime is how long a run that has failed may take to say so in the target.
const tidyTime = 30 * time.Second

// Run makes a set of what server says there is, and returns its manifest, which it has written last. A run that
// fails removes what it has put, and leaves failed.json. The error says at which step it failed, and the ID of the
// set that is not good is returned with it.
func (o *Operator) Run(ctx context.Context, server *Server) (id string, m *Manifest, err error) {
	began, err := o.begin(ctx)
	if err != nil {
		return "", nil, &stepError{"target", err}
	}
	id = NewID(began)
	folder := SetFolder(o.Backup, o.Instance, id)
	m = &Manifest{
		Version: formatVersion, Backup: o.Backup, Instance: o.Instance, ID: id, Began: began,
		ServerVersion: server.Version, PgDumpVersion: server.PgDump, Role: server.Role, SystemIdentifier: server.SystemIdentifier, LSN: server.LSN, Timeline: server.Timeline,
		Encryption: Encryption{Tool: "pgfleet (filippo.io/age)", Recipients: o.Written},
	}
	here := o.Here || server.Age == "" || slices.ContainsFunc(o.Written, func(r string) bool { return strings.HasPrefix(r, "age1pq1") })
	if !here {
		m.Encryption.Tool = "age " + strings.TrimPrefix(server.Age, "v")
	}
	stop := o.beating(ctx, folder)
	defer stop()
	err = o.dump(ctx, server, folder, here, m)
	if err == nil {
		m.Ended = o.Now().UTC()
		err = o.document(ctx, folder, ManifestName, m, m.validate())
	}
	if err != nil {
		tidying, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTime)
		defer cancel()
		return id, nil, o.failed(tidying, folder, m, err)
	}
	return id, m, nil
}

// begin returns when the run begins: at a second at which none has begun, because that is its set's name.
func (o *Operator) begin(ctx context.Context) (time.Time, error) {
	for {
		began := o.Now().UTC().Truncate(time.Second)
		objects, err := o.Target.List(ctx, SetFolder(o.Backup, o.Instance, NewID(began)))
		if err != nil || len(objects) == 0 {
			return began, err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return began, ctx.Err()
		}
	}
}

// dump puts all files of the set.
func (o *Operator) dump(ctx context.Context, server *Server, folder string, here bool, m *Manifest) error {
	var missing []string
	for _, name := range o.Named {
		if !slices.ContainsFunc(server.Databases, func(d ServersDatabase) bool { return d.Name == name }) {
			missing = append(missing, name)
		}
	}
	if missing != nil {
		return &stepError{"databases", fmt.Errorf("there is no such database: %s", strings.Join(missing, ", "))}
	}
	add := func(f File, step string, err error) error {
		if err != nil {
			return &stepError{step, err}
		}
		m.Files = append(m.Files, f)
		return nil
	}
	o.tell("globals")
	f, err := o.pull(ctx, folder, File{Name: GlobalsName, Kind: KindGlobals}, "pg_dumpall", o.program("pg_dumpall")+" -w -g -l postgres", here)
	if err := add(f, "globals", err); err != nil {
		return err
	}
	for _, d := range server.Databases {
		if !o.Means(d.Name) {
			continue
		}
		if err := o.database(ctx, folder, d, here, add); err != nil {
			return err
		}
	}
	if len(m.Files) == 1 {
		return &stepError{"databases", errors.New("the patterns mean no database of this server")}
	}
	return nil
}

// database puts a database's dump and checks, both of one snapshot.
func (o *Operator) database(ctx context.Context, folder string, d ServersDatabase, here bool, add func(File, string, error) error) error {
	o.tell(d.Name)
	file := File{Name: DumpName(d.Name), Kind: KindDatabase, Database: d.Name, Owner: d.Owner, Encoding: d.Encoding}
	command := fmt.Sprintf("%s -w -Fc -C --lock-wait-timeout=%d", o.program("pg_dump"), o.LockTimeout.Milliseconds())
	if o.Compression != "" {
		command += " -Z " + transport.Quote(o.Compression)
	}
	dbname := " -d " + transport.Quote("dbname="+conninfo(d.Name))
	if o.Check == "none" {
		f, err := o.pull(ctx, folder, file, "pg_dump", command+dbname, here)
		return add(f, "database "+d.Name, err)
	}
	var f File
	var session *snapshotSession
	for again := false; ; again = true {
		var err error
		if session, err = o.snapshot(ctx, d.Name); err != nil {
			return add(file, "database "+d.Name+": checks", err)
		}
		f, err = o.pull(ctx, folder, file, "pg_dump", command+" --snapshot="+transport.Quote(session.snapshot)+dbname, here)
		if err == nil {
			break
		}
		session.end()
		// It came behind somebody who waits for the checks to let go of a table, and who has it now.
		if again || !strings.Contains(err.Error(), "due to statement timeout") {
			return add(f, "database "+d.Name, err)
		}
	}
	defer session.end()
	if err := add(f, "database "+d.Name, nil); err != nil {
		return err
	}
	o.tell(d.Name + ": checks")
	f, err := o.checks(ctx, folder, d.Name, session)
	return add(f, "database "+d.Name+": checks", err)
}

// pull has a command on the host write a file of the set.
func (o *Operator) pull(ctx context.Context, folder string, file File, program, command string, here bool) (File, error) {
	script := o.environment() + "exec " + command
	if !here {
		script = o.environment() + joined(program, command, o.Written)
	}
	return o.put(ctx, folder, file, here, func(ctx context.Context, w io.Writer) error {
		out, err := o.Conn.Pipe(ctx, transport.Command{Script: script, User: o.Role, Unfenced: true}, nil, w)
		if err == nil && out.ExitCode != 0 {
			err = ended(program, out)
		}
		return err
	})
}

// ended says how a program ended that has failed.
func ended(program string, out transport.Output) error {
	how := fmt.Sprintf("exit status %d", out.ExitCode)
	if out.ExitCode > 128 {
		how = fmt.Sprintf("killed by signal %d", out.ExitCode-128)
	}
	if text := said(out); !strings.HasPrefix(text, "exit status") {
		how += ": " + text
	}
	return fmt.Errorf("%s: %s", program, how)
}

// joined has age encrypt what a command writes; sh has no pipefail, so that both statuses are looked at.
func joined(program, command string, recipients []string) string {
	encrypt := "age"
	for _, r := range recipients {
		encrypt += " -r " + transport.Quote(r)
	}
	return fmt.Sprintf(`exec 3>&1
dumped=$({ { %s 3>&- 4>&-; echo $? >&4; } | %s >&3 4>&-; } 4>&1)
aged=$?
[ "$aged" = 0 ] || echo "age: exit status $aged" >&2
[ "$dumped" = 0 ] || { echo "%s: exit status $dumped" >&2; exit "${dumped:-1}"; }
exit "$aged"
`, command, encrypt, program)
}

// put stores what write yields, encrypted here if it is not yet.
func (o *Operator) put(ctx context.Context, folder string, file File, encrypt bool, write func(context.Context, io.Writer) error) (File, error) {
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := o.encrypted(w, encrypt, func(w io.Writer) error { return write(ctx, w) })
		w.CloseWithError(err) // nil is the end
		written <- err
	}()
	var in io.Reader = r
	if o.Bytes != nil {
		in = &counted{r, o.Bytes}
	}
	var err error
	file.Bytes, file.SHA256, err = o.Target.Put(ctx, path.Join(folder, file.Name), in)
	if err != nil {
		giveUp()
	}
	r.CloseWithError(errStopped)
	if why := <-written; why != nil && !errors.Is(why, errStopped) && !errors.Is(why, context.Canceled) {
		return file, why
	}
	return file, err
}

// errStopped is what a dump gets that nobody takes any more.
var errStopped = errors.New("what it wrote could not be kept")

// encrypted has write's output encrypted into w.
func (o *Operator) encrypted(w io.Writer, encrypt bool, write func(io.Writer) error) error {
	if !encrypt {
		return write(w)
	}
	cipher, err := age.Encrypt(w, o.Recipients...)
	if err != nil {
		return err
	}
	buffer := bufio.NewWriterSize(cipher, 64<<10)
	err = write(buffer)
	if err == nil {
		err = buffer.Flush()
	}
	if err == nil {
		err = cipher.Close()
	}
	return err
}

// A counted reader counts.
type counted struct {
	r io.Reader
	n *atomic.Int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// document puts a document of the set, unless problem says that it is none.
func (o *Operator) document(ctx context.Context, folder, name string, document any, problem error) error {
	text, err := Encode(document)
	if err = errors.Join(problem, err); err == nil {
		_, _, err = o.Target.Put(ctx, path.Join(folder, name), bytes.NewReader(text))
	}
	if err != nil {
		return &stepError{name, err}
	}
	return nil
}

// failed leaves only why the run has failed.
func (o *Operator) failed(ctx context.Context, folder string, m *Manifest, err error) error {
	step, message := "run", err.Error()
	if e, ok := errors.AsType[*stepError](err); ok {
		step, message = e.step, e.err.Error()
	}
	f := Failed{Version: formatVersion, ID: m.ID, Began: m.Began, Ended: o.Now().UTC(), Step: step, Message: message}
	problem := o.document(ctx, folder, FailedName, f, nil)
	var names []string
	for _, file := range m.Files {
		names = append(names, path.Join(folder, file.Name))
	}
	if problem == nil {
		problem = o.Target.Remove(ctx, names...)
	}
	if problem != nil {
		return fmt.Errorf("%w; that could not be written down in the set either: %s", err, problem.Error())
	}
	return err
}

func (o *Operator) tell(what string) {
	if o.Tell != nil {
		o.Tell(what)
	}
}

// A snapshotSession is psql in a transaction whose snapshot pg_dump takes.
type snapshotSession struct {
	snapshot string
	first    []byte         // what it has printed before
	say      *io.PipeWriter // its standard input
	hear     *bufio.Reader  // its standard output
	out      *io.PipeReader
	stop     context.CancelFunc
	done     chan struct{} // closed when psql has ended
}

// maxFirst bounds what psql prints before the snapshot's name, in bytes: a line for each sequence.
const maxFirst = 256 << 20

// snapshot begins a session.
func (o *Operator) snapshot(ctx context.Context, database string) (*snapshotSession, error) {
	ctx, stop := context.WithCancel(ctx)
	in, say := io.Pipe()
	out, answers := io.Pipe()
	s := &snapshotSession{say: say, hear: bufio.NewReader(out), out: out, stop: stop, done: make(chan struct{})}
	script := o.environment() + "exec " + o.psql(database) + " -v check=" + transport.Quote(o.Check) + fmt.Sprintf(" -v lock_timeout=%d", o.LockTimeout.Milliseconds())
	go func() {
		defer close(s.done)
		result, err := o.Conn.Pipe(ctx, transport.Command{Script: script, User: o.Role, Unfenced: true}, in, answers)
		if err == nil && result.ExitCode != 0 {
			err = ended("psql", result)
		}
		in.CloseWithError(io.ErrClosedPipe)
		answers.CloseWithError(err) // nil is the end
	}()
	const mark = "snapshot "
	go func() { // it may end before it has read this
		_, _ = io.WriteString(say, hosted.ChecksBegin+"SELECT '"+mark+"' || pg_export_snapshot();\n")
	}()
	for {
		line, err := s.hear.ReadBytes('\n')
		if err == nil && bytes.HasPrefix(line, []byte(mark)) {
			s.snapshot = strings.TrimSpace(string(line[len(mark):]))
			return s, nil
		}
		if s.first = append(s.first, line...); err == nil && len(s.first) > maxFirst {
			err = errors.New("there are more sequences than makes sense")
		}
		if errors.Is(err, io.EOF) {
			err = errors.New("psql ended before it had exported a snapshot")
		}
		if err != nil {
			s.end()
			return nil, err
		}
	}
}

// end ends the session, if it has not ended.
func (s *snapshotSession) end() {
	s.stop()
	s.say.CloseWithError(io.ErrClosedPipe)
	s.out.CloseWithError(io.ErrClosedPipe)
	<-s.done
}

// checks puts what the session prints of the database's contents.
func (o *Operator) checks(ctx context.Context, folder, database string, s *snapshotSession) (File, error) {
	go func() {
		_, _ = io.WriteString(s.say, hosted.ChecksRest)
		_ = s.say.Close()
	}()
	return o.put(ctx, folder, File{Name: ChecksName(database), Kind: KindChecks, Database: database}, true, func(ctx context.Context, w io.Writer) error {
		context.AfterFunc(ctx, func() { s.out.CloseWithError(errStopped) })
		_, err := io.Copy(w, io.MultiReader(bytes.NewReader(s.first), s.hear))
		return err
	})
}

// Prune removes what is beyond the newest keep good sets of the backup and instance, and returns the folders of those sets.
func (o *Operator) Prune(ctx context.Context, keep int) ([]string, error) {
	sets, err := ReadSets(ctx, o.Target, Folder(o.Backup, o.Instance))
	if err != nil {
		return nil, err
	}
	var gone []string
	for _, v := range Retain(sets, keep, o.Now(), nil) {
		if !v.Delete {
			continue
		}
		if err := o.Target.Remove(ctx, v.Set.Removable()...); err != nil {
			return gone, err
		}
		gone = append(gone, v.Set.Folder())
	}
	return gone, nil
}
