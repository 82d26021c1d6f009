# Stop a scratch cluster, and say what is left of it: runs as root. unit and alive are set before this text.
set -u
systemctl stop "$unit.service" 2>/dev/null
case $(systemctl show --property=ActiveState --value "$unit.service") in
inactive | failed) ;;
*) echo "the unit $unit.service does not end" ;;
esac
rm -f -- "$alive"
# systemd removes a private folder in the background.
for left in "/run/$unit" /var/tmp/systemd-private-*-"$unit".service-*; do
	tries=0
	while [ -e "$left" ] && [ "$tries" -lt 300 ]; do
		tries=$((tries + 1))
		sleep 0.1
	done
	if [ -e "$left" ]; then echo "$left is left"; fi
done
exit 0
