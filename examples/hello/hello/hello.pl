# A web server that answers every request with a greeting. Needs only what Debian's base image
# contains.
use strict;
use warnings;
use IO::Socket::INET;

# The first process in a container has no default signal handlers. Without these handlers, Docker
# would wait ten seconds before it kills the process.
$SIG{TERM} = $SIG{INT} = sub { exit 0 };

my $greeting = $ENV{GREETING} // 'Hello';
my $host     = $ENV{HOSTNAME} // 'unknown';
my $server   = IO::Socket::INET->new(LocalPort => 8080, Listen => 64, ReuseAddr => 1)
    or die "cannot listen on port 8080: $!\n";

$| = 1;
print "listening on port 8080\n";
while (1) {
    my $client = $server->accept or next;
    # A client that sends nothing must not delay other clients.
    my $request = eval {
        local $SIG{ALRM} = sub { die "slow\n" };
        alarm 5;
        my $first = <$client>;
        while (defined(my $line = <$client>)) {
            last if $line =~ /^\r?\n$/;
        }
        alarm 0;
        $first;
    };
    alarm 0;
    if (defined $request) {
        local $SIG{PIPE} = 'IGNORE';
        print "$1\n" if $request =~ /^([A-Z]+ \S+)/;
        my $body = "$greeting (from $host)\n";
        print $client "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n",
            'Content-Length: ', length $body, "\r\nConnection: close\r\n\r\n", $body;
    }
    close $client;
}
