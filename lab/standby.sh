# Makes a booted host's main cluster a streaming standby. It runs as root in the
# host once the primary accepts connections. What it is told comes from the
# environment, the password among it.
set -eu
export LANG=C.UTF-8
data=/var/lib/postgresql/$VERSION/main
pass=/var/lib/postgresql/.pgpass
touch $pass
chown postgres: $pass
chmod 0600 $pass
echo "$PRIMARY:5432:replication:replicator:$PASSWORD" >$pass
cd /var/lib/postgresql
rm -r "$data"
backup() {
	runuser -u postgres -- pg_basebackup --host="$PRIMARY" --username=replicator --no-password --pgdata="$data" \
		--write-recovery-conf --wal-method=stream --create-slot --slot="$SLOT" --checkpoint=fast --no-sync
}
# The checkpoint of another standby's backup may remove the segment that a new
# slot is about to reserve.
backup || {
	runuser -u postgres -- psql -Xqc "DROP_REPLICATION_SLOT $SLOT" "host=$PRIMARY user=replicator dbname=replication replication=true"
	backup
}
echo auto >"/etc/postgresql/$VERSION/main/start.conf"
systemctl daemon-reload
systemctl start "postgresql@$VERSION-main"
until [ "$(runuser -u postgres -- psql -XAtqc 'SELECT status FROM pg_stat_wal_receiver' 2>/dev/null)" = streaming ]; do
	sleep 0.1
done
