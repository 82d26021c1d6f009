package transport

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
)

// A hostScript gathers the questions about a host into one script for sh, and
// reads its output. Few programs are started, because on a small host starting
// them is most of the time: one find for the metadata of all files, one tar for
// their content, one systemctl for all units, and so on.
//
// The output is a series of records. The first byte tells which, so that the
// two streams of records that find makes (its own, and those of the tar that it
// runs) may interleave:
//
//	S<key> <status> <length>\n<text>  what a program printed, and its exit status
//	N<key>\n<name>\0...\0             names, ended by an empty one
//	M<path>\0<fields>\0               one file's metadata
//	L<path>\0<path>\0<user>\0         where a path with symbolic links leads, and
//	                                  with whose rights it was followed
//	/ or . or NUL                     a tar archive with files' content
//	E                                 the end; written by the loader
type hostScript struct {
	probeTimeout time.Duration

	os       bool
	units    []string
	packages []string
	sockets  bool
	paths    []string // whose metadata and content are read
	globs    []facts.Files
	names    []facts.Read // Names and Libraries
	pems     []facts.CertificateFile
	ciphers  []facts.Ciphers
	probes   []facts.Probe

	reads []facts.Read
}

func newHostScript(probeTimeout time.Duration) *hostScript {
	return &hostScript{probeTimeout: probeTimeout}
}

func (s *hostScript) empty() bool { return len(s.reads) == 0 }

// add adds a question, or says why it cannot be asked.
func (s *hostScript) add(r facts.Read) error {
	switch r := r.(type) {
	case facts.OS:
		s.os = true
	case facts.File:
		if err := absolute(r.Path); err != nil {
			return err
		}
		s.paths = append(s.paths, r.Path)
	case facts.Files:
		if err := absolute(r.Glob); err != nil {
			return err
		}
		s.globs = append(s.globs, r)
	case facts.Names:
		if err := absolute(r.Glob); err != nil {
			return err
		}
		s.names = append(s.names, r)
	case facts.Libraries:
		s.names = append(s.names, r)
	case facts.CertificateFile:
		if err := absolute(r.Path); err != nil {
			return err
		}
		s.pems = append(s.pems, r)
	case facts.Unit:
		if r.Name == "" {
			return errors.New("the unit has no name")
		}
		s.units = append(s.units, r.Name)
	case facts.Package:
		if r.Name == "" {
			return errors.New("the package has no name")
		}
		s.packages = append(s.packages, r.Name)
	case facts.Sockets:
		s.sockets = true
	case facts.Ciphers:
		s.ciphers = append(s.ciphers, r)
	case facts.Probe:
		if err := checkUser(r.User); r.User != "" && err != nil {
			return err
		}
		s.probes = append(s.probes, r)
	default:
		return fmt.Errorf("package transport does not know the question %T", r)
	}
	s.reads = append(s.reads, r)
	return nil
}

// absolute accepts paths that no program takes for an option.
func absolute(path string) error {
	if !strings.HasPrefix(path, "/") {
		return fmt.Errorf("%q is not an absolute path", path)
	}
	if strings.ContainsRune(path, 0) {
		return fmt.Errorf("%q holds a NUL byte", path)
	}
	return nil
}

// prelude: descriptor 3 is the script's output from within $(...). say prints an
// S record; names prints an N record of what a pattern matches, which is
// expanded by sh itself: with IFS empty the value is not split.
const prelude = `exec 3>&1
cd /
IFS=
` + rights + `
say() { printf 'S%s %s %s\n%s' "$1" "$2" "${#3}" "$3"; }
names() {
	key=$1
	set -- $2
	if [ $# -eq 1 ] && ! [ -e "$1" ] && ! [ -L "$1" ]; then shift; fi
	printf 'N%s\n' "$key"
	if [ $# -gt 0 ]; then printf '%s\0' "$@"; fi
	printf '\0'
}
`

// findFields are what M records hold behind the path: type, owner, group, mode,
// size, mtime, ctime (find(1), -printf).
const findFields = `M%p\0%y %u %g %m %s %T@ %C@\0`

