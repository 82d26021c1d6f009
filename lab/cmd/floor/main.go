// Command floor does the least that any tool of this kind must do, and no more:
// on every host in parallel, one SSH handshake, one bridge to PostgreSQL's
// socket through sudo, one session of pgx, one query. The benchmark measures
// pgfleet against it. Written naively: nothing is sent before its turn.
//
//	floor USER KEY HOST:PORT…
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/crypto/ssh"
)

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: floor USER KEY HOST:PORT…")
		os.Exit(2)
	}
	key, err := os.ReadFile(os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	signer, err := ssh.ParsePrivateKey(key)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var wg sync.WaitGroup
	errs := make([]error, len(os.Args)-3)
	for i, address := range os.Args[3:] {
		wg.Go(func() { errs[i] = one(os.Args[1], signer, address) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[i+3], err)
			os.Exit(1)
		}
	}
}

// bridge joins stdin and stdout to the server's socket.
const bridge = `exec sudo -n -u postgres perl -MIO::Socket::UNIX -e '
$s = IO::Socket::UNIX->new("/var/run/postgresql/.s.PGSQL.5432") or die $!;
if (!fork) { while (sysread STDIN, $b, 65536) { syswrite $s, $b } shutdown $s, 1; exit }
while (sysread $s, $b, 65536) { syswrite STDOUT, $b }'`

func one(user string, signer ssh.Signer, address string) error {
	client, err := ssh.Dial("tcp", address, &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), // the floor measures less work, never more
	})
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	session, err := client.NewSession()
	if err != nil {
		return err
	}
	in, err := session.StdinPipe()
	if err != nil {
		return err
	}
	out, err := session.StdoutPipe()
	if err != nil {
		return err
	}
	if err := session.Start(bridge); err != nil {
		return err
	}
	config, err := pgx.ParseConfig("host=localhost user=postgres dbname=postgres sslmode=disable")
	if err != nil {
		return err
	}
	config.DialFunc = func(context.Context, string, string) (net.Conn, error) { return pipe{in, out}, nil }
	config.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	conn, err := pgx.ConnectConfig(context.Background(), config)
	if err != nil {
		return err
	}
	var version string
	return conn.QueryRow(context.Background(), "SELECT version()", pgx.QueryExecModeSimpleProtocol).Scan(&version)
}

// pipe is the session's stdin and stdout as a net.Conn without deadlines.
type pipe struct {
	io.WriteCloser
	io.Reader
}

func (pipe) LocalAddr() net.Addr              { return nil }
func (pipe) RemoteAddr() net.Addr             { return nil }
func (pipe) SetDeadline(time.Time) error      { return nil }
func (pipe) SetReadDeadline(time.Time) error  { return nil }
func (pipe) SetWriteDeadline(time.Time) error { return nil }
