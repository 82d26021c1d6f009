//go:build lab

package lab_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgfleet/pgfleet/lab"
)

// TestOwner is not a test: TestLabOwnerKilled runs it as the process to be killed.
func TestOwner(t *testing.T) {
	if os.Getenv("LAB_OWNER") == "" {
		t.Skip("run by TestLabOwnerKilled")
	}
	if _, err := lab.Up(t.Context(), lab.Options{Hosts: []lab.Host{{Name: "pg01"}, {Name: "pg02", StandbyOf: "pg01"}}}); err != nil {
		t.Fatal(err)
	}
	fmt.Println("LAB IS UP")
	select {}
}

// startOwner starts a process that holds a lab. It returns at once, or waits until the lab is up.
func startOwner(t *testing.T, wait bool) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestOwner$")
	cmd.Env = append(os.Environ(), "LAB_OWNER=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if wait {
		line := make([]byte, len("LAB IS UP"))
		if _, err := io.ReadFull(out, line); err != nil || string(line) != "LAB IS UP" {
			t.Fatalf("the owner says %q, %v", line, err)
		}
	}
	return cmd
}

func TestLabOwnerKilled(t *testing.T) {
	for _, after := range []time.Duration{-1, time.Second, 2500 * time.Millisecond} {
		owner := startOwner(t, after < 0)
		if after > 0 {
			time.Sleep(after) // in the middle of building, preparing, booting
		}
		if err := owner.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = owner.Wait()
		mustBeGone(t, 20*time.Second)
	}
}

// kill kills processes of the lab whose arguments hold a word.
func kill(t *testing.T, word string) {
	t.Helper()
	n := 0
	for pid, args := range labProcesses(t) {
		if strings.Contains(args, " "+word+" ") {
			n++
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n != 1 {
		t.Fatalf("%d processes of the lab are a %s", n, word)
	}
}

func TestLabSupervisorKilled(t *testing.T) {
	owner := startOwner(t, true)
	defer func() {
		_ = owner.Process.Kill()
		_ = owner.Wait()
	}()
	kill(t, "supervise")
	mustBeGone(t, 20*time.Second)
}

// TestLabAllKilled leaves nobody to clean up but the next Up, or Down.
func TestLabAllKilled(t *testing.T) {
	for _, next := range []func(){
		func() { up(t, lab.Host{Name: "pg01"}).Down() },
		func() {
			if err := lab.Down(t.Context(), ""); err != nil {
				t.Error(err)
			}
		},
	} {
		owner := startOwner(t, true)
		kill(t, "guard")
		kill(t, "supervise")
		_ = owner.Process.Kill()
		_ = owner.Wait()
		if len(remains(t)) == 0 {
			t.Fatal("nothing is left: this test shows nothing")
		}
		if _, err := lab.Attach(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "lab down") {
			t.Errorf("attached to a lab without a supervisor: %v", err)
		}
		next()
		mustBeGone(t, 0)
	}
}

// mustBeGone wants nothing left of the lab on our bridge within a time.
func mustBeGone(t *testing.T, within time.Duration) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		left := remains(t)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left of the lab: %s", strings.Join(left, ", "))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func remains(t *testing.T) (left []string) {
	t.Helper()
	for _, path := range []string{"/run/pgfleet-lab/" + bridge(), "/sys/class/net/" + bridge(),
		"/sys/fs/cgroup/pgfleet-lab/" + bridge(), "/sys/fs/cgroup/unified/pgfleet-lab/" + bridge()} {
		if _, err := os.Lstat(path); err == nil {
			left = append(left, path)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), "/run/pgfleet-lab/"+bridge()) {
		left = append(left, "a mount")
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		if strings.Contains(i.Name, bridge()) {
			left = append(left, i.Name)
		}
	}
	for pid, args := range labProcesses(t) {
		left = append(left, fmt.Sprintf("process %d: %s", pid, args))
	}
	return left
}

// labProcesses are this bridge's containers and their supervisor.
func labProcesses(t *testing.T) map[int]string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]string{}
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		args := strings.ReplaceAll(string(content), "\x00", " ")
		if strings.Contains(args, " --bridge "+bridge()+" ") || strings.Contains(args, "-"+bridge()+" --hostname=") {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			if err != nil {
				t.Fatal(err)
			}
			found[pid] = args
		}
	}
	return found
}
