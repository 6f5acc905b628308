# The ring of message tables, kept up by the worker: while sessions publish as
# fast as they can, tables are closed when they are full and emptied when they
# are over, also across kill -9; every message is delivered, and once.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = new_node('outbox_ring', conf => q{
inventory.outbox_segment_size = '1MB'
inventory.outbox_retention = '1s'
inventory.tick_interval = 100
synchronous_commit = off
restart_after_crash = on
});
sub call { return $node->safe_psql('postgres', $_[0]); }

call(q{
CREATE TABLE got (message_id bigint PRIMARY KEY);
CREATE FUNCTION take(m inventory.message) RETURNS void LANGUAGE sql AS 'INSERT INTO public.got VALUES (m.number)';
CREATE TABLE sent (message_id bigint PRIMARY KEY);
SELECT inventory.subscribe('s', '{ring.#}', 'function', '{"handler": "public.take"}');
});

my $PUBLISH = q{WITH p AS (SELECT inventory.publish('ring.x', 'k' || n % 100, to_jsonb(repeat('x', 1000))) AS id FROM generate_series(1, 50) n)
INSERT INTO sent SELECT id FROM p;};
my $script = PostgreSQL::Test::Utils::tempdir() . '/publish.sql';
PostgreSQL::Test::Utils::append_to_file($script, "$PUBLISH\n");

sub publish
{
	my ($seconds) = @_;
	$node->command_ok([ 'pgbench', '-n', '-c', '4', '-R', 40, '-T', $seconds, '-f', $script, 'postgres' ], "publishing for $seconds seconds");
	return;
}
# The worker looks at once when a table is full, and else every five minutes.
sub emptied
{
	for (1 .. 100)
	{
		call('SELECT count(*) FROM inventory.maintain()');
		return 1 if call(q{SELECT count(*) >= 6 FROM inventory.outbox_segment WHERE state = 'free'}) eq 't';
		sleep(0.3);
	}
	return 0;
}
sub ring_bytes { return call('SELECT sum(bytes) FROM inventory.outbox_ring'); }

publish(12);
my $published = call('SELECT count(*) FROM sent');
cmp_ok(ring_bytes(), '<', $published * 1000 * 0.75, 'the worker has emptied tables meanwhile: the ring has less than what was published');
ok($node->poll_query_until('postgres', 'SELECT count(*) = (SELECT count(*) FROM sent) FROM got'), "all $published messages are delivered");
ok(emptied(), 'tables are emptied');
is(call('SELECT count(*) FROM got WHERE message_id NOT IN (SELECT message_id FROM sent)'), '0', 'and nothing else');

# A subscription that stands still holds what it has not had, and no more.
call(q{SELECT inventory.pause('s')});
my $before = call('SELECT max(message_id) FROM sent');
publish(3);
my $left = call("SELECT count(*) FROM sent WHERE message_id > $before");
sleep(2);
is(call("SELECT count(*) FROM inventory.outbox WHERE message_id > $before"), $left, "a subscription that stands still keeps its $left messages");
cmp_ok(call(q{SELECT count(*) FROM inventory.outbox_ring WHERE subscriptions = '{s}'}), '>', 1, 'in several tables');
call(q{SELECT inventory.resume('s')});
ok($node->poll_query_until('postgres', 'SELECT count(*) = (SELECT count(*) FROM sent) FROM got'), 'it gets them all when it goes on');
ok(emptied(), 'and then they go');

# kill -9 while the ring turns.
for my $round (1 .. 2)
{
	my ($in, $out, $err) = ('', '', '');
	my $bench = IPC::Run::start([ 'pgbench', '-n', '-c', '4', '-R', 40, '-T', '4', '-f', $script, '-d', $node->connstr('postgres') ], \$in, \$out, \$err);
	sleep(1 + rand(1));
	my $pid = call(q{SELECT pid FROM pg_stat_activity WHERE backend_type ~ '^inventory' AND datname = 'postgres' ORDER BY random() LIMIT 1});
	kill 'KILL', $pid if $pid;
	eval { IPC::Run::finish($bench); };
	ok($node->poll_query_until('postgres', 'SELECT true'), "kill -9 of a process, round $round");
	ok($node->poll_query_until('postgres', 'SELECT count(*) = (SELECT count(*) FROM sent) FROM got'), "every message that was committed is delivered once");
	is(call('SELECT count(*) FROM got WHERE message_id NOT IN (SELECT message_id FROM sent)'), '0', 'and none that was not');
	is(call(q{SELECT count(*) FROM inventory.outbox_segment WHERE state = 'current'}), '1', 'one table is current');
}
publish(2);
ok($node->poll_query_until('postgres', 'SELECT count(*) = (SELECT count(*) FROM sent) FROM got'), 'and it goes on');

is(call(q{SELECT coalesce(sum(pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid)), 0) FROM pg_class c WHERE c.relname ~ '^outbox_[0-7]$'}), '0', 'no message was ever updated or deleted');
$node->stop;
done_testing();
