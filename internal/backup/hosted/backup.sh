# Dumps the databases of one instance, each encrypted before it reaches the disk, and keeps the newest good sets. The variables at the top say
# what and where. It runs as an account of its own, by systemd, and needs a folder for what is short-lived, $RUNTIME_DIRECTORY, in memory.
#
# A set is good once it has manifest.json, which is written last. A run that fails writes failed.json instead, with the first thing that went
# wrong, and says all of it to the journal. This shell has no pipefail: programs are joined by named pipes, and each one's status is looked at.
set -u
export LC_ALL=C PGHOST="$socket_dir" PGPORT="$port" PGUSER="$role" PGCONNECT_TIMEOUT=30 PGAPPNAME="pgfleet backup $backup"
unset PGSERVICE PGOPTIONS PGPASSFILE PGDATABASE
umask 077
trap '' PIPE # a program that ends early is found by its status, and this shell goes on
run=${RUNTIME_DIRECTORY:?it is made by systemd: start the unit, and not the script}
id='' began='' set='' step='' problem='' jobs=''

note() { printf '%s\n' "$*" >&2; }

# text_of prints what a program said, on one line that fits into JSON.
text_of() { tail -n 5 -- "$1" 2>/dev/null | tr '\n\t' '  ' | tr -cd '\040-\176' | sed 's/  */ /g; s/ $//' | cut -c 1-1000; }

escaped() { printf '%s' "$1" | tr '\n\t' '  ' | tr -cd '\040-\176' | sed 's/\\/\\\\/g; s/"/\\"/g'; }

# bad notes what went wrong. What is said first counts, and the rest goes to the journal.
bad() {
	note "$1: $2"
	[ -n "$problem" ] || { step=$1 problem=$2; }
	return 1
}

now() { date -u +%Y-%m-%dT%H:%M:%SZ; }

# durable puts a file in place whole: its content is on the disk before it has its name, and so is the name when this returns.
durable() { sync -- "$1.partial" && mv -- "$1.partial" "$1" && sync -- "${1%/*}"; }

# end ends the run, for good if nothing went wrong.
end() {
	trap '' TERM INT HUP
	for j in $jobs; do kill "$j" 2>/dev/null; done
	[ -n "$problem" ] || exit 0
	if [ -n "$set" ] && [ -d "$set" ]; then
		rm -f -- "$set"/*.partial
		if printf '{"version":1,"id":"%s","began":"%s","ended":"%s","step":"%s","message":"%s"}\n' \
			"$id" "$began" "$(now)" "$(escaped "$step")" "$(escaped "$problem")" >"$set/failed.json.partial"; then
			durable "$set/failed.json"
		else
			rm -f -- "$set/failed.json.partial"
		fi
	fi
	note "The backup has failed: $step: $problem"
	exit 1
}

stop() {
	if [ -n "$set" ] && [ -e "$set/manifest.json" ]; then
		note "The backup $id is complete. The run was stopped before older sets had been removed; the next one does that."
		exit 0
	fi
	bad stopped 'somebody, or the host shutting down, has stopped the run'
	end
}

# forget removes a set that failed: what this script writes there, and nothing else.
forget() {
	rm -f -- "$1"/*.age "$1"/*.age.partial "$1"/*.json.partial "$1/failed.json"
	rmdir -- "$1" 2>/dev/null || note "$1 holds what is not of a backup, and stays"
}

# sets prints the folders of sets, the oldest first.
sets() {
	for s in "$base"/[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]T[0-9][0-9][0-9][0-9][0-9][0-9]Z; do
		[ ! -d "$s" ] || [ -L "$s" ] || printf '%s\n' "$s"
	done
}

# clean takes away what earlier runs have left that failed, but why they did: their dumps may be what fills the disk. Of those that were cut off it says so; with the lock held they do
# not go on any more.
clean() {
	sets | while IFS= read -r s; do
		[ ! -e "$s/manifest.json" ] || continue
		rm -f -- "$s"/*.age "$s"/*.partial
		[ -e "$s/failed.json" ] || {
			printf '{"version":1,"id":"%s","began":"'"$(printf '%s' "${s##*/}" | sed 's/^\(....\)\(..\)\(..\)T\(..\)\(..\)\(..\)Z$/\1-\2-\3T\4:\5:\6Z/')"'","ended":"%s","step":"cut off","message":"the run was cut off: killed, or the host went down"}\n' "${s##*/}" "$began" >"$s/failed.json.partial" &&
				durable "$s/failed.json"
		}
	done
}