// text returns the script.
func (s *hostScript) text() string {
	var b strings.Builder
	b.WriteString(prelude)
	if s.os {
		// Files that sh reads by itself; the last one is there from Linux 6.1 on.
		b.WriteString("read -r h </proc/sys/kernel/hostname; read -r k </proc/sys/kernel/osrelease\n" +
			"read -r m 2>/dev/null </proc/sys/kernel/arch || m=$(uname -m)\nsay os 0 \"$h $k $m\"\n")
		// os-release(5)
		b.WriteString("o=; for f in /etc/os-release /usr/lib/os-release; do\n" +
			"if [ -r $f ]; then while read -r l; do o=\"$o$l\n\"; done <$f; break; fi\ndone; say release 0 \"$o\"\n")
	}
	if len(s.units) > 0 {
		b.WriteString("read -r o </proc/uptime; say uptime 0 \"$o\"\n") // beside the clock, which writeFiles asks for
	}
	s.writeFiles(&b)
	if len(s.units) > 0 {
		// Before version 248 systemctl had no --timestamp; the seconds must do then.
		show := "TZ=UTC0 systemctl show -p Id,LoadState,ActiveState,SubState,UnitFileState,NeedDaemonReload,FragmentPath,MainPID,ActiveEnterTimestamp,ActiveEnterTimestampMonotonic"
		units := " --" + words(s.units) + " 2>&1"
		fmt.Fprintf(&b, "o=$(%s --timestamp=us%s) || o=$(%s%s); say units $? \"$o\"\n", show, units, show, units)
	}
	if len(s.packages) > 0 {
		b.WriteString(`if command -v dpkg-query >/dev/null 2>&1; then
o=$(dpkg-query -W -f='${Package}\t${Architecture}\t${db:Status-Status}\t${Version}\n' --` + words(s.packages) + ` 2>/dev/null); say apt 0 "$o"
elif command -v rpm >/dev/null 2>&1; then
o=$(rpm -q --qf '%{NAME}\t%{ARCH}\tinstalled\t%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}\n' --` + words(s.packages) + ` 2>/dev/null); say dnf 0 "$o"
fi
`)
	}
	if s.sockets {
		// State 0A is LISTEN. tcp6 does not exist where IPv6 is switched off.
		b.WriteString("o=$(grep -h ' 0A ' /proc/net/tcp /proc/net/tcp6 2>/dev/null); say sockets 0 \"$o\"\n")
	}
	for i, r := range s.names {
		switch r := r.(type) {
		case facts.Names:
			fmt.Fprintf(&b, "names name%d %s\n", i, Quote(r.Glob))
		case facts.Libraries:
			// Debian's, then PGDG's folder on RHEL.
			fmt.Fprintf(&b, "names name%d %s\n", i, Quote(fmt.Sprintf("/usr/lib/postgresql/%d/lib/*.so", r.Version)))
			fmt.Fprintf(&b, "names name%d %s\n", i, Quote(fmt.Sprintf("/usr/pgsql-%d/lib/*.so", r.Version)))
		}
	}
	s.writePEMs(&b)
	if len(s.ciphers) > 0 {
		b.WriteString("if command -v openssl >/dev/null 2>&1; then\n")
		for i, c := range s.ciphers {
			fmt.Fprintf(&b, "o=$(openssl ciphers -- %s 2>&1 >/dev/null); say cipher%d $? \"$o\"\n", Quote(c.List), i)
		}
		b.WriteString("fi\n")
	}
	for i, p := range s.probes {
		rights, home := "uid=0; ", ""
		if p.User != "" && p.User != "root" {
			rights = "[ \"$user\" = " + p.User + " ] || gid=$(id -g -- " + p.User + "); uid=" + p.User + " user=" + p.User + "; "
			home = "HOME=~" + p.User + "; export HOME; "
		}
		fmt.Fprintf(&b, "%so=$({ as timeout -k %d %d sh -c %s 2>&1; echo \"=$?\"; } | tail -c %d); say probe%d 0 \"$o\"\n",
			rights, int(timeoutKill.Seconds()), int(s.probeTimeout.Seconds()), Quote(home+"cd /; "+p.Script), maxProbeOutput, i)
	}
	return b.String()
}

// timeoutKill is how long after a probe's time is over it is killed.
const timeoutKill = 5 * time.Second

