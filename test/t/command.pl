# Commands executed by a delivery process: whoever is killed in the middle of
# whatever, each is executed exactly once; a saga that cannot go on is compensated;
# what is overdue is seen, and tried at once by retry_pending().
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $HELD = 4713;
my $node = new_node('command', conf => <<'CONF');
max_worker_processes = 20
restart_after_crash = on
inventory.command_overdue = 2s
log_min_messages = warning
CONF
add_skus($node, 1000, 'A', 'B');
$node->safe_psql('postgres', q{INSERT INTO inventory.sku (sku) VALUES ('EMPTY')});

# Where the test can stop an execution that has written everything: the results
# of the command that is named in the trap wait for a lock.
$node->safe_psql('postgres', qq{
CREATE TABLE trap (command text);
CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN IF EXISTS (SELECT FROM public.trap WHERE command = new.command) THEN PERFORM pg_advisory_xact_lock_shared($HELD); END IF; RETURN NULL; END';
CREATE TRIGGER held AFTER INSERT ON inventory.command_result FOR EACH ROW EXECUTE FUNCTION held();
CREATE TABLE handed_in (reference text PRIMARY KEY, message_id bigint NOT NULL);
});

sub until_true
{
	my ($condition, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($node->poll_query_until('postgres', "SELECT $condition"), $name)
	  || diag $node->safe_psql('postgres', 'SELECT * FROM inventory.stat_delivery; SELECT * FROM inventory.pending_command LIMIT 20; SELECT * FROM inventory.saga');
}

sub delivery_pid
{
	$node->poll_query_until('postgres', "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'inventory delivery')");
	return $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'inventory delivery'");
}

# The server ends all its processes and starts again.
sub kill_delivery
{
	my $pid = delivery_pid();
	my $started = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');
	kill 'KILL', $pid;
	usleep(100_000);
	$node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)");
	return;
}

# Stops at the result of a command, kills what executes it, lets it go on.
sub kill_at
{
	my ($command, $what, $submit) = @_;
	my $gate = session($node);
	ask($gate, "SELECT pg_advisory_lock($HELD)");
	$node->safe_psql('postgres', "INSERT INTO trap VALUES ('$command')");
	my $answer = $node->safe_psql('postgres', $submit);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	until_true("EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.backend_type = 'inventory delivery' AND l.objid = $HELD AND NOT l.granted)", "$what: is being executed");
	kill_delivery();
	eval { $gate->{run}->kill_kill; };
	$node->safe_psql('postgres', 'TRUNCATE trap');
	return $answer;
}

my $number = 0;

# Commands, each known by its reference.
sub hand_in
{
	my ($count) = @_;
	my ($from, $to) = ($number + 1, $number += $count);
	return qq{
INSERT INTO handed_in SELECT 'c-' || i, inventory.submit(CASE WHEN i % 3 = 0 THEN 'issue' ELSE 'receive' END,
	jsonb_build_object('sku', CASE WHEN i % 2 = 0 THEN 'A' ELSE 'B' END, 'location', 'L', 'quantity', 1, 'reference', 'c-' || i),
	request_id => 'r-' || i, key => 'key ' || i % 7)
FROM generate_series($from, $to) i};
}

