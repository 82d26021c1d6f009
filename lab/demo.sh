#!/bin/bash
# The main job on real hosts, as a newcomer would do it: a plan, the apply, a second plan that finds
# nothing to do, passwords that are changed under an application's hands, and a change made by hand
# that is found and undone. `make demo` builds the programs
# and runs this. It wants root on Debian; every step is checked, and everything is cleaned up.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
PATH=$root/bin:$PATH
work=$(mktemp -d /tmp/pgfleet-demo-XXXXXX)
booted=''

# The user's own identity, configuration and agent are not touched.
export HOME=$work/home XDG_CONFIG_HOME=$work/home/.config
unset SSH_AUTH_SOCK PGFLEET_FLEET
mkdir -p "$XDG_CONFIG_HOME"

bold='' faint='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' faint=$'\e[2m' plain=$'\e[0m'
fi

# The lab is stopped in a session of its own, which Ctrl-C does not reach.
cleanup() {
    code=$?
    trap '' INT TERM HUP
    if [ -n "$booted" ]; then
        setsid --wait lab down || code=1
    fi
    rm -rf "$work"
    if [ "$code" -ne 0 ]; then
        printf '\nThe demo stopped (exit code %d); its hosts and files are gone.\n' "$code" >&2
    fi
    exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

heading() { printf '\n%s## %s%s\n' "$bold" "$1" "$plain"; }
say() { printf '%s%s%s\n' "$faint" "$1" "$plain"; }

fail() {
    printf 'demo: %s\n' "$1" >&2
    exit 1
}

# Words as they would be typed.
typed() {
    local word line=
    for word; do
        case $word in
        *[!A-Za-z0-9_./=:@%+,-]*) line+=" '${word//\'/\'\\\'\'}'" ;;
        *) line+=" $word" ;;
        esac
    done
    printf '%s' "${line# }"
}

# want CODE COMMAND...: show a command, run it, and insist on its exit code.
want() {
    local want=$1 got=0
    shift
    printf '%s$ %s%s\n' "$bold" "$(typed "$@")" "$plain"
    "$@" || got=$?
    [ "$got" -eq "$want" ] || fail "$(typed "$@") exited with $got, and should have with $want"
    [ "$got" -eq 0 ] || say "(exit code $got)"
}

# by_hand HOST SCRIPT: root at a host's keyboard, past pgfleet and past SSH.
by_hand() {
    printf '%s%s# %s%s\n' "$bold" "$1" "$2" "$plain"
    lab exec "$1" "cd /; $2"
}

# refused HOST SCRIPT TEXT: as by_hand, for what has to fail with a text.
refused() {
    local out
    printf '%s%s# %s%s\n' "$bold" "$1" "$2" "$plain"
    if out=$(lab exec "$1" "cd /; $2" 2>&1); then
        fail "$1 was let in, and should not have been: $out"
    fi
    printf '%s\n' "$out"
    grep -qF -- "$3" <<<"$out" || fail "that should have said: $3"
}

# sees HOST SCRIPT TEXT: as by_hand, for what has to say exactly that.
sees() {
    local out
    printf '%s%s# %s%s\n' "$bold" "$1" "$2" "$plain"
    out=$(lab exec "$1" "cd /; $2") || fail "$1 failed at that"
    printf '%s\n' "$out"
    [ "$out" = "$3" ] || fail "that should have said: $3"
}

# quiet HOST SCRIPT: the same, unseen.
quiet() { lab exec "$1" "cd /; $2"; }

# until_says HOST SCRIPT TEXT: wait until a host says exactly that.
until_says() {
    local out=
    for _ in $(seq 100); do
        out=$(quiet "$1" "$2" 2>&1) || true
        [ "$out" = "$3" ] && return
        sleep 0.2
    done
    fail "$1 should say '$3' to $2, and says: $out"
}

# All of /etc of a host: contents, owners, modes and times.
etc() { quiet "$1" 'find /etc -xdev -type f -printf "%p %u %g %m %T@ " -exec sha256sum {} \; | sort | sha256sum'; }

address() { lab list | awk -v host="$1" '$1 == host { print $2 }'; }

[ "$(id -u)" -eq 0 ] || fail "the lab's hosts are containers, so this wants root: sudo make demo"
if lab list >"$work/running" 2>&1; then
    fail "a lab is running already: stop it with make lab-down, or choose another bridge, such as PGFLEET_LAB_BRIDGE=pglab7"
fi

