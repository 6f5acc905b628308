# Subscriptions with their delivery processes: changes reach a running process,
# a replay ends by itself, what breaks heals when it is put right, and the journal
# of cursors stays small and without dead rows while a snapshot is held.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('node', conf => "max_worker_processes = 20\nautovacuum_naptime = 1s\n");
sub call { return $node->safe_psql('postgres', $_[0]); }
sub becomes { return ok($node->poll_query_until('postgres', $_[0], $_[1] // 't'), $_[2]); }

add_skus($node, 1000, 'A', 'B');
call(q{
CREATE TABLE got (subscription text, position bigint, id text, key text, reference text, replayed boolean);
CREATE FUNCTION handle(m inventory.message) RETURNS void LANGUAGE sql AS
	'INSERT INTO public.got VALUES (m.subscription, m.position, m.id, m.key, m.payload->>$$reference$$, m.replayed)';
GRANT INSERT ON got TO PUBLIC;
SELECT inventory.subscribe('main', '{inventory.event.*}', 'function', '{"handler": "public.handle"}'),
	inventory.subscribe('halves', '{inventory.event.*}', 'function', '{"handler": "public.handle", "workers": 2, "batch": 1}');
});

# ---- A running process ----

sub issue { return call("SELECT inventory.issue('A', 'L', 1, reference => '$_[0]')"); }
sub got { return "SELECT coalesce(string_agg(reference, ' ' ORDER BY position), '') FROM got WHERE subscription = '$_[0]'"; }

issue('one');
becomes(got('main'), 'one', 'a message is delivered');
call(q{SELECT inventory.pause('main')});
issue('two');
becomes(got('halves'), 'one two', 'another subscription goes on');
is(call(got('main')), 'one', 'a paused one does not');
becomes(q{SELECT processes FROM inventory.stat_subscription WHERE subscription = 'main'}, '0', 'and has no process');
call(q{SELECT inventory.resume('main')});
becomes(got('main'), 'one two', 'it goes on where it was');
call(q{SELECT inventory.seek('main', 'earliest')});
becomes(q{SELECT string_agg(reference, ' ' ORDER BY position) FROM got WHERE subscription = 'main' AND reference IS NOT NULL}, 'one two one two',
	'seek() reaches a running process');
is(call(q{SELECT count(*) = count(DISTINCT position) FROM got WHERE subscription = 'main'}), 't', 'no position was given twice');

# ---- A replay ----

my $early = session($node);
ask($early, 'BEGIN');
my $replay = call(q{SELECT inventory.replay('main', 'function', '2001-01-01', options => '{"handler": "public.handle"}')});
issue('three');
becomes("SELECT string_agg(reference, ' ' ORDER BY position) FROM got WHERE subscription = '$replay'", 'one two', 'a replay delivers what there was');
sleep 3;
is(call("SELECT state FROM inventory.subscription WHERE name = '$replay'"), 'active', 'it waits for a transaction that began before its end');
ask($early, q{SELECT inventory.issue('A', 'L', 1, reference => 'early'); COMMIT});
$early->quit;
becomes("SELECT state FROM inventory.subscription WHERE name = '$replay'", 'finished', 'a replay ends by itself');
is(call("SELECT string_agg(reference, ' ' ORDER BY position) FROM got WHERE subscription = '$replay' AND replayed"), 'one two early', 'and has delivered what began before its end, nothing later');
becomes(got('halves'), 'one two three early', 'the others go on meanwhile');
becomes("SELECT processes FROM inventory.stat_subscription WHERE subscription = '$replay'", '0', 'then it has no process');
refused($node, "SELECT inventory.$_", '55000', "there is no $_ any more") for "pause('$replay')", "resume('$replay')", "seek('$replay', 'now')";
call("SELECT inventory.unsubscribe('$replay')");

# ---- What breaks and is put right ----

call(q{ALTER FUNCTION handle(inventory.message) RENAME TO handle_away});
becomes(q{SELECT state FROM inventory.stat_subscription WHERE subscription = 'main'}, 'broken', 'without its handler a subscription is broken');
issue('four');
call(q{ALTER FUNCTION handle_away(inventory.message) RENAME TO handle});
becomes(q{SELECT count(*) FROM got WHERE subscription = 'main' AND reference = 'four'}, '1', 'with it, it goes on');
call(q{CREATE ROLE clerk; GRANT USAGE ON SCHEMA inventory TO clerk; GRANT EXECUTE ON FUNCTION inventory.subscribe(text, text[], text, jsonb) TO clerk});
call(q{SET ROLE clerk; SELECT inventory.subscribe('of-clerk', '{inventory.event.*}', 'function', '{"handler": "public.handle"}')});
issue('five');
becomes(got('of-clerk'), 'five', 'a handler runs for its owner');
call(q{REVOKE INSERT ON got FROM PUBLIC});
issue('six');
becomes(q{SELECT parked FROM inventory.stat_subscription WHERE subscription = 'of-clerk'}, '1', 'and with his rights');
call(q{DROP OWNED BY clerk; DROP ROLE clerk});
issue('seven');
becomes(q{SELECT state FROM inventory.stat_subscription WHERE subscription = 'of-clerk'}, 'broken', 'without its owner it is broken');
becomes(q{SELECT count(*) FROM got WHERE subscription = 'main' AND reference = 'seven'}, '1', 'which is nothing to the others');
call(q{SELECT inventory.unsubscribe('of-clerk')});
becomes(q{SELECT count(*) FROM inventory.stat_deliveries() d WHERE NOT EXISTS (SELECT FROM inventory.subscription s WHERE s.subscription_id = d.subscription_id)}, '0',
	'nothing of a removed subscription remains');

# ---- What a reader sees ----

call(q{SELECT inventory.subscribe('fails', '{private}', 'function', '{"handler": "public.fail"}')}) if call(q{
CREATE FUNCTION fail(m inventory.message) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'secret %', m.payload; END $$;
CREATE ROLE reader; SELECT inventory.grant_access('reader', 'reader') IS NULL});
call(q{ALTER FUNCTION fail(inventory.message) RENAME TO fail_away});
becomes(q{SELECT count(*) FROM inventory.stat_deliveries() WHERE last_error LIKE '%fail%'}, '1', 'an error is shown to who owns the subscription');
is(call("SET ROLE reader; SELECT count(*), count(last_error) FROM inventory.$_"), $_ eq 'stat_subscription' ? '3|0' : '4|0', "a reader sees none in $_") for 'stat_deliveries()', 'stat_delivery', 'stat_subscription';
call(q{SELECT inventory.unsubscribe('fails'); DROP OWNED BY reader; DROP ROLE reader});

# ---- The journal under a held snapshot ----

call('TRUNCATE got');
my $files = q{SELECT string_agg(pg_relation_filenode(c)::text, ' ') FROM unnest(ARRAY['inventory.delivery_cursor_0', 'inventory.delivery_cursor_1']::regclass[]) c};
my %seen = (call($files) => 1);
# As if another one had moved for long.
call(q{
SELECT inventory.subscribe('mover', '{never}', 'notify', '{"channel": "c"}'), inventory.pause('mover');
SET inventory.restoring = on;
INSERT INTO inventory.delivery_cursor
	SELECT c.subscription_id, c.slice, n, c.after, c.upto, c.last_number, c.position, c.epoch, c.timeline, c.since, c.until, c.written_at, 0
	FROM inventory.delivery_cursor c JOIN inventory.subscription s USING (subscription_id), generate_series(2, 8000) n WHERE s.name = 'mover'});
my $holder = session($node);
is(ask($holder, 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM got'), '0', 'a snapshot is held');
my $largest = 0;
my $clients = 4;
my $each = 20000;
my $writing = start_clients($node, [ map { "DO \$\$ BEGIN FOR n IN 1..$each LOOP PERFORM inventory.adjust('A', 'L', 1, 'x'); COMMIT; END LOOP; END \$\$;" } 1 .. $clients ]);
my $total = $clients * $each;
for (1 .. 600)
{
	$seen{ call($files) } = 1;
	my $size = call(q{SELECT sum(pg_relation_size(c)) FROM unnest(ARRAY['inventory.delivery_cursor_0', 'inventory.delivery_cursor_1']::regclass[]) c});
	$largest = $size if $size > $largest;
	last if call(q{SELECT count(*) FROM got WHERE subscription = 'halves'}) == $total;
	select undef, undef, undef, 0.2;
}
finish_clients($writing);
is(call(q{SELECT count(*), count(DISTINCT id), count(DISTINCT position) FROM got WHERE subscription = 'halves'}), "$total|$total|$total", 'every message was delivered once');
becomes(q{SELECT count(*) FROM got WHERE subscription = 'main'}, $total, 'to each subscription');
cmp_ok(scalar(keys %seen), '>', 1, 'the journal was emptied meanwhile');
is(call(q{SELECT c.cursor_no FROM inventory.cursors() c JOIN inventory.subscription s USING (subscription_id) WHERE s.name = 'mover'}), '8000', 'a cursor that has not moved was carried over');
note "largest: $largest bytes, " . keys(%seen) . ' states of the files';
becomes(q{SELECT coalesce(sum(n_dead_tup), 0) FROM pg_stat_user_tables WHERE relname LIKE 'delivery\_cursor\__'}, '0', 'there are no dead rows in it');
is(call(q{SELECT count(DISTINCT position >> 40) FROM got WHERE subscription = 'halves'}), '1', 'one key is with one worker');
is(ask($holder, 'SELECT count(*) FROM got; COMMIT'), '0', 'the snapshot has been held all the time');
$holder->quit;

# ---- A crash ----

my $cursors = q{SELECT s.name, c.slice, c.position FROM inventory.cursors() c JOIN inventory.subscription s USING (subscription_id) ORDER BY 1, 2};
call(q{SELECT inventory.pause(name) FROM inventory.subscription});
becomes(q{SELECT sum(processes) FROM inventory.stat_subscription}, '0', 'all is paused');
my $was = call($cursors);
$node->stop('immediate');
$node->start;
is(call($cursors), $was, 'after a crash every cursor is where it was');
call(q{SELECT inventory.resume(name) FROM inventory.subscription WHERE name <> 'mover'});
issue('last');
becomes(q{SELECT count(*) FROM got WHERE reference = 'last'}, '2', 'and delivery goes on');
is(call(q{SELECT count(*) - count(DISTINCT (subscription, id)) FROM got}), '0', 'nothing was delivered twice');
agrees($node, 'in the end');
done_testing();
