# Try a configuration before it is put in place: runs as postgres, with the new
# files as a tar archive on stdin. Arguments come as variables, set before this
# text: conf_dir data_dir bin_dir pem pem_target boot removed gone.
set -u
umask 077
export LC_ALL=C
stage=$(mktemp -d "${TMPDIR:-/tmp}/pgfleet-trial.XXXXXXXXXX") || exit 1
server=
stop() {
	if [ -n "$server" ]; then
		kill -QUIT "$server" 2>/dev/null
		wait "$server" 2>/dev/null
	fi
	rm -rf "$stage"
}
trap stop EXIT
trap 'exit 1' HUP INT TERM

# The files as they are, the new ones over them.
mkdir "$stage/conf" "$stage/run" || exit 1
copy() { # what the server could not read either is left out, and missed only if it is not among the new ones
	for f in "$1"/*.conf; do
		if [ -r "$f" ]; then cp -RL "$f" "$2/" || exit 1; fi
	done
}
copy "$conf_dir" "$stage/conf"
for d in "$conf_dir"/*/; do # conf.d, and whatever else is included
	[ -d "$d" ] && [ -r "$d" ] || continue
	mkdir "$stage/conf/$(basename "$d")" || exit 1
	copy "${d%/}" "$stage/conf/$(basename "$d")"
done
tar -xf - -C "$stage/conf" || exit 1
old_ifs=$IFS
IFS='
'
for f in $removed; do rm -f "$stage/conf/$f"; done
IFS=$old_ifs
# Messages name the files where they are, or will be.
say() { sed "s|$stage/conf/pgfleet.elsewhere||g; s|$stage/conf|$conf_dir|g" >&2; }

# What ALTER SYSTEM has set wins over the files, here as there: as it is, or will be.
mkdir "$stage/auto" || exit 1
[ -f "$stage/conf/postgresql.auto.conf" ] || cp "$data_dir/postgresql.auto.conf" "$stage/conf/" 2>/dev/null
cp "$stage/conf/postgresql.auto.conf" "$stage/auto/" 2>/dev/null

# PostgreSQL's own parser judges names and values.
said=$("$bin_dir/postgres" -D "$data_dir" -c data_directory="$stage/auto" -c config_file="$stage/conf/postgresql.conf" -C port 2>&1 >/dev/null) || {
	printf '%s\n' "$said" | say
	exit 3
}

# setting NAME prints what the new configuration says.
setting() { "$bin_dir/postgres" -D "$data_dir" -c data_directory="$stage/auto" -c config_file="$stage/conf/postgresql.conf" -C "$1" 2>/dev/null; }

# What TLS is made of may be among the new files, or among those that go. Paths
# relative to the data directory are relative to the real one.
set --
for name in ssl_cert_file ssl_key_file ssl_ca_file ssl_crl_file ssl_dh_params_file; do
	value=$(setting "$name")
	file=$value
	case "$value" in
	'') continue ;;
	/*) ;;
	*) file=$data_dir/$value ;;
	esac
	new=$stage/conf/pgfleet.elsewhere$file
	case "$file" in "$conf_dir"/*) new=$stage/conf/${file#"$conf_dir"/} ;; esac
	if [ -f "$new" ] || printf '%s\n' "$gone" | grep -qxF -e "$file"; then
		boot=yes
		set -- "$@" -c "$name=$new"
	fi
done
[ "$boot" = yes ] || exit 0

# A server of its own, on an empty cluster, finds out the rest: libraries, TLS,
# values that contradict each other.
"$bin_dir/initdb" -D "$stage/data" -U postgres -A trust -E UTF8 --locale=C --no-sync >"$stage/initdb" 2>&1 || {
	echo "initdb failed in $stage:" >&2
	grep -E 'FATAL|PANIC|could not' "$stage/initdb" >&2 || cat "$stage/initdb" >&2
	exit 1
}
cp "$stage/auto/postgresql.auto.conf" "$stage/data/" 2>/dev/null
if [ -n "$pem" ] && [ "$(setting ssl_cert_file)" = "$pem_target" ]; then
	set -- "$@" -c ssl_cert_file="$pem" -c ssl_key_file="$pem"
fi
old=
[ "$(cat "$stage/data/PG_VERSION")" -lt 15 ] && old='-c stats_temp_directory=pg_stat_tmp'
for name in ssl_cert_file ssl_key_file ssl_ca_file ssl_crl_file ssl_dh_params_file; do
	value=$(setting "$name")
	case "$value" in
	'' | /*) ;;
	*) [ -e "$data_dir/$value" ] && ln -s "$data_dir/$value" "$stage/data/$value" ;;
	esac
done
# shellcheck disable=SC2086 # old is two words
"$bin_dir/postgres" -c config_file="$stage/conf/postgresql.conf" \
	-c data_directory="$stage/data" -c hba_file="$stage/conf/pg_hba.conf" -c ident_file="$stage/conf/pg_ident.conf" \
	-c listen_addresses= -c unix_socket_directories="$stage/run" -c unix_socket_permissions=0700 -c unix_socket_group= \
	-c external_pid_file="$stage/run/pid" -c port=5432 \
	-c shared_buffers=16MB -c huge_pages=off -c logging_collector=off -c log_destination=stderr -c log_min_messages=warning \
	-c archive_mode=off -c autovacuum=off -c synchronous_standby_names= -c fsync=off -c cluster_name=pgfleet-trial "$@" $old \
	>"$stage/log" 2>&1 </dev/null &
server=$!
tries=0
until "$bin_dir/pg_isready" -q -h "$stage/run" -p 5432; do
	tries=$((tries + 1))
	if ! kill -0 "$server" 2>/dev/null || [ "$tries" -gt 300 ]; then
		{ grep -E 'FATAL|ERROR|HINT|DETAIL|could not' "$stage/log" || tail -n 5 "$stage/log"; } | say
		exit 4
	fi
	sleep 0.1
done
exit 0