heading "Boot four database hosts, and one that stands for an application"
say "Real Debian: systemd, sshd, sudo, PostgreSQL 15 and 17. The first time, their base systems are"
say "downloaded and built, which takes some minutes; they are kept in ${PGFLEET_LAB_CACHE:-/var/cache/pgfleet-lab}."
printf '%s$ lab up --hosts 5 --standby pg02=pg01 --host-version pg03=17,pg04=17%s\n' "$bold" "$plain"
booted=yes # also when it comes only half way
lab up --hosts 5 --standby pg02=pg01 --host-version pg03=17,pg04=17
want 0 lab list
files=$(lab list | sed -n 's/^key \([^,]*\), known_hosts \(.*\)$/\1 \2/p')
read -r key known_hosts <<<"$files"
pg01=$(address pg01) pg02=$(address pg02) pg03=$(address pg03) pg04=$(address pg04) pg05=$(address pg05)
app=$(lab list | sed -n 's/.* as an application: //p')
app_network=${app%.*}.0/24
app_address=${app%.*}.21
quiet pg05 "ip address add $app_address/32 dev host0; for server in $pg01 $pg02 $pg03 $pg04; do ip route add \$server/32 dev host0 src $app_address; done"

heading "Describe the fleet"
cd "$work"
(cd "$root" && go run filippo.io/age/cmd/age-keygen -o "$work/safe.txt") 2>/dev/null
sed -n 's/^# public key: //p' safe.txt >safe.pub # the other key that opens backups; it belongs into a safe
want 0 pgfleet init prod --app-network "$app_network" --user ops --identity "$key" --known-hosts "$known_hosts" \
    --host pg01="$pg01",replication=orders --host pg02="$pg02",replication=orders \
    --host pg03="$pg03",version=17 --host pg04="$pg04",version=17 --app-host app1="$pg05" --recipient "$(cat safe.pub)"
want 0 cd prod
say "pg01 and pg02 are a primary and its standby, pg03 and pg04 have another version. app1 is the host pg05,"
say "and what connects to a database from there comes from $app_address, inside the applications' network."
want 0 pgfleet check

heading "What would change? Nothing is written"
before=$(for host in pg01 pg02 pg03 pg04; do etc $host; done)
want 2 pgfleet plan --detailed-exitcode --out today.plan
[ "$before" = "$(for host in pg01 pg02 pg03 pg04; do etc $host; done)" ] || fail "the plan changed a file"
say "(/etc of all four hosts compared with before: not a byte and no timestamp differs.)"

heading "Make it so: the plan that was shown, and nothing else"
want 0 pgfleet apply today.plan
say "(Without a saved plan, apply shows the plan and asks; --yes does not ask.)"

heading "A second plan finds nothing to do"
want 0 pgfleet plan --detailed-exitcode

heading "Make the passwords: into the store, to the servers, and proven by logins from app1"
want 0 pgfleet rotate --all --yes

