package facts

import "github.com/pgfleet/pgfleet/internal/catalog"

// Cluster asks a server for what its databases share: roles, memberships,
// databases, their settings, and in which databases roles own something.
// Answer: ClusterInfo.
type Cluster struct {
	Port      int
	SocketDir string
}

// ClusterInfo is what a Cluster was answered. Cluster is nil where the server
// could not be asked, and Problem says why. Its Contents are empty.
type ClusterInfo struct {
	Cluster *catalog.Cluster
	Problem string
}

// Contents asks for what one database holds. Answer: ContentsInfo.
type Contents struct {
	Port      int
	SocketDir string
	Database  string
}

// ContentsInfo is what a Contents was answered. Contents is nil where the
// database could not be read, and Problem says why.
type ContentsInfo struct {
	Contents *catalog.Contents
	Missing  bool // there is no such database
	Problem  string
}

// Available asks which extensions the server could make, from the files beside
// its programs. Answer: AvailableInfo.
type Available struct {
	Port      int
	SocketDir string
}

// AvailableInfo has the versions by name: the default version first, the others
// sorted.
type AvailableInfo struct {
	Versions map[string][]string
	Problem  string
}

// Deparse asks the server how it understands an expression over a table's
// columns, so that two texts can be compared by what they mean. The expression
// is parsed and neither planned nor run: planning calls immutable functions, with
// the rights of the superuser who asks. Answer: Deparsed.
type Deparse struct {
	Port      int
	SocketDir string
	Database  string
	Schema    string
	Table     string
	Expr      string
}

// Deparsed is the server's parse tree of an expression, or in Problem its error.
type Deparsed struct {
	Text    string // several kB: to be compared, never to be shown
	Problem string
}

// Rehearse runs a script in a transaction that is rolled back, with a
// lock_timeout. It is the one question that touches the server: locks are taken
// for as long as it runs, and values of sequences are consumed. A script that
// would leave the transaction is not run. Answer: Rehearsed.
type Rehearse struct {
	Port      int
	SocketDir string
	Database  string
	SQL       string
	Timeout   int // milliseconds for the whole; the lock_timeout is a fixed 2 s
}

// Rehearsed is how a rehearsal ended.
type Rehearsed struct {
	// Problem is the server's error, with LINE, caret, DETAIL and HINT as psql
	// has them; "" where the script ran to its end.
	Problem string
	// Missing says that the database is not there, so nothing was run.
	Missing bool
	// Outside names a statement that cannot run in a transaction, or that would
	// end it; nothing was run then.
	Outside string
	// Cluster is what the server held inside the transaction after the script,
	// with the Contents of the one database; nil after a problem.
	Cluster *catalog.Cluster
}

func (Cluster) read()   {}
func (Contents) read()  {}
func (Available) read() {}
func (Deparse) read()   {}
func (Rehearse) read()  {}
