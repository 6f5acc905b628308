# A sink's library without a database: drives it through test/sink/deliver.c,
# which is compiled here.
package SinkDriver;

use strict;
use warnings FATAL => 'all';
use File::Basename;
use IPC::Open2;
use PostgreSQL::Test::Utils;
use Test::More;

my $program;

sub compile
{
	my $test = dirname(dirname(__FILE__));
	my @compiler = split ' ', $ENV{CC} // 'cc';

	$program = PostgreSQL::Test::Utils::tempdir() . '/deliver';
	system(@compiler, '-D_GNU_SOURCE', '-O1', "-I$test/../src/sink", "$test/sink/deliver.c",
		'-o', $program, '-ldl') == 0
	  or die 'the driver cannot be compiled';
	return;
}

sub library
{
	my ($sink) = @_;
	my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
	chomp(my $folder = `$pg_config --pkglibdir`);
	return "$folder/inventory_sink_$sink.so";
}

sub new
{
	my ($class, $sink, %options) = @_;
	my $self = bless {}, $class;

	compile() unless $program;
	$self->{pid} = open2($self->{out}, $self->{in}, $program, library($sink),
		map { "$_=$options{$_}" } sort keys %options);
	return $self;
}

sub say_to
{
	my ($self, @lines) = @_;
	local $SIG{PIPE} = 'IGNORE';
	print { $self->{in} } map { "$_\n" } @lines;
	$self->{in}->flush;
	return $self;
}

sub hear
{
	my ($self) = @_;
	my $line;

	do
	{
		$line = readline $self->{out};
		die 'the driver has ended' unless defined $line;
		chomp $line;
		note $line if $line =~ /^log /;
	} while ($line =~ /^log /);
	return $line;
}

# What follows returns itself, so that calls can be chained.
sub message { my ($self, @fields) = @_; return $self->say_to(join "\t", @fields); }
sub fill { my ($self, @arguments) = @_; return $self->say_to("fill @arguments"); }
sub stop_after { return $_[0]->say_to("stop $_[1]"); }
sub memory { return $_[0]->say_to("memory $_[1]"); }
sub size { return $_[0]->say_to("size $_[1]"); }
sub begin { return $_[0]->say_to($_[1]); }

# "opened MS" or "failed VERDICT MS ERROR".
sub open { return $_[0]->begin('open')->hear; }
sub idle { return $_[0]->begin('idle')->hear; }
sub close { return $_[0]->begin('close')->hear; }
sub signals { return $_[0]->begin('signals')->hear; }
sub send { return $_[0]->begin('send')->sent; }

# What a call has come to: verdict, ms, error; verdict_of and error_of by
# position; ok, the positions that were taken, in order.
sub sent
{
	my ($self) = @_;
	my %call = (ok => [], verdict_of => {}, error_of => {});

	for (;;)
	{
		my $line = $self->hear;
		if ($line =~ /^sent (\w+) (\d+) ?(.*)/)
		{
			@call{qw(verdict ms error)} = ($1, $2, $3);
			last;
		}
		$line =~ /^(\d+) (\w+) ?(.*)/ or die "unexpected: $line";
		$call{verdict_of}{$1} = $2;
		$call{error_of}{$1} = $3;
		push @{ $call{ok} }, $1 if $2 eq 'ok';
	}
	return \%call;
}

sub end
{
	my ($self) = @_;
	CORE::close $self->{in} if $self->{in};
	waitpid $self->{pid}, 0 if $self->{pid};
	delete $self->{$_} for qw(in pid);
	return;
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $@);
	$self->end;
	return;
}

1;
