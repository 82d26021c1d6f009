# Start the unit of a scratch cluster, and wait until its server answers: runs as root. Variables, set
# before this text: unit script bin_dir preload minutes alive.
# What is restored can run programs, so the account is one that owns nothing and that no server knows. It is not postgres, which
# could log into the host's own clusters and read their files.
set -u
export LC_ALL=C
account=pgfleet_scratch
id "$account" >/dev/null 2>&1 ||
	useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$account" || id "$account" >/dev/null || exit 3
# In a folder that is root's, so that root can write it without following what the account makes.
: >"$alive" || exit 3
# systemd takes $ in a command line for its own variables (systemd.service(5)).
text=$(printf '%s\n' "$script" | sed 's/[$]/$$/g')
systemd-run --quiet --unit="$unit" --description='pgfleet: a scratch cluster to restore a backup into' \
	--property=Type=exec --property=User="$account" --property=UMask=0077 --property=CollectMode=inactive-or-failed \
	--property=RuntimeDirectory="$unit" --property=RuntimeDirectoryMode=0711 --property=PrivateTmp=yes \
	--property=ProtectSystem=strict --property=ProtectHome=yes --property=PrivateDevices=yes --property=PrivateNetwork=yes \
	--property=NoNewPrivileges=yes --property=CapabilityBoundingSet= --property=RestrictAddressFamilies=AF_UNIX \
	--property=InaccessiblePaths=-/run/postgresql --property=InaccessiblePaths=-/var/lib/postgresql --property=InaccessiblePaths=-/etc/postgresql \
	--property=InaccessiblePaths=-/var/backups --property=InaccessiblePaths=-/etc/pgfleet --property=InaccessiblePaths=-/run/dbus \
	--property=ExecStopPost="+/bin/rm -f $alive" \
	--property=KillMode=mixed --property=TimeoutStopSec=60 --property=OOMPolicy=stop \
	/bin/sh -c "$text" pgfleet-scratch "$bin_dir" "$preload" "$minutes" "$alive" || exit 3
tries=0
until runuser -u postgres -- "$bin_dir/pg_isready" -q -h "/run/$unit" -p 5432; do
	tries=$((tries + 1))
	case $(systemctl show --property=ActiveState --value "$unit.service") in
	active | activating) ;;
	*) tries=1000 ;;
	esac
	if [ "$tries" -gt 600 ]; then
		journalctl --quiet --no-pager --output=cat --unit="$unit.service" --lines=10 |
			grep -v -e '^Start' -e '^Stop' -e 'Deactivated' -e 'Failed with result' -e 'Main process exited' >&2
		systemctl stop "$unit.service" 2>/dev/null
		exit 4
	fi
	sleep 0.1
done
