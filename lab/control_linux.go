package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
)

// control asks a lab's supervisor, by HTTP over a unix socket that only root
// can open.
type control struct{ dir string }

func (c control) call(ctx context.Context, method, path string, answer any) error {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", filepath.Join(c.dir, controlSocket))
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://supervisor"+path, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(body)))
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(body, answer)
}

// handler answers what control asks.
func (s *supervisor) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		var all []Status
		for _, m := range s.machines {
			all = append(all, m.status())
		}
		writeJSON(w, all)
	})
	mux.HandleFunc("POST /hosts/{name}/{action}", func(w http.ResponseWriter, r *http.Request) {
		m := s.machine(r.PathValue("name"))
		if m == nil {
			http.Error(w, "no such host", http.StatusNotFound)
			return
		}
		var err error
		switch r.PathValue("action") {
		case "start":
			m.start()
			err = m.waitOn(r.Context())
		case "stop":
			err = m.stop(r.Context())
		case "kill":
			err = m.kill()
		case "reboot":
			err = m.reboot(r.Context())
		case "wait":
			var boots int
			if boots, err = strconv.Atoi(r.FormValue("boots")); err == nil {
				err = m.waitBoots(r.Context(), boots)
			}
		default:
			http.Error(w, "no such action", http.StatusNotFound)
			return
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		writeJSON(w, m.status())
	})
	mux.HandleFunc("POST /down", func(w http.ResponseWriter, r *http.Request) {
		s.stop()
		select {
		case <-s.stopped:
			if err := s.stopErr; err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		case <-r.Context().Done():
		}
	})
	return mux
}

func writeJSON(w http.ResponseWriter, v any) {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b.Bytes())
}