sub all_done
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	until_true("(SELECT count(*) FROM handed_in) = (SELECT count(*) FROM handed_in JOIN inventory.command_result USING (message_id) WHERE state = 'done')", "$name: all are done");
	is($node->safe_psql('postgres', q{SELECT h.reference, count(e.event_id) FROM handed_in h LEFT JOIN inventory.event e USING (reference) GROUP BY 1 HAVING count(e.event_id) <> 1}), '', "$name: each once");
	is($node->safe_psql('postgres', q{SELECT count(*) FROM handed_in h JOIN inventory.command_result r USING (message_id) JOIN inventory.event e USING (reference) WHERE (r.result #>> '{}')::bigint <> e.event_id}), '0', "$name: with its result");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM inventory.pending_command'), '0', "$name: none is pending");
	return;
}

# ---- A database without a subscription ----

$node->safe_psql('postgres', hand_in(1));
all_done('the first one');
is($node->safe_psql('postgres', q{SELECT actor FROM inventory.event WHERE reference = 'c-1'}), $node->safe_psql('postgres', 'SELECT current_user'), 'who has submitted it is the actor');

# ---- Killed in the middle ----

kill_at('receive', 'a result is written', hand_in(50));
all_done('killed with a result written');

for my $round (1 .. 4)
{
	$node->safe_psql('postgres', hand_in(1500));
	my $before = $node->safe_psql('postgres', 'SELECT count(*) FROM inventory.command_result');
	$node->poll_query_until('postgres', "SELECT count(*) > $before FROM inventory.command_result");
	usleep(number_below(60_000));
	$round == 4 ? do { $node->stop('immediate'); $node->start; } : kill_delivery();
}
all_done('killed at any time');

# ---- A saga ----

my $saga = q{[
	{"command": "receive", "arguments": {"sku": "A", "location": "L", "quantity": 3, "reference": "saga"}, "compensate_with": {"command": "reverse", "arguments": {"event_id": "$result", "reason": "undo 1"}}},
	{"command": "receive", "arguments": {"sku": "A", "location": "L", "quantity": 4, "reference": "saga"}, "compensate_with": {"command": "reverse", "arguments": {"event_id": "$result", "reason": "undo 2"}}},
	{"command": "receive", "arguments": {"sku": "NONE", "location": "L", "quantity": 5, "reference": "saga"}}]};
my $id = kill_at('reverse', 'a compensation', "SELECT inventory.saga('$saga')");
until_true("(SELECT state FROM inventory.saga WHERE saga_id = $id) = 'compensated'", 'the saga is compensated after the crash');
is($node->safe_psql('postgres', q{SELECT string_agg(reason, ', ' ORDER BY event_id) FROM inventory.event WHERE reason LIKE 'undo _'}), 'undo 2, undo 1', 'in reverse order, each once');
is($node->safe_psql('postgres', q{SELECT count(*) FROM inventory.event WHERE reference = 'saga'}), '2', 'after what was done before');
$saga =~ s/NONE/A/;
$id = kill_at('receive', 'a command of a saga', "SELECT inventory.saga('$saga')");
until_true("(SELECT state FROM inventory.saga WHERE saga_id = $id) = 'done'", 'a saga goes on after a crash');
is($node->safe_psql('postgres', q{SELECT count(*) FROM inventory.event WHERE reference = 'saga'}), '5', 'each of its commands once');

# ---- Overdue ----

$id = $node->safe_psql('postgres', q{SELECT inventory.submit('reserve', '{"sku": "EMPTY", "location": "L", "quantity": 5}')});
until_true("(SELECT overdue AND attempts >= 2 AND state = 'retrying' FROM inventory.pending_command WHERE message_id = $id)", 'a command that fails for lack of stock is overdue');
$node->safe_psql('postgres', q{SELECT inventory.receive('EMPTY', 'L', 5)});
is($node->safe_psql('postgres', 'SELECT inventory.retry_pending()'), '1', 'retry_pending() finds it');
until_true("(SELECT state FROM inventory.command_result($id)) = 'done'", 'and the process executes it');
is($node->safe_psql('postgres', q{SELECT count(*) FROM inventory.event WHERE type = 'reserve' AND reserved_delta = 5}), '1', 'once');

# ---- Cancelled ----

$id = $node->safe_psql('postgres', q{SELECT inventory.submit('receive', '{"sku": "A", "location": "L", "quantity": 5, "reference": "cancelled"}', not_before => now() + interval '1 hour')});
until_true("(SELECT state FROM inventory.command_result($id)) = 'delayed'", 'a command waits for its time');
is($node->safe_psql('postgres', "SELECT inventory.cancel($id)"), 't', 'it is cancelled');
until_true('NOT EXISTS (SELECT FROM inventory.parked_message WHERE state <> \'dead\')', 'and waits no more');
is($node->safe_psql('postgres', q{SELECT count(*) FROM inventory.event WHERE reference = 'cancelled'}), '0', 'without an effect');

is($node->safe_psql('postgres', 'SELECT count(*) FROM inventory.verify()'), '0', 'verify() finds no discrepancy');
done_testing();
