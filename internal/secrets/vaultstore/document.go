package vaultstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/pgfleet/pgfleet/internal/secrets"
)

const (
	documentFormat = 1
	// foreignID begins the ID of a version that was not written by pgfleet; KV's own
	// number follows.
	foreignID = "kv-"
	// keep is how many retired versions are kept.
	keep = 8
)

// A document is all that pgfleet knows of a secret beside what readers get. It holds
// values in the open, so it must never be printed.
type document struct {
	Format   int         `json:"format"`
	Versions []*revision `json:"versions"` // oldest first
}

type revision struct {
	ID      string           `json:"id"`
	Stage   secrets.Stage    `json:"stage,omitempty"`
	Created time.Time        `json:"created"`
	Data    secrets.JSONKeys `json:"data"`
	Base    string           `json:"base,omitempty"`   // the current version's ID when it was made, or NoVersion
	Writer  string           `json:"writer,omitempty"` // a random word of who made it
	KV      int              `json:"kv,omitempty"`     // KV's number when it last became what readers get
}

func (r *revision) version() secrets.Version {
	return secrets.Version{ID: r.ID, Stage: r.Stage, Created: r.Created}
}

func parseDocument(data secrets.JSONKeys) (document, error) {
	var d document
	text, err := json.Marshal(data)
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	if err != nil {
		// The error could quote a value.
		return document{}, errors.New("it was not written by pgfleet: it is not of its form")
	}
	if d.Format != documentFormat {
		return document{}, fmt.Errorf("it has the format %d and this pgfleet reads %d: use the version of pgfleet that wrote it", d.Format, documentFormat)
	}
	return d, nil
}

func (d *document) data() (secrets.JSONKeys, error) {
	d.Format = documentFormat
	text, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	var data secrets.JSONKeys
	return data, json.Unmarshal(text, &data)
}

// find returns the version with this ID or in this stage, nil if there is none.
func (d *document) find(version string) *revision {
	for _, r := range d.Versions {
		if r.ID == version || r.Stage != secrets.Retired && string(r.Stage) == version {
			return r
		}
	}
	return nil
}

func (d *document) writtenBy(writer string) *revision {
	for _, r := range d.Versions {
		if r.Writer == writer {
			return r
		}
	}
	return nil
}

// reconcile makes the version that readers get the current one, and reports whether
// that changed anything.
func (d *document) reconcile(v kvValue) (changed bool) {
	if v.data == nil {
		if r := d.find(string(secrets.Current)); r != nil { // it was deleted
			d.retire(secrets.Previous)
			r.Stage = secrets.Previous
			return true
		}
		return false
	}
	r := d.holding(v)
	if r == nil {
		r = &revision{ID: d.foreignID(v.version), Created: v.created, Data: v.data}
		d.Versions = append(d.Versions, r)
	}
	if r.Stage == secrets.Current && r.KV == v.version {
		return false
	}
	r.KV = v.version
	d.makeCurrent(r)
	return true
}

// holding returns the version that readers get. KV's number alone does not tell: it
// begins anew when a secret was deleted with its metadata.
func (d *document) holding(v kvValue) *revision {
	var found *revision
	for _, r := range d.Versions {
		switch {
		case !r.Data.Equal(v.data):
		case r.KV == v.version:
			return r
		case found == nil || found.Stage != secrets.Pending:
			found = r
		}
	}
	return found
}

func (d *document) foreignID(number int) string {
	id := foreignID + strconv.Itoa(number)
	for i := 2; d.find(id) != nil; i++ {
		id = fmt.Sprintf("%s%d.%d", foreignID, number, i)
	}
	return id
}

// put adds a pending version.
func (d *document) put(c secrets.Change, writer string, now time.Time) (*revision, error) {
	current := d.find(string(secrets.Current))
	if current == nil {
		current = &revision{ID: secrets.NoVersion}
	}
	if c.IfCurrent != "" && c.IfCurrent != current.ID {
		return nil, fmt.Errorf("%w: the current version is %s rather than %s", secrets.ErrConflict, current.ID, c.IfCurrent)
	}
	if pending := d.find(string(secrets.Pending)); pending != nil && !c.Replace {
		return nil, fmt.Errorf("%w: %s", secrets.ErrPending, pending.ID)
	}
	keys, err := c.Apply(current.Data)
	if err != nil {
		return nil, err
	}
	last := 0
	for _, r := range d.Versions {
		if n, err := strconv.Atoi(r.ID); err == nil {
			last = max(last, n)
		}
	}
	d.retire(secrets.Pending)
	r := &revision{
		ID: strconv.Itoa(last + 1), Stage: secrets.Pending, Created: now.UTC().Truncate(time.Second),
		Data: keys, Base: current.ID, Writer: writer,
	}
	d.Versions = append(d.Versions, r)
	return r, nil
}

// makeCurrent makes r, which is in d, the current version.
func (d *document) makeCurrent(r *revision) {
	if was := d.find(string(secrets.Current)); was != nil && was != r {
		d.retire(secrets.Previous)
		was.Stage = secrets.Previous
	}
	r.Stage = secrets.Current
}

// retire takes its stage from the version in that stage.
func (d *document) retire(stage secrets.Stage) {
	if r := d.find(string(stage)); r != nil {
		r.Stage = secrets.Retired
	}
}

// prune drops the oldest retired versions.
func (d *document) prune() {
	retired := 0
	for _, r := range d.Versions {
		if r.Stage == secrets.Retired {
			retired++
		}
	}
	d.Versions = slices.DeleteFunc(d.Versions, func(r *revision) bool {
		drop := r.Stage == secrets.Retired && retired > keep
		if drop {
			retired--
		}
		return drop
	})
}
