# A server that says what it likes: each connection is given to a function, in a
# process of its own.
package HostileServer;

use strict;
use warnings FATAL => 'all';
use POSIX ();
use IO::Socket::INET;
use Time::HiRes qw(sleep);

sub new
{
	my ($class, $talk) = @_;
	my $socket = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1') or die "listen: $!";
	my $self = bless { port => $socket->sockport }, $class;

	$self->{pid} = fork() // die "fork: $!";
	return $self if $self->{pid};
	# Others see the end of a file that this one has open only when it ends, too.
	POSIX::close($_) for grep { $_ != $socket->fileno } 3 .. 255;
	$SIG{PIPE} = $SIG{TERM} = 'DEFAULT';
	$SIG{CHLD} = 'IGNORE';
	while (my $connection = $socket->accept)
	{
		next if fork();
		$connection->autoflush(1);
		eval { $talk->($connection) };
		POSIX::_exit(0);
	}
	POSIX::_exit(0);
}

sub at { return (host => '127.0.0.1', port => $_[0]{port}); }

# Until nobody listens any more: SIGPIPE ends it.
sub repeat
{
	my ($connection, $text, $pause) = @_;
	for (;;)
	{
		print $connection $text;
		sleep $pause if $pause;
	}
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $@);
	kill 'TERM', $self->{pid};
	waitpid $self->{pid}, 0;
	return;
}

# ---- Redis: well until a command that matches, then as it likes ----

sub redis
{
	my ($class, $until, $talk) = @_;
	return $class->new(sub {
		my ($connection) = @_;
		while (sysread($connection, my $commands, 65536))
		{
			return $talk->($connection) if $commands =~ $until;
			print $connection "+OK\r\n" for $commands =~ /^\*\d+\r$/mg;
		}
	});
}

# ---- AMQP: logs in who asks, then, when a message comes, as it likes ----

sub frame
{
	my ($type, $channel, $payload) = @_;
	return pack('CnN', $type, $channel, length $payload) . "$payload\xCE";
}

sub method { my ($channel, $class, $method, $arguments) = @_; return frame(1, $channel, pack('nn', $class, $method) . $arguments); }
sub heartbeat { return frame(8, 0, ''); }
sub ack { return method(1, 60, 80, pack('Q>C', $_[0], 0)); }
sub returned { return method(1, 60, 50, pack('n(C/a)3', 312, 'NO_ROUTE', '', 'x')); }

# A header of content: class, flags, properties.
sub header { my ($class, $flags, $properties) = @_; return frame(2, 1, pack('nnQ>n', $class, 0, 0, $flags) . $properties); }

my %answers = (
	'10.11' => method(0, 10, 30, pack('nNn', 0, 131072, 0)),
	'10.40' => method(0, 10, 41, "\0"),
	'20.10' => method(1, 20, 11, pack('N', 0)),
	'85.10' => method(1, 85, 11, ''),
);

sub amqp
{
	my ($class, $talk, $at) = @_;
	return $class->new(sub {
		my ($connection) = @_;
		read $connection, my $greeting, 8;
		print $connection method(0, 10, 10, pack('CC(N/a)3', 0, 9, '', 'PLAIN', 'en_US'));
		while (read $connection, my $start, 7)
		{
			my ($type, undef, $size) = unpack 'CnN', $start;
			read $connection, my $rest, $size + 1;
			next if $type != 1;
			my $method = join '.', unpack 'nn', $rest;
			return $talk->($connection) if $method eq ($at // '60.40');
			print $connection $answers{$method} if $answers{$method};
		}
	});
}

1;
