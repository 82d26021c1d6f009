// Command testreport runs all of the project's tests, those that need nothing and
// those on the lab's real hosts, and says what ran: how many
// passed, failed and were skipped, and how many ran against each major version
// of PostgreSQL. Fewer than expected of one version is a failure, so that a
// version that silently drops out of the lab is noticed. Where CI is set, a
// skipped test is a failure too.
package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgfleet/pgfleet/lab"
)

// expected is how many tests at least name a version in their path, as
// TestLab…/postgres-15. Raise it with the tests.
func expected() map[int]int {
	return map[int]int{13: 75, 15: 107, 17: 88, 18: 62}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	start := time.Now()
	if os.Geteuid() != 0 {
		return errors.New("the lab's hosts are real ones and want root; without it, make unit runs what needs neither")
	}
	if err := prepare(ctx); err != nil {
		return err
	}
	r := &report{versions: map[int]int{}}
	// Those that need nothing mostly wait, for time-outs and for each other.
	var group errgroup.Group
	group.Go(func() error {
		return r.goTest(ctx, "without the lab", "", "test", "-json", "-vet=all", "./...")
	})
	group.Go(func() error { return r.onLab(ctx) })
	if err := group.Wait(); err != nil {
		return err
	}
	if os.Getenv("PGFLEET_SOAK") != "" {
		if err := r.fuzz(ctx); err != nil {
			return err
		}
	}
	for _, v := range []int{13, 15, 17, 18} {
		fmt.Printf("PostgreSQL %d: %d tests\n", v, r.versions[v])
		if r.versions[v] < expected()[v] {
			r.problems = append(r.problems, fmt.Sprintf("PostgreSQL %d: %d tests ran, %d are expected", v, r.versions[v], expected()[v]))
		}
	}
	if r.skipped > 0 && os.Getenv("CI") != "" {
		r.problems = append(r.problems, fmt.Sprintf("%d tests were skipped", r.skipped))
	}
	r.sayTimes()
	for _, p := range r.problems {
		fmt.Println("FAIL:", p)
	}
	fmt.Printf("took %v\n%d passed, %d failed, %d skipped\n", time.Since(start).Round(time.Second), r.passed, r.failed, r.skipped)
	if len(r.problems) > 0 || r.failed > 0 || r.passed == 0 {
		return errors.New("the tests did not pass")
	}
	return nil
}

// A lane is packages that boot hosts, one after the other, on a bridge of its own.
type lane struct {
	packages []string
	flags    []string // which of their tests
}

// long is about half of lab/e2e, by time; it has a lane of its own.
const long = "^TestLab(Faults|DeadMan|Forced|ServerNeverStaysDown|StaleLease|Guide|Refused)"

// lanes shares out the packages so that no lane takes much longer than another.
func lanes(packages []string) []lane {
	list := []lane{
		{flags: []string{"-run", "^TestLab"}},
		{flags: []string{"-run", "^TestLab", "-skip", long}},
		{flags: []string{"-run", long}},
		{flags: []string{"-run", "^TestLab"}},
		{flags: []string{"-run", "^TestLab"}},
	}
	for _, pkg := range packages {
		switch path.Base(pkg) {
		case "e2e":
			list[1].packages = append(list[1].packages, pkg)
			list[2].packages = append(list[2].packages, pkg)
		case "rollouts", "crashes", "property":
			list[3].packages = append(list[3].packages, pkg)
		case "certs", "backups", "rotations":
			list[4].packages = append(list[4].packages, pkg)
		default:
			list[0].packages = append(list[0].packages, pkg)
		}
	}
	return list
}

// labPackages returns the packages that have other tests with the build tag lab than
// without: the others need not be built and linked once more.
func labPackages(ctx context.Context) ([]string, error) {
	list := func(tags string) ([]string, error) {
		out, err := exec.CommandContext(ctx, "go", "list", "-tags", tags, "-f", "{{.ImportPath}} {{.TestGoFiles}} {{.XTestGoFiles}}", "./...").Output()
		if err != nil {
			return nil, fmt.Errorf("listing the packages: %w", err)
		}
		return strings.Split(strings.TrimSpace(string(out)), "\n"), nil
	}
	with, err := list("lab")
	if err != nil {
		return nil, err
	}
	without, err := list("")
	if err != nil {
		return nil, err
	}
	var packages []string
	for _, line := range with {
		if !slices.Contains(without, line) {
			pkg, _, _ := strings.Cut(line, " ")
			packages = append(packages, pkg)
		}
	}
	return packages, nil
}

// onLab runs the tests that boot hosts, in lanes beside each other, because hosts
// that boot and restart mostly wait.
func (r *report) onLab(ctx context.Context) error {
	packages, err := labPackages(ctx)
	if err != nil {
		return err
	}
	var group errgroup.Group
	for i, l := range lanes(packages) {
		group.Go(func() error {
			args := append([]string{"test", "-json", "-tags", "lab", "-count=1", "-p", "1", "-parallel", "4", "-timeout", "85m"}, l.flags...)
			return r.goTest(ctx, fmt.Sprintf("on the lab's hosts, lane %d", i+1), bridge(i), append(args, l.packages...)...)
		})
	}
	return group.Wait()
}

