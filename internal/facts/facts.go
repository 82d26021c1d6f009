// Package facts is the vocabulary between planning and the network: the closed
// set of questions that may be asked of a host, and the plain data that answers
// them.
//
// A question is a Read. Reads change nothing on the host, and because the set
// is closed (only this package can add to it) a planner that holds nothing but
// Reads has nothing to write with. Reads are comparable, so that the same
// question asked by several tasks is asked of the host once.
//
// The package does no I/O. Package transport asks the questions; package tasks
// plans from the answers.
package facts

import (
	"io/fs"
	"net/netip"
	"time"
)

// A Read is one question about a host that changes nothing there. The
// implementations are the types of this package, each documented with the type
// of its answer.
type Read interface{ read() }

// An Answer is what a host said to one Read. Err is set when this question
// could not be answered though the host could be reached; a thing that is
// absent is not an error but a Value that says so.
type Answer struct {
	Value any
	Err   error
}

// OS asks what the host is. Answer: OSInfo.
type OS struct{}

// OSInfo describes the operating system, from os-release(5) and uname(1).
type OSInfo struct {
	ID       string // "debian"
	Like     string // ID_LIKE
	Version  string // VERSION_ID, "12"; empty for Debian's testing
	Codename string // "bookworm"
	Pretty   string // PRETTY_NAME
	Hostname string
	Kernel   string
	Arch     string    // uname -m
	Clock    time.Time // the host's clock when it answered
	User     string    // who logged in
}

// File asks for one file: its metadata and, if it is a regular file, its
// content. Symbolic links are followed. Answer: FileInfo.
type File struct{ Path string }

// Files asks for every file that a shell glob matches, with content, sorted by
// path in byte order. Answer: []FileInfo.
type Files struct{ Glob string }

// Names asks for the names that a shell glob matches, without reading them.
// Answer: []string, sorted.
type Names struct{ Glob string }

// MaxFileSize is the largest content that a File or Files reads, in bytes. A
// larger file is answered with Content nil and TooLarge set.
const MaxFileSize = 4 << 20

// FileInfo is what is known of a path.
type FileInfo struct {
	Path     string // as asked
	Resolved string // the path after following symbolic links
	Exists   bool
	Dir      bool
	Regular  bool
	Content  []byte
	TooLarge bool
	Owner    string // user name, or the number where there is no name
	Group    string
	Mode     fs.FileMode // permission bits, setuid, setgid and sticky
	Changed  time.Time   // ctime: when content, owner or mode last changed; a rename sets it too
	Modified time.Time   // mtime
	Size     int64
}

// Unit asks systemd about a unit. Answer: UnitInfo.
type Unit struct{ Name string }

// UnitInfo holds systemctl show's properties of the same names.
type UnitInfo struct {
	Name             string
	LoadState        string // "loaded", "not-found", "masked"
	ActiveState      string // "active", "inactive", "failed", …
	SubState         string
	UnitFileState    string // "enabled", "disabled", "static", …
	NeedDaemonReload bool
	FragmentPath     string
	MainPID          int
	ActiveEnter      time.Time // when it last became active; zero if never
}

// Package asks the package manager about one package. Answer: PackageInfo.
type Package struct{ Name string }

// PackageInfo is what dpkg-query or rpm says.
type PackageInfo struct {
	Name      string
	Installed bool
	Version   string
	Manager   string // "apt" or "dnf"
}

// Sockets asks for the listening TCP sockets. Answer: []netip.AddrPort; a
// wildcard is 0.0.0.0 or ::.
type Sockets struct{}

// Probe runs a user's own `unless` or `onlyif`, which the user promises to
// change nothing. Answer: ProbeResult.
type Probe struct {
	Script string // given to sh -c
	User   string // whose rights it runs with: "root", "postgres", …
}

// LocalProbe is a Probe on the operator's own machine. Answer: ProbeResult.
type LocalProbe struct{ Script string }

// ProbeResult is how a Probe ended.
type ProbeResult struct {
	ExitCode int
	Output   string // stdout and stderr, cut to a few kB
}

// Ciphers asks the host's OpenSSL whether a cipher list selects anything.
// Answer: CiphersInfo.
type Ciphers struct{ List string }

// CiphersInfo is what openssl ciphers says.
type CiphersInfo struct {
	Known   bool // false where the host has no openssl program
	Valid   bool
	Message string
}

// Certificate asks for the certificate that PostgreSQL really presents on a
// port of the host, by the protocol's SSLRequest; it logs in as nobody. The
// addresses are tried in order. Answer: Served.
type Certificate struct {
	Port      int
	Addresses string // comma-separated, so that the Read stays comparable
}

// Served is what a server presented.
type Served struct {
	Reached bool     // some address accepted a TCP connection
	TLS     bool     // it agreed to TLS
	Chain   [][]byte // DER, leaf first
	// ClientCAs are the names of the CAs whose certificates it asks clients for, in
	// DER: the subjects of its ssl_ca_file. None where it asks for no certificate.
	ClientCAs [][]byte
	Problem   string // why there is no chain
}

// CertificateFile asks for the certificates in a PEM file that may hold a
// private key as well. The key itself never leaves the host: only its public
// half does. Answer: CertificateFileInfo.
type CertificateFile struct{ Path string }

// CertificateFileInfo is what a PEM file holds, without any private key.
type CertificateFileInfo struct {
	File         FileInfo // Content is always nil
	Certificates []byte   // the CERTIFICATE blocks, PEM, in the file's order
	PublicKey    []byte   // of the private key in the file, PEM; nil without one
	Problem      string   // why the key could not be read
}

// Query runs a user's own `unless` query, in a read-only transaction that is
// rolled back, and reports whether its first column of its first row is true.
// Answer: QueryResult.
type Query struct {
	Port      int
	SocketDir string
	Database  string
	SQL       string
}

// QueryResult is how a Query ended. Problem is set where it could not run, for
// example because the database does not exist yet.
type QueryResult struct {
	True    bool
	Problem string
}

// Postgres asks a running server about itself in one round of queries, as the
// superuser over the server's own socket. Answer: Server.
type Postgres struct {
	Port      int
	SocketDir string // "/var/run/postgresql"
}

// A Libraries question lists the names that shared_preload_libraries could
// load from the server's package library directory. Answer: []string, without
// the suffix .so; empty if the directory is not known.
type Libraries struct{ Version int } // major version

func (OS) read()              {}
func (File) read()            {}
func (Files) read()           {}
func (Names) read()           {}
func (Unit) read()            {}
func (Package) read()         {}
func (Sockets) read()         {}
func (Probe) read()           {}
func (Ciphers) read()         {}
func (Certificate) read()     {}
func (Postgres) read()        {}
func (Libraries) read()       {}
func (CertificateFile) read() {}
func (Query) read()           {}
func (LocalProbe) read()      {}

// Listening is a convenience for tests and planners: whether some socket of
// the list accepts connections to addr.
func Listening(sockets []netip.AddrPort, addr netip.AddrPort) bool {
	for _, s := range sockets {
		if s.Port() != addr.Port() {
			continue
		}
		a := s.Addr()
		// A socket bound to :: accepts IPv4 as well unless IPV6_V6ONLY is set,
		// which PostgreSQL sets (src/backend/libpq/pqcomm.c); so families match.
		if a == addr.Addr() || a.IsUnspecified() && a.Is4() == addr.Addr().Is4() {
			return true
		}
	}
	return false
}
