# The mock cluster of librdkafka (test/sink/kafka_cluster.c), compiled and run
# here, and what consumers get from it.
package KafkaCluster;

use strict;
use warnings FATAL => 'all';

use File::Basename;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time usleep);

my $program;

# Why there can be none, if so.
sub missing
{
	my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
	chomp(my $folder = `$pg_config --pkglibdir`);
	return 'built without librdkafka' unless -e "$folder/inventory_sink_kafka.so";
	return 'without kcat there is nothing to consume with' unless `which kcat`;
	return;
}

sub compile
{
	my $test = dirname(dirname(__FILE__));
	my @compiler = split ' ', $ENV{CC} // 'cc';
	my @flags = split ' ', `pkg-config --cflags --libs rdkafka`;

	$program = PostgreSQL::Test::Utils::tempdir() . '/kafka_cluster';
	system(@compiler, "$test/sink/kafka_cluster.c", '-o', $program, @flags) == 0
	  or die 'the cluster cannot be compiled';
	return;
}

sub new
{
	my ($class, $brokers) = @_;
	my $self = bless { in => '', out => '' }, $class;

	compile() unless $program;
	$self->{run} = IPC::Run::start([ $program, $brokers ], '<', \$self->{in}, '>', \$self->{out});
	$self->{brokers} = $self->hear;
	return $self;
}

# Where it is, for clients.
sub brokers { return $_[0]{brokers}; }

sub hear
{
	my ($self) = @_;
	until ($self->{out} =~ /\n/)
	{
		$self->{run}->pumpable or die 'the cluster has ended';
		$self->{run}->pump;
	}
	(my $line, $self->{out}) = split /\n/, $self->{out}, 2;
	return $line;
}

# Lines for the program.
sub order
{
	my ($self, @orders) = @_;
	for my $order (@orders)
	{
		$self->{in} .= "$order\n";
		$self->hear eq 'done' or die "the cluster cannot: $order";
	}
	return;
}

# Not answering, answering again; gone with all that it has.
sub freeze { $_[0]{run}->signal('STOP'); return; }
sub thaw { $_[0]{run}->signal('CONT'); return; }

sub end
{
	my ($self) = @_;
	return unless $self->{run};
	$self->{run}->signal('KILL');
	eval { $self->{run}->finish };
	delete $self->{run};
	return;
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $@);
	$self->end;
	return;
}

# What a consumer of a topic prints, in the format given.
sub read_topic
{
	my ($self, $topic, @format) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run([ 'kcat', '-b', $self->{brokers}, '-C', '-t', $topic, '-o', 'beginning', '-e', '-q', @format ], '>', \$out, '2>', \$err);
	return $out;
}

# Its records, headers in a hash, by partition and offset.
sub consumed
{
	my ($self, $topic) = @_;
	my @records = map { decode_json($_) } split /\n/, $self->read_topic($topic, '-J');
	for my $record (@records)
	{
		my @headers = @{ $record->{headers} };
		$record->{headers} = {@headers};
	}
	return sort { $a->{partition} <=> $b->{partition} || $a->{offset} <=> $b->{offset} } @records;
}

# Waits until a topic has the message of this number, or so many of any.
sub arrives
{
	my ($self, $topic, $number, $many) = @_;
	my $until = time + $PostgreSQL::Test::Utils::timeout_default;
	while (time < $until)
	{
		my @numbers = $self->read_topic($topic, '-f', '%h\n') =~ /ce_messagenumber=(\d+)/g;
		return 1 if defined $number ? grep { $_ == $number } @numbers : @numbers >= $many;
		usleep(100_000);
	}
	return 0;
}

# What a consumer keeps of them that passes over what is not greater than the
# latest of its key.
sub latest
{
	my (@records) = @_;
	my %last;
	return grep {
		my $key = $_->{key} // '';
		my $sequence = $_->{headers}{ce_sequence};
		my $new = $sequence gt ($last{$key} // '');
		$last{$key} = $sequence if $new;
		$new
	} @records;
}

1;
