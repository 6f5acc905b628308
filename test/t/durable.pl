# What has been sent to the outside cannot be lost here: a commit that is not on disk
# yet, or not on the synchronous standby, is not sent; and after a crash the receiver has
# nothing that the database does not have.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);
use WebhookDriver;
use WebhookServer;

plan skip_all => 'the webhook sink was not built' unless WebhookDriver::library('http');

my $CLIENTS = 4;
my $CRASHES = 10;
my $requests = PostgreSQL::Test::Utils::tempdir() . '/requests';
my $receiver = WebhookServer->new($requests);
my $url = $receiver->url;
# Nothing writes WAL but those who wait for it, so that a crash loses what it can.
my $node = new_node('durable', streaming => 1, conf => <<'CONF');
autovacuum = off
inventory.http_allow = '127.0.0.1'
wal_writer_delay = 10s
wal_writer_flush_after = 1GB
checkpoint_timeout = 30min
CONF
$node->safe_psql('postgres', <<"SQL");
CREATE SERVER hook FOREIGN DATA WRAPPER inventory_http OPTIONS (url '$url');
SELECT inventory.subscribe('hook', '{durable.#}', 'hook', '{"linger": "0 ms", "backoff": "10 ms", "backoff_cap": "100 ms"}');
SQL

# The headers of what has come in; what has been read is kept.
my @received;
my $offset = 0;
sub received
{
	return @received unless -e $requests;
	open my $file, '<:raw', $requests or die "$requests: $!";
	seek $file, $offset, 0;
	while (my $line = <$file>)
	{
		last unless $line =~ /\n$/;
		$offset += length $line;
		push @received, decode_json($line)->{headers};
	}
	close $file;
	return @received;
}

sub becomes
{
	my ($condition, $name) = @_;
	my $until = time() + $PostgreSQL::Test::Utils::timeout_default;
	sleep 0.02 while !$condition->() && time() < $until;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($condition->(), $name)
	  || diag $node->safe_psql('postgres', 'SELECT * FROM inventory.stat_delivery');
}

sub set
{
	my (%settings) = @_;
	$node->safe_psql('postgres', "ALTER SYSTEM SET $_ = '$settings{$_}'") foreach keys %settings;
	$node->reload;
	foreach my $name (keys %settings)
	{
		$node->poll_query_until('postgres', "SELECT current_setting('$name') = '$settings{$name}'") or die;
	}
	return;
}

# What waits for a standby, by the name of what it is.
sub waiting
{
	my ($condition) = @_;
	return $node->poll_query_until('postgres', "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND $condition");
}

# ---- A synchronous standby that lags ----

$node->safe_psql('postgres', q{SELECT inventory.publish('durable.first', 'k', '{}')});
becomes(sub { received() == 1 }, 'without a standby a message is sent at once');

foreach my $level ('on', 'local', 'off')
{
	my $before = received();
	set(synchronous_commit => $level);
	# Nobody looks for changes of the setting without this one.
	set(synchronous_standby_names => 'nobody');
	# The setting counts from when the checkpointer has heard of it.
	my $canary = session($node);
	$canary->query_until(qr/started/, "\\echo started\nSET synchronous_commit = on;\n" . "SELECT inventory.publish('canary', 'k', '{}');\n" x 500);
	waiting("backend_type = 'client backend'") or die 'nobody waits for the standby';
	$node->safe_psql('postgres', q{
SET synchronous_commit = local;
SELECT inventory.publish('durable.standby', 'k', '{}')});
	ok(waiting("backend_type = 'inventory delivery'"), "synchronous_commit = $level: what is sent waits for the standby");
	is(received(), $before, 'and is not sent without it');
	foreach my $end ('pg_cancel_backend', 'pg_terminate_backend')
	{
		$node->safe_psql('postgres', "SELECT $end(pid) FROM pg_stat_activity WHERE backend_type = 'inventory delivery'");
		sleep 0.5;
		ok(waiting("backend_type = 'inventory delivery'"), "after $end() a delivery process waits");
		is(received(), $before, 'and still nothing is sent');
	}
	set(synchronous_standby_names => '');
	becomes(sub { received() == $before + 1 }, 'and is, when it need not wait any more');
	$canary->quit;
}

# ---- Crashes ----

set(synchronous_commit => 'off');
my $sql_ids = q{SELECT 'message-' || message_id || '-' || to_hex((extract(epoch FROM created_at - timestamptz '2000-01-01 00:00:00+00') * 1000000)::bigint) FROM inventory.outbox WHERE topic LIKE 'durable.%'};
my %committed;
my ($lost, $unknown) = (0, '');
for my $crash (1 .. $CRASHES)
{
	my $before = received();
	# In every other round there is time to send each message before the next one,
	# so that what was sent last is what was written last.
	my $pause = $crash % 2 ? 'SELECT FROM pg_sleep(0.005);' : '';
	my $run = start_clients($node, [
		map {
			my $client = $_;
			join '', map { "SELECT 'tag $crash $client $_' FROM inventory.publish('durable.crash', 'key $client', '{\"tag\": \"tag $crash $client $_\"}');$pause\n" } 1 .. 1000
		} 1 .. ($pause ? 1 : $CLIENTS) ]);
	sleep 0.001 while received() < $before + 10 + number_below(100);
	$node->stop('immediate');
	finish_clients($run, server_gone => 1);
	$node->start;
	my %kept = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', q{SELECT payload->>'tag' FROM inventory.outbox});
	my %ids = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', $sql_ids);
	$lost += grep { !$kept{$_} } map { split /\n/ } @{ $run->{out} };
	$unknown .= "$_->{'ce-id'} " foreach grep { !$ids{ $_->{'ce-id'} } } received();
}
is($unknown, '', 'after each crash the database has everything that has been received');
cmp_ok($lost, '>', 0, "though it has lost $lost commits that were not on disk");

# ---- Everything arrives ----

my %wanted = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', $sql_ids);
becomes(sub { my %got = map { $_->{'ce-id'} => 1 } received(); return !grep { !$got{$_} } keys %wanted },
	'everything that it has is received');
my (%positions, %ids);
foreach my $headers (received())
{
	$positions{ $headers->{'ce-id'} }{ $headers->{'ce-sequence'} } = 1;
	$ids{ $headers->{'ce-sequence'} }{ $headers->{'ce-id'} } = 1;
}
note scalar(received()) . ' requests, ' . scalar(keys %positions) . ' messages';
is(join(' ', grep { keys %{ $positions{$_} } > 1 } sort keys %positions), '', 'a message has the same position when it is sent again');
is(join(' ', grep { keys %{ $ids{$_} } > 1 } sort keys %ids), '', 'and no other message has it');

$node->stop;
done_testing();
