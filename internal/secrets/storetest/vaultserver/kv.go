package vaultserver

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// A mount is one of KV version 2.
type mount struct {
	secrets     map[string]*secret
	maxVersions int  // 0 for 10
	casRequired bool // for all secrets
}

type secret struct {
	versions    map[int]*version
	current     int
	oldest      int
	created     time.Time
	updated     time.Time
	maxVersions int
	casRequired bool
	custom      map[string]string
}

type version struct {
	data      map[string]any
	created   time.Time
	deleted   time.Time
	destroyed bool
}

func newMount() *mount { return &mount{secrets: map[string]*secret{}} }

// defaultMaxVersions is how many versions are kept if nobody says otherwise.
const defaultMaxVersions = 10

// serve answers a request to an endpoint of the mount. known is false for what it does
// not know.
func (m *mount) serve(method, endpoint, path string, query url.Values, body map[string]any) (a answer, failure *apiError, known bool) {
	writes := method == http.MethodPost || method == http.MethodPut
	if writes && (path == "" || strings.HasSuffix(path, "/")) && endpoint != "config" {
		return answer{}, refuse(http.StatusBadRequest, "cannot write to a path ending in '/'"), true
	}
	sec := m.secrets[path]
	switch {
	case endpoint == "config" && writes:
		if n, ok := body["max_versions"].(float64); ok {
			m.maxVersions = int(n)
		}
		if c, ok := body["cas_required"].(bool); ok {
			m.casRequired = c
		}
		return answer{}, nil, true
	case endpoint == "data" && writes:
		a, failure = m.write(path, body)
	case endpoint == "data" && method == http.MethodGet:
		a, failure = read(sec, query.Get("version"))
	case endpoint == "data" && method == http.MethodDelete:
		if sec != nil && sec.versions[sec.current] != nil {
			sec.versions[sec.current].deleted = time.Now()
		}
	case endpoint == "metadata" && method == http.MethodGet:
		a, failure = metadata(sec)
	case endpoint == "metadata" && method == http.MethodDelete:
		delete(m.secrets, path)
	case endpoint == "metadata" && writes:
		failure = m.writeMetadata(path, body)
	case (endpoint == "delete" || endpoint == "undelete" || endpoint == "destroy") && writes:
		failure = change(sec, endpoint, body)
	default:
		return answer{}, nil, false
	}
	return a, failure, true
}

func (m *mount) write(path string, body map[string]any) (answer, *apiError) {
	raw, ok := body["data"]
	if !ok {
		return answer{}, refuse(http.StatusBadRequest, "no data provided")
	}
	data, ok := raw.(map[string]any)
	if !ok {
		return answer{}, refuse(http.StatusBadRequest, "error converting input for field \"data\"")
	}
	sec := m.secrets[path]
	current := 0
	if sec != nil {
		current = sec.current
	}
	options, _ := body["options"].(map[string]any)
	if cas, given := options["cas"]; given {
		n, ok := cas.(float64)
		if !ok {
			return answer{}, refuse(http.StatusBadRequest, "error parsing check-and-set parameter")
		}
		if int(n) != current {
			return answer{}, refuse(http.StatusBadRequest, "check-and-set parameter did not match the current version")
		}
	} else if m.casRequired || sec != nil && sec.casRequired {
		return answer{}, refuse(http.StatusBadRequest, "check-and-set parameter required for this call")
	}
	now := time.Now()
	if sec == nil {
		sec = &secret{created: now, versions: map[int]*version{}}
		m.secrets[path] = sec
	}
	sec.updated = now
	sec.current++
	sec.versions[sec.current] = &version{data: data, created: now}
	most := sec.maxVersions
	if most == 0 {
		most = m.maxVersions
	}
	if most == 0 {
		most = defaultMaxVersions
	}
	for n := range sec.versions {
		if n <= sec.current-most {
			delete(sec.versions, n)
			sec.oldest = sec.current - most + 1
		}
	}
	return answer{data: sec.describe(sec.current)}, nil
}

