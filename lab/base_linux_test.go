package lab

import "testing"

func TestDebianArchive(t *testing.T) {
	for _, test := range []struct{ name, targets, main, security string }{
		{"none", "", "", ""},
		{"plain", "http://a.example/debian/ bookworm main\nhttp://a.example/debian/ bookworm-updates main\nhttp://s.example/sec/ bookworm-security main\n",
			"http://a.example/debian/", "http://s.example/sec/"},
		{"others first", "https://x.example/apt cloud-sdk main\nhttps://y.example/pgdg bookworm-pgdg main\nhttp://a.example/debian/ stable main\n",
			"http://a.example/debian/", ""},
		{"a component of its own", "http://a.example/debian/ bookworm contrib\n", "", ""},
		{"another distribution", "http://a.example/ubuntu/ noble main\nhttp://a.example/ubuntu/ noble-security main\n", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			main, security := debianArchive(test.targets)
			if main != test.main || security != test.security {
				t.Errorf("got %q and %q, want %q and %q", main, security, test.main, test.security)
			}
		})
	}
}
