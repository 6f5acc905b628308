# Commands and sagas with workers: whoever is killed, and wherever, each command
# that was committed is executed exactly once or, if it was cancelled or could not
# be, not at all; a saga has all of its effects in the end, or none.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

my $CLIENTS = 5;
my $HELD = 4714;
my $node = new_node('command_crash', conf => <<'CONF');
max_worker_processes = 20
restart_after_crash = on
log_min_messages = warning
CONF
my @skus = map { "sku-$_" } 1 .. 5;
add_skus($node, 1_000_000, @skus);

# What was submitted, and how many events it is to write if it is executed.  All
# of a command's or saga's events have its reference.
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE submitted (message_id bigint PRIMARY KEY, reference text UNIQUE, events bigint, fails boolean, ordered bigint);
CREATE TABLE begun (saga_id bigint PRIMARY KEY, reference text UNIQUE, events bigint, fails boolean);
CREATE SEQUENCE reference;

CREATE FUNCTION a_sku() RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT 'sku-' || 1 + floor(random() * 5)::int $$;

CREATE FUNCTION submit_one() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	ref text := 'command ' || nextval('public.reference');
	-- What cannot be done whenever it is tried: no such count, no such reservation.
	choice jsonb := (ARRAY['["receive", {"quantity": 3}, 1, false]', '["issue", {"quantity": 2}, 1, false]',
		'["reserve", {"quantity": 1, "ttl": null}, 1, false]', '["adjust", {"delta": -1, "reason": "found broken"}, 1, false]',
		'["set_on_hand", {"quantity": 5, "expected": 1}, 0, true]'])[1 + floor(random() * 5)::int]::jsonb;
	keyed boolean := random() < .5;
	sku text := public.a_sku();
	message bigint;
BEGIN
	message := inventory.submit(choice->>0, choice->1 || jsonb_build_object('sku', sku, 'location', 'L', 'reference', ref),
		request_id => CASE WHEN random() < .3 THEN ref END, key => CASE WHEN keyed THEN sku END,
		not_before => CASE WHEN NOT keyed AND random() < .1 THEN clock_timestamp() + random() * interval '1 second' END);
	INSERT INTO public.submitted VALUES (message, ref, (choice->>2)::bigint, (choice->>3)::boolean, NULL);
	RETURN message;
END $$;

-- Reserve, confirm and ship; or something in it fails for good, and all is taken back.
CREATE FUNCTION begin_one() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	ref text := 'saga ' || nextval('public.reference');
	bad integer := floor(random() * 8)::int;
	steps jsonb := jsonb_build_array(
		jsonb_build_object('command', 'receive', 'arguments', jsonb_build_object('sku', public.a_sku(), 'location', 'L', 'quantity', 2, 'reference', ref),
			'compensate_with', jsonb_build_object('command', 'reverse', 'arguments', jsonb_build_object('event_id', '$result', 'reason', 'taken back', 'reference', ref))),
		jsonb_build_object('command', 'reserve', 'arguments', jsonb_build_object('sku', public.a_sku(), 'location', 'L', 'quantity', 2, 'ttl', NULL, 'reference', ref),
			'compensate_with', jsonb_build_object('command', 'release', 'arguments', jsonb_build_object('reservation_id', '$result', 'reference', ref))),
		jsonb_build_object('command', 'confirm', 'arguments', jsonb_build_object('reservation_id', '$2', 'reference', ref)),
		jsonb_build_object('command', 'ship', 'arguments', jsonb_build_object('reservation_id', '$2', 'reference', ref)));
	saga bigint;
BEGIN
	IF bad < 4 THEN
		steps := jsonb_insert(steps, ARRAY[bad::text],
			'{"command": "set_on_hand", "arguments": {"sku": "sku-1", "location": "L", "quantity": 5, "expected": 1}}');
	END IF;
	saga := inventory.saga(steps);
	INSERT INTO public.begun VALUES (saga, ref, 4, bad < 4);
	RETURN saga;
END $$;

CREATE PROCEDURE submit_some(how_many integer, rolls_back float) LANGUAGE plpgsql AS $$
DECLARE
	message bigint;
