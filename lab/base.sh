#!/bin/sh
# Turns a fresh Debian root into the base of lab hosts. mmdebstrap runs it as a
# customize hook: $1 is the root, VERSION is PostgreSQL's major version. It sees
# the archive, which no host of the lab does.
set -eu
root=$1
in_root() { chroot "$root" "$@"; }

# pgaudit is kept as a .deb too, for the apt repository on the bridge.
pgaudit=postgresql-$VERSION-pgaudit
mkdir -p "$root/lab-packages"
if in_root apt-cache show "$pgaudit" >/dev/null 2>&1; then
	in_root sh -c "cd /lab-packages && apt-get -o APT::Sandbox::User=root download $pgaudit"
	in_root apt-get install --yes --no-install-recommends "$pgaudit"
fi

# Every host gets clusters of its own, so that no two share a system identifier.
in_root pg_dropcluster "$VERSION" main || true

# What must differ between hosts is made when a host is prepared.
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/hostname" "$root/etc/resolv.conf"
rm -f "$root/etc/apt/sources.list" "$root"/etc/apt/sources.list.d/*
: >"$root/etc/machine-id"
: >"$root/etc/resolv.conf"

# One unit that fails at boot would leave pam_nologin in place, and sshd would
# answer "System is booting up".
ln -sf /dev/null "$root/etc/tmpfiles.d/systemd-nologin.conf"
for unit in \
	apt-daily-upgrade.timer apt-daily.timer console-getty.service \
	dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer getty.target \
	ldconfig.service modprobe@.service systemd-hwdb-update.service systemd-journal-catalog-update.service \
	systemd-journal-flush.service systemd-logind.service systemd-logind-varlink.socket systemd-networkd-wait-online.service \
	systemd-networkd-persistent-storage.service systemd-resolved.service systemd-sysusers.service \
	systemd-update-done.service systemd-update-utmp.service systemd-update-utmp-runlevel.service \
	systemd-user-sessions.service
do
	ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
in_root systemctl enable systemd-networkd.service ssh.service rsyslog.service
in_root systemctl disable ssh.socket 2>/dev/null || true
# A container has no kernel log to read.
sed -i '/imklog/s/^module/#module/' "$root/etc/rsyslog.conf"
