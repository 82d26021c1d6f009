# Disarm the dead-man, or put its time off. Runs as root. It exits with 5 if it
# has fired, and says with 6 that its copies are gone. Variables: base undo service
# wants timer run more. With more set it is kept armed.
umask 077
[ -d "$base" ] || exit 6
exec 9<"$base" && flock 9 || exit 1
if ! [ -e "$undo/restore" ] || ! grep -qxF "run $run" "$undo/armed.note"; then
	grep -qxF "run $run" "$undo/fired.note" 2>/dev/null || exit 6
	cat -- "$undo/fired.note"
	exit 5
fi
if grep -qxF "run $run" "$undo/fired.note" 2>/dev/null; then # it could not put all back, and will try again
	cat -- "$undo/fired.note"
	exit 5
fi
if [ -n "$more" ]; then
	# systemctl has exit statuses of its own, such as 5 where there is no timer any
	# more, because the host is shutting down.
	touch "$undo/armed.note" && systemctl restart "$timer.timer" && exit 0
	exit 1
fi
rm -rf -- "$undo.new"
mv -T -- "$undo" "$undo.new" && sync -- "$base" || exit 1
rm -f -- "$wants" "$service"
systemctl stop "$timer.timer"
rm -rf -- "$undo.new"
# Where systemd has read the unit meanwhile, it forgets it again.
case $(systemctl show -p LoadState -- "${service##*/}") in
*=not-found) ;;
*) systemctl daemon-reload ;;
esac
exit 0