BEGIN
	FOR i IN 1..how_many LOOP
		message := public.submit_one();
		IF i % 5 = 0 THEN
			PERFORM public.begin_one();
		END IF;
		IF random() < rolls_back THEN ROLLBACK; ELSE COMMIT; END IF;
		IF random() < .1 THEN
			BEGIN
				PERFORM inventory.cancel(s.message_id) FROM public.submitted s WHERE s.message_id = message;
			EXCEPTION WHEN SQLSTATE 'IV027' THEN NULL;	-- it was sooner
			END;
			COMMIT;
		END IF;
	END LOOP;
END $$;

-- Where the test can stop the execution of a command: when it has written its
-- event, and when it has written its result.
CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = TG_ARGV[0]::bigint AND mode = 'ExclusiveLock' AND granted) THEN
		PERFORM pg_advisory_xact_lock_shared(TG_ARGV[0]::bigint);
	END IF;
	RETURN NULL;
END $$;
SQL
$node->safe_psql('postgres', qq{
CREATE TRIGGER held AFTER INSERT ON inventory.event FOR EACH ROW EXECUTE FUNCTION held($HELD);
CREATE TRIGGER held AFTER INSERT ON inventory.command_result FOR EACH ROW EXECUTE FUNCTION held(${\ ($HELD + 1) });
});

