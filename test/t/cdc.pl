# Events and messages through logical decoding: a subscriber with plain tables
# has every one of them, and so has wal2json, across partitions made later, the
# outbox's TRUNCATE, rollbacks, savepoints, prepared and concurrent transactions.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryDocs;
use InventoryTest;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

my $CLIENTS = 8;
my @skus = map { "sku-$_" } 1 .. 6;
my $publisher = new_node('publisher', streaming => 'logical', conf => <<'CONF');
max_prepared_transactions = 10
inventory.tick_interval = '100ms'
inventory.outbox_segment_size = '128kB'
inventory.outbox_retention = '1s'
CONF
my $subscriber = PostgreSQL::Test::Cluster->new('subscriber');
$subscriber->init(allows_streaming => 'logical');
$subscriber->start;

# What has been published, by another way than the outbox.
$publisher->safe_psql('postgres', q{
CREATE TABLE published (message_id bigint, topic text, key text, payload jsonb, headers jsonb);
CREATE FUNCTION say(topic text, key text, payload jsonb, headers jsonb DEFAULT NULL) RETURNS void BEGIN ATOMIC
	INSERT INTO published SELECT inventory.publish(topic, key, payload, headers), topic, key, payload, headers;
END;
INSERT INTO inventory.location (location) VALUES ('L'), ('M');
INSERT INTO inventory.sku (sku, tracking) VALUES ('lots', 'lot');
});
add_skus($publisher, 100_000, @skus);

# ---- The read model of docs/cdc.md ----

$publisher->safe_psql('postgres', "SELECT inventory.receive('sku-1', 'M', 50); SELECT say('order.old', 'a', '{\"n\":0}')");
$publisher->safe_psql('postgres', example('cdc.md', '-- publisher'));
$subscriber->safe_psql('postgres', example('cdc.md', '-- subscriber'));
my $connection = $publisher->connstr('postgres') . ' user=read_model';
my $subscribe = example('cdc.md', '-- subscribe');
$subscribe =~ s/CONNECTION '[^']*'/"CONNECTION '" . ($connection =~ s{'}{''}gr) . "'"/e or die;
$subscriber->safe_psql('postgres', $subscribe);
$subscriber->wait_for_subscription_sync;
is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM inventory.event'),
	$publisher->safe_psql('postgres', 'SELECT count(*) FROM inventory.event'), 'what was there before is copied');

# A mirror of the tables as they are, table by table and with TRUNCATE.
$subscriber->safe_psql('postgres', 'CREATE DATABASE mirror');
$subscriber->safe_psql('mirror', example('cdc.md', '-- subscriber') . join '', map { "CREATE TABLE inventory.outbox_$_ (LIKE inventory.outbox);" } 0 .. 7);
$publisher->safe_psql('postgres', 'CREATE PUBLICATION as_it_is FOR TABLE inventory.outbox');
$subscriber->safe_psql('mirror', "CREATE SUBSCRIPTION mirror CONNECTION '${\ ($publisher->connstr('postgres') =~ s{'}{}gr)}' PUBLICATION as_it_is");

# wal2json listens from here on.
my $plugin = $publisher->config_data('--pkglibdir') . '/wal2json.so';
my $wal2json = -e $plugin;
if ($wal2json)
{
	# Newer minor releases want to be told that it is allowed.
	if ($publisher->safe_psql('postgres', "SELECT count(*) FROM pg_settings WHERE name = 'output_plugin_libraries'"))
	{
		$publisher->safe_psql('postgres', example('cdc.md', '-- allow'));
		$publisher->poll_query_until('postgres', "SELECT current_setting('output_plugin_libraries') ~ 'wal2json'") or die;
	}
	$publisher->safe_psql('postgres', example('cdc.md', '-- slot'));
}
my $log_begins = $publisher->safe_psql('postgres', 'SELECT nextval(\'inventory.event_event_id_seq\')');