// maxProbeOutput is how much of a probe's output is kept, in bytes, from its end.
const maxProbeOutput = 8 << 10

// clock is a path whose folder comes into being when somebody looks at it: its
// time is the host's, which saves running date.
const clock = "/proc/self/."

// look FOLLOW PATH... prints the metadata and content of paths. through does so
// for a path with symbolic links. Other paths are read without following any, so
// that one that is put there meanwhile leads nowhere; and if one has come into a
// folder's place, the answer does not count.
//
// -size counts blocks of 512 bytes, rounded up. tar's archives end with two
// empty blocks and nothing more (-b 1).
const lookScript = `
look() {
	follow=$1 h=
	[ $follow = -P ] || h=-h
	shift
	o=$(as find $follow "$@" -maxdepth 0 -printf '%[1]s' -type f ! -size +%[2]d%[3]s -exec tar -c -f - $h -P -b 1 --format=gnu --numeric-owner --hard-dereference -- {} + 2>&1 1>&3)
	say find $? "$o"
}
through() {
	if way "$1"; then
		printf 'L%%s\0%%s\0%%s\0' "$1" "$full" "$user"
		look -L "$1"
	else say find 1 "find: '$1': $why"; fi
	uid=0
}
for p; do
	shift
	if linked "$p"; then through "$p"; else set -- "$@" "$p"; fi
done
if [ $# -gt 0 ]%[4]s; then
	look -P "$@"%[5]s
	unlinked=
	for p; do ! linked "$p" || say find 1 "find: '$p': it became a symbolic link while it was read"; done
fi
`

// writeFiles asks for paths and globs with their content, and for the time.
func (s *hostScript) writeFiles(b *strings.Builder) {
	timed := s.os || len(s.units) > 0
	if len(s.paths)+len(s.globs)+len(s.pems) == 0 && !timed {
		return
	}
	paths, except := slices.Clone(s.paths), ""
	for _, p := range s.pems { // they may hold keys: metadata alone
		paths = append(paths, p.Path)
		if s.wantsContent(p.Path) {
			continue
		}
		except += " ! -path " + Quote(strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`, `\`, `\\`).Replace(p.Path))
	}
	b.WriteString("set --" + words(unique(paths)) + "\n")
	for i, g := range s.globs {
		// Unquoted: expanded here, and again for the record of its names.
		fmt.Fprintf(b, "g=%s; names glob%d \"$g\"; set -- \"$@\" $g\n", Quote(g.Glob), i)
	}
	always, also := "", ""
	if timed {
		always, also = " || :", " "+clock
	}
	fmt.Fprintf(b, lookScript, findFields, facts.MaxFileSize/512, except, always, also)
}

// wantsContent reports whether a File or Files asks for a path's content.
func (s *hostScript) wantsContent(p string) bool {
	if slices.Contains(s.paths, p) {
		return true
	}
	for _, g := range s.globs {
		if ok, err := path.Match(g.Glob, p); ok || err != nil {
			return true
		}
	}
	return false
}

// writePEMs asks for the certificates in files. Of a private key only openssl
// sees more than its first line, and only its public half is printed.
func (s *hostScript) writePEMs(b *strings.Builder) {
	for i, p := range s.pems {
		quoted := Quote(p.Path)
		fmt.Fprintf(b, `uid=0
if [ -f %[1]s ] && { ! linked %[1]s || way %[1]s; }; then
o=$(as sed -n -e '/^-----BEGIN CERTIFICATE-----/,/^-----END CERTIFICATE-----/p' -e '/^-----BEGIN .*PRIVATE KEY-----/p' %[1]s 2>&1); say pem%[2]d $? "$o"
case $o in *"PRIVATE KEY-----"*) o=$(as openssl pkey -in %[1]s -passin pass: -pubout 2>&1); say key%[2]d $? "$o";; esac
fi
`, quoted, i)
	}
}

// words quotes each word and puts a space before it.
func words(list []string) string {
	var b strings.Builder
	for _, w := range list {
		b.WriteByte(' ')
		b.WriteString(Quote(w))
	}
	return b.String()
}

// unique returns the list without what comes twice.
func unique(list []string) []string {
	seen := make(map[string]bool, len(list))
	var once []string
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			once = append(once, s)
		}
	}
	return once
}