sql() { # database, then further options of psql; SQL on stdin
	d=$1
	shift
	PGCLIENTENCODING=UTF8 "$bin_dir/psql" -XAtqw -v ON_ERROR_STOP=1 -d "$d" "$@" -f - 2>"$run/psql.err"
}

# wait_for waits for a program, and leaves its status in $status.
wait_for() {
	wait "$1"
	status=$?
}

# died says how a program ended.
died() {
	said=$(text_of "$3")
	if [ "$2" -gt 128 ]; then
		said="killed by signal $(($2 - 128))${said:+: $said}"
	elif [ "$2" -eq 127 ] || [ "$2" -eq 126 ]; then
		said="it could not be started${said:+: $said}"
	else
		said="exit status $2${said:+: $said}"
	fi
	[ -s "$3" ] && cat -- "$3" >&2
	bad "$1" "$said"
}

# encrypt begins to encrypt a named pipe into a file of the set, and leaves the process in $encrypting.
encrypt() { # pipe, file, what it is for errors
	age -R "$recipients" <"$1" >"$2.partial" 2>"$run/age-$3.err" 3>&- 4>&- 9>&- &
	encrypting=$!
	jobs="$jobs $encrypting"
}

# finish makes a file durable, and adds it to the manifest.
finish() { # file, kind, oid of the database
	# The disk writes while the processor reads what is still in memory.
	sync -- "$1.partial" 9>&- &
	syncing=$!
	jobs="$jobs $syncing"
	sum=$(sha256sum -- "$1.partial"); summed=$?
	wait_for "$syncing"
	[ "$status" -eq 0 ] || { bad "${1##*/}" 'it cannot be made durable (fsync)'; return 1; }
	[ "$summed" -eq 0 ] || { bad "${1##*/}" 'what was written cannot be read again'; return 1; }
	bytes=$(stat -c %s -- "$1.partial") || { bad "${1##*/}" 'what was written is not there'; return 1; }
	durable "$1" || { bad "${1##*/}" 'it cannot be put in place'; return 1; }
	entry=$(sql postgres -v name="${1##*/}" -v kind="$2" -v oid="${3:-0}" -v bytes="$bytes" -v sha256="${sum%% *}" <<'SQL'
SELECT jsonb_strip_nulls(jsonb_build_object('name', :'name', 'kind', :'kind', 'bytes', :'bytes'::bigint, 'sha256', :'sha256', 'database', d.datname,
	'owner', CASE :'kind' WHEN 'database' THEN pg_get_userbyid(d.datdba) END, 'encoding', CASE :'kind' WHEN 'database' THEN pg_encoding_to_char(d.encoding) END))
	FROM (SELECT :'oid'::oid AS oid) o LEFT JOIN pg_database d USING (oid);
SQL
	) || { bad "${1##*/}" "the server is gone: $(text_of "$run/psql.err")"; return 1; }
	printf '%s\n' "$entry" >>"$run/files" || { bad "${1##*/}" 'the list of files cannot be written'; return 1; }
}

# globals dumps roles, their passwords' verifiers, and tablespaces.
globals() {
	jobs=''
	rm -f -- "$run/dump"
	mkfifo -- "$run/dump" || { bad globals 'no named pipe can be made'; return 1; }
	encrypt "$run/dump" "$set/globals.sql.age" globals
	age=$encrypting
	"$bin_dir/pg_dumpall" -w -g -l postgres >"$run/dump" 2>"$run/dump.err" 9>&- &
	dump=$!
	jobs="$jobs $dump"
	wait_for "$dump"; dumped=$status
	wait_for "$age"; aged=$status
	both globals pg_dumpall globals || return 1
	finish "$set/globals.sql.age" globals
}

# both looks at how a dump and its encryption ended. Who ended the other by going away is named first.
both() { # step, the program that dumps, what age's errors are filed under
	if [ "$aged" -ne 0 ]; then
		died "$1: age" "$aged" "$run/age-$3.err"
	fi
	if [ "$dumped" -ne 0 ]; then
		died "$1: $2" "$dumped" "$run/dump.err"
	fi
	[ "$aged" -eq 0 ] && [ "$dumped" -eq 0 ]
}

# database dumps one database, and once more where pg_dump has waited in vain for a lock that the checks have: it came behind somebody who waits for the
# checks to let go of it, and who has it now.
database() { # oid, name in files, connection string
	again=possible
	dump "$@" && return
	[ "$again" = now ] || return 1
	note "$2: pg_dump has not had a lock in time, and is run once more"
	again=''
	dump "$@"
}