# Every way a transaction can go.
sub script
{
	my ($client, $part) = @_;
	my $sql = '';
	for my $n (1 .. 30)
	{
		my ($a, $b) = (one_of(@skus), one_of(@skus));
		my $key = one_of('a' .. 'e');
		my $message = "{\"client\": \"$client\", \"part\": $part, \"n\": $n}";
		$sql .= one_of(
			"SELECT inventory.issue('$a', 'L', 1);",
			"SELECT inventory.transfer('$a', 'L', 'M', 2);",
			"SELECT inventory.post('receive', ARRAY['$a', '$b'], ARRAY['L', 'M'], ARRAY[3, 4]);",
			"SELECT inventory.confirm(inventory.reserve('$a', 'L', 1)); SELECT inventory.reserve('$b', 'L', 1, ttl => '100ms');",
			"INSERT INTO inventory.lot (sku_id, lot) SELECT sku_id, '$client-$part-$n' FROM inventory.sku WHERE sku = 'lots'; SELECT inventory.receive('lots', 'M', 2, lot => '$client-$part-$n');",
			"BEGIN; SELECT inventory.receive('$a', 'L', 5); SELECT say('order.never', '$key', '$message'); ROLLBACK;",
			"BEGIN; SELECT inventory.issue('$a', 'L', 1); SAVEPOINT s; SELECT inventory.issue('$b', 'L', 1); SELECT say('order.never', '$key', '$message');"
			  . " ROLLBACK TO s; SELECT say('order.part', '$key', '$message'); RELEASE s; COMMIT;",
			"BEGIN; SELECT say('order.prepared', '$key', '$message');"
			  . " PREPARE TRANSACTION '$client-$part-$n'; COMMIT PREPARED '$client-$part-$n';",
			"SELECT say('order.large', '$key', jsonb_build_object('text', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 400) i)));",
			"SELECT say('order.plain', NULL, NULL, '{\"from\": \"$client\"}');") . "\n";
		$sql .= "SELECT say('order.made', '$key', '$message');\n";
	}
	return $sql;
}

# A transaction that is open all the while.
my $slow = session($publisher);
ask($slow, q{BEGIN; SELECT say('order.slow', 'a', '{"n": 1}'); SELECT inventory.issue('sku-1', 'L', 7)});

for my $part (1 .. 3)
{
	my $run = run_clients($publisher, [ map { script("c$_", $part) } 1 .. $CLIENTS ]);
	only_codes($run, "part $part: the publisher works on");
	# Months that have no partition yet.
	$publisher->safe_psql('postgres', "SELECT inventory.set_test_clock(date_trunc('month', inventory.clock_time()) + interval '5 months')");
}
ask($slow, q{SELECT say('order.slow', 'a', '{"n": 2}'); COMMIT});
$slow->quit;
is($publisher->safe_psql('postgres', "SELECT count(DISTINCT tableoid) >= 3 FROM inventory.event"), 't', 'there are events in several partitions');

# A part of the ring is emptied, and its messages are in the copy all the same.
$publisher->poll_query_until('postgres', q{SELECT (SELECT count(*) FROM inventory.outbox) < (SELECT count(*) FROM published)})
  or die 'no table of the ring was emptied';
run_clients($publisher, [ map { script("d$_", 4) } 1 .. $CLIENTS ]);

$publisher->wait_for_catchup('read_model');
my $events = 'SELECT count(*), md5(string_agg(e::text, chr(10) ORDER BY event_id)) FROM inventory.event e';
my $messages = q{SELECT count(*), md5(string_agg(concat_ws('|', message_id, topic, key, payload, headers), chr(10) ORDER BY message_id)) FROM };
my $codes = q{SELECT md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM (SELECT stock_id, sku_id, location_id, lot_id, condition FROM inventory.stock) t
UNION ALL SELECT md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM inventory.sku t
UNION ALL SELECT md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM inventory.location t
UNION ALL SELECT md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM inventory.lot t};
# Holds settle while we look; everything else is quiet.
sub same
{
	my ($there, $here, $name) = @_;
	my ($expected, $found);
	for (1 .. 30)
	{
		$expected = $publisher->safe_psql('postgres', $there);
		$publisher->wait_for_catchup('read_model');
		$found = $subscriber->safe_psql('postgres', $here);
		last if $found eq $expected && $publisher->safe_psql('postgres', $there) eq $expected;
	}
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($found, $expected, $name);
}
same($events, $events, 'the subscriber has every event, column by column, and no other');
same("$messages published", "$messages inventory.outbox WHERE topic LIKE 'order.%'", 'and every message that was committed, and no other');
same("SELECT count(*), count(DISTINCT reservation_id) > 10 FROM inventory.reservation WHERE state = 'expired'",
	"SELECT count(*), count(DISTINCT key) > 10 FROM inventory.outbox WHERE topic = 'inventory.reservation.expired'", "and the engine's own");