heading "Give the application its passwords: a file from the secrets"
cat >app.toml <<END
version = 1
[fleet]
name = "applications"
[ssh]
user = "ops"
identity = "$key"
known_hosts = "$known_hosts"
$(sed -n '/^\[secrets.age\]/,/^$/p' fleet.toml)
[postgres]
version = 15
[hosts.app1]
address = "$pg05"
[[task]]
name = "Passwords for psql"
kind = "file"
path = "/root/.pgpass"
content = """
*:*:*:{{ secret "age:orders/appuser#username" | passfile }}:{{ secret "age:orders/appuser#password" | passfile }}
*:*:*:readuser:{{ secret "age:orders/readuser#password" | passfile }}
"""
mode = "0600"
END
want 0 grep secret app.toml
want 0 pgfleet -f app.toml apply --yes
want 0 pgfleet secrets get age:orders/appuser#username
user=$(pgfleet secrets get age:orders/appuser#username)
[ -t 1 ] || echo

heading "Is it so? Ask the servers, from the application's host and without pgfleet"
lab exec pg05 'cat >/root/ca.pem' <ca.pem
lab exec pg05 'cat >/root/.pg_service.conf' <<END
[pg01]
host=$pg01
dbname=appdb
sslmode=verify-full
sslrootcert=/root/ca.pem
[pg02]
host=$pg02
dbname=appdb
sslmode=verify-full
sslrootcert=/root/ca.pem
END
say "What psql calls a service is a server with sslmode=verify-full and the fleet's ca.pem."
by_hand pg05 "openssl s_client -starttls postgres -connect $pg01:5432 -servername pg01 -CAfile /root/ca.pem -verify_ip $pg01 -verify_return_error -brief </dev/null"
by_hand pg05 "PGOPTIONS='-c role=none' psql 'service=pg01 user=$user' -XAtc \"SELECT 'in, over ' || version || ' from ' || inet_client_addr() FROM pg_stat_ssl WHERE pid = pg_backend_pid()\""
refused pg05 "psql 'service=pg01 user=$user sslmode=disable' -XAtc 'SELECT 1'" 'no encryption'
refused pg04 "psql 'host=$pg01 dbname=appdb user=$user sslmode=require' -XAtc 'SELECT 1'" 'pg_hba.conf rejects connection'

sees pg05 "psql 'service=pg01 user=$user' -XAtc 'SELECT session_user, current_user'" 'appuser_a|appuser'
say "appuser reads and writes, each tenant its own orders. It makes no tables, and readuser only reads:"
for tenant in 7=tea 8=coffee; do
    by_hand pg05 "PGOPTIONS='-c app.tenant=${tenant%=*}' psql 'service=pg01 user=$user' -Xqc \"INSERT INTO orders (item) VALUES ('${tenant#*=}')\""
done
sees pg05 "PGOPTIONS='-c app.tenant=7' psql 'service=pg01 user=$user' -XAtc 'SELECT item FROM orders'" tea
sees pg05 "psql 'service=pg01 user=$user' -XAtc 'SELECT count(*) FROM orders'" 0
refused pg05 "PGOPTIONS='-c app.tenant=7' psql 'service=pg01 user=$user' -Xqc \"INSERT INTO orders (tenant_id, item) VALUES (8, 'salt')\"" 'violates row-level security policy'
refused pg05 "psql 'service=pg01 user=$user' -Xqc 'CREATE TABLE mine ()'" 'permission denied for schema public'
refused pg05 "psql 'service=pg01 user=readuser' -Xqc \"INSERT INTO orders (tenant_id, item) VALUES (8, 'salt')\"" 'permission denied for table orders'
refused pg05 "psql 'service=pg01 user=readuser dbname=postgres' -XAtc 'SELECT 1'" 'pg_hba.conf rejects connection'

streams="runuser -u postgres -- psql -XAtc 'SELECT client_addr, state FROM pg_stat_replication'"
until_says pg01 "$streams" "$pg02|streaming" # a standby tries again every 5 s (wal_retrieve_retry_interval)
say "The standby has all of it by replication, the roles too:"
until_says pg05 "PGOPTIONS='-c app.tenant=8' psql 'service=pg02 user=readuser' -XAtc 'SELECT item FROM orders'" coffee
sees pg05 "PGOPTIONS='-c app.tenant=8' psql 'service=pg02 user=readuser' -XAtc 'SELECT item FROM orders'" coffee
by_hand pg01 "grep -o 'AUDIT: .*INSERT.*tea.*' /var/log/postgresql/audit.log"

heading "Change the password, while the application logs in again and again"
say "It reads the store, logs in with what is there, and never tries twice. Two roles take turns: the other one"
say "gets the new password, and the old one ends a while later. A minute is too long for a demo, so:"
want 0 sed -i 's/^retire_after = "1m"/retire_after = "3s"/' fleet.toml
touch "$work/rotating" "$work/logins"
application() {
    while [ -e "$work/rotating" ]; do
        pgfleet secrets get age:orders/appuser#username age:orders/appuser#password |
            lab exec pg05 "cd /; read -r user; read -r PGPASSWORD; export PGPASSWORD; psql \"service=pg01 user=\$user\" -XAtc 'SELECT session_user'" 2>&1 || echo failed
    done >>"$work/logins"
}
logins() { grep -c "^$1\$" "$work/logins" || true; }
five_more() { # logins as a role
    local before
    before=$(logins "$1")
    for _ in $(seq 200); do
        [ "$(logins "$1")" -ge $((before + 5)) ] && return
        sleep 0.1
    done
    fail "there were no five logins as $1 in a long time: $(tail -n 3 "$work/logins")"
}
application &
five_more appuser_a
want 0 pgfleet rotate appuser --limit orders --yes
five_more appuser_b
rm "$work/rotating"
wait $!
a=$(logins appuser_a) b=$(logins appuser_b)
failed=$(($(wc -l <"$work/logins") - a - b))
printf '%d logins as appuser_a, then %d as appuser_b, and %d that failed\n' "$a" "$b" "$failed"
[ "$failed" -eq 0 ] || fail "a login failed: $(grep -v '^appuser_[ab]$' "$work/logins")"
want 0 pgfleet rotate --status

# What was sent to the server is a verifier: neither it nor a password is in a log. A word that is there shows that this
# search would find one.
pgfleet secrets get age:orders/appuser#password age:orders/appuser#password@previous age:orders/readuser#password >"$work/passwords"
quiet pg01 "runuser -u postgres -- psql -XAtc \"SELECT split_part(rolpassword, '\$', 3) FROM pg_authid WHERE rolpassword IS NOT NULL AND rolname ~ '^(app|read)'\"" >>"$work/passwords"
[ "$(grep -c . "$work/passwords")" -eq 5 ] || fail "there should be three passwords and two verifiers"
if lab exec pg01 'grep -qFf - /var/log/postgresql/*.log' <"$work/passwords"; then fail "a password is in a log"; fi
lab exec pg01 'grep -qFf - /var/log/postgresql/*.log' <<<'CREATE ROLE appuser' || fail "the log was not searched"
rm "$work/passwords"

heading "Back the databases up, and prove it: on another host, a server of its own restores it"
want 0 sed -i 's/^# verify_on = .*/verify_on = "app1"/' fleet.toml
want 0 pgfleet backup run nightly --limit orders --yes
by_hand pg01 'ls -l /var/backups/pgfleet/nightly/pg01/*'
want 0 pgfleet backup verify nightly --restore --limit pg01
want 0 pgfleet backup list --limit pg01
say "A dump that dies half way is no backup, and nothing older is deleted for it:"
quiet pg01 "runuser -u postgres -- psql -X appdb -qc 'BEGIN; LOCK TABLE orders; SELECT pg_sleep(600)'" >/dev/null 2>&1 &
until_says pg01 "runuser -u postgres -- psql -XAtc \"SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation IS NOT NULL AND granted\"" 1
(
    until_says pg01 'pgrep -u pgfleet_backup -x pg_dump -c' 1
    quiet pg01 'pkill -KILL -u pgfleet_backup -x pg_dump'
) &
want 1 pgfleet backup run nightly --limit pg01 --yes
quiet pg01 "runuser -u postgres -- psql -XAtc \"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()\"" >/dev/null
wait
want 0 pgfleet backup list --limit pg01

heading "Certificates: what there is, until when, and is it what the servers present?"
want 0 pgfleet certs list
want 0 pgfleet certs renew --force --yes --limit pg03
want 0 pgfleet plan --detailed-exitcode

heading "Somebody changes a server by hand"
by_hand pg03 "sed -i '1i host all all 0.0.0.0/0 trust' /etc/postgresql/17/main/pg_hba.conf"
by_hand pg03 "sed -i \"s/^pgaudit.log = .*/pgaudit.log = 'none'/\" /etc/postgresql/17/main/conf.d/30-audit.conf"
by_hand pg03 "systemctl reload postgresql@17-main"
by_hand pg03 "runuser -u postgres -- psql -Xqc 'ALTER ROLE readuser SUPERUSER'"
by_hand pg03 "runuser -u postgres -- psql -X appdb -qc 'GRANT ALL ON orders TO PUBLIC'"
by_hand pg03 "runuser -u postgres -- psql -X appdb -qc 'ALTER TABLE orders DISABLE ROW LEVEL SECURITY'"
say "Now the superuser needs no password, from anywhere:"
until_says pg04 "psql 'host=$pg03 user=postgres' -XAtc 'SELECT 1'" 1 # a reload takes a moment
by_hand pg04 "psql 'host=$pg03 user=postgres sslmode=require' -XAtc \"SELECT 'in, as ' || current_user\""

heading "pgfleet finds it"
want 2 pgfleet plan --detailed-exitcode --out repair.plan
pgfleet plan --json >"$work/plan.json" || fail "plan --json"
for text in '0.0.0.0/0 trust' "pgaudit.log = 'none'" 'ALTER ROLE readuser NOSUPERUSER' 'FROM PUBLIC' 'ENABLE ROW LEVEL SECURITY' '"to_change": 1'; do
    grep -qF -- "$text" "$work/plan.json" || fail "the plan does not show: $text"
done

heading "and undoes it"
want 0 pgfleet apply repair.plan
refused pg04 "psql 'host=$pg03 user=postgres sslmode=require' -XAtc \"SELECT 'in, as ' || current_user\"" 'pg_hba.conf rejects connection'
[ "$(quiet pg03 "runuser -u postgres -- psql -XAtc 'SHOW pgaudit.log'")" = 'ddl, write, role' ] || fail "the audit is still off"
left=$(quiet pg03 "runuser -u postgres -- psql -X appdb -Atc \"SELECT rolsuper, relrowsecurity, EXISTS (SELECT FROM aclexplode(relacl) WHERE grantee = 0)
    FROM pg_roles, pg_class WHERE rolname = 'readuser' AND relname = 'orders'\"")
[ "$left" = 'f|t|f' ] || fail "readuser, or orders, is still as it was changed: $left"
want 0 pgfleet plan --detailed-exitcode

heading "That was it"
say "The hosts and all files of the demo are removed. docs/start.md does the same with your own hosts."
