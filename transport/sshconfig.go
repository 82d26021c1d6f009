package transport

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sshConfig is what ssh_config(5) says about one host, as far as it is used
// here. The zero value of a field means that it says nothing.
type sshConfig struct {
	HostName         string
	User             string
	Port             int
	IdentityFiles    []string
	CertificateFiles []string
	IdentitiesOnly   bool
	IdentityAgent    string // "none", a path, or empty for SSH_AUTH_SOCK
	ProxyJump        []string
	ProxyCommand     string
	UserKnownHosts   []string
	GlobalKnownHosts []string
	RevokedHostKeys  string
	HostKeyAlias     string
	ConnectTimeout   time.Duration
	AliveInterval    time.Duration
	AliveCountMax    int
}

// defaultConfig is what ssh does without any configuration file: ssh_config(5).
func defaultConfig(host string) sshConfig {
	return sshConfig{
		HostName:         host,
		IdentityFiles:    []string{"~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "~/.ssh/id_ecdsa_sk", "~/.ssh/id_ed25519", "~/.ssh/id_ed25519_sk"},
		UserKnownHosts:   []string{"~/.ssh/known_hosts", "~/.ssh/known_hosts2"},
		GlobalKnownHosts: []string{"/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"},
	}
}

// lookup returns what ssh_config says for a host. ssh itself is asked (ssh -G):
// Match, Include and tokens then mean exactly what they mean to it. That takes 5
// ms, so it is not done when no configuration file says anything.
func (d *Dialer) lookup(ctx context.Context, host, user string, port int) (sshConfig, error) {
	if d.plain() {
		return defaultConfig(host), nil
	}
	path := d.SSH
	if path == "" {
		var err error
		if path, err = exec.LookPath("ssh"); err != nil {
			return defaultConfig(host), nil
		}
	}
	args := []string{"-G"}
	if d.SSHConfig != "" {
		args = append(args, "-F", d.SSHConfig)
	}
	// For Match user and %-tokens.
	if user != "" {
		args = append(args, "-l", user)
	}
	if port != 0 {
		args = append(args, "-p", strconv.Itoa(port))
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, append(args, "--", host)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return sshConfig{}, ctx.Err()
		}
		why := err
		if stderr.Len() > 0 {
			why = errors.New(lastLines(stderr.String(), 2))
		}
		return sshConfig{}, &Error{Kind: KindConfig, Op: "read the ssh configuration (ssh -G " + host + ")", Err: why}
	}
	return parseSSHConfig(stdout.Bytes())
}

// parseSSHConfig reads the output of ssh -G: a keyword in lower case and its
// value on each line.
func parseSSHConfig(out []byte) (sshConfig, error) {
	var c sshConfig
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), " ")
		switch key {
		case "hostname":
			c.HostName = value
		case "user":
			c.User = value
		case "port":
			c.Port, _ = strconv.Atoi(value)
		case "identityfile":
			c.IdentityFiles = append(c.IdentityFiles, value)
		case "certificatefile":
			c.CertificateFiles = append(c.CertificateFiles, value)
		case "identitiesonly":
			c.IdentitiesOnly = value == "yes"
		case "identityagent":
			c.IdentityAgent = value
		case "proxyjump":
			if value != "none" {
				c.ProxyJump = strings.Split(value, ",")
			}
		case "proxycommand":
			if value != "none" {
				c.ProxyCommand = value
			}
		case "userknownhostsfile":
			c.UserKnownHosts = fileNames(value)
		case "globalknownhostsfile":
			c.GlobalKnownHosts = fileNames(value)
		case "revokedhostkeys":
			if value != "none" {
				c.RevokedHostKeys = value
			}
		case "hostkeyalias":
			if value != "none" {
				c.HostKeyAlias = value
			}
		case "connecttimeout":
			c.ConnectTimeout = seconds(value)
		case "serveraliveinterval":
			c.AliveInterval = seconds(value)
		case "serveralivecountmax":
			c.AliveCountMax, _ = strconv.Atoi(value)
		}
	}
	if err := lines.Err(); err != nil {
		return sshConfig{}, fmt.Errorf("output of ssh -G: %w", err)
	}
	return c, nil
}

// fileNames splits a list of files; "none" stands for no file.
func fileNames(s string) []string {
	return slices.DeleteFunc(strings.Fields(s), func(f string) bool { return strings.EqualFold(f, "none") })
}

// seconds reads a number of seconds; "none" and nonsense are 0.
func seconds(s string) time.Duration {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0
	}
	return time.Duration(n) * time.Second
}

// plain reports whether no configuration file says anything that matters here,
// as on a fresh Debian, so that ssh need not be asked about every host.
func (d *Dialer) plain() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.isPlain == nil {
		files := []string{d.SSHConfig}
		if d.SSHConfig == "" {
			files = []string{"/etc/ssh/ssh_config", expandHome("~/.ssh/config")}
		}
		plain := true
		for _, f := range files {
			plain = plain && plainFile(f, 0)
		}
		d.isPlain = &plain
	}
	return *d.isPlain
}

// plainFile reports whether a file holds nothing but comments and what has no
// meaning here. What it is not sure of is not plain.
func plainFile(path string, depth int) bool {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return true
	}
	if err != nil || depth > 4 {
		return false
	}
	for line := range strings.Lines(string(text)) {
		f := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' || r == '=' || r == '\n' || r == '\r' })
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		switch strings.ToLower(f[0]) {
		case "sendenv", "hashknownhosts", "gssapiauthentication", "forwardx11trusted":
		case "host":
			if len(f) != 2 || f[1] != "*" {
				return false
			}
		case "include":
			for _, pattern := range f[1:] {
				if strings.HasPrefix(pattern, "~") {
					pattern = expandHome(pattern)
				} else if !filepath.IsAbs(pattern) {
					pattern = filepath.Join(filepath.Dir(path), pattern)
				}
				found, err := filepath.Glob(pattern)
				if err != nil {
					return false
				}
				for _, p := range found {
					if !plainFile(p, depth+1) {
						return false
					}
				}
			}
		default:
			return false
		}
	}
	return true
}

// expandHome replaces a leading ~ with the home directory.
func expandHome(path string) string {
	rest, ok := strings.CutPrefix(path, "~")
	if !ok || rest != "" && rest[0] != '/' {
		return path
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return path
	}
	return home + rest
}

// expandTokens replaces the percent tokens of ssh_config(5), section TOKENS.
func expandTokens(s string, tokens map[byte]string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+1 < len(s) {
			i++
			if s[i] == '%' {
				b.WriteByte('%')
			} else if v, ok := tokens[s[i]]; ok {
				b.WriteString(v)
			} else {
				b.WriteString(s[i-1 : i+1])
			}
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
