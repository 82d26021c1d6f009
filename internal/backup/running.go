package backup

import (
	"context"
	"fmt"
	"path"
	"strings"
	"time"
)

// RunningName is a document of a set whose run goes on: it is written anew every
// [beat], because a bucket shows nothing of an object before all of it has come, and
// a run that has written nothing for [Quiet] counts as cut off.
const RunningName = "running.json"

// beat is how often a run says that it goes on.
const beat = Quiet / 5

// beating says in the target that the run goes on, until the function that it returns
// is called, which takes that away. It is a courtesy to who looks: what it cannot write
// does not stop a run.
func (o *Operator) beating(ctx context.Context, folder string) (stop func()) {
	name := path.Join(folder, RunningName)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(beat)
		defer ticker.Stop()
		for ctx.Err() == nil {
			text := fmt.Sprintf("{\"version\":%d,\"at\":%q}\n", formatVersion, o.Now().UTC().Format(time.RFC3339))
			_, _, _ = o.Target.Put(ctx, name, strings.NewReader(text))
			select {
			case <-ticker.C:
			case <-ctx.Done():
			}
		}
	}()
	return func() {
		cancel()
		<-done
		tidying, end := context.WithTimeout(context.WithoutCancel(ctx), tidyTime)
		defer end()
		_ = o.Target.Remove(tidying, name)
	}
}
