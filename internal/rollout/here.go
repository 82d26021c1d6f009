package rollout

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/pgfleet/pgfleet/internal/facts"
)

// probeTimeout bounds a probe on the operator's machine; transport has the same
// limit for one on a host.
const probeTimeout = 30 * time.Second

// splitLocal takes the questions about the operator's own machine apart.
func (r *Run) splitLocal(reads []facts.Read) (here []facts.LocalProbe, there []facts.Read) {
	for _, read := range reads {
		if p, ok := read.(facts.LocalProbe); ok {
			here = append(here, p)
			continue
		}
		there = append(there, read)
	}
	return here, there
}

// askHere answers them into answers.
func (r *Run) askHere(ctx context.Context, probes []facts.LocalProbe, answers map[facts.Read]facts.Answer) {
	for _, p := range probes {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		result, err := runHere(ctx, p.Script, r.dir(""))
		cancel()
		answers[p] = facts.Answer{Value: result, Err: err}
	}
}

// dir is the folder that a command on the operator's machine runs in: relative
// to the fleet.toml's.
func (r *Run) dir(name string) string {
	if name == "" {
		return filepath.Dir(r.Fleet.Path)
	}
	return r.Fleet.File(name)
}

// runHere runs a script on the operator's machine, with some more variables in
// its environment, NAME=value.
func runHere(ctx context.Context, script, dir string, variables ...string) (facts.ProbeResult, error) {
	cmd := exec.CommandContext(ctx, "sh", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), variables...)
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return facts.ProbeResult{}, err
	}
	if ctx.Err() != nil {
		return facts.ProbeResult{}, ctx.Err()
	}
	return facts.ProbeResult{ExitCode: cmd.ProcessState.ExitCode(), Output: strings.TrimSpace(out.String())}, nil
}