# dump dumps one database, with a snapshot that the checks see too.
dump() { # oid, name in files, connection string
	name=$2 conninfo=$3 snapshot='' session='' rows='' jobs=''
	rm -f -- "$run/dump" "$run/rows" "$run/sql" "$run/said"
	mkfifo -- "$run/dump" "$run/rows" "$run/sql" "$run/said" || { bad "$name" 'no named pipe can be made'; return 1; }
	if [ "$check" != none ]; then
		# Opened for both, a named pipe never blocks this shell, whatever becomes of the other end.
		exec 3<>"$run/sql" 4<>"$run/said"
		encrypt "$run/rows" "$set/$name.checks.age" checks
		rows=$encrypting
		( exec 3>&- # or this would keep psql waiting for more
			"$bin_dir/psql" -XAtqw -v ON_ERROR_STOP=1 -v check="$check" -v lock_timeout="$lock_timeout" -d "$conninfo" -f - <"$run/sql" >"$run/rows" 2>"$run/checks.err" 4>&- 9>&-
			s=$?
			echo ended >&4
			exit "$s" ) &
		session=$!
		jobs="$jobs $session"
		{ checks_begin; printf 'SELECT pg_export_snapshot() \\g %s\n' "'$run/said'"; } >&3
		read -r snapshot <&4
		case $snapshot in
		ended)
			exec 3>&- 4>&-
			wait_for "$session"; died "$name: checks" "$status" "$run/checks.err"
			wait_for "$rows"
			return 1
			;;
		'' | *[!0-9A-F-]*)
			bad "$name: checks" 'the server has exported no snapshot'
			;;
		esac
	fi
	encrypt "$run/dump" "$set/$name.dump.age" dump
	age=$encrypting
	"$bin_dir/pg_dump" -w -Fc -C --lock-wait-timeout="$lock_timeout" ${compression:+-Z "$compression"} ${snapshot:+--snapshot="$snapshot"} -d "$conninfo" \
		>"$run/dump" 2>"$run/dump.err" 3>&- 4>&- 9>&- &
	dump=$!
	jobs="$jobs $dump"
	wait_for "$dump"; dumped=$status
	wait_for "$age"; aged=$status
	if [ "$dumped" -ne 0 ] && [ -n "$session" ] && [ "$again" = possible ] && grep -q 'due to statement timeout' "$run/dump.err"; then
		again=now good=1
	else
		both "$name" pg_dump dump
		good=$?
	fi
	[ "$good" -ne 0 ] || [ ! -s "$run/dump.err" ] || cat -- "$run/dump.err" >&2 # warnings
	if [ -n "$session" ]; then
		[ "$good" -ne 0 ] || checks_rest >&3
		exec 3>&- 4>&-
		wait_for "$session"; checked=$status
		wait_for "$rows"; aged=$status
		[ "$aged" -eq 0 ] || { died "$name: age" "$aged" "$run/age-checks.err"; good=1; }
		[ "$good" -ne 0 ] || [ "$checked" -eq 0 ] || { died "$name: checks" "$checked" "$run/checks.err"; good=1; }
	fi
	[ "$good" -eq 0 ] || return 1
	finish "$set/$name.dump.age" database "$1" || return 1
	[ -z "$session" ] || finish "$set/$name.checks.age" checks "$1"
}

# prune removes sets beyond the newest good ones, and never the one that this run has made. A set is good whose manifest can be read, whose files are all there in their sizes, and of
# which no proof of this manifest has failed. One of which a proof has failed, or whose manifest cannot be read, stays for somebody to look at.
prune() {
	newest=$(sets | tail -n 1)
	if [ "$(printf '%s' "${newest##*/}" | tr -d TZ)" -gt "$(date -u -d '+1 day' +%Y%m%d%H%M%S)" ]; then
		note "Nothing is removed: $newest lies in the future. Is the clock right? If it is now, remove that set by hand."
		return
	fi
	kept=1
	sets | sort -r | while IFS= read -r s; do
		[ "$s" != "$set" ] || continue
		if [ ! -e "$s/manifest.json" ]; then
			[ "$kept" -lt "$keep" ] || [ ! -e "$s/failed.json" ] || forget "$s"
			continue
		fi
		files_of "$s" >"$run/listed" && [ -s "$run/listed" ] || {
			note "$s/manifest.json cannot be read, and the set stays"
			continue
		}
		if whole "$s"; then
			! disproven "$s" || continue
			kept=$((kept + 1))
			[ "$kept" -gt "$keep" ] || continue
		elif [ "$kept" -lt "$keep" ]; then
			note "$s is damaged, and no good one: a file is missing or has another size"
			continue
		fi
		note "removing $s, beyond the newest $keep good ones"
		rm -f -- "$s/proof.json" "$s/failed.json"
		while read -r _ f; do
			case $f in '' | .* | *[!A-Za-z0-9_.%-]*) ;; *) rm -f -- "$s/$f" ;; esac
		done <"$run/listed"
		rm -f -- "$s/manifest.json" # last, so that a run that is cut off here is made up for by the next
		rmdir -- "$s" 2>/dev/null || note "$s holds what is not of the backup, and stays"
	done
}

