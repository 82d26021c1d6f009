package transport

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/pgfleet/pgfleet/internal/facts"
)

// refusing defines refuse PATH REASON, which ends a script. Its exit status is
// unchanged as long as nothing on the host has been changed.
const refusing = `
umask 077
status=1
refuse() { printf '%s: %s\n' "$1" "$2" >&2; exit $status; }
`

// unchanged is the exit status of a script that changed nothing; 125 is the
// loader's, when a script did not arrive whole.
func unchanged(status int) bool { return status == 1 || status == 125 }

// writeScript is WriteFiles on the host. Arguments come from write, one call
// for each file; the contents follow the script on standard input, in the same
// order. First all of them are written to temporary files, whose names cannot be
// guessed and end so that no include_dir reads them. If that fails anywhere, or
// our connection ends before all has arrived, they are removed and nothing has
// changed. From commit on nothing that happens to us stops it.
const writeScript = rights + refusing + `
n=0
tmp=
uploaded=
cleanup() {
	[ -z "$uploaded" ] || rm -rf -- "$uploaded"
	[ -z "$tmp" ] || as rm -f -- "$tmp"
	while [ $n -gt 0 ]; do
		eval "uid=\$uid$n gid=\$gid$n user=\$user$n tmp=\$tmp$n"
		[ -z "$tmp" ] || as rm -f -- "$tmp"
		n=$((n-1))
	done
}
trap cleanup EXIT
trap 'exit 1' HUP INT TERM PIPE

# Runs with the rights of the folder's owner; prints the temporary file's name.
# cp copies what it can of ACLs, extended attributes and the SELinux context.
stage='
tmp=$(mktemp -- "${1%/*}/.pgfleet.XXXXXXXXXX" 2>&1) || {
	case $5:$tmp in ?*:*"Permission denied") tmp="a folder above belongs to user $5, who may not write in ${1%/*}" ;; esac
	echo "$tmp" >&2
	exit 1
}
trap "rm -f -- \"\$tmp\"" EXIT
trap "exit 1" HUP INT TERM PIPE
head -c "$2" >"$tmp" || exit 1
if [ "$(stat -c %s -- "$tmp")" != "$2" ]; then echo "the connection ended before all of it had arrived" >&2; exit 1; fi
if [ -f "$1" ]; then cp --attributes-only --preserve=all -- "$1" "$tmp" && touch -- "$tmp" || exit 1; fi
if [ -n "$3" ]; then chown -- "$3" "$tmp" || exit 1; fi
chmod -- "$4" "$tmp" && sync -- "$tmp" || exit 1
trap - EXIT
printf %s "$tmp"
'

# write PATH SIZE OWNER GROUP MODE CONTENT; empty ones are kept, or made up for a
# new file. CONTENT is a file that root has uploaded; standard input if empty.
write() {
	size=$2 owner=$3 group=$4 mode=$5 content=$6
	way "$1" || refuse "$1" "$why"
	[ -z "$missing" ] || [ "$uid" = 0 ] || refuse "$1" "there is no folder ${1%/*} that $user, whose folders the way leads through, may look into"
	[ -z "$missing" ] || refuse "$1" "the folder ${1%/*} does not exist"
	path=$full
	if [ -e "$path" ]; then
		[ -f "$path" ] || refuse "$1" "it is not a regular file"
		set -- "$1" $(stat -c '%u %g %a' -- "$path")
		: "${owner:=$2}" "${group:=$3}" "${mode:=$4}"
	fi
	if [ "$uid" != 0 ]; then
		: "${owner:=$uid}"
		case $owner in *[!0-9]*) number=$(id -u -- "$owner") || exit 1;; *) number=$owner;; esac
		[ "$number" = "$uid" ] || refuse "$1" "its owner would be $owner, but its folder belongs to $user, or one above: only $user can write there safely"
		owner=
	elif [ -z "$owner$group" ]; then owner=0
	fi
	n=$((n+1))
	eval "uid$n=\$uid gid$n=\$gid user$n=\$user path$n=\$path tmp$n="
	tmp= who=
	[ "$uid" = 0 ] || who=$user
	exec 3<&0
	[ -z "$content" ] || exec 3<"$content" || exit 1
	tmp=$(as sh -c "$stage" sh "$path" "$size" "$owner${group:+:$group}" "${mode:-644}" "$who" <&3) || refuse "$1" "it was not written"
	exec 3<&-
	eval "tmp$n=\$tmp"
}
commit() {
	trap '' HUP INT TERM PIPE
	status=3
	i=0
	while [ $i -lt $n ]; do
		i=$((i+1))
		eval "uid=\$uid$i gid=\$gid$i user=\$user$i tmp=\$tmp$i path=\$path$i"
		as mv -fT -- "$tmp" "$path" || refuse "$path" "it was not replaced; files of the batch before it were"
		eval "tmp$i="
		sync -- "${path%/*}/" || exit 3
	done
}
`

