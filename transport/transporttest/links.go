package transporttest

import (
	"errors"
	"strings"
	"testing"

	"github.com/pgfleet/pgfleet/internal/facts"
	"github.com/pgfleet/pgfleet/transport"
)

// testPlantedLinks plays a user who plants symbolic links where root will write,
// remove and read: root must not be led to anything that is not the user's own.
func testPlantedLinks(t *testing.T, h Host, c transport.Conn) {
	dir := folder(t, h, c)
	sh(t, c, "cd "+dir+` && mkdir -m 700 roots && mkdir theirs sticky group && echo precious | tee roots/keep >precious && chmod 600 precious
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=x -keyout roots/key -out roots/key 2>/dev/null
ln -s roots open && ln -s theirs/sub over && chmod 1777 sticky && chgrp postgres group && chmod 2775 group && chown postgres:postgres theirs
runuser -u postgres -- sh -c '
ln -s `+dir+`/roots theirs/conf.d; ln -s ../roots theirs/sub; ln -s ../precious theirs/f; ln -s ../roots/key theirs/key
ln -s ../precious sticky/f; ln -s ../roots sticky/d; echo own >theirs/own; ln -s own theirs/toown; ln -s /etc/hostname theirs/hostname; ln -s loop theirs/loop'`)
	state := "cd " + dir + " && cat precious roots/keep && stat -c '%n %U %G %a %Z' precious roots roots/* && ls -A roots"
	before := sh(t, c, state)

	for _, path := range []string{"theirs/conf.d/x", "theirs/conf.d/keep", "theirs/sub/keep", "theirs/f", "over/x", "over/keep", "sticky/f", "sticky/d/x", "group/x", "theirs/loop", "missing/x"} {
		fine := transport.File{Path: dir + "/theirs/fine", Content: []byte("fine")}
		for _, owner := range []string{"", "postgres"} {
			err := c.WriteFiles(deadline(t), []transport.File{fine, {Path: dir + "/" + path, Content: []byte("x"), Owner: owner}})
			var e *transport.Error
			if !errors.As(err, &e) || e.Kind != transport.KindRefused || !strings.Contains(err.Error(), path) {
				t.Errorf("write %s for %q: %v", path, owner, err)
			}
		}
	}
	for _, path := range []string{"theirs/conf.d/keep", "theirs/sub/key", "over/keep", "sticky/d/keep"} {
		err := c.Remove(deadline(t), dir+"/theirs/own", dir+"/"+path)
		var e *transport.Error
		if err != nil && (!errors.As(err, &e) || e.Kind != transport.KindRefused) {
			t.Errorf("remove %s: %v", path, err)
		}
		if err != nil && sh(t, c, "cat "+dir+"/theirs/own") != "own" {
			t.Errorf("remove %s: another file is gone", path)
		} else if err == nil {
			sh(t, c, "runuser -u postgres -- sh -c 'echo own >"+dir+"/theirs/own'")
		}
	}
	if after := sh(t, c, state); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	leftovers(t, c, dir)

	reads := []facts.Read{
		facts.File{Path: dir + "/theirs/f"}, facts.File{Path: dir + "/theirs/conf.d/keep"}, facts.File{Path: dir + "/over/keep"}, facts.File{Path: dir + "/sticky/f"},
		facts.Files{Glob: dir + "/theirs/conf.d/*"}, facts.Files{Glob: dir + "/theirs/*"}, facts.CertificateFile{Path: dir + "/theirs/key"}, facts.CertificateFile{Path: dir + "/theirs/conf.d/key"},
	}
	answers, err := c.Read(deadline(t), reads)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range reads {
		a := answers[r]
		if a.Err == nil {
			t.Errorf("%+v is answered", r)
		}
		if f, _ := a.Value.(facts.FileInfo); len(f.Content) > 0 {
			t.Errorf("%+v: %s", r, f.Content)
		}
		if f, _ := a.Value.(facts.CertificateFileInfo); len(f.Certificates)+len(f.PublicKey) > 0 {
			t.Errorf("%+v: %s", r, f.Certificates)
		}
	}

	// What they may do, and root's own links, go on working.
	for path, to := range map[string]string{"/open/keep": dir + "/roots/keep", "/theirs/toown": dir + "/theirs/own", "/theirs/hostname": "/etc/hostname"} {
		f := file(t, c, dir+path)
		if len(f.Content) == 0 || f.Resolved != to {
			t.Errorf("%s: %d bytes of %s", path, len(f.Content), f.Resolved)
		}
	}
	for _, path := range []string{"/open/new", "/theirs/toown"} {
		if err := c.WriteFiles(deadline(t), []transport.File{{Path: dir + path, Content: []byte("new")}}); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if got := sh(t, c, "cd "+dir+" && cat roots/new theirs/own && readlink theirs/toown && stat -c %U theirs/own"); got != "newnewown\npostgres" {
		t.Errorf("got %q", got)
	}
	if got := sh(t, c, "cat "+dir+"/precious"); got != "precious" {
		t.Errorf("precious: %s", got)
	}
}
