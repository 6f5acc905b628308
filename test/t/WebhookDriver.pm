# Drives the webhook sink's library without a database; see test/sink/drive_http.c.
package WebhookDriver;

use strict;
use warnings FATAL => 'all';

use File::Temp;
use FindBin;
use IPC::Run;
use Test::More;

my $program;

# The library of the installation, or undef if the sink was left out.
sub library
{
	my ($sink) = @_;
	my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
	chomp(my $folder = `$pg_config --pkglibdir`);
	my $library = "$folder/inventory_sink_$sink.so";
	return -e $library ? $library : undef;
}

sub build
{
	my $folder = File::Temp->newdir('drive-XXXXXX', TMPDIR => 1);
	my $sink = "$FindBin::RealBin/../../src/sink";
	system('cc', '-Wall', '-Wextra', '-Werror', '-D_GNU_SOURCE', '-rdynamic', "-I$sink",
		'-o', "$folder/drive", "$FindBin::RealBin/../sink/drive_http.c", '-ldl', '-lpthread') == 0
	  or die 'the driver does not compile';
	return { folder => $folder, path => "$folder/drive" };
}

sub new
{
	my ($class, $sink) = @_;
	$program //= build();
	my $self = bless { in => '', out => '' }, $class;
	local %ENV = (%ENV, http_proxy => 'http://127.0.0.1:9', https_proxy => 'http://127.0.0.1:9',
		all_proxy => 'http://127.0.0.1:9');
	$self->{process} = IPC::Run::start([ $program->{path}, library($sink) ],
		'<', \$self->{in}, '>', \$self->{out}, '2>&1');
	return $self;
}

# Writes a line of fields.
sub tell
{
	my ($self, @fields) = @_;
	$self->{in} .= join("\t", @fields) . "\n";
	$self->{process}->pump_nb;
	return;
}

# Waits for a line that begins so; returns its fields, and all before it.
sub await
{
	my ($self, $word) = @_;
	my $timeout = IPC::Run::timer(120);
	$timeout->start;
	until ($self->{out} =~ /^$word\t.*\n/m)
	{
		die "no \"$word\" from the driver: $self->{out}" if $timeout->is_expired || !$self->{process}->pumpable;
		$self->{process}->pump;
	}
	my @lines = map { [ split /\t/, $_, -1 ] } split /\n/, $self->{out};
	$self->{out} = '';
	return @lines;
}

sub open
{
	my ($self, %options) = @_;
	$self->tell('open', map { "$_=$options{$_}" } sort keys %options);
	my ($line) = reverse $self->await('open');
	return $line->[1] eq 'OK' ? 'OK' : "$line->[1]: $line->[2]";
}

# Messages as [id, key, topic, data, name=value ...]; what came of them:
# { verdict, error, ms, messages => { id => { verdict, retry_after, error } } }
sub send
{
	my ($self, @messages) = @_;
	$self->tell('message', @$_) foreach @messages;
	$self->tell('send');
	my %result = (messages => {});
	foreach my $line ($self->await('send'))
	{
		$result{messages}{ $line->[1] } = { verdict => $line->[2], retry_after => $line->[3], error => $line->[4] }
		  if $line->[0] eq 'message';
		@result{qw(verdict ms error)} = @$line[ 1 .. 3 ] if $line->[0] eq 'send';
	}
	return \%result;
}

# How long it took, in ms.
sub close
{
	my ($self) = @_;
	$self->tell('close');
	my ($line) = reverse $self->await('close');
	return $line->[1];
}

sub finish
{
	my ($self) = @_;
	my $finished = $self->{process}->finish;
	diag $self->{out} if $self->{out} ne q();
	return $finished && $self->{out} eq '';
}

1;
