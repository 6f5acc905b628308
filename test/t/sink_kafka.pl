# Events and messages in Kafka, from one end to the other: every committed one is
# there, in the order of its key, whatever has happened to brokers and server.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use KafkaCluster;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

plan skip_all => KafkaCluster::missing() if KafkaCluster::missing();
my ($PRODUCE, $NOT_LEADER, $NOT_ENOUGH_REPLICAS, $TOO_LARGE) = (0, 6, 19, 10);

my $CLIENTS = 8;
my @skus = map { "sku-$_" } 1 .. 12;
my $cluster = KafkaCluster->new(3);
$cluster->order('topic stock 4');
my $node = new_node('shop', conf => 'restart_after_crash = on');
my $system = $node->safe_psql('postgres', 'SELECT system_identifier FROM pg_control_system()');
$node->safe_psql('postgres', qq{
CREATE SERVER kafka FOREIGN DATA WRAPPER inventory_kafka OPTIONS (brokers '${\ $cluster->brokers}', topic 'stock', timeout '3s', max_message_size '5000');
CREATE SERVER each FOREIGN DATA WRAPPER inventory_kafka OPTIONS (brokers '${\ $cluster->brokers}', timeout '3s');
CREATE USER MAPPING FOR CURRENT_USER SERVER kafka;
CREATE USER MAPPING FOR CURRENT_USER SERVER each;
SELECT inventory.subscribe('stock', '{inventory.event.#}', 'kafka', '{"start": "earliest", "backoff": "100 ms", "backoff_cap": "500 ms"}');
});
add_skus($node, 100_000, @skus);

my $events = q{SELECT event_id || ' ' || sku || '@' || location FROM inventory.event JOIN inventory.stock USING (stock_id)
JOIN inventory.sku USING (sku_id) JOIN inventory.location USING (location_id) ORDER BY event_id};