// removeScript is Remove on the host. remove is called twice for each path, the
// first time only to find out whether it can be done.
const removeScript = rights + refusing + `
trap '' HUP PIPE
remove() {
	dir=${1%/*} base=${1##*/}
	way "${dir:-/}" || refuse "$1" "$why"
	[ -z "$missing" ] || return 0
	dir=${full%/}
	[ -e "$dir/$base" ] || [ -L "$dir/$base" ] || return 0
	if [ $status = 1 ]; then
		[ -L "$dir/$base" ] || ! [ -d "$dir/$base" ] || refuse "$1" "it is a folder"
		as test -w "$dir/" || refuse "$1" "$user may not write in its folder"
		return 0
	fi
	as rm -f -- "$dir/$base" || exit 3
	sync -- "$dir/"
}
`

// WriteFiles implements [Conn].
func (h *host) WriteFiles(ctx context.Context, files []File) error {
	return h.writeFiles(ctx, files, nil)
}

// writeFiles looks at the fence, where there is one, before anything is staged,
// and again, with the lock, once all contents have arrived: a connection that is
// stuck must not hold the lock.
func (h *host) writeFiles(ctx context.Context, files []File, fence *Fence) error {
	var script strings.Builder
	var content []byte
	script.WriteString(writeScript)
	if fence != nil {
		script.WriteString(fence.functions() + "ours\n")
	}
	large := map[int][]byte{}
	for i, f := range files {
		if len(f.Content) >= largeFile {
			large[i] = f.Content
		}
	}
	uploaded := ""
	if len(large) > 0 {
		dir, err := h.upload(ctx, large)
		if err != nil && !errors.Is(err, errNoUpload) {
			return err
		}
		if err == nil {
			uploaded = dir
			script.WriteString("uploaded=" + Quote(dir) + "\n")
		}
	}
	for i, f := range files {
		if err := checkFile(f); err != nil {
			return &Error{Kind: KindConfig, Op: "write " + f.Path, Err: err}
		}
		mode := ""
		if f.Mode != 0 {
			mode = fmt.Sprintf("%o", facts.ModeBits(f.Mode))
		}
		from := ""
		if _, ok := large[i]; ok && uploaded != "" {
			from = path.Join(uploaded, strconv.Itoa(i))
		} else {
			content = append(content, f.Content...)
		}
		fmt.Fprintf(&script, "write %s %d %s %s %s %s\n", Quote(f.Path), len(f.Content), Quote(f.Owner), Quote(f.Group), Quote(mode), Quote(from))
	}
	if fence != nil {
		script.WriteString("fence\n")
	}
	script.WriteString("commit\n")
	defer clear(content)
	return h.change(ctx, "write files", script.String(), content, fence)
}

// Remove implements [Conn].
func (h *host) Remove(ctx context.Context, paths ...string) error { return h.remove(ctx, paths, nil) }

func (h *host) remove(ctx context.Context, paths []string, fence *Fence) error {
	begin := ""
	if fence != nil {
		begin = fence.functions() + "fence\n"
	}
	var calls strings.Builder
	for _, p := range paths {
		if err := absolute(p); err != nil {
			return &Error{Kind: KindConfig, Op: "remove files", Err: err}
		}
		calls.WriteString("remove " + Quote(p) + "\n")
	}
	return h.change(ctx, "remove files", removeScript+begin+calls.String()+"status=3\n"+calls.String(), nil, fence)
}

// change runs a script as root that must exit with 0.
func (h *host) change(ctx context.Context, op, script string, stdin []byte, fence *Fence) error {
	root, err := h.as(ctx, "root")
	if err != nil {
		return err
	}
	out, err := h.run(ctx, root, script, stdin, 0)
	if err != nil {
		return err
	}
	if fence != nil {
		if err := fence.refused(op, out); err != nil {
			return err
		}
	}
	if out.ExitCode != 0 {
		kind := KindRemote
		if unchanged(out.ExitCode) {
			kind = KindRefused
		}
		return &Error{Kind: kind, Op: op, Err: errors.New(printed(strings.TrimSpace(string(out.Stderr)), out.ExitCode))}
	}
	return nil
}

// checkFile finds what could be misread on the host.
func checkFile(f File) error {
	if err := absolute(f.Path); err != nil {
		return err
	}
	if strings.HasSuffix(f.Path, "/") {
		return errors.New("it names a folder")
	}
	for _, name := range []string{f.Owner, f.Group} {
		if err := checkUser(name); name != "" && err != nil {
			return err
		}
	}
	return nil
}
