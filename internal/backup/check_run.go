package backup

import (
	"bytes"
	"context"
	"fmt"

	"github.com/pgfleet/pgfleet/internal/backup/hosted"
	"github.com/pgfleet/pgfleet/transport"
)

// maxChecks bounds what is kept of a database's checks, in bytes: a line for each table.
const maxChecks = 256 << 20

// CheckDatabase computes the checks of a database with psql in binDir of a host, with
// sums if the dump's have some.
func CheckDatabase(ctx context.Context, conn transport.Conn, binDir string, at transport.Endpoint, dumped Checks) (Checks, error) {
	level := "counts"
	for _, c := range dumped {
		if c.Sum != nil {
			level = "rows"
			break
		}
	}
	script := fmt.Sprintf("unset PGSERVICE PGSERVICEFILE\nPGAPPNAME=pgfleet; export PGAPPNAME\nexec %s -XAtq --no-password -v ON_ERROR_STOP=1 -v check=%s --host=%s --port=%d --username=%s --dbname=%s",
		transport.Quote(binDir+"/psql"), level, transport.Quote(at.SocketDir), at.Port, transport.Quote(at.User), transport.Quote("dbname="+conninfo(at.Database)))
	out, err := conn.Run(ctx, transport.Command{Script: script, User: "postgres", Stdin: []byte(hosted.ChecksBegin + hosted.ChecksRest), MaxOutput: maxChecks, Unfenced: true})
	switch {
	case err != nil:
		return nil, err
	case out.ExitCode != 0:
		return nil, fmt.Errorf("the contents could not be checked: %s", said(out))
	case out.Truncated:
		return nil, fmt.Errorf("the contents could not be checked: there are more tables than fit into %d bytes", maxChecks)
	}
	return ParseChecks(bytes.NewReader(out.Stdout))
}
