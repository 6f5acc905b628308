# While a snapshot, and a transaction that has written, are held, publishing and
# delivering cost what they did before: there are no dead rows, the ring goes round, and
# a message is read from as few pages at the end as at the beginning.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $ROUNDS = 60;
my $MESSAGES = 400;
my $node = new_node('held', conf => <<'CONF');
inventory.workers = off
inventory.outbox_segment_size = 256kB
inventory.outbox_retention = 0
autovacuum = off
CONF
$node->safe_psql('postgres', q{
INSERT INTO inventory.location (location) VALUES ('L');
INSERT INTO inventory.sku (sku) VALUES ('A');
CREATE TABLE got (number bigint, topic text);
CREATE FUNCTION note(message inventory.message) RETURNS void LANGUAGE sql AS
	$$INSERT INTO public.got VALUES (message.number, message.topic)$$;
-- A transaction for each.
CREATE PROCEDURE publish_many(count integer) LANGUAGE plpgsql AS $$
BEGIN
	FOR n IN 1..count LOOP
		PERFORM inventory.publish('held.topic', 'key ' || n % 10, jsonb_build_object('n', n, 'text', repeat('x', 200)));
		COMMIT;
	END LOOP;
END $$;
-- Pages that a statement looks at.
CREATE FUNCTION pages(statement text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	plan json;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, FORMAT json) ' || statement INTO plan;
	RETURN (plan -> 0 -> 'Plan' ->> 'Shared Hit Blocks')::bigint + (plan -> 0 -> 'Plan' ->> 'Shared Read Blocks')::bigint;
END $$;
SELECT inventory.subscribe('held', '{held.#}', 'function', '{"handler": "public.note"}')});

# One that has read, and one that has written; both hold back what VACUUM may remove.
my ($reader, $writer) = (session($node), session($node));
ask($reader, 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM inventory.sku');
ask($writer, 'BEGIN; SELECT pg_current_xact_id()');

# One session, which has everything cached that it will need.
my $session = session($node);
my (@published, @delivered, @sizes, %current);
for my $round (1 .. $ROUNDS)
{
	ask($session, "CALL publish_many($MESSAGES)");
	push @published, ask($session, q{SELECT pages($$SELECT count(inventory.publish('held.topic', 'k', '{}')) FROM generate_series(1, 50)$$)});
	push @delivered, ask($session, q{SELECT pages($$SELECT inventory.deliver('held')$$)});
	ask($session, 'SELECT inventory.maintain()');
	push @sizes, ask($session, q{SELECT sum(bytes) FROM inventory.outbox_ring});
	$current{ ask($session, q{SELECT segment FROM inventory.outbox_ring WHERE state = 'current'}) }++;
}
note "pages to publish: @published", "\npages to deliver: @delivered", "\nbytes: @sizes";
my $all = $ROUNDS * ($MESSAGES + 50);
is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT number) FROM got'), "$all|$all", 'every message is delivered once');
is(join(' ', map { $current{$_} > 1 ? $_ : () } 0 .. 7), '0 1 2 3 4 5 6 7', 'the ring has gone round more than once');

sub largest { return (sort { $a <=> $b } @_)[-1]; }
my $quarter = $ROUNDS / 4;
cmp_ok(largest(@sizes[ -$quarter .. -1 ]), '<=', 1.1 * largest(@sizes[ $quarter .. 2 * $quarter - 1 ]), 'it does not grow');
cmp_ok(largest(@sizes), '<', 8 * 256 * 1024 * 1.5, 'beyond what it may have');
cmp_ok(largest(@published[ -$quarter .. -1 ]), '<=', 1.2 * largest(@published[ 1 .. $quarter ]), 'publishing looks at no more pages at the end than at the beginning');
cmp_ok(largest(@delivered[ -$quarter .. -1 ]), '<=', 1.2 * largest(@delivered[ 1 .. $quarter ]), 'nor does delivering');

# By the pages themselves, not by what statistics say of them.
$node->safe_psql('postgres', 'CREATE EXTENSION pgstattuple');
is($node->safe_psql('postgres', q{
SELECT c.oid::regclass, s.dead_tuple_count FROM pg_class c CROSS JOIN LATERAL pgstattuple(c.oid::regclass) s
WHERE c.relnamespace = 'inventory'::regnamespace AND c.relkind = 'r'
	AND c.relname ~ '^(outbox_[0-7]|delivery_cursor_[01]|parked_message|event_.*)$' AND s.dead_tuple_count > 0}),
	'', 'there is no dead row in the outbox, the cursors and the events');
cmp_ok($node->safe_psql('postgres', q{
SELECT sum(s.dead_tuple_count) FROM pg_class c CROSS JOIN LATERAL pgstattuple(c.oid::regclass) s
WHERE c.relnamespace = 'inventory'::regnamespace AND c.relkind = 'r'}), '<', $all / 50, 'and few anywhere: some for each turn of the ring');

is(ask($reader, 'SELECT count(*) FROM inventory.sku; COMMIT'), '1', 'the snapshot has been held all the time');
ask($writer, q{SELECT inventory.publish('held.late', 'k', '{}'); COMMIT});
is($node->safe_psql('postgres', q{SELECT inventory.deliver('held')}), '1', 'and what the old transaction publishes at last is delivered');

$_->quit for $session, $reader, $writer;
$node->stop;
done_testing();
