# Shortages and what is back are told once per crossing: whatever order transactions
# commit in, when the projection rolls back, when its ticks are cut in the middle of a
# backlog, and when the server crashes.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $CLIENTS = 6;
my $node = new_node('shortage', conf => <<'CONF');
inventory.workers = off
inventory.tick_interval = 10
restart_after_crash = on
CONF
my @skus = map { "sku-$_" } 1 .. 120;
add_skus($node, 2, @skus);
$node->safe_psql('postgres', 'SELECT inventory.project()');

# Items go to 0 and come back all the time; some transactions stay open for a while,
# some roll back.
sub script
{
	my $sql = '';
	for (1 .. 250)
	{
		my ($a, $b) = (one_of(@skus[ 0 .. 19 ]), one_of(@skus[ 0 .. 19 ]));
		$sql .= one_of(
			"SELECT inventory.issue('$a', 'L', 1);\n",
			"SELECT inventory.issue('$a', 'L', 2);\n",
			"SELECT inventory.receive('$a', 'L', 1);\n",
			"SELECT inventory.confirm(inventory.reserve('$a', 'L', 1));\n",
			"BEGIN; SELECT pg_current_xact_id(); SELECT pg_sleep(.003); SELECT inventory.issue('$a', 'L', 1); COMMIT;\n",
			"BEGIN; SELECT inventory.receive('$a', 'L', 1); SELECT pg_sleep(.003); SELECT inventory.receive('$b', 'L', 1); COMMIT;\n",
			"BEGIN; SELECT inventory.receive('$a', 'L', 1); SELECT inventory.issue('$b', 'L', 1); ROLLBACK;\n");
	}
	return $sql;
}

# Per key, what was told; and what must have been, from the events that are in each
# tick and not in the one before.  An item's first tick tells nothing.
my $TOLD = q{
SELECT key, string_agg(split_part(topic, '.', 3), ' ' ORDER BY message_id) AS said
FROM inventory.outbox WHERE topic LIKE 'inventory.stock.%' GROUP BY key};
my $MUST = q{
SELECT sku || '@L' AS key, string_agg(CASE WHEN short THEN 'shortage' ELSE 'back' END, ' ' ORDER BY tick_id) AS said
FROM (SELECT *, lag(short) OVER (PARTITION BY stock_id ORDER BY tick_id) AS was_short FROM (
	SELECT stock_id, tick_id, sum(sum(v.on_hand_delta - v.reserved_delta - v.committed_delta)) OVER (PARTITION BY stock_id ORDER BY tick_id) <= 0 AS short
	FROM (SELECT tick_id, snapshot, lag(snapshot) OVER (ORDER BY tick_id) AS before FROM inventory.tick) k
	JOIN inventory.event v ON pg_visible_in_snapshot(v.xid, k.snapshot) AND NOT coalesce(pg_visible_in_snapshot(v.xid, k.before), false)
	GROUP BY stock_id, tick_id) s) x
JOIN inventory.stock USING (stock_id) JOIN inventory.sku USING (sku_id)
WHERE short <> was_short GROUP BY sku};

my $run = run_clients($node, [ (map { script() } 1 .. $CLIENTS),
	"SELECT inventory.project();\nBEGIN; SELECT inventory.project(); ROLLBACK;\n" x 300 ]);
only_codes($run, 'nothing goes wrong', 'IV001');
$node->safe_psql('postgres', 'SELECT inventory.project()');
is($node->safe_psql('postgres', "SELECT t, m FROM ($TOLD) t FULL JOIN ($MUST) m USING (key) WHERE t.said IS DISTINCT FROM m.said"),
	'', 'every crossing from one tick to the next is told, once and in order');
cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM inventory.outbox WHERE topic LIKE 'inventory.stock.%'"), '>', 50, 'there were many');

