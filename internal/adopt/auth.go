package adopt

import (
	"strings"

	"github.com/pgfleet/pgfleet/internal/postgres"
	"github.com/pgfleet/pgfleet/internal/secrets"
)

// hba describes pg_hba.conf by its rules.
func (d *describer) hba() {
	var rules, masked []string
	var why string
	f, err := d.state.File(d.server.HBAFile)
	if err == nil {
		var lines []postgres.HBALine
		if lines, err = postgres.ParseHBA(string(f.Content), postgres.MajorVersion(d.in.Version)); err == nil {
			var parsed []postgres.HBARule
			parsed, err = postgres.HBARules(lines)
			for _, r := range parsed {
				if names := secretRule(r); len(names) > 0 {
					why = "a rule holds " + strings.Join(names, " and ")
				}
				rules, masked = append(rules, r.String()), append(masked, summary(r))
			}
		}
	}
	d.blank()
	d.remark("otherwise and replication are \"none\", because the rules are all that the file has now.\nWithout them (\"reject\" and \"keep\", the defaults) the file ends by rejecting what is left\nover, and lets the cluster's own standbys stream.")
	d.auth("pg_hba.conf", "hba", "rules", rules, masked, why, err, pair{"otherwise", `"none"`}, pair{"replication", `"none"`})
}

// ident describes pg_ident.conf by its maps.
func (d *describer) ident() {
	var maps []string
	f, err := d.state.File(d.server.IdentFile)
	if err == nil {
		var lines []postgres.IdentLine
		if lines, err = postgres.ParseIdent(string(f.Content), postgres.MajorVersion(d.in.Version)); err == nil {
			var parsed []postgres.IdentRule
			parsed, err = postgres.IdentRules(lines)
			for _, r := range parsed {
				maps = append(maps, r.String())
			}
		}
	}
	d.blank()
	d.auth("pg_ident.conf", "ident", "maps", maps, maps, "", err)
}

// auth writes the task, or a comment where the file must not be taken over.
func (d *describer) auth(file, kind, key string, lines, masked []string, secret string, err error, more ...pair) {
	pairs := func(lines []string) []pair { return append([]pair{{key, list(lines)}}, more...) }
	all := strings.Join(lines, "\n")
	switch {
	case err != nil:
		why := secrets.NewRedactor().String(strings.ReplaceAll(err.Error(), "\n", "; "))
		d.remark("Not taken over: %s.\nMend it on the host and run pgfleet init --from again, or write the lines here.", oneLine(why))
		d.warn("%s is not taken over: %s", file, why)
	case secret != "":
		d.remark("Not taken over, because %s. Put the value into a secret store, write\n{{ secret \"age:NAME#KEY\" | hba }} in the place of %s, and take the # off.", secret, secrets.Mask)
		d.warn("%s is not taken over: %s; fleet.toml says what to do", file, secret)
		d.task(true, d.name(file), kind, d.id, pairs(masked)...)
	case !writable(all) || secrets.HasPlaceholder(all):
		d.remark("Not taken over: it holds characters that cannot be written here.")
		d.warn("%s is not taken over: it holds characters that cannot be written in fleet.toml", file)
	default:
		d.task(false, d.name(file), kind, d.id, pairs(lines)...)
	}
}

// summary masks the secrets of a rule.
func summary(r postgres.HBARule) string {
	return secrets.NewRedactor().String(r.Summary())
}
