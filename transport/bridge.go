package transport

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// The bridges connect, say so with connectedLine, and copy bytes both ways
// until both sides have ended. When our side ends, or this process dies, the
// socket is shut down for writing, so the server sees an ordinary end. When the
// server's side ends the bridge ends at once: sudo holds its standard output
// open, so nothing less would reach us. One process copies each direction: a
// single one that blocks while it writes could not read, and a server that waits
// to be read would wait forever.
const (
	// Arguments: the first bytes to send, in hexadecimal, and the path of the
	// socket. Module Socket is not used, loading it
	// takes longer than all the rest: on Linux 1 is AF_UNIX and SOCK_STREAM, and
	// sockaddr_un is a short and 108 bytes (unix(7)).
	perlUnix = `
my ($first, $path) = @ARGV;
socket(S, 1, 1, 0) && connect(S, pack("S a108", 1, $path)) or die "$path: $!\n";
` + perlCopy

	// Arguments: the first bytes, port and addresses, tried in order, 3 s for each, so that one
	// that drops packets does not hold up the next. IPv6 addresses are written in
	// full. Module Socket is loaded for names alone: it takes 7 ms.
	perlTCP = `
my ($first, $port, @addresses) = @ARGV;
my ($up, $why);
ADDRESS: for my $address (@addresses) {
	my @found;
	if ($address =~ /^[0-9.]+$/) { # sockaddr_in: ip(7)
		@found = {family => 2, addr => pack("S n C4 x8", 2, $port, split(/[.]/, $address))};
	} elsif ($address =~ /^[0-9a-f:]{39}$/) { # sockaddr_in6: ipv6(7)
		(my $hex = $address) =~ tr/://d;
		@found = {family => 10, addr => pack("S n N H32 N", 10, $port, 0, $hex, 0)};
	} else {
		require Socket;
		(my $err, @found) = Socket::getaddrinfo($address, $port, {socktype => 1});
		$why = "$address: $err\n" if $err;
	}
	for my $a (@found) {
		socket(S, $a->{family}, 1, 0) or next;
		$up = eval {
			local $SIG{ALRM} = sub { die "timed out\n" };
			alarm 3;
			connect(S, $a->{addr}) or die "$!\n";
			alarm 0;
			1;
		};
		last ADDRESS if $up;
		alarm 0;
		$why = "$address port $port: $@";
		close S;
	}
}
die $why unless $up;
` + perlCopy

	perlCopy = `
$SIG{PIPE} = "IGNORE";
sub copy {
	my ($in, $out) = @_;
	while (sysread($in, my $b, 65536)) {
		for (my $n = 0; $n < length $b;) {
			my $k = syswrite($out, $b, length($b) - $n, $n);
			return unless defined $k;
			$n += $k;
		}
	}
}
syswrite STDOUT, "+\n";
syswrite S, pack("H*", $first);
$SIG{CHLD} = sub { exit };
my $pid = fork;
die "fork: $!\n" unless defined $pid;
if ($pid) {
	close STDOUT;
	copy(\*STDIN, \*S);
	shutdown S, 1;
	waitpid $pid, 0;
} else {
	close STDIN;
	copy(\*S, \*STDOUT);
}
`

	pythonUnix = `
import os, signal, socket, sys
s = socket.socket(socket.AF_UNIX)
try:
    s.connect(sys.argv[2])
except OSError as e:
    sys.exit("%s: %s" % (sys.argv[2], e.strerror))
` + pythonCopy

	pythonTCP = `
import os, signal, socket, sys
s = None
for address in sys.argv[3:]:
    try:
        s = socket.create_connection((address, int(sys.argv[2])), 3)
        s.settimeout(None)
        break
    except OSError as e:
        why = "%s port %s: %s" % (address, sys.argv[2], e.strerror or e)
if s is None:
    sys.exit(why)
` + pythonCopy

	pythonCopy = `
def copy(i, o):
    try:
        while True:
            b = os.read(i, 65536)
            if not b:
                return
            while b:
                b = b[os.write(o, b):]
    except OSError:
        pass
os.write(1, b"+\n")
s.sendall(bytearray.fromhex(sys.argv[1]))
signal.signal(signal.SIGCHLD, lambda *_: os._exit(0))
pid = os.fork()
if pid:
    os.close(1)
    copy(0, s.fileno())
    try:
        s.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    os.waitpid(pid, 0)
else:
    os.close(0)
    copy(s.fileno(), 1)
`

	// socat and nc cannot say that they are connected, so the script says it
	// for them: a failure is an early end. OCTAL stands for the first bytes.
	socatUnix = `
command -v socat >/dev/null 2>&1 && run="socat - UNIX-CONNECT:$2" || run="nc -U $2"
command -v ${run%% *} >/dev/null 2>&1 && { echo +; { printf %b OCTAL; exec cat; } | $run; exit; }
`
)

// bridgeScript is a script that becomes the first bridge that the host has a
// program for. platform-python is what RHEL 8 has without any python package.
func bridgeScript(perl, python, others string, first []byte, args ...string) string {
	var b, octal strings.Builder
	for _, c := range first {
		fmt.Fprintf(&octal, `\0%03o`, c)
	}
	others = strings.Replace(others, "OCTAL", Quote(octal.String()), 1)
	b.WriteString("set -- '" + hex.EncodeToString(first) + "'")
	for _, a := range args {
		b.WriteString(" " + Quote(a))
	}
	b.WriteString("\ncommand -v perl >/dev/null 2>&1 && exec perl -e " + Quote(perl) + ` "$@"
for p in python3 /usr/libexec/platform-python; do
	command -v $p >/dev/null 2>&1 && exec $p -c ` + Quote(python) + ` "$@"
done
` + others + `echo "the host has neither perl nor python3 to connect with" >&2
exit 127
`)
	return b.String()
}

// bridge opens the channel for a bridge, which starts with the first write.
func (h *host) bridge(ctx context.Context, user string, script func(first []byte) string) (*stream, error) {
	whom, err := h.as(ctx, user)
	if err != nil {
		return nil, err
	}
	p, err := h.c.open(ctx, whom)
	if err != nil {
		return nil, err
	}
	return newStream(p, script), nil
}

// bridgeUnix opens a stream to a socket in the host's file system.
func (h *host) bridgeUnix(ctx context.Context, user, path string) (*stream, error) {
	return h.bridge(ctx, user, func(first []byte) string {
		return bridgeScript(perlUnix, pythonUnix, socatUnix, first, path)
	})
}

// bridgeTCP opens a stream to the first of the addresses that accepts it, as
// the login user.
func (h *host) bridgeTCP(ctx context.Context, addresses []string, port int) (*stream, error) {
	var full []string
	for _, a := range addresses {
		if ip, err := netip.ParseAddr(a); err == nil && ip.Zone() == "" {
			a = ip.Unmap().StringExpanded()
		}
		full = append(full, a)
	}
	return h.bridge(ctx, "", func(first []byte) string {
		return bridgeScript(perlTCP, pythonTCP, "", first, append([]string{strconv.Itoa(port)}, full...)...)
	})
}

// DialPostgres implements [Conn].
func (h *host) DialPostgres(ctx context.Context, address string, port int) (Stream, error) {
	s, err := h.bridgeTCP(ctx, []string{address}, port)
	if err != nil {
		return nil, err
	}
	// Nothing to send yet: whoever connects may want to hear first.
	if _, err := s.Write(nil); err != nil {
		return nil, h.c.because(err)
	}
	op := "connect from the host to " + net.JoinHostPort(address, strconv.Itoa(port))
	if err := s.connected(ctx, op, KindUnreachable); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}
