# A server, or a client that finds servers by name. Needs only what the base image has: Perl and glibc.
#
#   net.pl tcp PORT    sends its name and host to each client. Listens after $DELAY seconds, or once the
#                      file $AFTER exists. On SIGTERM, prints the time in milliseconds and exits.
#   net.pl udp PORT    answers each datagram with the datagram's text, its name, and its host
#   net.pl watch NAME:PORT…    connects to each server, with glibc's resolver and with musl's, prints what
#                              the server sends, and then sleeps. Repeats a connection that was reset
#                              because the server did not listen in time.
#   net.pl dial NAME:PORT [TIMES]    connects and prints what the server sends
#   net.pl hold NAME:PORT SECONDS    connects, keeps the connection open, and prints the time in milliseconds
#                                    before it closes the connection
#   net.pl ask NAME:PORT    sends a datagram and prints the answer
#   net.pl reach NAME:PORT    connects repeatedly until the file /enough exists. For each answered
#                             connection, prints the times of its start and its answer, in milliseconds.
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;
use Time::HiRes qw(sleep time);
$| = 1;

my ($mode, @arguments) = @ARGV;
my $me = "$ENV{NAME} $ENV{HOSTNAME}";

sub dial {
    my ($target, $patience) = @_;
    my $began = time;
    my $server = IO::Socket::INET->new(PeerAddr => $target, Timeout => $patience // 120)
        or return "failed to connect: $!";
    my $said = <$server>;
    return sprintf "gave up after %.0f s", time - $began unless defined $said;
    chomp $said;
    return $said;
}

sub answer {
    my ($connect) = @_;
    while (1) {
        my $said = $connect->();
        return $said unless $said =~ /^(gave up|said nothing)/;
    }
}

if ($mode eq 'tcp') {
    $SIG{TERM} = sub { printf "ended %.0f\n", 1000 * time; exit };
    if (my $file = $ENV{AFTER}) {
        sleep 0.1 until -e $file;
    }
    sleep($ENV{DELAY} // 0);
    my $listener = IO::Socket::INET->new(LocalPort => $arguments[0], Listen => 64, ReuseAddr => 1)
        or die "cannot listen: $!";
    while (1) {
        my $client = $listener->accept or next;
        print $client "$me\n";
    }
}
elsif ($mode eq 'udp') {
    my $socket = IO::Socket::INET->new(LocalPort => $arguments[0], Proto => 'udp') or die "cannot listen: $!";
    while (defined $socket->recv(my $asked, 1024)) {
        $socket->send("$asked to $me");
    }
}
elsif ($mode eq 'watch') {
    for my $target (@arguments) {
        my ($name, $port) = split /:/, $target;
        print "glibc $target: ", answer(sub { dial($target) . "\n" });
        print "musl $target: ", answer(sub { `/dial $name $port` });
    }
    sleep;
}
elsif ($mode eq 'dial') {
    print dial($arguments[0]), "\n" for 1 .. $arguments[1] // 1;
}
elsif ($mode eq 'hold') {
    my $server = IO::Socket::INET->new(PeerAddr => $arguments[0]) or die "cannot connect: $!";
    print scalar <$server>;
    sleep $arguments[1];
    printf "closes %.0f\n", 1000 * time;
}
elsif ($mode eq 'ask') {
    my $socket = IO::Socket::INET->new(PeerAddr => $arguments[0], Proto => 'udp') or die "cannot send: $!";
    $socket->send('hello');
    die "no answer\n" unless IO::Select->new($socket)->can_read(10);
    $socket->recv(my $answer, 1024);
    print "$answer\n";
}
elsif ($mode eq 'reach') {
    $SIG{CHLD} = 'IGNORE';
    until (-e '/enough') {
        my $began = time;
        # Each connection has its own process, so that one that hangs does not delay the others.
        if (!fork) {
            my $answered = dial($arguments[0]) =~ /^\w+ [0-9a-f]+$/;
            printf "%.0f %.0f\n", 1000 * $began, 1000 * time if $answered;
            exit;
        }
        sleep 0.02;
    }
}
