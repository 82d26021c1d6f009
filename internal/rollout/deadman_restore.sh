# Put back what a step of pgfleet changed: kept on the host while the step is
# under way, behind the functions of transport.Rights. Run by systemd's timer, by
# its unit at boot, or by pgfleet's next run; the argument says which. Whatever
# interrupts it, it can be run again. Variables: base undo service wants timer
# run seconds unit verb daemon_reload others.
umask 077
by=$1
trap '' HUP PIPE

# place runs with the rights of the folder's owner. A link in the place of the
# file is replaced, and not followed. cp takes over what there is of ACLs, extended
# attributes and the SELinux context.
place='
umask 077
cd -- "$1" || exit 1
base=$2 owner=$3 mode=$4 copy=$5
rm -rf ./.pgfleet.undo.*
tmp=$(mktemp -d ./.pgfleet.undo.XXXXXXXXXX) || exit 1
trap "rm -rf \"\$tmp\"" EXIT
if [ -n "$copy" ]; then cp -a -- "$copy" "$tmp/new" || exit 1
else
	cat >"$tmp/new" || exit 1
	if [ -f "./$base" ] && ! [ -L "./$base" ]; then cp --attributes-only --preserve=all -- "./$base" "$tmp/new" && touch "$tmp/new"; fi
	chown "$owner" "$tmp/new" 2>/dev/null || chown ":${owner#*:}" "$tmp/new" 2>/dev/null
	chmod "$mode" "$tmp/new" || exit 1
fi
sync "$tmp/new" && mv -fT -- "$tmp/new" "./$base" && sync .
'

# back COPY PATH; without a copy there was no file. It returns 2 if all is as it
# was, and says why not in why if it fails.
back() {
	old=$1 file=${2##*/} folder=${2%/*}
	way "${folder:-/}" || return 1
	if [ -n "$missing" ]; then
		[ -e "$old" ] || return 2
		why="its folder is gone, or $user may not look into it"
		return 1
	fi
	folder=${full%/}/
	if ! [ -e "$old" ]; then
		as test -e "$folder$file" || as test -L "$folder$file" || return 2
		why=$(as rm -f -- "$folder$file" 2>&1) || return 1
		sync -- "$folder"
		return 0
	fi
	owned=$(stat -c '%u:%g %a' -- "$old")
	if as test -f "$folder$file" && ! as test -L "$folder$file" && [ "$(as stat -c '%u:%g %a' -- "$folder$file")" = "$owned" ] &&
		as cat -- "$folder$file" | cmp -s - "$old"; then
		return 2
	fi
	copy=
	[ "$uid" != 0 ] || copy=$old
	# shellcheck disable=SC2086 # owner and mode are two words
	why=$(as sh -c "$place" sh "$folder" "$file" $owned "$copy" <"$old" 2>&1) || return 1
}

main() {
	exec 9<"$base" && flock 9 || exit 1
	while :; do
		# Disarmed, or done already, by who had the lock before.
		[ -e "$undo/restore" ] && grep -qxF "run $run" "$undo/armed.note" || exit 0
		[ "$by" = timer ] || break
		# Put off, by who had it.
		age=$(($(date +%s) - $(stat -c %Y -- "$undo/armed.note")))
		if [ $age -lt 0 ] || [ $age -ge $((seconds - 1)) ]; then break; fi
		flock -u 9
		sleep $((seconds - age))
		flock 9
	done
	# Somebody starts multi-user.target again, which is no boot.
	if [ "$by" = boot ] && systemctl is-active --quiet -- "$unit"; then exit 0; fi
	failed=
	for entry in "$undo"/*.path; do
		[ -e "$entry" ] || continue
		path=$(cat -- "$entry" && echo .) path=${path%?}
		back "${entry%.path}.old" "$path"
		case $? in
		0) mv -T -- "$entry" "${entry%.path}.back" ;;
		1) failed="$failed
failed $path: $(printf '%s' "$why" | tr '\n' ' ')" ;;
		esac
	done
	sync -- "$undo"
	set -- "$undo"/*.back
	[ -e "$1" ] || shift
	outcome=
	[ -z "$daemon_reload" ] || [ $# = 0 ] || act daemon-reload
	if [ "$by" != boot ]; then
		case $verb:$# in
		:*) ;;
		*:0) systemctl is-active --quiet -- "$unit" || [ "$verb" = try-restart ] || act start "$unit" ;; # it may have died of something else
		reload:*) if systemctl is-active --quiet -- "$unit"; then act reload "$unit"; else act start "$unit"; fi ;;
		*) act "$verb" "$unit" ;;
		esac
		for other in $others; do
			[ $# = 0 ] || act "${other%%:*}" "${other#*:}"
		done
	fi
	{
		printf 'run %s\nat %s\nby %s\nseconds %s' "$run" "$(date +%s)" "$by" "$seconds"
		for entry; do
			printf '\nback '
			cat -- "$entry"
		done
		printf '%s%s\n' "$failed" "$outcome"
	} >"$undo/fired.new"
	mv -T -- "$undo/fired.new" "$undo/fired.note" && sync -- "$undo/fired.note" "$undo" || exit 1
	cat -- "$undo/fired.note" # into the journal
	# What could not be put back is tried again at the next boot, and by pgfleet.
	[ -z "$failed" ] || exit 1
	rm -f -- "$undo/armed.note" "$undo/restore"
	sync -- "$undo"
	rm -f -- "$undo"/*.old "$undo"/*.path "$undo"/*.back "$wants" "$service"
	[ "$by" != run ] || systemctl stop "$timer.timer" 2>/dev/null
	if [ "$by" != boot ]; then # where systemd has read the unit meanwhile, it forgets it again
		case $(systemctl show -p LoadState -- "${service##*/}") in
		*=not-found) ;;
		*) systemctl daemon-reload ;;
		esac
	fi
	exit 0
}

# act VERB [UNIT] has systemd do something and notes how it ended.
act() {
	case $1 in # systemd refuses to start a unit that failed a few times in a row
	start | restart) systemctl reset-failed -- "$2" 2>/dev/null ;;
	esac
	if said=$(systemctl "$@" 2>&1 9<&-); then
		outcome="$outcome
did systemctl $*"
	else
		outcome="$outcome
problem systemctl $*: $(printf '%s' "$said" | tr '\n' ' ')"
	fi
}

main
exit
