package rollout

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

// A Lease is what stands in a host's lease: who may change the host, and until
// when if it is not renewed. Times are the host's clock's.
type Lease struct {
	Fence   string // the first line: the token, a number that only grows, and a random word
	Holder  string // user@machine
	PID     int
	Process string // tells the process from others on its machine; "" where it cannot
	Run     string
	Why     string
	Since   time.Time
	Until   time.Time
}

// ParseLease reads a lease. What is missing in it stays zero.
func ParseLease(text string) Lease {
	first, rest, _ := strings.Cut(text, "\n")
	l := Lease{Fence: first}
	for line := range strings.Lines(rest) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		number, _ := strconv.ParseInt(value, 10, 64)
		switch key {
		case "until":
			l.Until = time.Unix(number, 0)
		case "since":
			l.Since = time.Unix(number, 0)
		case "holder":
			l.Holder = value
		case "pid":
			l.PID = int(number)
		case "process":
			l.Process = value
		case "run":
			l.Run = value
		case "why":
			l.Why = value
		}
	}
	return l
}

// ranOut reports whether anybody may take the lease at a time of the host's
// clock.
func (l Lease) ranOut(clock time.Time) bool { return l.Until.Before(clock.Truncate(time.Second)) }

// String says who has the lease, and since when.
func (l Lease) String() string {
	return fmt.Sprintf("%s has been applying here since %s (run %s, pid %d)", l.Holder, clock(l.Since), l.Run, l.PID)
}

// clock is a time of day, with the date if that is another day's.
func clock(t time.Time) string {
	if now := time.Now(); now.Sub(t).Abs() < 12*time.Hour {
		return t.Format(time.TimeOnly)
	}
	return t.Format(time.DateTime)
}

// Operator returns who runs pgfleet, and where: user@machine.
func Operator() string {
	name, machine := fmt.Sprintf("uid %d", os.Getuid()), "localhost"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		machine = h
	}
	return name + "@" + machine
}

// process names a process among all that there are on all machines, as far as
// Linux tells: by boot, PID namespace, PID and start (proc(5)). It is empty for
// one that has ended.
func process(pid int) string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	namespace, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// Behind the command's name, which may hold anything: state is field 3, the
	// start 22.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return ""
	}
	return fmt.Sprintf("%s/%s/%d/%s", strings.TrimSpace(string(boot)), namespace, pid, fields[19])
}

// abandoned reports whether the lease is of a process on this very machine that
// has ended, so that nobody will give it back.
func (l Lease) abandoned() bool {
	if l.Holder != oneWord(Operator()) {
		return false // another user's may be hidden (hidepid, proc(5))
	}
	own := process(os.Getpid())
	prefix, _, ok := strings.Cut(own, fmt.Sprintf("/%d/", os.Getpid()))
	return ok && strings.HasPrefix(l.Process, prefix+"/") && process(l.PID) != l.Process
}

// maxNote is how many characters a line of the host's log has at most.
const maxNote = 300

// note is text as it stands in one line of a file: without control characters,
// placeholders of secrets masked, and not too long.
func note(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, secrets.MaskPlaceholders(text))
	if r := []rune(text); len(r) > maxNote {
		return string(r[:maxNote]) + "…"
	}
	return text
}

// oneWord is a note without white space.
func oneWord(text string) string { return strings.Join(strings.Fields(note(text)), "_") }
