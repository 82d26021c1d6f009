# A server of its own on an empty cluster, to restore into: runs as postgres in a unit of its own, with
# a private /var/tmp that systemd removes with the unit, and a private folder under /run for the socket.
# Arguments: bin_dir, shared_preload_libraries, and after how many minutes without a word it ends.
set -u
umask 077
export LC_ALL=C
bin=$1 preload=$2 minutes=$3
run=$RUNTIME_DIRECTORY
: >"$run/alive" || exit 1
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

"$bin/initdb" -D "$stage/data" -U postgres -A trust -E UTF8 --locale=C --no-sync >"$stage/initdb" 2>&1 || {
	echo "initdb failed:" >&2
	grep -E 'FATAL|PANIC|could not|error:' "$stage/initdb" >&2 || tail -n 5 "$stage/initdb" >&2
	exit 1
}
# What it holds is thrown away, so that nothing has to survive a crash. The log of a restore that fails
# would hold rows.
cat >>"$stage/data/postgresql.conf" <<-END
	listen_addresses = ''
	unix_socket_directories = '$run'
	unix_socket_permissions = 0700
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
	if [ -z "$(find "$run/alive" -mmin "-$minutes" 2>/dev/null)" ]; then
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
