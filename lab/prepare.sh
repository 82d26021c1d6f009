# Makes a base the root of one host. It runs chrooted into the host's root, in
# mount, pid and host name namespaces of its own, before the host boots for the
# first time. What it is told comes from the environment.
set -eu
export LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive
mount -t proc proc /proc
mount -t tmpfs -o mode=1777 tmpfs /dev/shm # where initdb looks for POSIX shared memory

hostname "$NAME"
echo "$NAME" >/etc/hostname
echo "$MACHINE_ID" >/etc/machine-id
printf '%s\n' "$HOSTS_FILE" >/etc/hosts # sudo waits for the host's own name otherwise
cat >/etc/systemd/network/10-host0.network <<-END
	[Match]
	Name=host0
	[Network]
	Address=$ADDRESS/24
	LinkLocalAddressing=no
	[Route]
	Destination=$APPLICATIONS
	Scope=link
END

umask 077
printf '%s\n' "$HOST_KEY" >/etc/ssh/ssh_host_ed25519_key
umask 022
{
	if [ -n "$DISABLE_FORWARDING" ]; then echo 'DisableForwarding yes'; fi
	if [ -n "$MAX_SESSIONS" ]; then echo "MaxSessions $MAX_SESSIONS"; fi
} >/etc/ssh/sshd_config.d/lab.conf

home=/root
if [ "$LOGIN" != root ]; then
	home=/home/$LOGIN
	useradd --create-home --shell /bin/bash "$LOGIN"
	if [ -n "$SUDO_PASSWORD" ]; then
		echo "$LOGIN:$SUDO_PASSWORD" | chpasswd
		rule="$LOGIN ALL=(ALL:ALL) ALL"
	else
		rule="$LOGIN ALL=(ALL:ALL) NOPASSWD: ALL"
	fi
	(umask 0337 && echo "$rule" >"/etc/sudoers.d/$LOGIN")
fi
mkdir -p -m 0700 "$home/.ssh"
echo "$AUTHORIZED_KEY" >"$home/.ssh/authorized_keys"
chmod 0600 "$home/.ssh/authorized_keys"
chown -R "$LOGIN:" "$home/.ssh"

# A certificate of its own, as ssl-cert makes one when it is installed.
make-ssl-cert generate-default-snakeoil --force-overwrite

if [ -n "$NO_PGAUDIT" ]; then
	dpkg --purge "postgresql-$VERSION-pgaudit"
	echo "deb [trusted=yes] $REPOSITORY ./" >/etc/apt/sources.list
fi

# CLUSTERS has lines of "NAME PORT START". A standby's main is not to start
# before it has its primary's data.
echo "$CLUSTERS" | while read -r cluster port start; do
	[ -n "$cluster" ] || continue
	pg_createcluster "$VERSION" "$cluster" --port "$port" --start-conf "$start" -- --no-sync
done
# MEMBERS are the addresses of a primary and its standbys, of which this host is
# one. Their rules are equal, so that a standby can become the primary.
if [ -n "$MEMBERS" ]; then
	pg_conftool "$VERSION" main set listen_addresses "localhost,$ADDRESS"
	for member in $MEMBERS; do
		echo "host    replication     replicator      $member/32            scram-sha-256"
	done >>"/etc/postgresql/$VERSION/main/pg_hba.conf"
fi
