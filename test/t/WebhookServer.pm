# A receiver of webhooks on the loopback interface; see test/sink/webhook_server.py.
package WebhookServer;

use strict;
use warnings FATAL => 'all';

use FindBin;
use IPC::Run;
use JSON::PP;

my @servers;

sub new
{
	my ($class, $record, @arguments) = @_;
	my $self = bless { record => $record, arguments => \@arguments, port => 0 }, $class;
	push @servers, $self;
	$self->start;
	return $self;
}

END
{
	my $status = $?;
	$_->stop foreach @servers;
	$? = $status;
}

# On the port that it had before, if it was stopped.
sub start
{
	my ($self) = @_;
	my $out = '';
	$self->{process} = IPC::Run::start(
		[ '/usr/bin/python3', "$FindBin::RealBin/../sink/webhook_server.py", $self->{record},
			'--port', $self->{port}, @{ $self->{arguments} } ], '<', \undef, '>', \$out, '2>&1');
	my $timeout = IPC::Run::timer(30);
	$timeout->start;
	until ($out =~ /^(\d+)\n/)
	{
		die "the receiver does not start: $out" if $timeout->is_expired || !$self->{process}->pumpable;
		$self->{process}->pump_nb;
		select undef, undef, undef, 0.02;
	}
	($self->{port}) = $out =~ /^(\d+)\n/;
	return;
}

sub stop
{
	my ($self) = @_;
	return unless $self->{process};
	$self->{process}->kill_kill(grace => 0);
	delete $self->{process};
	return;
}

sub port { return $_[0]->{port} }

sub url { return "http://127.0.0.1:$_[0]->{port}/hook" }

# What came in, in this order.
sub requests
{
	my ($self) = @_;
	return () unless -e $self->{record};
	open my $file, '<', $self->{record} or die "$self->{record}: $!";
	my @requests = map { decode_json($_) } grep { /\n$/ } <$file>;
	close $file;
	return @requests;
}

sub forget
{
	my ($self) = @_;
	truncate $self->{record}, 0 or die "$self->{record}: $!";
	return;
}

1;
