# The consumers of docs/consumer.md: each message counts once, and the latest
# state stays the latest, however often messages come and consumers are killed.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryDocs;
use InventoryTest;
use KafkaCluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my $CLIENTS = 8;
my @skus = map { "sku-$_" } 1 .. 8;
my $node = new_node('shop');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->safe_psql('copy', example('consumer.md', '-- by id'));
$node->safe_psql('copy', example('consumer.md', '-- by sequence'));

# ---- SQL ----

is($node->safe_psql('copy', q{
SELECT count_once('s', 'event-1-a', 'MUG@L', '{"on_hand_delta": 10}'), count_once('s', 'event-2-b', 'MUG@L', '{"on_hand_delta": -3}'),
	count_once('s', 'event-1-a', 'MUG@L', '{"on_hand_delta": 10}'), count_once('other', 'event-1-a', 'MUG@L', '{}')}),
	't|t|f|t', 'an id counts once, per source');
is($node->safe_psql('copy', 'SELECT * FROM counted'), 'MUG@L|7', 'and adds up');
$node->safe_psql('copy', 'TRUNCATE received, counted');

# The same messages from many sides at once, some of them rolled back.
my $messages = join '', map {
	my $call = "SELECT count_once('s', 'event-$_', 'key-${\ ($_ % 5)}', '{\"on_hand_delta\": $_}');\n";
	$_ % 7 ? $call : "BEGIN; $call ROLLBACK; $call"
} 1 .. 200;
my $run = run_clients($node, [ ($messages) x $CLIENTS ], database => 'copy');
only_codes($run, 'many consumers of the same messages do not hinder each other');
is($node->safe_psql('copy', 'SELECT sum(on_hand), (SELECT count(*) FROM received) FROM counted'), 200 * 201 / 2 . '|200', 'each message counts once');
$node->safe_psql('copy', 'TRUNCATE received, counted');

is($node->safe_psql('copy', q{
SELECT keep_latest('k', '00000000000000000001', '1'), keep_latest('k', '00000000000000000010', '10'), keep_latest('k', '00000000000000000010', '10'),
	keep_latest('k', '00000000000000000009', '9'), keep_latest('l', '00000000000000000002', '2')}),
	't|t|f|f|t', 'only what is later than the latest of its key is news');
is($node->safe_psql('copy', 'SELECT key, payload FROM latest ORDER BY key'), "k|10\nl|2", 'and stays');

# ---- Python ----

my $folder = PostgreSQL::Test::Utils::tempdir();
append_to_file("$folder/latest.py", example('consumer.md', 'def keep_latest(latest, key, sequence, payload):') . <<'EOP');
kept = {}
news = [keep_latest(kept, 'k', '%020d' % n, n) for n in (1, 10, 10, 9)] + [keep_latest(kept, 'l', '%020d' % 2, 2)]
assert news == [True, True, False, False, True], news
assert kept == {'k': ('%020d' % 10, 10), 'l': ('%020d' % 2, 2)}, kept
EOP
is(system('/usr/bin/python3', "$folder/latest.py"), 0, 'in Python, too');

# ---- Kafka ----

SKIP:
{
	skip KafkaCluster::missing(), 4 if KafkaCluster::missing();
	skip 'no Kafka client for Python', 4 if system("/usr/bin/python3 -c 'import confluent_kafka' 2>/dev/null");

	my $cluster = KafkaCluster->new(1);
	$cluster->order('topic stock 3');
	add_skus($node, 1000, @skus);
	my $subscribe = example('kafka.md', '-- subscribe');
	$subscribe =~ s/kafka-1.*?:9092'/${\ $cluster->brokers}'/ or die;
	$node->safe_psql('postgres', $subscribe);
	$node->safe_psql('postgres', "SELECT inventory.seek('stock', 'earliest')");
	append_to_file("$folder/consumer.py", example('consumer.md', '#!/usr/bin/env python3'));

	# A consumer is killed again and again, and its successor begins at the
	# beginning; the subscription goes back, too.
	my ($group, $consumer) = (0);
	my $database = $node->connstr('copy');
	my $start = sub {
		kill 'KILL', $consumer if $consumer;
		waitpid $consumer, 0 if $consumer;
		$group++;
		$consumer = fork // die;
		exec '/usr/bin/python3', "$folder/consumer.py", $cluster->brokers, 'stock', "group-$group", $database unless $consumer;
	};
	my $turns = 0;
	$run = run_clients($node, [
			map {
				join '', map { my $sku = one_of(@skus); one_of("SELECT inventory.issue('$sku', 'L', 1);\n", "SELECT inventory.receive('$sku', 'L', 2);\n", "SELECT pg_sleep(0.05);\n") } 1 .. 300
			} 1 .. $CLIENTS ], meanwhile => sub { $start->() if $turns++ % 100 == 0; });
	$start->();
	$node->safe_psql('postgres', "SELECT inventory.seek('stock', 'earliest')");
	usleep(500_000);
	$start->();
	my $stock = $node->safe_psql('postgres', q{SELECT sku || '@' || location, on_hand FROM inventory.stock_level ORDER BY (sku || '@' || location) COLLATE "C"});
	my $until = time + $PostgreSQL::Test::Utils::timeout_default;
	my $counted = '';
	while ($counted ne $stock && time < $until)
	{
		usleep(200_000);
		$counted = $node->safe_psql('copy', 'SELECT key, on_hand FROM counted ORDER BY key COLLATE "C"');
	}
	is($counted, $stock, "a consumer that was killed $group times has added up the stock");
	is($node->safe_psql('copy', 'SELECT count(*) FROM received'), $node->safe_psql('postgres', 'SELECT count(*) FROM inventory.event'), 'every event once');
	my $records = sub { return scalar(() = $cluster->read_topic('stock', '-f', '%k\n') =~ /\n/g); };
	my $events = $node->safe_psql('postgres', 'SELECT count(*) FROM inventory.event');
	usleep(200_000) while $records->() < 1.5 * $events && time < $until;
	cmp_ok($records->(), '>', $events, 'of ' . $records->() . " records for $events events");
	usleep(1_000_000);
	is($node->safe_psql('copy', 'SELECT key, on_hand FROM counted ORDER BY key COLLATE "C"'), $stock, 'which change nothing any more');
	kill 'KILL', $consumer;
	waitpid $consumer, 0;
	$cluster->end;
}
$node->stop;
done_testing();
