# A server of its own on an empty cluster, to restore into: runs as pgfleet_scratch in a unit of its own, with
# a private /var/tmp that systemd removes with the unit, and a folder under /run for the socket.
# Arguments: bin_dir, shared_preload_libraries, after how many minutes without a word it ends, and the file whose time
# is that of the last word.
set -u
umask 077
export LC_ALL=C
bin=$1 preload=$2 minutes=$3 alive=$4
run=$RUNTIME_DIRECTORY
stage=$(mktemp -d /var/tmp/pgfleet-scratch.XXXXXXXXXX) || exit 1
server=
stop() {
	trap - EXIT
	if [ -n "$server" ]; then
		kill -QUIT "$server" 2>/dev/null
		wait "$server" 2>/dev/null
	fi
	rm -rf "$stage"
}
trap stop EXIT
trap 'exit 0' HUP INT TERM

"$bin/initdb" -D "$stage/data" -U postgres -A peer -E UTF8 --locale=C --no-sync >"$stage/initdb" 2>&1 || {
	echo "initdb failed:" >&2
	grep -E 'FATAL|PANIC|could not|error:' "$stage/initdb" >&2 || tail -n 5 "$stage/initdb" >&2
	exit 1
}
# Only the accounts postgres and root get in, and the superuser is called postgres.
echo 'local all postgres peer map=scratch' >"$stage/data/pg_hba.conf" || exit 1
printf 'scratch %s postgres\n' postgres root >"$stage/data/pg_ident.conf" || exit 1
# What it holds is thrown away, so that nothing has to survive a crash. The log of a restore that fails
# would hold rows.
cat >>"$stage/data/postgresql.conf" <<-END
	listen_addresses = ''
	unix_socket_directories = '$run'
	unix_socket_permissions = 0777
	port = 5432
	shared_preload_libraries = '$preload'
	fsync = off
	full_page_writes = off
	synchronous_commit = off
	wal_level = minimal
	max_wal_senders = 0
	max_wal_size = 4GB
	checkpoint_timeout = 1h
	autovacuum = off
	archive_mode = off
	shared_buffers = 128MB
	maintenance_work_mem = 256MB
	work_mem = 64MB
	max_locks_per_transaction = 1024
	logging_collector = off
	log_destination = stderr
	log_min_messages = fatal
	log_min_error_statement = panic
	log_statement = none
	log_min_duration_statement = -1
	cluster_name = 'pgfleet-scratch'
END
"$bin/postgres" -D "$stage/data" </dev/null &
server=$!
while kill -0 "$server" 2>/dev/null; do
	if [ -z "$(find "$alive" -mmin "-$minutes" 2>/dev/null)" ]; then
		echo "nobody was heard of for $minutes minutes" >&2
		exit 1
	fi
	sleep 5 &
	wait $!
done
wait "$server"
status=$?
server=
echo "the server ended with exit status $status" >&2
exit 1
