package lab

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

//go:embed base.sh
var baseScript string

// basePackages are in every base beside postgresql-N and its pgaudit.
var basePackages = []string{
	"acl", "age", "attr", "ca-certificates", "dbus", "iproute2", "openssh-server", "openssl", "perl",
	"procps", "python3-minimal", "rsyslog", "sudo", "systemd", "systemd-sysv",
}

const archiveKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// base is a built base.
type base struct {
	Root     string // the root directory, the lower layer of overlays
	Packages string // a folder with pgaudit's .deb and an apt index of it
}

func cacheDir() string {
	if d := os.Getenv("PGFLEET_LAB_CACHE"); d != "" {
		return d
	}
	return "/var/cache/pgfleet-lab"
}

// recipe is all that decides a base, save for the day's packages.
func recipe(version int) (key string) {
	sum := sha256.Sum256([]byte(fmt.Sprintln(version, suites[version], runtime.GOARCH, basePackages, baseScript)))
	return strconv.Itoa(version) + "-" + hex.EncodeToString(sum[:6])
}

// Base builds the base with a PostgreSQL major version if the cache lacks it.
// It waits while another process builds the same.
func Base(ctx context.Context, version int, log io.Writer) error {
	if suites[version] == "" {
		return fmt.Errorf("no base has PostgreSQL %d: there are 13, 15, 17 and 18", version)
	}
	if err := Install(ctx, log); err != nil {
		return err
	}
	_, err := ensureBase(ctx, version, log)
	return err
}

func ensureBase(ctx context.Context, version int, log io.Writer) (base, error) {
	cache := cacheDir()
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return base{}, err
	}
	key := recipe(version)
	b := base{Root: filepath.Join(cache, key, "root"), Packages: filepath.Join(cache, key, "packages")}
	built := func() bool { _, err := os.Stat(b.Root); return err == nil }
	if built() {
		return b, nil
	}
	lock, err := lockFile(ctx, filepath.Join(cache, strconv.Itoa(version)+".lock"), func(first bool) error {
		if first {
			fmt.Fprintf(log, "waiting for another process that builds the base with PostgreSQL %d\n", version)
		}
		return nil
	})
	if err != nil {
		return base{}, err
	}
	defer lock.Close()
	if built() {
		return b, nil
	}
	started := time.Now()
	fmt.Fprintf(log, "building the base with PostgreSQL %d (%s)\n", version, suites[version])
	if err := buildBase(ctx, version, filepath.Join(cache, key)); err != nil {
		return base{}, fmt.Errorf("base with PostgreSQL %d: %w", version, err)
	}
	fmt.Fprintf(log, "built the base with PostgreSQL %d in %s\n", version, time.Since(started).Round(time.Second))
	return b, nil
}

// buildBase makes dir with root and packages in it, or nothing.
func buildBase(ctx context.Context, version int, dir string) error {
	partial, err := os.MkdirTemp(filepath.Dir(dir), "partial-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(partial)
	if err := os.Chmod(partial, 0o755); err != nil {
		return err
	}
	hook := filepath.Join(partial, "base.sh")
	if err := os.WriteFile(hook, []byte(baseScript), 0o755); err != nil {
		return err
	}
	sources, err := archive(ctx, suites[version])
	if err != nil {
		return err
	}
	root := filepath.Join(partial, "root")
	args := []string{
		"--mode=root", "--variant=minbase", "--keyring=" + archiveKey(),
		// The archive's testing release file expires when a mirror rests for a week.
		`--aptopt=Acquire::Check-Valid-Until "false"`,
		"--include=" + strings.Join(append([]string{"postgresql-" + strconv.Itoa(version)}, basePackages...), ","),
		"--customize-hook=" + hook,
	}
	for _, o := range proxies(ctx) {
		args = append(args, "--aptopt="+o)
	}
	args = append(append(args, suites[version], root), sources...)
	log, err := os.Create(dir + ".log")
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, "mmdebstrap", args...)
	cmd.Env = append(os.Environ(), "VERSION="+strconv.Itoa(version), "LC_ALL=C.UTF-8")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	// Its mounts are gone with it, whatever happens, before anything is removed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	if err := runTied(cmd); err != nil {
		return fmt.Errorf("mmdebstrap: %w; the end of %s says:\n%s", err, log.Name(), tail(log.Name(), 15))
	}
	if err := os.Rename(filepath.Join(root, "lab-packages"), filepath.Join(partial, "packages")); err != nil {
		return err
	}
	if err := writePackageIndex(ctx, filepath.Join(partial, "packages")); err != nil {
		return err
	}
	if err := os.Remove(hook); err != nil {
		return err
	}
	return os.Rename(partial, dir)
}