sub wait_for
{
	my ($condition, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	for (1 .. 1200)
	{
		my ($status, $answer) = $node->psql('postgres', $condition);
		return pass($name) if ($answer // '') eq 't';
		usleep(100_000);
	}
	diag $node->safe_psql('postgres', q{
SELECT * FROM inventory.stat_delivery; SELECT state, count(*), min(last_error), min(due_at), clock_timestamp() FROM inventory.pending_command GROUP BY 1; SELECT state, count(*), min(error) FROM inventory.saga GROUP BY 1});
	return fail($name);
}

sub executed
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_for(q{SELECT (SELECT count(*) FROM submitted s LEFT JOIN inventory.command_result r USING (message_id) WHERE r.message_id IS NULL) = 0
		AND (SELECT count(*) FROM inventory.saga WHERE state IN ('running', 'compensating')) = 0}, "$name: every command and saga comes to an end");
	is($node->safe_psql('postgres', q{
SELECT s.*, r.state, r.error, count(e.event_id) FROM submitted s
LEFT JOIN inventory.command_result r USING (message_id) LEFT JOIN inventory.event e ON e.reference = s.reference
GROUP BY s.message_id, r.state, r.error
HAVING count(e.event_id) <> CASE WHEN r.state = 'done' THEN s.events ELSE 0 END OR s.fails <> (r.state = 'dead') AND r.state <> 'cancelled'
LIMIT 5}), '', "$name: each that can be done is executed once unless it was cancelled, no other is");
	is($node->safe_psql('postgres', q{
SELECT b.*, s.state, s.error, count(e.event_id), sum(e.on_hand_delta), sum(e.reserved_delta), sum(e.committed_delta)
FROM begun b LEFT JOIN inventory.saga s USING (saga_id) LEFT JOIN inventory.event e ON e.reference = b.reference
GROUP BY b.saga_id, s.state, s.error
HAVING s.state IS DISTINCT FROM CASE WHEN b.fails THEN 'compensated' ELSE 'done' END
	OR CASE WHEN b.fails THEN (coalesce(sum(e.on_hand_delta), 0), coalesce(sum(e.reserved_delta), 0), coalesce(sum(e.committed_delta), 0)) <> (0, 0, 0) OR count(e.event_id) > 6
		ELSE count(e.event_id) <> b.events OR sum(e.on_hand_delta) <> 0 OR sum(e.reserved_delta) <> 0 OR sum(e.committed_delta) <> 0 END
LIMIT 5}), '', "$name: each saga has all of its effects, or none for good");
	is($node->safe_psql('postgres', q{
SELECT count(*) FROM inventory.event e WHERE (e.reference LIKE 'command %' OR e.reference LIKE 'saga %')
AND NOT EXISTS (SELECT FROM submitted s WHERE s.reference = e.reference) AND NOT EXISTS (SELECT FROM begun b WHERE b.reference = e.reference)}), '0',
		"$name: nothing of what was rolled back is executed");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM inventory.pending_command'), '0', "$name: nothing is pending");
	agrees($node, $name);
	return;
}

# ---- Under load ----

sub load
{
	my ($many) = @_;
	return start_clients($node, [ map { "CALL submit_some($many, .2);" } 1 .. $CLIENTS ]);
}
only_codes(finish_clients(load(200)), 'nothing fails that should not');
executed('load');
for my $state (qw(done dead cancelled))
{
	cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM inventory.command_result WHERE state = '$state'"), '>', 0, "there are commands that are $state");
}
cmp_ok($node->safe_psql('postgres', 'SELECT count(DISTINCT state) FROM inventory.saga'), '==', 2, 'and sagas that are done and compensated');

# ---- Killed ----

my $delivery = q{SELECT pid FROM inventory.stat_delivery WHERE subscription = 'inventory.commands' AND pid IS NOT NULL};

# A crash takes all sessions with it; the server is there again by itself.
sub kill_delivery
{
	my $pid = $node->safe_psql('postgres', $delivery);
	kill 'KILL', $pid if $pid;
	usleep(100_000);
	for (1 .. 600)
	{
		my ($status, $answer) = $node->psql('postgres', 'SELECT true');
		last if ($answer // '') eq 't';
		usleep(100_000);
	}
	return;
}

sub stop_at_once
{
	$node->stop('immediate');
	$node->start;
	return;
}
my %accidents = (
	'the delivery process killed' => \&kill_delivery,
	'the server stopped at once' => \&stop_at_once,
	'the delivery process terminated' => sub {
		$node->safe_psql('postgres', 'SELECT pg_terminate_backend(pid) FROM inventory.stat_delivery WHERE pid IS NOT NULL') for 1 .. 3;
	});
for my $accident (sort keys %accidents)
{
	for (1 .. 2)
	{
		my $clients = load(300);
		usleep(200_000 + number_below(300_000));
		$accidents{$accident}->();
		finish_clients($clients);
		only_codes($clients, "$accident: nothing fails that should not", qw(57P01 57P02 57P03));
		# A fast client may have been ready.
		my $lost = grep { $_ } @{ $clients->{exits} };
		ok($accident =~ /terminated/ ? $lost == 0 : $lost > 0, "$accident: in the middle of the load ($lost sessions lost)");
	}
	executed($accident);
}

# ---- Killed in the middle of an execution ----

# Holds the executions at a phase until the accident, which ends the holder, too.
sub held_until
{
	my ($phase, $lock, $accident, $happens) = @_;
	my $holder = session($node);
	ask($holder, "SELECT pg_advisory_lock($lock)");
	$node->safe_psql('postgres', 'SELECT submit_one() FROM generate_series(1, 20); SELECT begin_one() FROM generate_series(1, 10)');
	ok($node->poll_query_until('postgres', qq{SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE l.locktype = 'advisory' AND l.objid = $lock AND NOT l.granted AND a.backend_type = 'inventory delivery')}),
		"$phase, $accident: an execution is held");
	$happens->();
	eval { $holder->quit };
	executed("$phase, $accident");
	return;
}
for my $case ([ 'the event is written', $HELD ], [ 'the result is written', $HELD + 1 ])
{
	held_until(@$case, 'killed', \&kill_delivery);
	held_until(@$case, 'stopped at once', \&stop_at_once);
	held_until(@$case, 'terminated', sub {
		$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM ($delivery) d");
		$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid IN ($HELD, $HELD + 1) AND granted");
	});
}

# A saga is taken back although everything it does kills the server the first time:
# each event and each result of it.
{
	my $marks = PostgreSQL::Test::Utils::tempdir();
	$node->safe_psql('postgres', qq{
CREATE FUNCTION kill_once(mark text) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', format('test -e $marks/%1\$s || { touch $marks/%1\$s; kill -9 \$PPID; }', mark));
END \$\$;
CREATE FUNCTION kill_event() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN PERFORM public.kill_once('event-' || new.type); RETURN NULL; END \$\$;
CREATE FUNCTION kill_result() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN PERFORM public.kill_once('result-' || new.message_id); RETURN NULL; END \$\$;
CREATE TRIGGER kill_once AFTER INSERT ON inventory.event FOR EACH ROW WHEN (new.reference = 'every step') EXECUTE FUNCTION kill_event();
CREATE TRIGGER kill_once AFTER INSERT ON inventory.command_result FOR EACH ROW EXECUTE FUNCTION kill_result();
});
	my $saga = $node->safe_psql('postgres', q{
SELECT inventory.saga('[
	{"command": "receive", "arguments": {"sku": "sku-1", "location": "L", "quantity": 7, "reference": "every step"},
	 "compensate_with": {"command": "reverse", "arguments": {"event_id": "$result", "reason": "no", "reference": "every step"}}},
	{"command": "reserve", "arguments": {"sku": "sku-2", "location": "L", "quantity": 7, "ttl": null, "reference": "every step"},
	 "compensate_with": {"command": "release", "arguments": {"reservation_id": "$result", "reference": "every step"}}},
	{"command": "issue", "arguments": {"sku": "no such", "location": "L", "quantity": 7, "reference": "every step"}}]')});
	wait_for("SELECT state = 'compensated' FROM inventory.saga WHERE saga_id = $saga", 'a saga is compensated although each of its steps has killed the server');
	my @marks = glob("$marks/*");
	is(scalar @marks, 9, 'twice where there is an event, once where there is none');
	is($node->safe_psql('postgres', q{SELECT string_agg(type::text, ' ' ORDER BY event_id) FROM inventory.event WHERE reference = 'every step'}),
		'receive reserve release reverse', 'what was done is taken back in reverse order, each once');
	$node->safe_psql('postgres', 'DROP FUNCTION kill_event() CASCADE; DROP FUNCTION kill_result() CASCADE');
	executed('a saga and crashes');
}

# ---- A command that cannot be executed yet ----

# A session that has begun to cancel, and goes on sleeping, stops nobody.
{
	my $sleeper = session($node);
	my $message = $node->safe_psql('postgres', q{SELECT inventory.submit('receive', '{"sku": "sku-1", "location": "L", "quantity": 1, "reference": "cancelling"}', not_before => clock_timestamp() + interval '1 second')});
	ask($sleeper, 'BEGIN');
	ask($sleeper, "SELECT inventory.cancel($message)");
	usleep(1_200_000);
	my $other = $node->safe_psql('postgres', q{SELECT inventory.submit('receive', '{"sku": "sku-2", "location": "L", "quantity": 1}')});
	wait_for("SELECT state = 'done' FROM inventory.command_result($other)", 'a session that sleeps after cancel() does not stop the others');
	ask($sleeper, 'ROLLBACK');
	wait_for("SELECT state = 'done' FROM inventory.command_result($message)", 'when it rolls back, the command is executed');
	is($node->safe_psql('postgres', q{SELECT count(*) FROM inventory.event WHERE reference = 'cancelling'}), '1', 'once');
	$sleeper->quit;
}

# Overdue: pending for longer than the setting; tried at once when told so.
{
	$node->safe_psql('postgres', q{INSERT INTO inventory.sku (sku) VALUES ('short')});
	my $message = $node->safe_psql('postgres', q{SELECT inventory.submit('issue', '{"sku": "short", "location": "L", "quantity": 1}')});
	wait_for("SELECT state = 'retrying' AND attempts > 1 FROM inventory.command_result($message)", 'a command that lacks stock is tried again');
	$node->append_conf('postgresql.conf', "inventory.command_overdue = '1 s'");
	$node->reload;
	wait_for("SELECT overdue FROM inventory.pending_command WHERE message_id = $message", 'one that is pending for longer than inventory.command_overdue is shown as overdue');
	$node->safe_psql('postgres', q{SELECT inventory.receive('short', 'L', 1)});
	is($node->safe_psql('postgres', q{SELECT inventory.retry_pending()}), '1', 'retry_pending() finds it');
	my $started = time();
	wait_for("SELECT state = 'done' FROM inventory.command_result($message)", 'and it is done');
	note sprintf 'after %.1f s', time() - $started;
}
executed('at the end');

done_testing();
