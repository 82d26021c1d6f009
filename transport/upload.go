package transport

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"

	"github.com/pkg/sftp"
)

// largeFile is the size in bytes from which a file's content is uploaded by
// SFTP, which keeps many writes under way and is not slowed down by a long round
// trip, rather than sent behind the script on its standard input.
const largeFile = 1 << 20

// uploads is the folder on the host in which contents wait, each batch in a
// folder of its own that only root may enter.
const uploads = "/var/lib/pgfleet"

// sftpServer becomes OpenSSH's sftp-server, where Debian or RHEL puts it, and
// sweeps up what a run that was cut off had uploaded.
const sftpServer = `umask 077
find ` + uploads + ` -maxdepth 1 -name '.upload-*' -mmin +60 -exec rm -rf {} + 2>/dev/null
for s in /usr/lib/openssh/sftp-server /usr/libexec/openssh/sftp-server; do
	[ -x "$s" ] && exec "$s"
done
exit 127
`

// errNoUpload says that nothing was uploaded, because the host has no sftp-server
// or no place for it: then the content goes behind the script.
var errNoUpload = errors.New("the host takes no uploads")

// upload puts contents into a new folder on the host that only root may enter,
// and returns the folder. The files in it are named by their index.
func (h *host) upload(ctx context.Context, contents map[int][]byte) (string, error) {
	root, err := h.as(ctx, "root")
	if err != nil {
		return "", err
	}
	p, err := h.c.open(ctx, root)
	if err != nil {
		return "", err
	}
	defer p.kill()
	p.exec(loadOne, sftpServer)
	if err := p.started(ctx); err != nil {
		return "", err
	}
	// Nothing in sftp takes a context: closing the channel ends its waits.
	defer context.AfterFunc(ctx, p.kill)()
	fail := func(err error) (string, error) {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if err := h.c.err(); err != nil {
			return "", err
		}
		return "", &Error{Kind: KindRemote, Op: "upload", Err: err}
	}
	client, err := sftp.NewClientPipe(p.out, input{p}, sftp.UseConcurrentWrites(true))
	if err != nil {
		<-p.exited
		if p.status == 127 {
			return "", errNoUpload
		}
		return fail(err)
	}
	defer func() { _ = client.Close() }()
	random := make([]byte, 16)
	_, _ = rand.Read(random) // never fails
	dir := path.Join(uploads, ".upload-"+hex.EncodeToString(random))
	if err := errors.Join(client.MkdirAll(uploads), client.Chmod(uploads, 0o755), client.Mkdir(dir)); err != nil {
		if ctx.Err() != nil || h.c.err() != nil {
			return fail(err)
		}
		return "", errNoUpload // a /var that cannot be written to
	}
	for i, content := range contents {
		f, err := client.OpenFile(path.Join(dir, fmt.Sprint(i)), os.O_WRONLY|os.O_CREATE|os.O_EXCL)
		if err != nil {
			return fail(err)
		}
		_, err = f.ReadFrom(bytes.NewReader(content))
		if err := errors.Join(err, f.Close()); err != nil {
			return fail(err)
		}
	}
	return dir, nil
}

// input is a program's standard input as sftp wants it.
type input struct{ *process }

// Close ends it.
func (i input) Close() error { return i.CloseWrite() }
