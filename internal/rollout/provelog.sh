# Looks for a word in places where a log may arrive, and prints those that hold
# it in a record of pgaudit. The word is read from stdin: a log of commands that
# holds this script must not be taken for the record.
# Variables: files, one a line; journal and syslog, yes or no; since, in seconds
# of the host's clock; skip, the server's own files, one a line.
read -r word
holds() { grep -aF -- "$word" | grep -aqF 'AUDIT: '; }
end() { timeout 10 tail -c 4194304 -- "$1" 2>/dev/null; }
recent() { journalctl --no-pager -q -o cat --since "@$since" "_TRANSPORT=$1" 2>/dev/null; }

printf '%s\n' "$files" | while read -r f; do
	[ -z "$f" ] || ! end "$f" | holds || printf '%s\n' "$f"
done

if [ "$journal" = yes ] && command -v journalctl >/dev/null; then
	! recent stdout | holds || echo 'journal stdout'
	! recent syslog | holds || echo syslog
fi

# Where systemd has the server's stderr, what syslog forwards may be that.
if [ "$syslog" = yes ]; then
	find /var/log -xdev -type f -mmin -3 ! -path '/var/log/journal/*' 2>/dev/null | head -n 200 | while read -r f; do
		! printf '%s\n' "$skip" | grep -qxF -- "$f" || continue
		! end "$f" | holds || { echo syslog; break; }
	done
fi
exit 0
