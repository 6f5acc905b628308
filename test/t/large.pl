# A transaction may touch 100,000 stock items with default settings.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use Test::More;

my $ITEMS = 100_000;
my $node = new_node('large');
is($node->safe_psql('postgres', 'SHOW max_locks_per_transaction'), '64', 'max_locks_per_transaction is the default');
is($node->safe_psql('postgres', "SELECT capacity = current_setting('inventory.max_levels')::bigint AND capacity = 131072 FROM inventory.stat_level"),
	't', 'so is inventory.max_levels');
my $bytes = $node->safe_psql('postgres', 'SELECT bytes_per_entry FROM inventory.stat_level');
cmp_ok($bytes, '<=', 128, "a stock item takes at most 128 bytes of shared memory ($bytes)");
cmp_ok($bytes, '>=', 32, 'and no less than its numbers');
# What the server has reserved for it, whoever says so.
cmp_ok($node->safe_psql('postgres', "SELECT sum(allocated_size) / 131072 FROM pg_shmem_allocations WHERE name ILIKE '%inventory%'"),
	'<=', 140, 'which the size of the shared memory confirms');

$node->safe_psql('postgres', qq{
INSERT INTO inventory.location (location) VALUES ('L');
INSERT INTO inventory.sku (sku) SELECT 'sku-' || n FROM generate_series(1, $ITEMS + 40000) n});

my $all = sub {
	my ($type, $n, $from) = @_;
	$from //= 1;
	return "SELECT inventory.post('$type', array_agg('sku-' || n), array_agg('L'::text), array_agg(${n}::bigint)) FROM generate_series($from, $from + $ITEMS - 1) n";
};

# Rolled back: no trace.
is($node->safe_psql('postgres', "BEGIN; ${\ $all->('receive', 3) }; ROLLBACK"), $ITEMS, 'one call receives 100,000 stock items');
is($node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM inventory.event), (SELECT count(*) FROM inventory.stock), (SELECT coalesce(sum(pins), 0) FROM inventory.levels()), (SELECT coalesce(sum(on_hand + available), 0) FROM inventory.levels())'),
	'0|0|0|0', 'its rollback leaves no trace');
# Levels of stock items that were never made may stay in memory until their room
# is needed; from here on only those of real ones are looked at.

my $session = session($node);
ask($session, 'BEGIN');
is(ask($session, $all->('receive', 3)), $ITEMS, 'received again');
cmp_ok(ask($session, "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype NOT IN ('relation', 'virtualxid', 'transactionid')"),
	'<=', 1024, 'with at most 1,024 locks');
is(ask($session, "SELECT inventory.available('sku-1')"), ask($session, "SELECT inventory.available('sku-$ITEMS')"), 'first and last are alike');
is($node->safe_psql('postgres', "SELECT inventory.available('sku-$ITEMS')"), '0', 'nobody else has it before the commit');
is(ask($session, 'COMMIT'), '', 'it commits');
is($node->safe_psql('postgres', "SELECT count(*), sum(v.on_hand), sum(v.available), sum(v.pins), count(*) FILTER (WHERE v.available <> 3) FROM inventory.levels() v JOIN inventory.stock USING (stock_id)"),
	join('|', $ITEMS, 3 * $ITEMS, 3 * $ITEMS, 0, 0), 'and all are there');

# A failure at the very end takes everything back.
refused($node, "BEGIN; ${\ $all->('issue', 2) }; SELECT inventory.issue('sku-$ITEMS', 'L', 2)", 'IV001', 'the last line of a large transaction is refused');
refused($node, "SELECT inventory.post('issue', array_agg('sku-' || n), array_agg('L'::text), array_agg(CASE n WHEN $ITEMS THEN 4 ELSE 1 END::bigint)) FROM generate_series(1, $ITEMS) n",
	'IV001', 'a large call with one line that is short is refused');
is($node->safe_psql('postgres', 'SELECT count(*) FROM inventory.levels() v JOIN inventory.stock USING (stock_id) WHERE v.available <> 3 OR v.on_hand <> 3 OR v.pins <> 0'), '0', 'and has taken nothing');

# Two at once over the same items, one of them in a subtransaction that fails.
my $run = run_clients($node, [
	"BEGIN; SAVEPOINT a; ${\ $all->('issue', 1) }; ROLLBACK TO a; ${\ $all->('issue', 1) }; COMMIT;\n",
	"BEGIN; ${\ $all->('issue', 1) }; COMMIT;\n",
	"${\ $all->('issue', 1) };\n" ]);
# Three units, three takers; the aborted take may be in a taker's way.
only_codes($run, 'three such transactions at once meet at most a lack of stock', 'IV001', '25P02');
my $sold = 3 - (count_of($run, 'IV001'));
cmp_ok($sold, '>=', 1, 'and some are done');
is($node->safe_psql('postgres', "SELECT count(*) FROM inventory.levels() v JOIN inventory.stock USING (stock_id) WHERE v.available <> 3 - $sold OR v.on_hand <> 3 - $sold OR v.pins <> 0"), '0',
	"each has taken one unit of each stock item ($sold)");
is($node->safe_psql('postgres', $all->('receive', 5)), $ITEMS, 'a single call receives 100,000 more');

# A large reservation, from held to shipped.
is( $node->safe_psql('postgres', q{
SELECT inventory.reserve(jsonb_agg(jsonb_build_object('sku', 'sku-' || n, 'location', 'L', 'quantity', 1)), ttl => NULL) AS r FROM generate_series(1, 20000) n \gset
SELECT inventory.confirm(:r), inventory.ship(:r)}),
	'20000|20000', 'a reservation of 20,000 lines is confirmed and shipped');

# More than there is room for.
my ($status, $out, $err) = $node->psql('postgres', "BEGIN; ${\ $all->('receive', 1) }; SELECT inventory.post('receive', array_agg('sku-' || n), array_agg('L'::text), array_agg(1::bigint)) FROM generate_series($ITEMS + 1, $ITEMS + 40000) n",
	extra_params => [ '-v', 'VERBOSITY=verbose' ]);
like($err, qr/ERROR:\s+IV018.*HINT:/s, 'a transaction over more stock items than the setting allows is refused with a hint');
is($node->safe_psql('postgres', 'SELECT coalesce(sum(pins), 0) FROM inventory.levels()'), '0', 'and pins nothing');
is($node->safe_psql('postgres', q{
SELECT (SELECT sum(on_hand_delta) FROM inventory.event) = (SELECT sum(on_hand) FROM inventory.levels()),
	(SELECT sum(on_hand_delta - reserved_delta - committed_delta) FROM inventory.event) = (SELECT sum(available) FROM inventory.levels()),
	(SELECT count(*) FROM inventory.levels() JOIN inventory.stock USING (stock_id))}), "t|t|$ITEMS", 'levels and events agree to the unit');
is($node->safe_psql('postgres', 'SELECT count(*) FROM inventory.verify()'), '0', 'verify() finds nothing');

$session->quit;
$node->stop;
done_testing();
