package transport

import (
	"bytes"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
)

// answers turns the output into answers.
func (s *hostScript) answers(out *hostOutput, user string) map[facts.Read]facts.Answer {
	found := make(map[facts.Read]facts.Answer, len(s.reads))
	units, unitsErr := out.units(len(s.units))
	for _, r := range s.reads {
		var a facts.Answer
		switch r := r.(type) {
		case facts.OS:
			a.Value, a.Err = out.osInfo(user)
		case facts.File:
			a.Value, a.Err = out.file(r.Path)
		case facts.Files:
			a.Value, a.Err = out.matched(fmt.Sprintf("glob%d", slices.Index(s.globs, r)))
		case facts.Names:
			a.Value = sorted(out.names[fmt.Sprintf("name%d", slices.Index(s.names, facts.Read(r)))])
		case facts.Libraries:
			libraries := []string{}
			for _, n := range out.names[fmt.Sprintf("name%d", slices.Index(s.names, facts.Read(r)))] {
				libraries = append(libraries, strings.TrimSuffix(path.Base(n), ".so"))
			}
			a.Value = sorted(libraries)
		case facts.CertificateFile:
			a.Value, a.Err = out.certificateFile(r.Path, slices.Index(s.pems, r))
		case facts.Unit:
			if a.Err = unitsErr; a.Err == nil {
				u := units[slices.Index(s.units, r.Name)]
				u.Name = r.Name
				a.Value = u
			}
		case facts.Package:
			a.Value, a.Err = out.packageInfo(r.Name)
		case facts.Sockets:
			a.Value, a.Err = parseSockets(out.sections["sockets"].text)
		case facts.Ciphers:
			c, known := out.sections[fmt.Sprintf("cipher%d", slices.Index(s.ciphers, r))]
			a.Value = facts.CiphersInfo{Known: known, Valid: known && c.status == 0, Message: lastLines(c.text, 1)}
		case facts.Probe:
			a.Value, a.Err = probeResult(out.sections[fmt.Sprintf("probe%d", slices.Index(s.probes, r))].text, s.probeTimeout)
		}
		found[r] = a
	}
	return found
}

// sorted sorts names and never returns nil.
func sorted(names []string) []string {
	names = append([]string{}, names...)
	slices.Sort(names)
	return slices.Compact(names)
}

// file returns what was found of a path.
func (out *hostOutput) file(p string) (facts.FileInfo, error) {
	f := out.files[p]
	f.Path, f.Resolved = p, p
	link := out.links[p]
	if link.to != "" {
		f.Resolved = path.Clean(link.to)
	}
	if why := out.problem(p); why != "" {
		if link.user != "" && link.user != "root" {
			why += fmt.Sprintf(" (a symbolic link is on the way, so it was read with the rights of %s)", link.user)
		}
		return f, fmt.Errorf("%s: %s", p, why)
	}
	if !f.Exists {
		return facts.FileInfo{Path: f.Path, Resolved: f.Resolved}, nil
	}
	if f.Regular && !f.TooLarge && f.Content == nil {
		if f.Size > 0 {
			return f, fmt.Errorf("%s: its content was not read: %s", p, lastLines(out.problems, 2))
		}
		f.Content = []byte{}
	}
	return f, nil
}

// problem returns what find or tar complained about a path, other than that it
// does not exist.
func (out *hostOutput) problem(p string) string {
	for line := range strings.Lines(out.problems) {
		for _, prefix := range []string{"find: '" + p + "': ", "tar: " + p + ": "} {
			why, ok := strings.CutPrefix(strings.TrimSpace(line), prefix)
			if ok && !slices.Contains([]string{"No such file or directory", "Not a directory", "File removed before we read it"}, why) {
				return why
			}
		}
	}
	return ""
}

// matched returns the files that a pattern matched.
func (out *hostOutput) matched(key string) ([]facts.FileInfo, error) {
	files := []facts.FileInfo{}
	for _, name := range sorted(out.names[key]) {
		f, err := out.file(name)
		if err != nil {
			return nil, err
		}
		if f.Exists {
			files = append(files, f)
		}
	}
	return files, nil
}

