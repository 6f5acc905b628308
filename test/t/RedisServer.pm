# A Redis server of a test's own: on a free port of the loopback interface, in a
# folder of its own, as the test's user.  It writes every command to its disk
# before it answers, so that a killed server has what it has confirmed.
package RedisServer;

use strict;
use warnings FATAL => 'all';
use POSIX ();
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my @servers;

# Whether there is a server to be started.
sub available { return POSIX::access('/usr/bin/redis-server', POSIX::X_OK()); }

# options: conf, lines for redis.conf.
sub new
{
	my ($class, %options) = @_;
	my $self = bless {
		dir => PostgreSQL::Test::Utils::tempdir(),
		port => PostgreSQL::Test::Cluster::get_free_port(),
	}, $class;

	append_to_file("$self->{dir}/redis.conf", <<"CONF" . ($options{conf} // ''));
bind 127.0.0.1
port $self->{port}
unixsocket $self->{dir}/socket
dir $self->{dir}
save ""
appendonly yes
appendfsync always
CONF
	push @servers, $self;
	return $self->start;
}

sub port { return $_[0]{port}; }
sub socket { return "$_[0]{dir}/socket"; }
sub pid { return $_[0]{pid}; }

sub start
{
	my ($self) = @_;
	my $pid = fork() // die "fork: $!";

	if ($pid == 0)
	{
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', "$self->{dir}/log";
		open STDERR, '>&', \*STDOUT;
		{
			no warnings;
			exec '/usr/bin/redis-server', "$self->{dir}/redis.conf";
		}
		POSIX::_exit(99);
	}
	$self->{pid} = $pid;
	return $self->wait_until_ready;
}

# It takes connections before it has read its files.
sub wait_until_ready
{
	my ($self) = @_;
	my $until = time() + $PostgreSQL::Test::Utils::timeout_default;

	while (time() < $until)
	{
		my ($answer) = $self->ask_server('PING');
		return $self if $answer =~ /PONG|NOAUTH|WRONGPASS/;
		die 'redis-server has ended: ' . slurp_file("$self->{dir}/log")
		  if waitpid($self->{pid}, POSIX::WNOHANG()) == $self->{pid};
		usleep(20_000);
	}
	die 'redis-server does not answer';
}

sub ask_server
{
	my ($self, @command) = @_;
	my $out = '';
	my $err = '';
	IPC::Run::run([ '/usr/bin/redis-cli', '-p', $self->{port},
			@{ $self->{cli} // [] }, @command ], '>', \$out, '2>', \$err);
	return ($out . $err, $out);
}

# What the server answers, without the line's end.
sub ask
{
	my ($self, @command) = @_;
	my ($all, $out) = $self->ask_server(@command);
	chomp $out;
	return $out;
}

# Entries of a stream in their order: the id, and a hash of the fields.
sub entries
{
	my ($self, $stream) = @_;
	my ($json) = $self->ask_server('--json', '-2', 'XRANGE', $stream, '-', '+');
	return [ map { { entry => $_->[0], @{ $_->[1] } } } @{ decode($json) } ];
}

sub decode
{
	require JSON::PP;
	return JSON::PP->new->utf8(0)->decode($_[0]);
}

# A connection that stays open: a function that sends a command and returns the
# answer.  It dies when the connection is lost.
sub connection
{
	my ($self) = @_;
	my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port})
	  or die "redis: $!";
	my $line = sub {
		my $text = readline $socket;
		die 'redis: the connection is lost' unless defined $text;
		return $text =~ s/\r\n$//r;
	};

	return sub {
		my @words = map { my $word = $_; utf8::encode($word); $word } @_;
		local $SIG{PIPE} = 'IGNORE';
		print $socket join '', '*' . @words . "\r\n", map { '$' . length($_) . "\r\n$_\r\n" } @words;
		$socket->flush;
		my $answer = $line->();
		die "redis: $1" if $answer =~ /^-(.*)/;
		return $1 if $answer =~ /^[+:](.*)/;
		my ($length) = $answer =~ /^\$(-?\d+)/ or die "redis: unexpected $answer";
		return undef if $length < 0;
		read($socket, my $text, $length + 2) == $length + 2 or die 'redis: the connection is lost';
		return substr $text, 0, $length;
	};
}

sub signal
{
	my ($self, $signal) = @_;
	kill $signal, $self->{pid};
	return;
}

sub stop
{
	my ($self, $signal) = @_;
	return unless $self->{pid};
	kill 'CONT', $self->{pid} if ($signal // '') ne 'KILL';
	kill $signal // 'TERM', $self->{pid};
	waitpid $self->{pid}, 0;
	delete $self->{pid};
	return;
}

END
{
	my $status = $?;
	$_->stop('KILL') for @servers;
	$? = $status;
}

1;
