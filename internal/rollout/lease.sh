# The lease of a host, and the host's own log. What is changed here is changed
# under the lock; every fenced write holds the same lock, shared.
# Variables: verb; dir; fence, the first line of our lease; about, more lines of
# it; run and who, for the log; replace, the first line of a lease that need not
# have run out; ttl and wait, in seconds. Lines for the log come on stdin.
# Exit status: 3 somebody has the lease, 4 a write is still in progress, 5 the
# lease is not ours; then stdout says more.
set -u
umask 022
LC_ALL=C; export LC_ALL

# put NAME replaces a file with what stdin holds.
put() {
	tmp=$(mktemp "$dir/.lease.XXXXXXXXXX") || return 1
	if cat >"$tmp" && chmod 0644 "$tmp" && sync "$tmp" && mv -fT "$tmp" "$1"; then return 0; fi
	rm -f "$tmp"
	echo "$dir/$1 could not be written" >&2
	return 1
}

note() { # shells do not say why they cannot write
	printf '%s\t%s\t%s\t%s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$run" "$who" "$1" | cat >>log || { echo "$dir/log could not be written" >&2; return 1; }
}

# number LINE prints a lease's number.
number() {
	set -- $1
	echo "lease ${3-?}"
}

notes() {
	[ -n "$lines" ] || return 0
	printf '%s\n' "$lines" | while IFS= read -r each; do note "$each" || return 1; done
}

# found reads the first line of the lease, and until when it holds.
found() {
	first= until=0
	[ -r lease ] || return 1
	IFS= read -r first <lease
	until=$(sed -n 's/^until \([0-9][0-9]*\)$/\1/p' lease)
	: "${until:=0}"
}

held() { found && [ "$first" != "$replace" ] && [ "$until" -ge "$(date +%s)" ]; }

ours() { found && [ "$first" = "$fence" ]; }

# next sets token to one that was never used.
next() {
	token=0
	for each in "$(cat token 2>/dev/null)" "$(sed -n '1s/^pgfleet lease \([0-9]*\) .*/\1/p' lease 2>/dev/null)"; do
		case $each in '' | *[!0-9]*) ;; *) [ "$each" -le "$token" ] || token=$each;; esac
	done
	token=$((token+1))
	echo "$token" | put token
}

# writers names the processes that hold the lock, by what they run now.
writers() {
	exec 9<&-
	find /proc/[0-9]*/fd -maxdepth 1 -lname "$dir/lock" 2>/dev/null | cut -d/ -f3 | sort -un | while read -r pid; do
		at=$pid
		while children=$(cat "/proc/$at/task/$at/children" 2>/dev/null) && [ -n "$children" ]; do
			children=${children% } at=${children##* }
		done
		does=$(tr '\0\n' '  ' <"/proc/$at/cmdline" 2>/dev/null | head -c 120)
		case $does in "flock "*) continue;; esac # it waits, as we did
		printf 'pid %s: %s\n' "$pid" "$does"
	done
}

exclusive() {
	exec 9<lock
	flock -x -w "$wait" 9 || { writers; exit 4; }
}

shared() {
	[ -r lock ] && [ -r token ] || exit 5
	exec 9<lock
	flock -s -w "$wait" 9 || { writers; exit 4; }
	# A renewal that is late must not bring back a lease that was given back.
	exec 8<token
	flock -x -w "$wait" 8 || exit 1
	ours || { cat lease 2>/dev/null; exit 5; }
}

# A connection that is stuck must not hold the lock.
lines=$(cat)
case $verb in
take)
	mkdir -p -m 0755 "$dir" && cd "$dir" && chmod 0755 . && : >>lock || exit 1
	if held; then cat lease; exit 3; fi
	exclusive
	if held; then cat lease; exit 3; fi
	old=
	! found || old=$(sed -n 's/^holder //p' lease)
	next || exit 1
	fence="pgfleet lease $token $fence"
	now=$(date +%s)
	printf '%s\nuntil %s\nsince %s\n%s\n' "$fence" "$((now+ttl))" "$now" "$about" | put lease || exit 1
	[ "$(wc -l 2>/dev/null <log || echo 0)" -le 1000 ] || tail -n 1000 log | put log || exit 1
	[ -z "$first" ] || note "$(number "$first") of $old was never given back"
	note "$(number "$fence") taken: $lines" || { rm -f lease; exit 1; }
	echo "$fence";;
renew)
	cd "$dir" || exit 5
	shared
	sed "s/^until .*/until $(($(date +%s)+ttl))/" lease | put lease && notes;;
release)
	cd "$dir" || exit 5
	shared
	notes
	note "$(number "$fence") given back"
	rm -f lease;;
unlock)
	cd "$dir" || exit 5
	exclusive
	ours || { cat lease 2>/dev/null; exit 5; }
	old=$(sed -n 's/^holder //p' lease)
	next && note "$(number "$fence") of $old taken away" && rm -f lease;;
*)
	exit 2;;
esac
