package transport

import (
	"context"
	"io"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgfleet/pgfleet/internal/facts"
)

// A Conn is one host, logged into once. All of its methods may be called
// concurrently; a context that ends makes them return at once, whatever the
// network does. Only the executor holds a Conn: planning sees facts.
type Conn interface {
	// Read asks all questions together, in as few round trips as it can, and
	// returns the answers by question. An answer carries its own error; the
	// error returned is the host's: it could not be asked at all.
	Read(ctx context.Context, reads []facts.Read) (map[facts.Read]facts.Answer, error)

	// WriteFiles replaces files as one batch: all contents reach the host
	// before the first file is touched, and each file is replaced atomically
	// (temporary file in the same folder, owner, mode, extended attributes of
	// the file that it replaces, fsync, rename, fsync of the folder). A reader
	// sees the old file or the new one. Symbolic links are followed; the folder
	// must exist. Once all has arrived the host finishes the batch whatever
	// becomes of us, so after an error that is the connection's or the
	// context's either all files or none may have been replaced.
	WriteFiles(ctx context.Context, files []File) error

	// Remove deletes files; one that is already gone is no error.
	Remove(ctx context.Context, paths ...string) error

	// Run runs one command and returns how it ended. A command that ran and
	// exited with a code other than 0 is not an error.
	Run(ctx context.Context, c Command) (Output, error)

	// Pipe runs one command between two streams and returns how it ended, without
	// Stdout. stdin is read as fast as the command takes it (nil is empty), stdout is
	// written to as fast as it takes, and no more than a window of SSH's of either is
	// kept. The command's input ends only where stdin does: when reading stdin or
	// writing to stdout fails that error is returned, and the command gets SIGTERM, as it does when the
	// context ends. After a connection is lost, though, its input ends like any
	// other: what must not be taken for whole has to say how it ends. A call to
	// Read or Write of the streams that is under way when Pipe returns early may go
	// on; no other begins. Where the connection is Fenced the lease is looked at
	// before the command starts, and not kept from being taken afterwards.
	Pipe(ctx context.Context, c Command, stdin io.Reader, stdout io.Writer) (Output, error)

	// Postgres opens a session as the superuser over the server's own socket.
	// The caller closes it.
	Postgres(ctx context.Context, at Endpoint) (*pgx.Conn, error)

	// DialPostgres opens a raw byte stream from the host to a PostgreSQL
	// port: what a login with a password over TLS is made over. It is the
	// same bridge, without sudo.
	DialPostgres(ctx context.Context, address string, port int) (Stream, error)

	// Fenced returns the same connection, but one that changes nothing unless
	// the lease is the run's: WriteFiles, Remove and every Run and Pipe that is not
	// Unfenced look at it on the host, in the script that writes. What has lost
	// its lease fails with an error of KindFenced, and then nothing was changed.
	// Nobody can take the lease between that look and the end of the write. Sessions
	// of Postgres are not fenced.
	Fenced(f Fence) Conn

	// Refresh makes the next Read open new sessions to PostgreSQL rather than
	// go on in those of the last one, so that what it sees is what a client
	// that connects now would.
	Refresh()

	// Err returns why the connection has ended, and nil as long as it has not, as
	// far as is known: a host that stops answering is found out after a time
	// ([Dialer.StallTimeout]).
	Err() error

	// Close ends the connection. Commands still running on the host are not
	// killed.
	Close() error
}

// A Stream is a byte stream whose deadlines work.
type Stream interface {
	io.ReadWriteCloser
	SetDeadline(t time.Time) error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

// A File is one file to be written whole.
type File struct {
	Path    string
	Content []byte
	// Owner, Group and Mode are given to a new file and set on an old one; an
	// empty Owner or Group and a zero Mode keep what the old file has. A new
	// file is its folder's owner's and has mode 0644. Where a
	// folder on the way is not root's, only its owner can have files written:
	// root could be led astray there by a symbolic link. What is refused is
	// of KindRefused: then nothing on the host has changed.
	Owner, Group string
	Mode         fs.FileMode
}

// A Command is what Run runs. It is given to the host's sh; secrets belong in
// Stdin, never in Script, because the script may be seen in a process list.
type Command struct {
	Script string // may be long; it is not limited by the length of a command line
	User   string // whose rights: "root", "postgres", or "" for the login user
	Dir    string // "" is the login user's home, or / with another user's rights
	Stdin  []byte

	// Unfenced says that the command changes nothing that others rely on, so
	// that it runs without a lease too; see Conn.Fenced.
	Unfenced bool

	// MaxOutput bounds what is kept of each of stdout and stderr, in bytes;
	// 0 means 1 MiB. The rest is read and dropped.
	MaxOutput int
}

// An Output is how a command ended.
type Output struct {
	Stdout, Stderr []byte
	ExitCode       int // 128 and the number of the signal that ended it, if one did
	Truncated      bool
}

// An Endpoint names a database of a server on the host.
type Endpoint struct {
	SocketDir string // default /var/run/postgresql
	Port      int
	Database  string // default "postgres"
	User      string // default "postgres", by peer authentication
}
