package rollout

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/inventory"
	"github.com/pgfleet/pgfleet/transport"
)

// A LogLine is one line of a host's own log of what pgfleet did there.
type LogLine struct {
	Time string `json:"time"` // by the host's clock, RFC 3339, UTC
	Run  string `json:"run"`
	Who  string `json:"who"`
	What string `json:"what"`
}

// A HostRecord is what a host says of who changes it, and who has.
type HostRecord struct {
	Lease *Lease    // nil if there is none
	Clock time.Time // the host's
	Log   []LogLine // the last lines, oldest first
}

// RanOut reports whether anybody may take the lease.
func (h HostRecord) RanOut() bool { return h.Lease != nil && h.Lease.ranOut(h.Clock) }

// HostRecord asks a host for its lease and the last lines of its log. A host that
// pgfleet has never changed has neither.
func (r *Run) HostRecord(ctx context.Context, h *inventory.Host, lines int) (HostRecord, error) {
	conn, err := r.conn(ctx, h)
	if err != nil {
		return HostRecord{}, err
	}
	out, err := conn.Run(ctx, transport.Command{Unfenced: true, Script: fmt.Sprintf(
		"date +%%s; cd %s 2>/dev/null || exit 0; [ ! -e lease ] || cat lease || exit 1; echo; [ ! -e log ] || tail -n %d log", transport.Quote(r.Locking.dir()), lines)})
	if err != nil {
		return HostRecord{}, err
	}
	if out.ExitCode != 0 {
		return HostRecord{}, errors.New(message(out))
	}
	first, rest, _ := strings.Cut(string(out.Stdout), "\n")
	seconds, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		return HostRecord{}, fmt.Errorf("the host's clock says %q", first)
	}
	record := HostRecord{Clock: time.Unix(seconds, 0)}
	text, log := "", strings.TrimPrefix(rest, "\n")
	if !strings.HasPrefix(rest, "\n") {
		text, log, _ = strings.Cut(rest, "\n\n")
	}
	if text != "" {
		l := ParseLease(text + "\n")
		record.Lease = &l
	}
	for line := range strings.Lines(log) {
		if f := strings.SplitN(strings.TrimSuffix(line, "\n"), "\t", 4); len(f) == 4 {
			record.Log = append(record.Log, LogLine{f[0], f[1], f[2], f[3]})
		}
	}
	return record, nil
}

// TakeAway takes a lease away from whoever has it, if it is still that one: from
// then on the host refuses what they write. It waits a few seconds for a write in
// progress, and fails if that does not end.
func (r *Run) TakeAway(ctx context.Context, h *inventory.Host, l Lease) error {
	out, err := r.onLease(ctx, h, "unlock", l.Fence, "", nil)
	if err != nil {
		return err
	}
	switch out.ExitCode {
	case 0:
		return nil
	case 4:
		return fmt.Errorf("something is being written with it at this moment, and nothing can stop that from here (%s): wait, or end it on the host", strings.Join(writers(out), "; "))
	case 5:
		return errors.New("it is not the lease that was shown any more: look again")
	}
	return errors.New(message(out))
}