# files_of prints of each file in a set's manifest how large it is and its name.
files_of() {
	listed "$1/manifest.json" "SELECT (f ->> 'bytes')::bigint || ' ' || (f ->> 'name') FROM (SELECT :'text'::jsonb AS m) m, jsonb_array_elements(m -> 'files') f WHERE m ->> 'id' = '${1##*/}'"
}

# whole looks for the files that were listed.
whole() {
	while read -r bytes f; do
		[ "$(stat -c %s -- "$1/$f" 2>/dev/null)" = "$bytes" ] || return 1
	done <"$run/listed"
}

# disproven looks for a proof that has failed; one of an earlier manifest is none of this set.
disproven() {
	[ -e "$1/proof.json" ] && sum=$(sha256sum <"$1/manifest.json") &&
		[ "$(listed "$1/proof.json" "SELECT m ->> 'ok' = 'false' AND m ->> 'manifest_sha256' = '${sum%% *}' FROM (SELECT :'text'::jsonb AS m) m")" = t ]
}

# listed asks a query about a file of JSON, the variable text.
listed() {
	{ printf '\\set text `cat "%s"`\n' "$1"; printf '%s;\n' "$2"; } | sql postgres
}

# meant decides by the roles that the servers have now whether this member of the cluster makes the backup, and says why not.
meant() {
	[ "$place" -gt 0 ] || return 0
	if [ "$on" = primary ]; then
		[ "$recovery" = t ] || return 0
		note 'Nothing to do: this server is a standby, and the backup is made on the primary.'
		return 1
	fi
	# A standby: the first of the fleet's order, or the second one while the first is the primary.
	if [ "$recovery" = f ]; then
		other=$first
		[ "$place" -ne 1 ] || other=$second
		streaming "$other" pg_stat_replication client_addr || { note "No standby streams that could make the backup instead, so it is made on the primary."; return 0; }
		note 'Nothing to do: a standby makes the backup.'
		return 1
	fi
	if [ "$place" -eq 1 ] && [ "$(echo "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'" | sql postgres)" = 1 ]; then
		return 0
	fi
	if [ "$place" -eq 2 ] && streaming "$first" pg_stat_wal_receiver sender_host; then
		return 0
	fi
	note 'Nothing to do: another member of the cluster makes the backup.'
	return 1
}

# place counts the members that the backup is for, from 1; it is 0 where there is only this one.
# streaming looks for a member, given by the names and addresses that it may have, in a view.
streaming() { # names, view, column
	all=$1
	for a in $1; do
		all="$all $(getent ahosts "$a" | cut -d ' ' -f 1 | sort -u | tr '\n' ' ')"
	done
	found=$(sql postgres -v all="$all" <<SQL
SELECT count(*) FROM $2 WHERE split_part($3::text, '/', 1) = ANY (string_to_array(:'all', ' '));
SQL
	) || return 1
	[ "$found" -gt 0 ]
}

trap stop TERM INT HUP
rm -f -- "$run/files"
mkdir -p -- "$base" || { bad target "$base cannot be made"; end; }
exec 9>"$base/.lock" || { bad target "$base/.lock cannot be written"; end; }
flock -n 9 || { note 'Another run of this backup goes on.'; exit 1; }

began=$(now)
clean
for _ in 1 2 3; do
	id=$(date -u +%Y%m%dT%H%M%SZ)
	mkdir -- "$base/$id" 2>"$run/mkdir.err" && { set=$base/$id; break; }
	[ -d "$base/$id" ] || break
	sleep 1
done
[ -n "$set" ] || { bad target "$(text_of "$run/mkdir.err")"; end; }
sync -- "$base" "${base%/*}" "${base%/*/*}" || { bad target "$set cannot be made durable (fsync)"; end; }

facts=$(sql postgres <<'SQL'
SELECT pg_is_in_recovery(), current_setting('server_version_num')::int / 10000, current_setting('server_version');
SQL
) || { bad server "it cannot be asked: $(text_of "$run/psql.err")"; end; }
recovery=${facts%%|*}
major=${facts#*|}
major=${major%%|*}
if ! meant; then
	rmdir -- "$set"
	exit 0
fi

tool=$(age --version 2>"$run/age.err") || { bad age "it is not installed, or cannot be run: $(text_of "$run/age.err")"; end; }
pg_dump_version=$("$bin_dir/pg_dump" --version 2>"$run/dump.err") || { bad pg_dump "$bin_dir/pg_dump cannot be run: $(text_of "$run/dump.err")"; end; }
pg_dump_version=${pg_dump_version#pg_dump (PostgreSQL) }
if [ "${pg_dump_version%%[!0-9]*}" -lt "$major" ]; then
	bad pg_dump "it is version $pg_dump_version, and the server is $major: a dump needs pg_dump of at least the server's version"
	end
fi
[ -r "$recipients" ] || { bad age "$recipients cannot be read"; end; }

begin=$(sql postgres <<'SQL'
SELECT jsonb_build_object('server_version', current_setting('server_version'), 'role', CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE 'primary' END,
	'system_identifier', (pg_control_system()).system_identifier::text,
	'lsn', CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, 'timeline', (pg_control_checkpoint()).timeline_id);
SQL
) || { bad server "$(text_of "$run/psql.err")"; end; }

# For each database its oid, its name in files, and its connection string, in which any byte may be: it is written for printf %b.
sql postgres -v wanted="$wanted" -v excluded="$excluded" -v aside="$aside" -v named="$named" >"$run/databases" <<'SQL' || { bad databases "$(text_of "$run/psql.err")"; end; }
SELECT d.oid, (SELECT string_agg(CASE WHEN chr(b) ~ '[A-Za-z0-9_-]' THEN chr(b) ELSE '%' || upper(lpad(to_hex(b), 2, '0')) END, '' ORDER BY i)
		FROM (SELECT i, get_byte(convert_to(datname, getdatabaseencoding()), i) AS b FROM generate_series(0, octet_length(convert_to(datname, getdatabaseencoding())) - 1) i) x),
	(SELECT string_agg('\0' || lpad(CASE WHEN b < 8 THEN b::text ELSE (b / 64)::text || (b / 8 % 8)::text || (b % 8)::text END, 3, '0'), '' ORDER BY i)
		FROM (SELECT i, get_byte(text, i) AS b FROM (SELECT convert_to('dbname=''' || replace(replace(datname, '\', '\\'), '''', '\''') || '''', getdatabaseencoding()) AS text) t,
			generate_series(0, octet_length(text) - 1) i) y)
	FROM pg_database d
	WHERE datallowconn AND datname NOT IN ('template0', 'template1')
		AND (:'wanted' = '' OR datname ~ :'wanted') AND (:'excluded' = '' OR datname !~ :'excluded')
		AND (:'aside' = '' OR datname !~ :'aside' OR :'named'::jsonb ? datname)
	ORDER BY datname COLLATE "C";
SQL
missing=$(sql postgres -v names="$named" <<'SQL'
SELECT string_agg(n, ', ') FROM jsonb_array_elements_text(:'names'::jsonb) n WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = n AND datallowconn);
SQL
) || { bad databases "$(text_of "$run/psql.err")"; end; }
[ -z "$missing" ] || bad databases "there is no such database: $missing"
[ -n "$missing" ] || [ -s "$run/databases" ] || bad databases 'the patterns mean no database of this server'

globals
while IFS='|' read -r oid name escaped_conninfo <&5; do
	conninfo=$(printf '%b.' "$escaped_conninfo")
	database "$oid" "$name" "${conninfo%.}"
done 5<"$run/databases"
[ -z "$problem" ] || end

manifest=$({ printf '\\set files `paste -sd, "%s"`\n' "$run/files"; printf '\\set recipients `cat "%s"`\n' "$recipients"; cat <<'SQL'; } | sql postgres -v id="$id" -v began="$began" -v ended="$(now)" -v backup="$backup" -v instance="$instance" -v begin="$begin" -v tool="age $tool" -v pg_dump="$pg_dump_version"
SELECT jsonb_build_object('version', 1, 'backup', :'backup', 'instance', :'instance', 'id', :'id', 'began', :'began', 'ended', :'ended',
	'pg_dump_version', :'pg_dump', 'encryption', jsonb_build_object('tool', :'tool', 'recipients',
		(SELECT jsonb_agg(r) FROM unnest(string_to_array(:'recipients', E'\n')) r WHERE r <> '' AND r NOT LIKE '#%')), 'files', ('[' || :'files' || ']')::jsonb) || :'begin'::jsonb;
SQL
) || { bad manifest "$(text_of "$run/psql.err")"; end; }
printf '%s\n' "$manifest" >"$set/manifest.json.partial" && durable "$set/manifest.json" || { bad manifest 'it cannot be written'; end; }
prune
note "The backup $id is complete."