same($codes, $codes, 'and the codes');
same(q{SELECT sku, location, lot, condition, on_hand, committed FROM inventory.stock_level ORDER BY 1, 2, 3 NULLS FIRST, 4},
	example('cdc.md', '-- stock'), 'its sums are the stock');
cmp_ok($subscriber->safe_psql('postgres', 'SELECT count(*) FROM inventory.outbox'), '>',
	$publisher->safe_psql('postgres', 'SELECT count(*) FROM inventory.outbox'), 'it keeps messages that the ring has not');
$publisher->wait_for_catchup('mirror');
is($subscriber->safe_psql('mirror', 'SELECT (' . join(' + ', map { "(SELECT count(*) FROM inventory.outbox_$_)" } 0 .. 7) . ') < ' . $publisher->safe_psql('postgres', 'SELECT count(*) FROM published')),
	't', 'a mirror with TRUNCATE loses them with the ring');
$subscriber->safe_psql('mirror', 'DROP SUBSCRIPTION mirror');
$publisher->safe_psql('postgres', "UPDATE inventory.sku SET name = 'Mug' WHERE sku = 'sku-1'; UPDATE inventory.lot SET status = 'blocked' WHERE lot = (SELECT min(lot) FROM inventory.lot)");
same($codes, $codes, 'a changed code arrives');

# ---- wal2json ----

sub read_changes
{
	my @changes;
	for my $line (@_)
	{
		my $change = decode_json($line);
		next unless $change->{action} eq 'I';
		push @changes, { table => $change->{table}, map { $_->{name} => $_->{value} } @{ $change->{columns} } };
	}
	return @changes;
}

