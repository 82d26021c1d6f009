package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pgfleet/pgfleet/internal/rollout"
)

// A progress shows what hosts are doing: on a terminal as lines that are drawn
// over and over, never more than it has, and otherwise as a line for each thing
// that happens to a step. It implements rollout.Observer.
type progress struct {
	ui    *ui
	verb  string
	total int
	plain func(string) // takes the lines; nil for none
	done  chan struct{}
	drawn sync.WaitGroup

	mu       sync.Mutex
	started  time.Time
	running  []doing // in the order in which they began
	finished int
	failed   int
}

// Doing is what a host or an instance does at the moment.
type doing struct {
	who, what string
	since     time.Time
}

// frame is how often the terminal is drawn.
const frame = 100 * time.Millisecond

func newProgress(u *ui, verb string, names []string) *progress {
	return &progress{ui: u, verb: verb, total: len(names), started: time.Now()}
}

// Start begins to draw, on a terminal.
func (p *progress) Start() {
	if !p.ui.Live() || p.plain != nil {
		return
	}
	p.done = make(chan struct{})
	p.drawn.Go(func() {
		tick := time.NewTicker(frame)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.ui.Draw(p.lines(p.ui.Height()))
			case <-p.done:
				return
			}
		}
	})
}

// Stop takes what was drawn away.
func (p *progress) Stop() {
	if p.done != nil {
		close(p.done)
		p.drawn.Wait()
		p.ui.Draw(nil)
	}
}

// Observe implements rollout.Observer.
func (p *progress) Observe(e rollout.Event) {
	who := e.Host
	if e.Instance != "" {
		who = string(e.Instance)
	}
	step := fmt.Sprintf("step %d/%d %s", e.Step, e.Steps, clean(e.Text))
	switch e.Kind {
	case rollout.Connecting:
		p.set(who, "connecting")
	case rollout.Surveying:
		p.set(who, "asking")
	case rollout.Surveyed:
		p.finish(who, e.Err != nil)
	case rollout.StepStarted:
		p.set(who, step)
		p.line(who + ": " + step)
	case rollout.StepPhase:
		p.phase(who, clean(e.Text))
	case rollout.StepDone:
		p.line(fmt.Sprintf("%s: step %d/%d done", who, e.Step, e.Steps))
	case rollout.StepFailed:
		text := fmt.Sprintf("%s: %s: failed: %s", who, step, firstLine(clean(e.Err.Error())))
		p.line(text)
		if p.done != nil {
			p.ui.Note(p.ui.style.red(text))
		}
	case rollout.Waiting:
		p.set(who, clean(e.Text))
		p.line(who + ": " + clean(e.Text))
	case rollout.WaveStarted, rollout.GateStarted, rollout.Paused:
		p.line(clean(e.Text))
		if p.done != nil {
			p.ui.Note(clean(e.Text))
		}
	case rollout.InstanceDone:
		p.finish(who, e.Err != nil)
	}
}

func (p *progress) line(text string) {
	if p.plain != nil {
		p.plain(text)
	}
}

func (p *progress) set(who, what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := p.index(who); i >= 0 {
		p.running[i].what = what
		return
	}
	p.running = append(p.running, doing{who, what, time.Now()})
}

// phase adds what the running step does to its line.
func (p *progress) phase(who, text string) {
	p.mu.Lock()
	var line string
	if i := p.index(who); i >= 0 {
		step, _, _ := strings.Cut(p.running[i].what, ": ")
		p.running[i].what = step + ": " + text
		line = who + ": " + p.running[i].what
	}
	p.mu.Unlock()
	p.line(line)
}

func (p *progress) finish(who string, failed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := p.index(who); i >= 0 {
		p.running = slices.Delete(p.running, i, i+1)
	}
	p.finished++
	if failed {
		p.failed++
	}
}

func (p *progress) index(who string) int {
	return slices.IndexFunc(p.running, func(d doing) bool { return d.who == who })
}

// lines returns what is drawn: those that run, as many as fit, and the counts.
func (p *progress) lines(height int) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	room := max(1, height-3)
	width := 0
	for _, d := range p.running {
		width = max(width, len(d.who))
	}
	var lines []string
	for i, d := range p.running {
		if i == room && len(p.running) > room {
			lines = append(lines, fmt.Sprintf("and %d more", len(p.running)-room))
			break
		}
		lines = append(lines, fmt.Sprintf("%-*s  %s  %s", width, d.who, d.what, p.ui.style.faint(seconds(time.Since(d.since)))))
	}
	count := fmt.Sprintf("%s: %d of %d done", p.verb, p.finished, p.total)
	if p.total == 0 { // how many is not known before
		count = fmt.Sprintf("%s: %d done", p.verb, p.finished)
	}
	if p.failed > 0 {
		count += fmt.Sprintf(", %d failed", p.failed)
	}
	return append(lines, p.ui.style.faint(count+", "+seconds(time.Since(p.started))))
}

func seconds(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
