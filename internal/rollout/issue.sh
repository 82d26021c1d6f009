# Make a key and a signing request beside the file that they are for. Runs as
# the file's owner; the request goes to stdout behind the folder's name, the key
# stays. Arguments come as variables: target common_name.
set -eu
umask 077
# What a run that was cut off has left, which may be a key.
for old in "$(dirname "$target")"/.pgfleet.*; do
	[ -f "$old/holder" ] || continue
	read -r pid start <"$old/holder" || continue
	set -- $(sed 's/(.*)/x/' "/proc/$pid/stat" 2>/dev/null)
	[ "${22:-}" = "$start" ] || rm -rf "$old"
done
d=$(mktemp -d "$(dirname "$target")/.pgfleet.XXXXXXXXXX")
trap 'rm -rf "$d"' EXIT
# Who made this: the sshd process of this connection. When it is gone, nobody
# will come back for the folder.
pid=$$
while [ "$pid" -gt 1 ]; do
	case $(cat "/proc/$pid/comm") in sshd*) break ;; esac
	set -- $(sed 's/(.*)/x/' "/proc/$pid/stat")
	pid=$4
done
set -- $(sed 's/(.*)/x/' "/proc/$pid/stat")
printf '%s %s\n' "$pid" "${22}" >"$d/holder"
openssl ecparam -name prime256v1 -genkey -noout -out "$d/key"
# Without a common name the subject is empty, which -subj writes as a slash.
openssl req -new -utf8 -key "$d/key" -subj "/${common_name:+CN=$common_name}" -out "$d/csr" 2>"$d/said" || {
	cat "$d/said" >&2
	exit 1
}
rm "$d/said"
printf '%s\n' "$d"
cat "$d/csr"
trap - EXIT