sub text_of { return join '|', map { $_ // '' } @_; }

SKIP:
{
	skip "no $plugin", 6 unless $wal2json;

	my $read = example('cdc.md', '-- read');
	my @changes = read_changes(split /\n/, $publisher->safe_psql('postgres', $read));
	my @events = grep { $_->{table} =~ /^event_\d/ } @changes;
	my @messages = grep { $_->{table} =~ /^outbox_\d$/ } @changes;
	is(join("\n", sort { $a <=> $b } map { $_->{event_id} } @events),
		$publisher->safe_psql('postgres', "SELECT event_id FROM inventory.event WHERE event_id > $log_begins ORDER BY 1"),
		'wal2json has every event');
	is(join("\n", map { text_of($_->{message_id}, $_->{topic}, $_->{key}) } sort { $a->{message_id} <=> $b->{message_id} } grep { $_->{topic} =~ /^order/ } @messages),
		$publisher->safe_psql('postgres', "SELECT concat_ws('|', message_id, topic, coalesce(key, '')) FROM published WHERE message_id > $log_begins ORDER BY message_id"),
		'and every message');
	is(scalar(grep { $_->{payload} && ref decode_json($_->{payload}) ne 'HASH' } @messages), 0, 'payloads are JSON');

	# In the order of commits; a client commits its messages one after another.
	my (%last, @wrong);
	for my $message (grep { $_->{payload} && $_->{topic} eq 'order.made' } @messages)
	{
		my $payload = decode_json($message->{payload});
		my $number = $payload->{part} * 1000 + $payload->{n};
		push @wrong, "$payload->{client} $number" if ($last{ $payload->{client} }{ $message->{key} } // 0) > $number;
		$last{ $payload->{client} }{ $message->{key} } = $number;
	}
	is("@wrong", '', 'messages of a key are in the order in which they were committed');
	my %stock;
	@wrong = ();
	for my $event (@events)
	{
		push @wrong, $event->{event_id} if ($stock{ $event->{stock_id} } // 0) > $event->{event_id} && $event->{on_hand_delta} < 0;
		$stock{ $event->{stock_id} } = $event->{event_id};
	}
	is($publisher->safe_psql('postgres', $read), '', 'what was read is gone from the slot');

	# The streaming client, in files.
	$publisher->safe_psql('postgres', "SELECT say('order.streamed', 'a', '{\"n\": 1}')");
	my $until = $publisher->safe_psql('postgres', 'SELECT pg_current_wal_lsn()');
	my ($out, $err);
	IPC::Run::run([ 'pg_recvlogical', '-d', $publisher->connstr('postgres'), '--slot', 'inventory_json', '--start', '--endpos', $until,
		'-o', 'format-version=2', '-o', 'add-tables=inventory.*', '--no-loop', '-f', '-' ], '>', \$out, '2>', \$err) or diag $err;
	is(join(' ', map { $_->{topic} } grep { $_->{topic} } read_changes(split /\n/, $out)), 'order.streamed', 'pg_recvlogical reads it too');
	$publisher->safe_psql('postgres', "SELECT pg_drop_replication_slot('inventory_json')");
}

is($publisher->safe_psql('postgres', example('cdc.md', '-- watch')) =~ /^read_model\|t\|reserved\|/m, 1, 'the slot can be watched');

# ---- A publication of everything ----

# Changes of tables without a key would be refused from now on.
is($publisher->safe_psql('postgres', q{
SELECT string_agg(c.relname, ' ' ORDER BY c.relname COLLATE "C") FROM pg_class c
WHERE c.relnamespace = 'inventory'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
	AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)}),
	'delivery_cursor event outbox', 'only tables that are inserted into have no primary key');
$publisher->safe_psql('postgres', 'CREATE PUBLICATION everything FOR ALL TABLES WITH (publish_via_partition_root = true)');
my $run = run_clients($publisher, [ map { script("e$_", 5) } 1 .. $CLIENTS ]);
only_codes($run, 'FOR ALL TABLES: the engine works on');
$publisher->safe_psql('postgres', q{
SELECT inventory.set_test_clock(inventory.clock_time() + interval '1 month');
SELECT inventory.expire_due(); SELECT inventory.project(); SELECT inventory.maintain(); SELECT inventory.rebuild()});
$publisher->safe_psql('postgres', "CALL inventory.archive((date_trunc('month', inventory.clock_time()) - interval '10 months')::date)");
is($publisher->safe_psql('postgres', 'SELECT count(*) > 0 FROM inventory.archived'), 't', 'and archives');
$publisher->safe_psql('postgres', 'DROP PUBLICATION everything');
agrees($publisher, 'after publishing everything');
same(q{SELECT sku, location, lot, condition, on_hand, committed FROM inventory.stock_level ORDER BY 1, 2, 3 NULLS FIRST, 4},
	example('cdc.md', '-- stock'), 'archiving takes no event from the subscriber');
unlike(slurp_file($publisher->logfile), qr/replica identity/, 'nothing was refused');
unlike(slurp_file($subscriber->logfile), qr/ERROR/, 'and nothing at the subscriber');

$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION read_model');

# ---- The extension on the other side ----

my $twin = new_node('twin', streaming => 'logical');
add_skus($twin, 10, @skus);
my $clock = $publisher->safe_psql('postgres', 'SELECT inventory.clock_time()');
$twin->safe_psql('postgres', "SELECT inventory.set_test_clock('$clock'); SELECT inventory.make_partition('$clock')");
for my $log ([ 'event', "SELECT inventory.receive('sku-1', 'L', 1)" ], [ 'outbox', "SELECT say('order.twin', 'a', '{}')" ])
{
	my ($table, $write) = @$log;
	my $before = $twin->safe_psql('postgres', "SELECT count(*) FROM inventory.$table");
	my $began = -s $twin->logfile;
	$publisher->safe_psql('postgres', "CREATE PUBLICATION only_$table FOR TABLE inventory.$table WITH (publish = 'insert', publish_via_partition_root = true)");
	$twin->safe_psql('postgres', "CREATE SUBSCRIPTION twin CONNECTION '${\ ($publisher->connstr('postgres') =~ s{'}{}gr)}' PUBLICATION only_$table WITH (copy_data = off, disable_on_error = true)");
	$publisher->safe_psql('postgres', $write);
	$twin->poll_query_until('postgres', 'SELECT NOT subenabled FROM pg_subscription') or die 'the apply worker met no error';
	like(slurp_file($twin->logfile, $began), qr/ERROR:  [^\n]*(engine only|transaction's own)[^\n]*\n[^\n]*HINT: [^\n]*\n[^\n]*CONTEXT: [^\n]*inventory\.$table/, "an engine refuses rows of another's table $table");
	is($twin->safe_psql('postgres', "SELECT count(*) FROM inventory.$table"), $before, "and has none in its table $table");
	$twin->safe_psql('postgres', 'DROP SUBSCRIPTION twin');
}
agrees($twin, 'the other engine');

done_testing();
