package transport

// rights defines sh functions that decide with whose rights root's scripts touch
// a path. Whoever can rename in a folder can put a symbolic link there, so what
// lies behind such a folder is touched with the rights of its owner only, who
// cannot be led to anything that is not open to him anyway.
//
// as runs a command with the rights of uid, gid and user. setpriv does without
// PAM, which takes most of runuser's time.
//
// linked tells whether any component of a path is a symbolic link. It starts no
// program, and remembers the last folder without one.
//
// way follows a path from the root folder on. It sets full to where it leads, or
// missing if its folder is missing, and uid, gid and user to who may act there:
// root as long as every folder is root's, otherwise the owner of the first that
// is not, with whose rights the rest was followed. Where neither will do it says
// why and fails: in a folder of root's that others can rename in, and at another
// user's link in a sticky folder.
const rights = `
LC_ALL=C; export LC_ALL
uid=0 gid=0 user=root unlinked=
as() {
	if [ "$uid" = 0 ]; then "$@"
	elif command -v setpriv >/dev/null 2>&1; then setpriv --reuid="$uid" --regid="$gid" --init-groups -- "$@"
	else runuser -u "$user" -- "$@"; fi
}
linked() {
	! [ -L "$1" ] || return 0
	set -- "${1%/*}"
	[ "$1" != "$unlinked" ] || return 1
	each=$1
	while [ -n "$each" ]; do
		! [ -L "$each" ] || return 0
		each=${each%/*}
	done
	unlinked=$1
	return 1
}
way() {
	oldifs=$IFS
	full=$1 hops=0 why= missing=
	uid=0 gid=0 user=root
	walk
	set -- $?
	IFS=$oldifs
	return $1
}
walk() {
	while :; do
		# All folders on the way, and what is at its end.
		IFS=/; set -f; set -- $full; set +f; IFS=
		at=
		for part; do
			shift
			[ -z "$part" ] || [ "$part" = . ] || { at=$at/$part; set -- "$@" "$at"; }
		done
		full=${at:-/} here=/ shared=
		found=$(stat -c '%u:%g:%a:%F:%U' -- / "$@" 2>/dev/null)
		set -- / "$@"
		IFS='
'
		for line in $found; do
			here=$1
			shift
			owner_id=${line%%:*} line=${line#*:}
			group_id=${line%%:*} line=${line#*:}
			bits=${line%%:*} line=${line#*:}
			type=${line%%:*} name=${line#*:}
			case $type in
			"symbolic link")
				if [ -n "$shared" ] && [ "$owner_id" != 0 ]; then
					why="$here is a symbolic link of $name in a folder where others may make one"
					return 1
				fi
				hops=$((hops+1))
				if [ $hops -gt 40 ]; then why="too many symbolic links"; return 1; fi
				to=$(readlink -- "$here"; echo .) to=${to%??} # a name may end with a newline
				case $to in
				"") why="$here is no symbolic link any more"; return 1;;
				/*) full=$to${full#"$here"};;
				*) full=${here%/*}/$to${full#"$here"};;
				esac
				continue 2;;
			directory)
				if [ "$owner_id" != 0 ]; then
					if [ "$name" = UNKNOWN ]; then why="$here belongs to user $owner_id, who has no name"; return 1; fi
					uid=$owner_id user=$name
					if ! gid=$(id -g -- "$user"); then why="user $user has no group"; return 1; fi
					full=$(as readlink -f -- "$full" 2>/dev/null; echo .) full=${full%.} full=${full%?}
					[ -n "$full" ] || missing=1
					return 0
				fi
				shared=
				case $bits in
				[1357]???) shared=1;; # sticky: nobody else can rename what is root's
				*[2367]) why="everybody can rename files in $here: root cannot act there safely"; return 1;;
				*[2367]?) if [ "$group_id" != 0 ]; then why="group $group_id can rename files in $here: root cannot act there safely"; return 1; fi;;
				esac;;
			*) shared=;;
			esac
		done
		# The last one may be missing, if it is in a folder.
		if [ $# -gt 1 ] || [ $# -eq 1 ] && [ "$type" != directory ]; then missing=1; fi
		return 0
	done
}
`

// Rights defines the functions for scripts of other packages that run as root:
// as, linked and way, as described above.
const Rights = rights
