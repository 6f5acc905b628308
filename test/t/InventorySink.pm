# A program of test/sink, compiled and talked to line by line: the driver that
# sends through a sink without a database, the cluster that a sink sends to.
package InventorySink;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use FindBin;
use IPC::Run;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(compile talk say_to hear_from end_talk kafka_cluster order ask_sink verdicts);

my $source = "$FindBin::Bin/../sink";
my $folder = PostgreSQL::Test::Utils::tempdir();

# Returns the program's path, or nothing when the packages are not there.
sub compile
{
	my ($name, @packages) = @_;
	my @flags;
	for my $package (@packages)
	{
		my $flags = `pkg-config --cflags --libs $package 2>/dev/null`;
		return if $?;
		push @flags, split ' ', $flags;
	}
	system('cc', '-D_GNU_SOURCE', '-Wall', '-Wextra', '-Werror', "-I$source/../../src", '-o', "$folder/$name", "$source/$name.c", @flags, '-ldl') == 0
	  or die "$name does not compile";
	return "$folder/$name";
}

sub talk
{
	my (@command) = @_;
	my $talk = { in => '', out => '', err => '', timer => IPC::Run::timer($PostgreSQL::Test::Utils::timeout_default) };
	$talk->{run} = IPC::Run::start(\@command, '<', \$talk->{in}, '>', \$talk->{out}, '2>', \$talk->{err}, $talk->{timer});
	return $talk;
}

sub say_to
{
	my ($talk, @lines) = @_;
	$talk->{in} .= join '', map { "$_\n" } @lines;
	return;
}

# Lines up to the one that begins so; without an argument one line.
sub hear_from
{
	my ($talk, $last) = @_;
	my @lines;
	$last //= qr//;
	$talk->{timer}->start;
	while (!@lines || $lines[-1] !~ $last)
	{
		while ($talk->{out} !~ /\n/)
		{
			die "no answer: $talk->{err}" if $talk->{timer}->is_expired || !$talk->{run}->pumpable;
			$talk->{run}->pump;
		}
		push @lines, $1 if $talk->{out} =~ s/^(.*)\n//;
	}
	return wantarray ? @lines : $lines[-1];
}

sub end_talk
{
	my ($talk) = @_;
	$talk->{run}->finish;
	return;
}

# ---- The Kafka cluster ----

sub kafka_cluster
{
	my ($program, $brokers) = @_;
	my $cluster = talk($program, $brokers);
	$cluster->{brokers} = hear_from($cluster);
	return $cluster;
}

sub order
{
	my ($cluster, @orders) = @_;
	for my $order (@orders)
	{
		say_to($cluster, $order);
		hear_from($cluster) eq 'done' or die "the cluster cannot: $order";
	}
	return;
}

# ---- The driver ----

# Says something to a sink and returns the fields of its answer.
sub ask_sink
{
	my ($driver, @lines) = @_;
	say_to($driver, @lines);
	my ($word) = $lines[-1] =~ /^(\w+)/;
	my $answer = { send => qr/^sent\t/, close => qr/^closed\t/, open => qr/^open\t/, idle => qr/^idle\t/, signals => qr/^signals\t?/ }->{$word} or return;
	my @answer = hear_from($driver, $answer);
	$driver->{verdicts} = { map { /^(\d+)\t(\w+)\t(.*)/ ? ($1 => { verdict => $2, error => $3 }) : () } @answer };
	return split /\t/, $answer[-1], -1;
}

# The verdicts of the last call: position verdict, or only those of a kind.
sub verdicts
{
	my ($driver, $kind) = @_;
	my $of = $driver->{verdicts};
	return join ' ', map { defined $kind ? $_ : "$_:$of->{$_}{verdict}" }
	  grep { !defined $kind || $of->{$_}{verdict} eq $kind } sort { $a <=> $b } keys %$of;
}

1;