# A tick that is cut between a receipt and what an older transaction has taken from it.
$node->append_conf('postgresql.conf', 'inventory.tick_events = 100');
$node->reload;
my $older = session($node);
$node->safe_psql('postgres', q{
INSERT INTO inventory.sku (sku) VALUES ('cut');
SELECT inventory.receive('cut', 'L', 5);
SELECT inventory.project()});
ask($older, 'BEGIN; SELECT pg_current_xact_id()');
$node->safe_psql('postgres', q{SELECT inventory.receive('cut', 'L', 10)});
ask($older, q{SELECT inventory.issue('cut', 'L', 12)});
my $others = join ',', map { "'$_'" } @skus[ 20 .. 119 ];
my $bulk = qq{SELECT inventory.post('receive', array_agg(s), array_agg('L'::text), array_agg(1::bigint)) FROM unnest(ARRAY[$others]) s};
is(ask($older, $bulk), '100', 'an older transaction takes from a receipt and goes on');
ask($older, 'COMMIT');
$older->quit;
$node->safe_psql('postgres', $bulk) for 1 .. 3;
sub await_projection
{
	return $node->poll_query_until('postgres', 'SELECT (SELECT sum(events) FROM inventory.tick) = (SELECT count(*) FROM inventory.event)');
}
$node->append_conf('postgresql.conf', 'inventory.workers = on');
$node->reload;
ok(await_projection(), 'the worker projects it in pieces');
is($node->safe_psql('postgres', q{
SELECT min(on_hand) FROM (SELECT k.tick_id, sum(v.on_hand_delta) AS on_hand FROM inventory.tick k
JOIN inventory.event v ON pg_visible_in_snapshot(v.xid, k.snapshot)
JOIN inventory.stock USING (stock_id) JOIN inventory.sku USING (sku_id) WHERE sku = 'cut' GROUP BY k.tick_id) x}),
	'-7', 'one of which is without the receipt');
is($node->safe_psql('postgres', q{SELECT count(*) FROM inventory.outbox WHERE key = 'cut@L'}), '0', 'which is no shortage');
$node->safe_psql('postgres', q{SELECT inventory.issue('cut', 'L', 3)});
await_projection();
is($node->safe_psql('postgres', q{SELECT topic FROM inventory.outbox WHERE key = 'cut@L'}), 'inventory.stock.shortage', 'the next one is told');

# The worker, in small pieces, and a crash in the middle: of each item shortage and
# back are told in turn, and what was told last is so.
my @scripts = map { [ script(), script(), script() ] } 1 .. $CLIENTS;
$run = start_clients($node, \@scripts);
$node->poll_query_until('postgres', "SELECT count(*) > 200 FROM inventory.outbox WHERE topic LIKE 'inventory.stock.%'");
$node->stop('immediate');
$node->start;
finish_clients($run);
run_clients($node, [ map { script() } 1 .. $CLIENTS ]);
ok(await_projection(), 'after a crash, and with more of it, all is projected');
is($node->safe_psql('postgres', q{
SELECT * FROM (SELECT key, topic, lag(topic) OVER (PARTITION BY key ORDER BY message_id) AS before FROM inventory.outbox
	WHERE topic LIKE 'inventory.stock.%') o WHERE topic = before}), '', 'shortage and back are told in turn');
is($node->safe_psql('postgres', q{
SELECT sku, v.available, o.topic, k.is_short FROM inventory.stock_level v JOIN inventory.stock k USING (stock_id)
LEFT JOIN LATERAL (SELECT topic FROM inventory.outbox WHERE key = sku || '@L' AND topic LIKE 'inventory.stock.%' ORDER BY message_id DESC LIMIT 1) o ON true
WHERE (v.available <= 0) <> k.is_short OR (v.available <= 0) <> (coalesce(o.topic, 'inventory.stock.back') = 'inventory.stock.shortage')}),
	'', 'and what was told last is so');
agrees($node, 'afterwards');

$node->stop;
done_testing();
