# Arm the dead-man: keep copies of what a step is about to change, and have
# systemd put them back. Runs as root, behind the functions of transport.Rights;
# the text of the script that puts back comes on stdin, and behind it the
# contents of the calls of given. Variables: base undo service wants timer run
# seconds size unit_file. The calls of keep, given and absent follow, and finish.
umask 077
fail() {
	printf '%s\n' "$*" >&2
	exit 1
}
mkdir -p -m 0755 "${base%/*}" && mkdir -p -m 0700 "$base" && exec 9<"$base" || exit 1
flock -w 20 9 || fail "the lock of $base was not free for 20 s"
if [ -e "$undo/restore" ]; then exit 4; fi
clear() {
	systemctl stop "$timer.timer" 2>/dev/null
	rm -f -- "$wants" "$service"
	rm -rf -- "$undo.new" "$undo"
}
trap clear EXIT
trap 'exit 1' HUP INT TERM PIPE
rm -rf -- "$undo.new" "$undo" && mkdir -- "$undo.new" || exit 1
# put FILE writes what COMMAND says, and says which file if it cannot: there may
# be no room.
put() { # FILE COMMAND…
	file=$1
	shift
	why=$("$@" 2>&1 >"$file") || fail "$file could not be written: $why"
}
receive() { # FILE SIZE
	put "$1" head -c "$2"
	[ "$(stat -c %s -- "$1")" = "$2" ] || fail "the connection ended before all of it had arrived"
}
receive "$undo.new/restore" "$size"
n=0
# entry PATH notes where the file is: behind the links that lead there now.
entry() {
	n=$((n + 1))
	way "$1" || fail "$1: $why"
	[ -z "$missing" ] || full=$1
	printf %s "$full" | put "$undo.new/$n.path" cat || exit 1 # of their own, shells say only that it failed
	old=$undo.new/$n.old
}
keep() { # PATH
	entry "$1"
	[ -z "$missing" ] && as test -e "$full" || return 0
	as test -f "$full" || fail "$1: it is not a regular file"
	if [ "$uid" = 0 ]; then
		cp -a -- "$full" "$old" || exit 1
	else # what root would copy could be another file by now
		put "$old" as cat -- "$full"
		set -- $(as stat -c '%u:%g %a' -- "$full")
		chown -- "$1" "$old" && chmod -- "$2" "$old" || exit 1
	fi
}
given() { # PATH SIZE OWNER MODE
	entry "$1"
	receive "$old" "$2"
	chown -- "$3" "$old" && chmod -- "$4" "$old" || exit 1
}
absent() { entry "$1"; } # PATH
finish() {
	printf 'run %s\nseconds %s\n' "$run" "$seconds" | put "$undo.new/armed.note" cat &&
		sync -- "$undo.new"/* "$undo.new" && mv -T -- "$undo.new" "$undo" && sync -- "$base" "${base%/*}" || exit 1
	# One may be left of a step whose copies somebody has removed.
	systemctl stop "$timer.timer" "$timer.service" 2>/dev/null
	systemctl reset-failed "$timer.timer" "$timer.service" 2>/dev/null
	# A timer that systemd-run makes is gone after a reboot; the unit is not.
	printf %s "$unit_file" | put "$service" cat && chmod 0644 "$service" && mkdir -p -m 0755 "${wants%/*}" && ln -sfn "../${service##*/}" "$wants" &&
		sync -- "$service" "${wants%/*}" "${service%/*}" || exit 1
	# What kills the script is no reason to leave it at that.
	systemd-run --quiet --collect --unit="$timer" --on-active="$seconds" --timer-property=AccuracySec=100ms -p Restart=on-abnormal -p RestartSec=1 \
		--description="Put back what an interrupted step of pgfleet changed" /bin/sh "$undo/restore" timer 9<&- </dev/null || exit 1
	trap - EXIT
	exit 0
}
