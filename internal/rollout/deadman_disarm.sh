# Disarm the dead-man, or put its time off. Runs as root. It exits with 5 if it
# has fired, and says with 6 that its copies are gone. Variables: base undo service
# wants timer run more history verb. With more set it is kept armed; with history
# set, a folder, the copies are kept there.
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
	touch "$undo/armed.note" || exit 1
	# A timer that has just run out is gone, and what it has started waits for our
	# lock, and then looks at the note's age.
	systemctl restart "$timer.timer" 2>/dev/null
	exit 0
fi
rm -rf -- "$undo.new"
mv -T -- "$undo" "$undo.new" && sync -- "$base" || exit 1
rm -f -- "$wants" "$service"
systemctl stop "$timer.timer"

# archive keeps the copies, with what the step has left in their places, but for
# those that hold a key, and for revocation lists: an older one would let in who has
# been shut out. The copies of the last ten runs stay.
archive() {
	for entry in "$undo.new"/*.path; do
		[ -e "$entry" ] || continue
		name=${entry%.path}
		if [ -e "$name.old" ] && grep -qE 'PRIVATE KEY|BEGIN X509 CRL' "$name.old"; then
			rm -f -- "$name.old" "$entry"
			continue
		fi
		path=$(cat -- "$entry" && echo .) path=${path%?}
		# Somebody else's folder may hold anything by now: a link is not followed,
		# and what never ends is given up.
		if [ -f "$path" ] && ! [ -L "$path" ]; then timeout 10 head -c 67108864 -- "$path" | sha256sum | cut -d' ' -f1 >"$name.after"; else echo absent >"$name.after"; fi
	done
	rm -f -- "$undo.new/restore" "$undo.new/armed.note"
	printf %s "$verb" >"$undo.new/verb"
	mkdir -p -m 0700 -- "${history%/*/*}" && mkdir -p -- "$history" || return
	n=1
	while [ -e "$history/$(printf %03d $n)" ]; do n=$((n + 1)); done
	mv -T -- "$undo.new" "$history/$(printf %03d $n)"
	touch -- "${history%/*}"
	# shellcheck disable=SC2012 # the names are run IDs
	ls -1t -- "${history%/*/*}" | tail -n +11 | while read -r old; do rm -rf -- "${history%/*/*}/$old"; done
}
[ -z "$history" ] || archive
rm -rf -- "$undo.new"
# Where systemd has read the unit meanwhile, it forgets it again.
case $(systemctl show -p LoadState -- "${service##*/}") in
*=not-found) ;;
*) systemctl daemon-reload ;;
esac
exit 0