func (sec *secret) describe(n int) map[string]any {
	v := sec.versions[n]
	return map[string]any{
		"version": n, "created_time": timestamp(v.created), "deletion_time": timestamp(v.deleted),
		"destroyed": v.destroyed, "custom_metadata": sec.custom,
	}
}

func read(sec *secret, asked string) (answer, *apiError) {
	n := 0
	if asked != "" {
		var err error
		if n, err = strconv.Atoi(asked); err != nil {
			return answer{}, refuse(http.StatusBadRequest, "Field validation failed: error converting input for field \"version\"")
		}
	}
	if sec == nil {
		return answer{}, notFound()
	}
	if n <= 0 {
		n = sec.current
	}
	v := sec.versions[n]
	if v == nil {
		return answer{}, notFound()
	}
	a := answer{data: map[string]any{"data": nil, "metadata": sec.describe(n)}}
	if v.destroyed || !v.deleted.IsZero() {
		a.status = http.StatusNotFound
	} else {
		a.data.(map[string]any)["data"] = v.data
	}
	return a, nil
}

func metadata(sec *secret) (answer, *apiError) {
	if sec == nil {
		return answer{}, notFound()
	}
	versions := map[string]any{}
	for n := range sec.versions {
		versions[strconv.Itoa(n)] = sec.describe(n)
	}
	return answer{data: map[string]any{
		"current_version": sec.current, "oldest_version": sec.oldest, "max_versions": sec.maxVersions, "cas_required": sec.casRequired,
		"created_time": timestamp(sec.created), "updated_time": timestamp(sec.updated), "custom_metadata": sec.custom, "versions": versions,
	}}, nil
}

// The limits of custom_metadata (https://openbao.org/api-docs/secret/kv/kv-v2/).
const (
	maxCustom      = 64
	maxCustomKey   = 128
	maxCustomValue = 512
)

func (m *mount) writeMetadata(path string, body map[string]any) *apiError {
	custom := map[string]string{}
	given, isCustom := body["custom_metadata"].(map[string]any)
	if len(given) > maxCustom {
		return refuse(http.StatusBadRequest, "custom_metadata validation failed: payload must contain at most %d keys, provided %d", maxCustom, len(given))
	}
	for k, v := range given {
		text, ok := v.(string)
		if !ok || k == "" || len(k) > maxCustomKey || text == "" || len(text) > maxCustomValue {
			return refuse(http.StatusBadRequest, "1 error occurred:\n\t* custom_metadata validation failed: length of value for key %q is %d but must be 0 < len(value) <= %d\n\n", k, len(text), maxCustomValue)
		}
		custom[k] = text
	}
	sec := m.secrets[path]
	if sec == nil {
		sec = &secret{created: time.Now(), versions: map[int]*version{}}
		m.secrets[path] = sec
	}
	sec.updated = time.Now()
	if isCustom {
		sec.custom = custom
	}
	if n, ok := body["max_versions"].(float64); ok {
		sec.maxVersions = int(n)
	}
	if c, ok := body["cas_required"].(bool); ok {
		sec.casRequired = c
	}
	return nil
}

// change deletes, undeletes or destroys versions.
func change(sec *secret, how string, body map[string]any) *apiError {
	list, ok := body["versions"].([]any)
	if !ok || len(list) == 0 {
		return refuse(http.StatusBadRequest, "No version number provided")
	}
	if sec == nil {
		return nil
	}
	for _, item := range list {
		text, err := json.Marshal(item)
		n, convErr := strconv.Atoi(strings.Trim(string(text), `"`))
		v := sec.versions[n]
		if err != nil || convErr != nil || v == nil || v.destroyed {
			continue
		}
		switch how {
		case "delete":
			v.deleted = time.Now()
		case "undelete":
			v.deleted = time.Time{}
		case "destroy":
			v.destroyed, v.data = true, nil
		}
	}
	return nil
}
