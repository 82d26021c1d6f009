// Package transport reaches one host over SSH: it asks the questions of package
// facts there, replaces files, runs commands and opens PostgreSQL sessions.
// Nothing is installed on the host; what it needs there is sshd, sh, the
// coreutils, sudo (or a login as root), and perl or python3.
//
// A [Dialer] logs in and returns a [Conn]. It is made once per run, because it
// shares among hosts what is the same for all of them: known_hosts files read
// once, the agent, passphrases asked for once, connections to jump hosts.
//
// # How few round trips are used
//
// A login with a key costs about seven round trips, none of which can be saved.
// After it, everything that a [Conn.Read] asks is sent at once:
//
//   - The questions about the host are one script of sh, sent along with the
//     request to start a shell. The shell stays open for a second Read.
//   - Each database of a PostgreSQL server is asked over a session of its own
//     through the bridge (see below), also kept for a second Read. The first
//     message to the server goes along with the request to start the bridge, and
//     all that is asked of one database is sent before the first answer is read.
//     An error of one question is no other's: each is a transaction.
//   - Each certificate is fetched over a connection that sshd forwards, or
//     through a bridge without sudo where sshd must not forward.
//
// # The bridge
//
// PostgreSQL's socket demands that its peer is the user postgres, so the SSH
// forwarding of sockets, which connects as the login user, does not help, and
// sshd may refuse it (DisableForwarding). Instead a small program on the host,
// run as postgres, copies bytes between its standard input and output and the
// socket, and pgx speaks PostgreSQL's protocol over that. perl is tried first,
// then python3, socat and nc; sh on the host chooses.
//
// # Rights
//
// The login user becomes root and postgres with sudo -n, never with a terminal:
// a pty would corrupt the byte stream. With a password for sudo, sudo -S asks
// for it with a prompt that only this connection knows, and the password is
// written when that prompt is seen and not before, so that it can never end up
// in a script. A login as root needs no sudo and becomes others with runuser.
//
// The command line that sudo logs is always the same short loader. The script
// comes in an environment variable that sudo passes on, or, where that is not
// so or the script is long, on standard input behind its length, and a script
// that was cut short does not run. It may be seen for a moment in the list of
// processes, so a secret never belongs in one. What is secret, such as the
// content of files, travels on standard input alone.
package transport