// osInfo reads os-release(5), uname and the clock.
func (out *hostOutput) osInfo(user string) (facts.OSInfo, error) {
	info := facts.OSInfo{User: user}
	if f := strings.Fields(out.sections["os"].text); len(f) == 3 {
		info.Hostname, info.Kernel, info.Arch = f[0], f[1], f[2]
	}
	var err error
	if info.Clock, err = out.clock(); err != nil {
		return info, err
	}
	for line := range strings.Lines(out.sections["release"].text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = shellValue(value)
		switch key {
		case "ID":
			info.ID = value
		case "ID_LIKE":
			info.Like = value
		case "VERSION_ID":
			info.Version = value
		case "VERSION_CODENAME":
			info.Codename = value
		case "PRETTY_NAME":
			info.Pretty = value
		}
	}
	return info, nil
}

// clock returns the host's time when it was asked.
func (out *hostOutput) clock() (time.Time, error) {
	if t := out.files[clock].Modified; !t.IsZero() {
		return t, nil
	}
	return time.Time{}, errors.New("the host did not tell the time: is there no " + path.Dir(clock) + "?")
}

// shellValue takes the quotes off a value of os-release(5).
func shellValue(s string) string {
	if len(s) >= 2 && s[0] == '\'' && s[len(s)-1] == '\'' {
		return s[1 : len(s)-1]
	}
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	return strings.NewReplacer(`\"`, `"`, `\$`, `$`, `\\`, `\`, "\\`", "`").Replace(s)
}

// units reads systemctl show: a block of properties for each unit, in the order
// in which they were asked for, with empty lines in between.
func (out *hostOutput) units(n int) ([]facts.UnitInfo, error) {
	if n == 0 {
		return nil, nil
	}
	shown := out.sections["units"]
	blocks := strings.Split(strings.TrimSpace(shown.text), "\n\n")
	if shown.status != 0 || len(blocks) != n {
		return nil, fmt.Errorf("systemctl show: %s", printed(shown.text, shown.status))
	}
	boot, err := out.boot()
	if err != nil {
		return nil, err
	}
	units := make([]facts.UnitInfo, n)
	for i, block := range blocks {
		u := &units[i]
		var entered string
		var monotonic int64
		for line := range strings.Lines(block) {
			key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
			switch key {
			case "LoadState":
				u.LoadState = value
			case "ActiveState":
				u.ActiveState = value
			case "SubState":
				u.SubState = value
			case "UnitFileState":
				u.UnitFileState = value
			case "NeedDaemonReload":
				u.NeedDaemonReload = value == "yes"
			case "FragmentPath":
				u.FragmentPath = value
			case "MainPID":
				u.MainPID, _ = strconv.Atoi(value)
			case "ActiveEnterTimestamp":
				entered = value
			case "ActiveEnterTimestampMonotonic":
				monotonic, _ = strconv.ParseInt(value, 10, 64)
			}
		}
		u.ActiveEnter = activeEnter(entered, monotonic, boot)
	}
	return units, nil
}

// boot returns when the host's monotonic clock was zero, to about 10 ms.
func (out *hostOutput) boot() (time.Time, error) {
	clock, err := out.clock()
	if err != nil {
		return time.Time{}, err
	}
	uptime, _, _ := strings.Cut(out.sections["uptime"].text, " ")
	seconds, err := strconv.ParseFloat(uptime, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("the host's /proc/uptime: %w", err)
	}
	return clock.Add(-time.Duration(seconds * float64(time.Second))), nil
}

// activeEnter reads a timestamp of systemctl in UTC: with microseconds, or,
// before systemd 248, with seconds, to which the monotonic clock then gives the
// fraction.
func activeEnter(s string, monotonic int64, boot time.Time) time.Time {
	t, err := time.Parse("Mon 2006-01-02 15:04:05 UTC", s)
	if err != nil {
		return time.Time{}
	}
	if t.Nanosecond() == 0 && monotonic > 0 {
		if exact := boot.Add(time.Duration(monotonic) * time.Microsecond); exact.Truncate(time.Second).Equal(t) {
			return exact.UTC()
		}
	}
	return t
}

// packageInfo reads the lines of dpkg-query or rpm about one package.
func (out *hostOutput) packageInfo(name string) (facts.PackageInfo, error) {
	info := facts.PackageInfo{Name: name, Manager: "apt"}
	listed, ok := out.sections["apt"]
	if !ok {
		info.Manager = "dnf"
		if listed, ok = out.sections["dnf"]; !ok {
			return info, errors.New("the host has neither dpkg-query nor rpm")
		}
	}
	bare, arch, _ := strings.Cut(name, ":")
	for line := range strings.Lines(listed.text) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) == 4 && f[0] == bare && (arch == "" || f[1] == arch) && f[2] == "installed" {
			info.Installed, info.Version = true, f[3]
		}
	}
	return info, nil
}

// parseSockets reads lines of /proc/net/tcp and tcp6 (proc(5)). The kernel
// prints addresses in words of the machine's byte order; PostgreSQL's common
// platforms are little-endian.
func parseSockets(text string) ([]netip.AddrPort, error) {
	sockets := []netip.AddrPort{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 4 {
			return nil, fmt.Errorf("/proc/net/tcp: %q", line)
		}
		address, port, _ := strings.Cut(f[1], ":")
		raw, err := hex.DecodeString(address)
		if err != nil || len(raw) != 4 && len(raw) != 16 {
			return nil, fmt.Errorf("/proc/net/tcp: %q", line)
		}
		for word := range slices.Chunk(raw, 4) {
			slices.Reverse(word)
		}
		n, err := strconv.ParseUint(port, 16, 16)
		if err != nil {
			return nil, fmt.Errorf("/proc/net/tcp: %q", line)
		}
		addr, _ := netip.AddrFromSlice(raw)
		sockets = append(sockets, netip.AddrPortFrom(addr, uint16(n)))
	}
	slices.SortFunc(sockets, netip.AddrPort.Compare)
	return slices.Compact(sockets), nil
}

// certificateFile returns a PEM file's certificates and the public half of its
// key.
func (out *hostOutput) certificateFile(p string, i int) (facts.CertificateFileInfo, error) {
	f, err := out.file(p)
	var info facts.CertificateFileInfo
	if err != nil && f.Content == nil && out.problem(p) == "" {
		err = nil // no content was asked for
	}
	f.Content = nil
	info.File = f
	if err != nil || !f.Regular {
		return info, err
	}
	printed := out.sections[fmt.Sprintf("pem%d", i)]
	if printed.status != 0 {
		return info, fmt.Errorf("%s: %s", p, lastLines(printed.text, 1))
	}
	var certificates bytes.Buffer
	for rest := []byte(printed.text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			_ = pem.Encode(&certificates, block)
		}
	}
	info.Certificates = certificates.Bytes()
	if key, ok := out.sections[fmt.Sprintf("key%d", i)]; ok {
		if block, _ := pem.Decode([]byte(key.text)); key.status == 0 && block != nil && block.Type == "PUBLIC KEY" {
			info.PublicKey = pem.EncodeToMemory(block)
		} else if key.status == 127 {
			info.Problem = "the host has no openssl program"
		} else {
			info.Problem = "openssl cannot read the key: " + lastLines(key.text, 1)
		}
	}
	return info, nil
}

// probeResult takes a probe's output and, from its end, its exit status.
func probeResult(text string, limit time.Duration) (facts.ProbeResult, error) {
	i := strings.LastIndexByte(text, '=')
	if i < 0 {
		return facts.ProbeResult{}, errors.New("the probe did not say how it ended")
	}
	code, err := strconv.Atoi(strings.TrimSpace(text[i+1:]))
	if err != nil {
		return facts.ProbeResult{}, errors.New("the probe did not say how it ended")
	}
	if code == 124 || code == 137 { // timeout(1)
		return facts.ProbeResult{}, fmt.Errorf("it did not end within %s", limit)
	}
	return facts.ProbeResult{ExitCode: code, Output: strings.TrimRight(text[:i], "\n")}, nil
}