# Waits until all events are there, then looks at each and at their order.
my @kept;
sub all_arrive
{
	my ($name, %options) = @_;
	my $expected = $node->safe_psql('postgres', $events);
	my $until = time + $PostgreSQL::Test::Utils::timeout_default;
	my ($found, @records) = ('');
	while ($found ne $expected && time < $until)
	{
		usleep(200_000);
		@records = $cluster->consumed('stock');
		@kept = (@{ $options{before} // [] }, KafkaCluster::latest(@records));
		$found = join "\n", map { "$_->{headers}{ce_messagenumber} $_->{key}" }
		  sort { $a->{headers}{ce_messagenumber} <=> $b->{headers}{ce_messagenumber} } @kept;
	}
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($found, $expected, "$name: every event is there");
	note scalar(@records), ' records for ', scalar(@kept), ' events';
	# Debits of a stock item follow the credits that they spend, so it never
	# falls below zero on the way.
	my (%on_hand, @wrong);
	for my $record (@kept)
	{
		my $payload = decode_json($record->{payload});
		$on_hand{ $record->{key} } += $payload->{on_hand_delta} // 0;
		push @wrong, $record->{key} if $on_hand{ $record->{key} } < 0;
	}
	is("@wrong", '', "$name: in the order of its key");
	is(join("\n", map { "$_ $on_hand{$_}" } sort keys %on_hand),
		$node->safe_psql('postgres', q{SELECT sku || '@' || location || ' ' || on_hand FROM inventory.stock_level ORDER BY (sku || '@' || location) COLLATE "C"}),
		"$name: what a consumer adds up is the stock");
	return;
}

sub script
{
	my ($n) = @_;
	return join '', map {
		my $sku = one_of(@skus);
		one_of("SELECT inventory.issue('$sku', 'L', 1);\n", "SELECT inventory.receive('$sku', 'L', 2);\n",
			"SELECT inventory.confirm(inventory.reserve('$sku', 'L', 1));\n", "BEGIN; SELECT inventory.issue('$sku', 'L', 3); ROLLBACK;\n")
	} 1 .. $n;
}

sub load
{
	my ($calls, %options) = @_;
	my $run = run_clients($node, [ map { script($calls) } 1 .. $CLIENTS ], %options);
	only_codes($run, 'the shop sells on') unless $options{server_gone};
	return;
}

load(50);
all_arrive('from the beginning');
my ($record) = @kept;
is($record->{headers}{ce_source}, "urn:inventory:$system:postgres", 'a message says where it is from,');
like($record->{headers}{ce_id}, qr/^event-$record->{headers}{ce_messagenumber}-[0-9a-f]+$/, 'which it is,');
is("$record->{headers}{ce_type} $record->{headers}{ce_subscription}", 'inventory.event.receive stock', 'what it is and by whom');

# Brokers make errors, go away and come back, while the shop sells.
my $misfortunes = 0;
load(150, meanwhile => sub {
	return if $misfortunes++ % 20;
	$cluster->order(one_of("errors $PRODUCE 2 $NOT_LEADER", "errors $PRODUCE 1 $NOT_ENOUGH_REPLICAS", "errors $PRODUCE 1 $TOO_LARGE",
			'down ' . (1 + number_below(3)), 'up 1'));
});
$cluster->order(map { "up $_" } 1 .. 3);
all_arrive('through errors of the brokers');

# An outage: the subscription waits, writes nothing, and shows it.
$cluster->order(map { "down $_" } 1 .. 3);
load(20);
$node->poll_query_until('postgres', "SELECT state = 'backoff' AND last_error ~ 'refused' FROM inventory.stat_delivery WHERE subscription = 'stock'") or die 'no backoff';
is($node->safe_psql('postgres', 'SELECT count(*) FROM inventory.parked_message'), '0', 'during an outage nothing is parked');
$cluster->order(map { "up $_" } 1 .. 3);
all_arrive('after an outage');

# A message that is too large is dead; the others of its key go on.
my $large = $node->safe_psql('postgres', q{SELECT inventory.receive('sku-1', 'L', 5, metadata => jsonb_build_object('text', repeat('x', 6000)))});
my $next = $node->safe_psql('postgres', q{SELECT inventory.issue('sku-1', 'L', 5)});
$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM inventory.dead_letter WHERE subscription = 'stock' AND last_error ~ 'too large'") or die 'no dead letter';
ok($cluster->arrives('stock', $next), 'what comes after a message that is too large is sent');
$node->safe_psql('postgres', "ALTER SERVER kafka OPTIONS (SET max_message_size '1000000')");
$node->safe_psql('postgres', "SELECT inventory.redrive('stock')");
ok($cluster->arrives('stock', $large), 'and it, too, when the limit has been raised');

# A topic that is not there: its messages wait, the others go on.
$cluster->order("topic_error inventory.event.adjust 3");
$node->safe_psql('postgres', q{SELECT inventory.subscribe('each', '{inventory.event.adjust,inventory.event.issue}', 'each', '{"backoff": "100 ms", "backoff_cap": "500 ms", "max_attempts": 1000}')});
my $one = $node->safe_psql('postgres', "SELECT inventory.adjust('sku-1', 'L', 1, 'found')");
my $two = $node->safe_psql('postgres', "SELECT inventory.issue('sku-1', 'L', 1)");
my $three = $node->safe_psql('postgres', "SELECT inventory.issue('sku-2', 'L', 1)");
ok($cluster->arrives('inventory.event.issue', $three), 'when a topic is not there, other keys go on');
is($node->safe_psql('postgres', "SELECT string_agg(state, ' ' ORDER BY position) FROM inventory.parked WHERE subscription = 'each'"), 'retry deferred', 'its message is parked, with what is behind it');
$cluster->order("topic_error inventory.event.adjust 0");
ok($cluster->arrives('inventory.event.adjust', $one) && $cluster->arrives('inventory.event.issue', $two), 'both are sent when the topic is there');

# The server crashes while brokers stall.  From here on, a new topic: the one
# before has a message out of its order.
$cluster->order('topic again 4');
my @before = @kept;
$node->safe_psql('postgres', "ALTER SERVER kafka OPTIONS (SET topic 'again')");
my $seen = $node->safe_psql('postgres', 'SELECT max(event_id) FROM inventory.event');
my $run = start_clients($node, [ map { script(300) } 1 .. $CLIENTS ]);
usleep(300_000);
$cluster->freeze;
usleep(300_000);
my $pid = $node->safe_psql('postgres', "SELECT pid FROM inventory.stat_delivery WHERE subscription = 'stock'");
kill 'KILL', $pid;
finish_clients($run, server_gone => 1);
$cluster->thaw;
$node->poll_query_until('postgres', 'SELECT 1', '1') or die 'the server does not come back';
$events =~ s/ORDER BY/WHERE event_id > $seen ORDER BY/;
my $expected = $node->safe_psql('postgres', $events);
my $found = '';
my $until = time + $PostgreSQL::Test::Utils::timeout_default;
while ($found ne $expected && time < $until)
{
	usleep(200_000);
	$found = join "\n", map { "$_->{headers}{ce_messagenumber} $_->{key}" }
	  sort { $a->{headers}{ce_messagenumber} <=> $b->{headers}{ce_messagenumber} } KafkaCluster::latest($cluster->consumed('again'));
}
is($found, $expected, 'after a crash of the delivery process: every event is there, and in the order of its key');
my %twice;
push @{ $twice{ $_->{headers}{ce_id} } }, $_->{headers}{ce_sequence} for $cluster->consumed('again');
is(scalar(grep { my %of = map { $_ => 1 } @{ $twice{$_} }; keys %of > 1 } keys %twice), 0, 'what came twice has its id and position both times');

# The cluster is lost, and another takes its place.
$cluster->end;
$node->safe_psql('postgres', "SELECT inventory.issue('sku-2', 'L', 1)");
$node->poll_query_until('postgres', "SELECT state = 'backoff' FROM inventory.stat_delivery WHERE subscription = 'stock'") or die 'no backoff';
$cluster = KafkaCluster->new(1);
$node->safe_psql('postgres', "ALTER SERVER kafka OPTIONS (SET brokers '${\ $cluster->brokers}')");
$cluster->arrives('again', undef, 1);
is(join(' ', map { $_->{key} } $cluster->consumed('again')), 'sku-2@L', 'another cluster gets what the former one has not confirmed');

# Dropping things while brokers stall.
for my $drop ('SET inventory.allow_drop = on; DROP EXTENSION inventory CASCADE', 'DROP DATABASE other')
{
	my $database = $drop =~ /DATABASE/ ? 'postgres' : 'other';
	$node->safe_psql('postgres', 'DROP DATABASE IF EXISTS other');
	$node->safe_psql('postgres', 'CREATE DATABASE other');
	$node->safe_psql('other', qq{
CREATE EXTENSION inventory;
CREATE SERVER kafka FOREIGN DATA WRAPPER inventory_kafka OPTIONS (brokers '${\ $cluster->brokers}', topic 'other');
CREATE USER MAPPING FOR CURRENT_USER SERVER kafka;
SELECT inventory.subscribe('stock', '{inventory.event.#}', 'kafka');
INSERT INTO inventory.sku (sku) VALUES ('a');
INSERT INTO inventory.location (location) VALUES ('L')});
	my $first = $node->safe_psql('other', "SELECT inventory.receive('a', 'L', 1)");
	$cluster->arrives('other', $first) or die 'nothing arrives';
	$cluster->freeze;
	$node->safe_psql('other', "SELECT inventory.receive('a', 'L', 1)");
	$node->poll_query_until('other', "SELECT state = 'running' FROM inventory.stat_delivery") or die 'it is not sending';
	my $began = time;
	$node->safe_psql($database, $drop);
	cmp_ok(time - $began, '<', 2, "$drop takes less than two seconds although the brokers do not answer");
	$cluster->thaw;
}

# Shutting down while brokers stall.
$cluster->freeze;
$node->safe_psql('postgres', "SELECT inventory.issue('sku-2', 'L', 1)");
usleep(500_000);
my $began = time;
$node->stop('fast');
cmp_ok(time - $began, '<', 2, 'a server stops within two seconds although the brokers do not answer');
$cluster->thaw;
$node->start;
ok($cluster->arrives('again', undef, 2), 'and sends it afterwards');
agrees($node, 'after all of it');
$node->stop;
$cluster->end;
done_testing();
