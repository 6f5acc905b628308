# A RabbitMQ server of a test's own: on free ports of the loopback interface, in
# a folder of its own, with a port mapper of its own, as the test's user.  Takes
# some seconds to start.
package RabbitMQServer;

use strict;
use warnings FATAL => 'all';
use POSIX ();
use File::Basename;
use IO::Socket::INET;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my $program = '/usr/lib/rabbitmq/bin/rabbitmq-server';
my @servers;

sub available
{
	return POSIX::access($program, POSIX::X_OK())
	  && POSIX::access('/usr/bin/amqp-declare-queue', POSIX::X_OK());
}

# options: conf, lines for rabbitmq.conf.
sub new
{
	my ($class, %options) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $self = bless {
		dir => $dir,
		map({ $_ => PostgreSQL::Test::Cluster::get_free_port() } qw(port dist_port epmd_port)),
	}, $class;

	mkdir "$dir/home";
	append_to_file("$dir/enabled_plugins", "[].\n");
	append_to_file("$dir/rabbitmq.conf", <<"CONF" . ($options{conf} // ''));
listeners.tcp.1 = 127.0.0.1:$self->{port}
log.file.level = info
disk_free_limit.absolute = 1MB
CONF
	push @servers, $self;
	$self->start_port_mapper;
	return $self->start;
}

sub port { return $_[0]{port}; }

sub environment
{
	my ($self) = @_;
	my $dir = $self->{dir};
	return (
		PATH => '/usr/bin:/bin:/usr/sbin:/sbin',
		HOME => "$dir/home",
		LANG => 'C.UTF-8',
		ERL_EPMD_PORT => $self->{epmd_port},
		ERL_EPMD_ADDRESS => '127.0.0.1',
		RABBITMQ_NODENAME => "inventory$self->{port}\@localhost",
		RABBITMQ_DIST_PORT => $self->{dist_port},
		RABBITMQ_MNESIA_BASE => "$dir/mnesia",
		RABBITMQ_LOG_BASE => "$dir/log",
		RABBITMQ_PID_FILE => "$dir/pid",
		RABBITMQ_CONFIG_FILE => "$dir/rabbitmq.conf",
		RABBITMQ_CONF_ENV_FILE => '/dev/null',
		RABBITMQ_ENABLED_PLUGINS_FILE => "$dir/enabled_plugins",
		# Small enough for a test machine.
		RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS => '+S 1 +A 8',
	);
}

sub spawn
{
	my ($self, $log, @command) = @_;
	my $pid = fork() // die "fork: $!";

	if ($pid == 0)
	{
		%ENV = $self->environment;
		open STDIN, '<', '/dev/null';
		open STDOUT, '>>', "$self->{dir}/$log";
		open STDERR, '>&', \*STDOUT;
		{
			no warnings;
			exec @command;
		}
		POSIX::_exit(99);
	}
	return $pid;
}

sub start_port_mapper
{
	my ($self) = @_;
	$self->{epmd} = $self->spawn('epmd', '/usr/bin/epmd', '-port', $self->{epmd_port},
		'-address', '127.0.0.1');
	return;
}

sub start
{
	my ($self) = @_;
	unlink "$self->{dir}/pid";
	$self->{pid} = $self->spawn('output', $program);
	return $self->wait_until_ready;
}

# It listens when all else is done.
sub wait_until_ready
{
	my ($self) = @_;
	my $until = time() + $PostgreSQL::Test::Utils::timeout_default;

	while (time() < $until)
	{
		return $self
		  if IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->{port});
		die 'rabbitmq-server has ended: ' . slurp_file("$self->{dir}/output")
		  if waitpid($self->{pid}, POSIX::WNOHANG()) == $self->{pid};
		usleep(100_000);
	}
	die 'rabbitmq-server does not listen';
}

sub url { return "amqp://guest:guest\@127.0.0.1:$_[0]{port}"; }

sub tool
{
	my ($self, $tool, @arguments) = @_;
	my $out = '';
	my $err = '';
	IPC::Run::run([ "/usr/bin/$tool", "--url=" . $self->url, @arguments ],
		'>', \$out, '2>', \$err)
	  or die "$tool: $err";
	return $out;
}

# rabbitmqctl, which takes a second or two.
sub control
{
	my ($self, @arguments) = @_;
	my $out = '';
	my %environment = $self->environment;
	local %ENV = (%environment, RABBITMQ_HOME => '/usr/lib/rabbitmq');
	my $until = time() + $PostgreSQL::Test::Utils::timeout_default;

	# It listens a moment before it takes commands.
	until (IPC::Run::run([ '/usr/lib/rabbitmq/bin/rabbitmqctl', '-q', '-n',
				$environment{RABBITMQ_NODENAME}, @arguments ], '>&', \$out))
	{
		die "rabbitmqctl @arguments: $out"
		  if $out !~ /requires the 'rabbit' app to be running/ || time() > $until;
		usleep(200_000);
	}
	return $out;
}

# Number of messages in a queue.
sub depth
{
	my ($self, $queue) = @_;
	my ($depth) = $self->control('-s', 'list_queues', 'name', 'messages') =~ /^\Q$queue\E\t(\d+)$/m;
	return $depth;
}

my $drain;

# Takes all messages out of a queue: hashes of id, mode, type, headers and body.
sub drain
{
	my ($self, $queue) = @_;
	my $out = '';
	unless ($drain)
	{
		my $source = dirname(dirname(__FILE__)) . '/sink/drain.c';
		$drain = PostgreSQL::Test::Utils::tempdir() . '/drain';
		chomp(my $flags = `pkg-config --cflags --libs librabbitmq`);
		system(split(' ', $ENV{CC} // 'cc'), $source, '-o', $drain, split ' ', $flags) == 0
		  or die 'the program that drains queues cannot be compiled';
	}
	IPC::Run::run([ $drain, $self->{port}, $queue ], '>', \$out) or die 'draining failed';
	return map {
		my %message;
		@message{qw(id mode type headers body)} = split /\t/, $_, 5;
		$message{headers} = { map { split /=/, $_, 2 } split /;/, $message{headers} };
		\%message;
	} split /\n/, $out;
}

# The processes of the server: the script's child is the virtual machine.
sub processes
{
	my ($self) = @_;
	my @pids = ($self->{pid});
	push @pids, slurp_file("$self->{dir}/pid") =~ /(\d+)/ if -s "$self->{dir}/pid";
	return @pids;
}

sub signal
{
	my ($self, $signal) = @_;
	kill $signal, $self->processes;
	return;
}

sub stop
{
	my ($self, $signal) = @_;
	return unless $self->{pid};
	my @pids = $self->processes;
	kill 'CONT', @pids if ($signal // '') ne 'KILL';
	kill $signal // 'TERM', @pids;
	waitpid $self->{pid}, 0;
	# The one that is no child of ours.
	usleep(20_000) while grep { $_ != $self->{pid} && kill 0, $_ } @pids;
	delete $self->{pid};
	return;
}

END
{
	my $status = $?;
	for my $server (@servers)
	{
		$server->stop('KILL');
		kill 'KILL', $server->{epmd};
		waitpid $server->{epmd}, 0;
	}
	$? = $status;
}

1;