// runTied runs a command with Pdeathsig, which the kernel ties to the thread
// that started it rather than to the process (prctl(2)).
func runTied(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return cmd.Run()
}

// archive returns the lines of a sources.list for a suite, from the archive
// that this machine's own apt sources name.
func archive(ctx context.Context, suite string) ([]string, error) {
	main, security := os.Getenv("PGFLEET_LAB_MIRROR"), ""
	if main == "" {
		// apt reads its own files, in both formats, better than we would.
		out, err := output(exec.CommandContext(ctx, "apt-get", "indextargets",
			"--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"))
		if err != nil {
			return nil, fmt.Errorf("apt's sources: %w", err)
		}
		main, security = debianArchive(out)
	}
	if main == "" {
		return nil, errors.New("this machine's apt sources name no Debian archive; set PGFLEET_LAB_MIRROR to the address of one, and PGFLEET_LAB_KEYRING to the file with its keys")
	}
	lines := []string{fmt.Sprintf("deb %s %s main", main, suite)}
	if security != "" && hasRelease(ctx, security, suite+"-security") {
		lines = append(lines, fmt.Sprintf("deb %s %s-security main", security, suite))
	}
	return lines, nil
}

// debianArchive finds the archive and its security archive in lines of
// "URI SUITE COMPONENT".
func debianArchive(targets string) (main, security string) {
	releases := map[string]bool{"stable": true, "oldstable": true, "oldoldstable": true, "testing": true, "unstable": true, "sid": true, "buster": true}
	for _, s := range suites {
		releases[s] = true
	}
	for line := range strings.Lines(targets) {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != "main" {
			continue
		}
		release, isSecurity := strings.CutSuffix(f[1], "-security")
		switch {
		case !releases[release]:
		case isSecurity && security == "":
			security = f[0]
		case !isSecurity && main == "":
			main = f[0]
		}
	}
	return main, security
}

// hasRelease reports whether an archive has a suite. An archive that cannot be
// asked over HTTP is taken not to.
func hasRelease(ctx context.Context, uri, suite string) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, strings.TrimSuffix(uri, "/")+"/dists/"+suite+"/InRelease", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func archiveKey() string {
	if k := os.Getenv("PGFLEET_LAB_KEYRING"); k != "" {
		return k
	}
	return archiveKeyring
}

// proxies are this machine's apt settings about proxies: mmdebstrap starts from
// an empty configuration.
func proxies(ctx context.Context) []string {
	out, err := output(exec.CommandContext(ctx, "apt-config", "dump"))
	if err != nil {
		return nil
	}
	var settings []string
	for line := range strings.Lines(out) {
		name, _, _ := strings.Cut(line, " ")
		if strings.HasPrefix(name, "Acquire::http") && strings.Contains(name, "::Proxy") {
			settings = append(settings, strings.TrimSuffix(strings.TrimSpace(line), ";"))
		}
	}
	return settings
}

// Clean removes bases that no present recipe makes, and what killed builds left.
// No lab may run meanwhile, and no base be built.
func Clean() error {
	current := map[string]bool{}
	for v := range suites {
		current[recipe(v)] = true
	}
	entries, err := os.ReadDir(cacheDir())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".log")
		if kind, _, ok := strings.Cut(name, "-"); !ok || current[name] || strings.Trim(kind, "0123456789") != "" && kind != "partial" && kind != "command" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(cacheDir(), e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// tryLock takes an exclusive flock, or returns nil if another process has it.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// lockFile takes an exclusive flock. While another process has it, it calls
// wait, which may give up with an error, and tries again.
func lockFile(ctx context.Context, path string, wait func(first bool) error) (*os.File, error) {
	for first := true; ; first = false {
		f, err := tryLock(path)
		if f != nil || err != nil {
			return f, err
		}
		if err := wait(first); err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("another process holds the lock %s: %w", path, context.Cause(ctx))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// output runs a command and returns what it printed; the error holds what it
// complained of.
func output(cmd *exec.Cmd) (string, error) {
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// tail is the last n lines of a file, for an error.
func tail(path string, n int) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	var lines []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if lines = append(lines, s.Text()); len(lines) > n {
			lines = lines[1:]
		}
	}
	return strings.Join(lines, "\n")
}
