package postgres

import (
	"testing"

	"github.com/pgfleet/pgfleet/internal/postgres/postgrestest"
)

// A realServer is a PostgreSQL started from the machine's own binaries for one test.
type realServer struct {
	*postgrestest.Server
	version Version
}

// adminRule keeps the test's own connection working whatever a test writes behind it.
const adminRule = "local postgres postgres trust\n"

// eachServer runs a test against every PostgreSQL that is installed here.
func eachServer(t *testing.T, test func(*testing.T, *realServer)) {
	t.Helper()
	postgrestest.Each(t, func(t *testing.T, s *postgrestest.Server) {
		test(t, &realServer{s, Version(s.Version)})
	})
}