// bridge names the lab of a lane: PGFLEET_LAB_BRIDGE, or pglab0, and those after
// it.
func bridge(lane int) string {
	n := 0
	_, _ = fmt.Sscanf(os.Getenv("PGFLEET_LAB_BRIDGE"), "pglab%d", &n)
	return fmt.Sprintf("PGFLEET_LAB_BRIDGE=pglab%d", n+lane)
}

// prepare installs what the tests need and this machine lacks: the lab's own
// needs, pass, and a server's programs for the tests that start one without the lab.
func prepare(ctx context.Context) error {
	if err := lab.Install(ctx, os.Stdout); err != nil {
		return err
	}
	for _, program := range []string{"pass", "gpg", "python3"} { // for the examples of secret stores
		if _, err := exec.LookPath(program); err != nil {
			if err := install(ctx, "pass", "gnupg", "python3"); err != nil {
				return err
			}
			break
		}
	}
	if found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres"); err != nil || len(found) > 0 {
		return err
	}
	// The package would make a cluster and start it.
	const conf = "/etc/postgresql-common/createcluster.conf"
	if _, err := os.Stat(conf); errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(conf), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(conf, []byte("create_main_cluster = false\n"), 0o644); err != nil {
			return err
		}
	}
	return install(ctx, "postgresql", "openssl")
}

// install installs Debian packages.
func install(ctx context.Context, packages ...string) error {
	for _, args := range [][]string{{"update"}, append([]string{"install", "--yes", "--no-install-recommends"}, packages...)} {
		cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q"}, args...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", args[0], err, out)
		}
	}
	return nil
}

type report struct {
	mu                      sync.Mutex
	passed, failed, skipped int
	versions                map[int]int
	problems                []string
	took                    []took
}

// A took is a test that is no part of another, and its time.
type took struct {
	name    string
	seconds float64
}

// slowest is how many of the tests that took longest are named.
const slowest = 15

// sayTimes says which tests took longest.
func (r *report) sayTimes() {
	slices.SortFunc(r.took, func(a, b took) int { return cmp.Compare(b.seconds, a.seconds) })
	for _, t := range r.took[:min(slowest, len(r.took))] {
		fmt.Printf("%6.1fs  %s\n", t.seconds, t.name)
	}
}

// An event is a line of go test -json; see cmd/test2json.
type event struct {
	Action      string
	Package     string
	Test        string
	Output      string
	Elapsed     float64
	FailedBuild string
}

// goTest runs go test, prints what fails as it fails, and counts. Setting is one
// more variable of its environment, NAME=value, or empty. It may be called
// concurrently.
func (r *report) goTest(ctx context.Context, title, setting string, args ...string) error {
	fmt.Println("#", title)
	cmd := exec.CommandContext(ctx, "go", args...)
	if setting != "" {
		cmd.Env = append(os.Environ(), setting)
	}
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	output := map[string][]string{}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Println(lines.Text())
			continue
		}
		r.take(e, output)
	}
	err = cmd.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && r.failed == 0 {
		r.problems = append(r.problems, fmt.Sprintf("go test %s: %v", title, err))
	}
	return ctx.Err()
}

// fuzz runs every fuzz target for a minute.
func (r *report) fuzz(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "go", "test", "-list", "^Fuzz", "-json", "./...").Output()
	if err != nil {
		return fmt.Errorf("listing the fuzz targets: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		var e event
		if json.Unmarshal([]byte(line), &e) != nil || !strings.HasPrefix(e.Output, "Fuzz") {
			continue
		}
		target := strings.TrimSpace(e.Output)
		args := []string{"test", "-json", "-run", "^$", "-fuzz", "^" + target + "$", "-fuzztime", "60s", "-fuzzminimizetime", "5x", e.Package}
		if err := r.goTest(ctx, "fuzzing "+target, "", args...); err != nil {
			return err
		}
	}
	return nil
}

// versionInPath finds the version that a test ran against.
var versionInPath = regexp.MustCompile(`/postgres-(\d+)(/|$)`)

func (r *report) take(e event, output map[string][]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := e.Package + "\x00" + e.Test
	switch e.Action {
	case "output", "build-output":
		output[key] = append(output[key], e.Output)
		// What a test says it measured is worth reading also when it passes.
		if _, said, ok := strings.Cut(e.Output, "PROOF: "); ok {
			fmt.Print("  ", said)
		}
		return
	case "pass", "fail", "skip":
	default:
		return
	}
	defer delete(output, key)
	if e.Test == "" {
		switch e.Action {
		case "fail":
			fmt.Print(strings.Join(output[key], ""))
			r.problems = append(r.problems, "package "+e.Package)
		case "pass":
			fmt.Printf("ok    %s (%.1fs)\n", e.Package, e.Elapsed)
		}
		return
	}
	if !strings.Contains(e.Test, "/") {
		r.took = append(r.took, took{path.Base(e.Package) + " " + e.Test, e.Elapsed})
	}
	switch e.Action {
	case "pass":
		r.passed++
		if m := versionInPath.FindStringSubmatch(e.Test); m != nil {
			v, _ := strconv.Atoi(m[1])
			r.versions[v]++
		}
	case "fail":
		r.failed++
		fmt.Printf("FAIL  %s %s\n%s", e.Package, e.Test, strings.Join(output[key], ""))
	case "skip":
		r.skipped++
		fmt.Printf("skip  %s %s\n%s", e.Package, e.Test, strings.Join(output[key], ""))
	}
}
