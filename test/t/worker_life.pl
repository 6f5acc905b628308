# Workers: every database with the extension has one, no other has, and whatever
# happens to the server, its databases and the extension, they come to be in the
# right state again.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

# Room for a loaded machine; "at once" is far below the 5 seconds that DROP
# DATABASE waits for other sessions before it gives up.
my $AT_ONCE = 4;

my $node = new_node('life', bare => 1, conf => <<'CONF');
autovacuum = off
inventory.tick_interval = 100ms
CONF

# What the worker of a database does, or '' when it has none.
sub state_of
{
	my ($database) = @_;
	return $node->safe_psql('postgres',
		"SELECT DISTINCT state FROM inventory.stat_worker WHERE database = '$database' ORDER BY 1");
}

sub processes
{
	my ($database) = @_;
	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE datname = '$database' AND backend_type = 'inventory worker'");
}

sub until_true
{
	my ($condition, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($node->poll_query_until('postgres', "SELECT $condition"), $name);
}

# The pid of the only worker of the database.
sub has_worker
{
	my ($database, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	until_true("(SELECT array_agg(DISTINCT pid) FROM inventory.stat_worker WHERE database = '$database' AND state IN ('idle', 'running'))"
		. " = (SELECT array_agg(pid) FROM pg_stat_activity WHERE datname = '$database' AND backend_type = 'inventory worker')", $name);
	return processes($database);
}

sub has_none
{
	my ($database, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return until_true("NOT EXISTS (SELECT FROM inventory.stat_worker WHERE database = '$database')"
		. " AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = '$database' AND backend_type = 'inventory worker')", $name);
}

sub is_stopped
{
	my ($database, $state, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return until_true("(SELECT count(*) = 4 AND bool_and(pid IS NULL AND state = '$state') FROM inventory.stat_worker WHERE database = '$database')"
		. " AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = '$database' AND backend_type = 'inventory worker')", $name);
}

# That a command of superuser succeeds, and at once.
sub passes
{
	my ($database, $sql, $name) = @_;
	my $started = time();
	my ($status, $out, $err) = $node->psql($database, $sql);
	my $took = time() - $started;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($err, '', $name // $sql);
	return cmp_ok($took, '<', $AT_ONCE, sprintf('at once (%.2f s)', $took));
}

sub fails
{
	my ($database, $sql, $pattern) = @_;
	my ($status, $out, $err) = $node->psql($database, $sql);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return like($err, $pattern, $sql);
}

sub setting_exists
{
	return $node->safe_psql('postgres', "SELECT count(*) FROM pg_settings WHERE name = '$_[0]'") eq '1';
}

sub times_logged
{
	my ($text) = @_;
	my $log = slurp_file($node->logfile);
	return () = $log =~ /\Q$text\E/g;
}

sub stock_sql
{
	return q{
INSERT INTO inventory.location (location) VALUES ('L');
INSERT INTO inventory.sku (sku) VALUES ('a');
SELECT inventory.receive('a', 'L', 10);
};
}

# CREATE EXTENSION

is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'inventory worker'"), '0', 'without the extension there is no worker');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'inventory launcher' AND application_name = 'inventory launcher'"), '1', 'but a launcher');
$node->safe_psql('postgres', 'CREATE EXTENSION inventory');
has_worker('postgres', 'CREATE EXTENSION starts a worker');
# Later there are events, and dropping them must be allowed.
my $allow_drop = setting_exists('inventory.allow_drop') ? 'SET inventory.allow_drop = on; ' : '';

is($node->safe_psql('postgres', "SELECT application_name, query FROM pg_stat_activity WHERE backend_type = 'inventory worker'"), 'inventory worker|inventory: maintenance', 'it says what it has last done');
is($node->safe_psql('postgres', 'SELECT database, task FROM inventory.stat_worker'), "|launcher\npostgres|projection\npostgres|expiry\npostgres|maintenance\npostgres|delivery", 'stat_worker has a row for the launcher and one for each task');

$node->safe_psql('postgres', 'CREATE DATABASE one; CREATE DATABASE two; CREATE DATABASE without');
$node->safe_psql('one', 'CREATE EXTENSION inventory');
my $first = has_worker('one', 'a second database has a worker of its own');
$node->safe_psql('two', 'BEGIN; CREATE EXTENSION inventory; ROLLBACK');
has_none('two', 'CREATE EXTENSION that is rolled back starts none');
$node->safe_psql('two', 'BEGIN; SAVEPOINT s; CREATE EXTENSION inventory; ROLLBACK TO s; COMMIT');
has_none('two', 'nor one that is rolled back to a savepoint');
$node->safe_psql('two', 'CREATE EXTENSION inventory');
has_worker('two', 'CREATE EXTENSION after that starts one');
isnt(processes('one'), processes('two'), 'the workers are different processes');

# What the worker is for

$node->safe_psql('one', stock_sql());
ok($node->poll_query_until('one', 'SELECT on_hand = 10 FROM inventory.stock'), 'the worker projects what was committed');
until_true("(SELECT rows = 1 AND lag = '0' AND failures = 0 FROM inventory.stat_worker WHERE database = 'one' AND task = 'projection')", 'and counts it');
is($node->safe_psql('two', 'SELECT count(*) FROM inventory.tick'), '0', 'the worker of another database has no work by that');

# Holds expire at their deadline, with nobody there, and when time is set

my $expired = q{SELECT count(*) = 1 FROM inventory.event e JOIN inventory.reservation r USING (reservation_id) WHERE e.type = 'expire' AND r.owner = };
$node->safe_psql('one', "SELECT inventory.reserve('a', 'L', 1, ttl => '1 s', owner => 'short'), inventory.reserve('a', 'L', 1, ttl => '1 hour', owner => 'long')");
ok($node->poll_query_until('one', "$expired 'short'"), 'the worker writes the expire event of a hold past its deadline');
is($node->safe_psql('one', "SELECT e.recorded_at - h.recorded_at BETWEEN '1 s' AND '3 s' FROM inventory.event e JOIN inventory.event h USING (reservation_id) WHERE e.type = 'expire' AND h.type = 'reserve'"), 't', 'soon after the deadline');
is($node->safe_psql('one', "$expired 'long'"), 'f', 'not that of another hold');
until_true("(SELECT next_run BETWEEN now() + '50 min' AND now() + '1 hour' FROM inventory.stat_worker WHERE database = 'one' AND task = 'expiry')", 'whose deadline it waits for');
$node->safe_psql('one', "SELECT inventory.set_test_clock(now() + '2 hours')");
ok($node->poll_query_until('one', "$expired 'long'"), 'when the clock is set, the worker looks at it');
$node->safe_psql('one', 'SELECT inventory.set_test_clock(NULL)');

# An idle worker costs nothing

sub switches
{
	my ($pid) = @_;
	return slurp_file("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m ? $1 : die 'no context switches';
}
until_true("(SELECT bool_and(state = 'idle' AND coalesce(next_run > now() + '10 s', true)) FROM inventory.stat_worker WHERE database = 'one')", 'when all is done the worker has nothing to do');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'inventory%' AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL OR backend_xid IS NOT NULL OR state <> 'idle')"), '0', 'no worker has a transaction or a snapshot');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_locks WHERE pid = ANY (ARRAY(SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'inventory%')) AND locktype <> 'advisory'"), '0', 'nor a lock on anything but being the only one');
my $worker = processes('one');
my $idle = sub { $node->safe_psql('postgres', "SELECT pg_current_wal_insert_lsn(), sum(runs) FROM inventory.stat_worker WHERE task <> 'launcher'") };
$idle->();
my ($before, $switched) = ($idle->(), switches($worker));
sleep 3;
is($idle->(), $before, 'nothing is run and no WAL is written for a while');
is(switches($worker), $switched, 'nor does the worker wake up');
$node->safe_psql('one', 'CREATE TABLE something_else ()');
is(switches($worker), $switched, 'not for other work in the database either');
$node->safe_psql('postgres', "SELECT pg_cancel_backend($worker)");
until_true("(SELECT pg_sleep(0.1) IS NOT NULL) AND (SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $worker)", 'pg_cancel_backend() does not disturb an idle worker');

# Commands that need the database empty

passes('postgres', 'ALTER DATABASE one RENAME TO eins');
is(has_worker('eins', 'a renamed database has its worker again') eq $worker, '', 'which is a new one');
passes('postgres', 'ALTER DATABASE eins RENAME TO one');
has_worker('one', 'and again');
passes('postgres', 'CREATE DATABASE copy TEMPLATE one');
has_worker('copy', 'the copy of a database with the extension has a worker');
has_worker('one', 'and the template has its own again');
ok($node->poll_query_until('copy', 'SELECT count(*) = 1 FROM inventory.stock WHERE on_hand = 10'), 'the copy is a copy');
$node->safe_psql('copy', "SELECT inventory.receive('a', 'L', 5)");
ok($node->poll_query_until('copy', 'SELECT on_hand = 15 FROM inventory.stock'), 'its worker works');
my $space = PostgreSQL::Test::Utils::tempdir();
$node->safe_psql('postgres', "CREATE TABLESPACE elsewhere LOCATION '$space'");
passes('postgres', 'ALTER DATABASE copy SET TABLESPACE elsewhere');
has_worker('copy', 'a moved database has its worker again');
passes('postgres', 'DROP DATABASE copy');
has_none('copy', 'a dropped database has none');
passes('postgres', 'CREATE DATABASE copy TEMPLATE one');
has_worker('copy', 'a database of the same name has one');
passes('postgres', 'DROP DATABASE copy WITH (FORCE)');
passes('postgres', 'DROP DATABASE without', 'a database without the extension is dropped');
has_none('copy', 'DROP DATABASE ... WITH (FORCE) leaves none');

fails('postgres', 'ALTER DATABASE one RENAME TO two', qr/already exists/);
has_worker('one', 'after a command that failed the worker is back');
fails('postgres', 'CREATE DATABASE copy TEMPLATE one OWNER nobody_at_all', qr/does not exist/);
has_worker('one', 'after another, too');
$node->safe_psql('postgres', 'BEGIN; ALTER DATABASE one RENAME TO eins; ROLLBACK');
has_worker('one', 'after one that was rolled back, too');
my $session = session($node);
ask($session, 'BEGIN; ALTER DATABASE one RENAME TO eins');
is_stopped('one', 'stopped', 'while the transaction is open the database has no worker');
ask($session, 'COMMIT');
$session->quit;
has_worker('eins', 'when it has committed it has one');
passes('postgres', 'ALTER DATABASE eins RENAME TO one');
$node->safe_psql('postgres', 'CREATE ROLE stranger LOGIN');
$worker = has_worker('one', 'the worker is there');
fails('postgres', 'SET ROLE stranger; DROP DATABASE one', qr/must be owner/);
fails('one', 'SET ROLE stranger; DROP EXTENSION inventory', qr/must be owner/);
is(processes('one'), $worker, 'who may not drop it does not disturb its worker');
$node->safe_psql('postgres', 'CREATE DATABASE hers OWNER stranger');
$node->safe_psql('hers', 'CREATE EXTENSION inventory');
has_worker('hers', 'a database that belongs to somebody else has a worker');
passes('postgres', 'SET ROLE stranger; DROP DATABASE hers', 'its owner drops it');

# Databases nobody may connect to, and templates

passes('postgres', 'ALTER DATABASE two ALLOW_CONNECTIONS false');
has_none('two', 'a database that allows no connections has no worker');
passes('postgres', 'ALTER DATABASE two ALLOW_CONNECTIONS true');
has_worker('two', 'when it allows them again it has one');
passes('postgres', 'ALTER DATABASE two IS_TEMPLATE true');
has_none('two', 'a template has no worker');
passes('postgres', 'ALTER DATABASE two IS_TEMPLATE false');
has_worker('two', 'what is no template any more has one');

# DROP EXTENSION

passes('two', 'BEGIN; DROP EXTENSION inventory; ROLLBACK', 'DROP EXTENSION that is rolled back');
has_worker('two', 'leaves a worker');
passes('two', 'DROP EXTENSION inventory');
has_none('two', 'DROP EXTENSION takes the worker away');
passes('two', 'CREATE EXTENSION inventory');
has_worker('two', 'CREATE EXTENSION starts another');
passes('two', "SET client_min_messages = warning; ${allow_drop}DROP SCHEMA inventory CASCADE", 'DROP SCHEMA CASCADE');
has_none('two', 'takes it away, too');
passes('two', 'CREATE EXTENSION inventory');
$session = session($node, 'two');
ask($session, 'BEGIN; DROP EXTENSION inventory');
is_stopped('two', 'stopped', 'while DROP EXTENSION is open the worker stands aside');
ask($session, 'ROLLBACK');
has_worker('two', 'and is back when it was rolled back');
ask($session, "SET client_min_messages = warning; ${allow_drop}SELECT");
for my $drop ('DROP EXTENSION inventory', 'DROP SCHEMA inventory CASCADE')
{
	my $wrong = 0;
	ask($session, 'DROP EXTENSION IF EXISTS inventory');
	for my $round (1 .. 15)
	{
		my $started = time();
		my $answer = join ' ', map { ask($session, $_) // '' } 'CREATE EXTENSION inventory', split(/;\s*/, stock_sql());
		sleep 0.01 * $round;
		$answer .= ask($session, $drop);
		next if $answer =~ /^[\s\d]*$/ && $answer !~ /\d{5}/ && time() - $started < $AT_ONCE;
		note sprintf '%s, round %d: %s after %.1f s', $drop, $round, $answer, time() - $started;
		$wrong++;
	}
	is($wrong, 0, "$drop meets no worker that is just working");
}
$session->quit;
has_none('two', 'in the end there is none');
is(times_logged('deadlock detected'), 0, 'there was no deadlock');
passes('two', 'CREATE EXTENSION inventory');
has_worker('two', 'and then there is one again');

# Another version, and loading a dump

$node->safe_psql('two', "UPDATE pg_extension SET extversion = '0.0.1' WHERE extname = 'inventory'");
$node->safe_psql('postgres', 'ALTER DATABASE two SET work_mem = 4096');
is_stopped('two', 'needs update', 'an extension of another version has no worker, and stat_worker says so');
like($node->safe_psql('postgres', "SELECT DISTINCT last_error FROM inventory.stat_worker WHERE database = 'two'"), qr/^the extension is version 0\.0\.1, the library [\d.]+$/, 'with both versions');
$node->safe_psql('two', "UPDATE pg_extension SET extversion = inventory.version() WHERE extname = 'inventory'");
$node->safe_psql('postgres', 'ALTER DATABASE two RESET work_mem');
has_worker('two', 'after the update it has one');
SKIP:
{
	skip 'no inventory.restoring', 2 unless setting_exists('inventory.restoring');
	$node->safe_psql('postgres', 'ALTER DATABASE two SET inventory.restoring = on');
	is_stopped('two', 'stopped', 'while a dump is being loaded there is no worker');
	$node->safe_psql('postgres', 'ALTER DATABASE two RESET inventory.restoring');
	has_worker('two', 'and afterwards there is');
}
SKIP:
{
	my $old = $node->safe_psql('postgres', "SELECT source FROM pg_extension_update_paths('inventory') WHERE target = inventory.version() AND path IS NOT NULL ORDER BY 1 DESC LIMIT 1");
	skip 'there is no update', 4 if $old eq '';
	$node->safe_psql('two', "${allow_drop}DROP EXTENSION inventory; CREATE EXTENSION inventory VERSION '$old'");
	is_stopped('two', 'needs update', "version $old has no worker");
	passes('two', 'ALTER EXTENSION inventory UPDATE');
	has_worker('two', 'ALTER EXTENSION UPDATE starts one');
}
$worker = processes('two');
$node->safe_psql('two', 'BEGIN; ALTER EXTENSION inventory UPDATE; ROLLBACK');
has_worker('two', 'ALTER EXTENSION UPDATE without an update leaves one');

# Errors

$node->safe_psql('one', q{
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not today'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE ON inventory.stock FOR EACH ROW EXECUTE FUNCTION public.refuse();
});
$node->safe_psql('one', "SELECT inventory.receive('a', 'L', 1)");
until_true("(SELECT failures >= 3 FROM inventory.stat_worker WHERE database = 'one' AND task = 'projection')", 'a task that fails is tried again');
until_true("(SELECT state = 'backoff' AND last_error = 'not today' AND last_failure IS NOT NULL AND next_run IS NOT NULL AND lag > '1 s' FROM inventory.stat_worker WHERE database = 'one' AND task = 'projection')", 'stat_worker says why, and what is waiting for it');
is($node->safe_psql('postgres', "SELECT DISTINCT state, failures FROM inventory.stat_worker WHERE database = 'one' AND task <> 'projection'"), 'idle|0', 'the other tasks do not suffer');
is(times_logged('ERROR:  not today'), 1, 'the log has it once');
like($node->safe_psql('postgres', 'SELECT last_error FROM inventory.stat_worker WHERE last_error IS NOT NULL'), qr/^not today$/, 'a superuser sees the errors of all databases');
$node->safe_psql('postgres', "SELECT inventory.grant_access('stranger', 'reader')");
is($node->safe_psql('postgres', "SET ROLE stranger; SELECT count(*), count(last_error) FROM inventory.stat_worker WHERE database = 'one'"), '3|0', 'a reader sees those of the own database only');
$node->safe_psql('one', 'DROP TRIGGER refuse ON inventory.stock');
ok($node->poll_query_until('one', 'SELECT on_hand = 11 FROM inventory.stock'), 'when the cause is gone, it works');
until_true("(SELECT state = 'idle' AND lag = '0' FROM inventory.stat_worker WHERE database = 'one' AND task = 'projection')", 'and is idle');

# Being terminated

$worker = processes('one');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
isnt(has_worker('one', 'a terminated worker is replaced'), $worker, 'by another process');
my $launcher = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'inventory launcher'");
$worker = processes('one');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
$node->safe_psql('postgres', 'CREATE DATABASE three');
$node->safe_psql('three', 'CREATE EXTENSION inventory');
until_true("(SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'inventory launcher' AND pid <> $launcher)", 'a terminated launcher is replaced');
has_worker('three', 'and starts a worker for what it has missed');
is(processes('one'), $worker, 'the workers go on meanwhile');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
has_worker('one', 'a worker that the former launcher had started is replaced when it ends');
passes('postgres', 'DROP DATABASE three');

# The setting

$node->append_conf('postgresql.conf', 'inventory.workers = off');
$node->reload;
is_stopped($_, 'stopped', "inventory.workers = off stops the worker of $_") for 'postgres', 'one', 'two';
$node->safe_psql('one', "SELECT inventory.receive('a', 'L', 4)");
is($node->safe_psql('one', "SELECT inventory.available('a'), (SELECT on_hand FROM inventory.stock_level), (SELECT on_hand FROM inventory.stock)"), '15|15|11', 'what is read is exact without workers');
passes('postgres', 'ALTER DATABASE two RENAME TO zwei');
passes('postgres', 'ALTER DATABASE zwei RENAME TO two');
is_stopped('two', 'stopped', 'no command starts one');
$node->append_conf('postgresql.conf', 'inventory.workers = on');
$node->reload;
has_worker($_, "inventory.workers = on starts the worker of $_") for 'postgres', 'one', 'two';
ok($node->poll_query_until('one', 'SELECT on_hand = 15 FROM inventory.stock'), 'which does what was left');

# SIGKILL, which restarts all processes of the server

$node->append_conf('postgresql.conf', 'restart_after_crash = on');
$node->reload;
$worker = processes('one');
is(kill('KILL', $worker), 1, 'a worker is killed');
until_true("NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $worker)", 'the server restarts');
has_worker($_, "then $_ has a worker") for 'postgres', 'one', 'two';
$node->restart;
has_worker($_, "after a restart $_ has a worker") for 'postgres', 'one', 'two';
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'inventory worker'"), '3', 'and no other has');

# Memory

$node->append_conf('postgresql.conf', 'inventory.tick_interval = 10ms');
$node->reload;
sub memory
{
	my ($pid) = @_;
	return slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+) kB/m ? $1 : die 'no RssAnon';
}
sub ticks
{
	my ($ticks) = @_;
	my $runs = "(SELECT runs FROM inventory.stat_worker WHERE database = 'one' AND task = 'projection')";
	my $until = $node->safe_psql('postgres', "SELECT $runs") + $ticks;
	my $script = PostgreSQL::Test::Utils::tempdir() . '/receive.sql';
	append_to_file($script, "SELECT inventory.receive('a', 'L', 1);\n");
	while ($node->safe_psql('postgres', "SELECT $runs < $until") eq 't')
	{
		$node->command_ok([ 'pgbench', '-n', '-T', 5, '-R', 200, '-f', $script, $node->connstr('one') ], 'stock moves')
		  or last;
	}
	return;
}
$worker = processes('one');
ticks(300);
my $memory = memory($worker);
ticks(1500);
is(processes('one'), $worker, 'the same worker');
cmp_ok(memory($worker), '<', $memory + 512, "after 1500 ticks more it has no more memory than before ($memory kB)");
ok($node->poll_query_until('one', 'SELECT k.on_hand = e.sum FROM inventory.stock k, (SELECT sum(on_hand_delta) FROM inventory.event) e'), 'all is projected');
agrees($node, 'after all this', database => 'one');
$node->stop;
is(times_logged('PANIC:'), 0, 'there was no PANIC');

# Too few processes

$node->append_conf('postgresql.conf', 'max_worker_processes = 3');	# with the logical replication launcher
$node->start;
until_true("(SELECT count(DISTINCT database) = 1 FROM inventory.stat_worker WHERE pid IS NOT NULL AND database IS NOT NULL)", 'with one worker process left one database has a worker');
until_true("(SELECT count(*) > 0 FROM inventory.stat_worker WHERE state = 'no free worker process' AND pid IS NULL)", 'stat_worker says that there is no process for another');
ok($node->poll_query_until('postgres', "SELECT pg_read_file('" . $node->logfile . "') LIKE '%no free worker process for an inventory worker%HINT:%max_worker_processes%'"), 'the log, too, with a hint');
my ($with) = split /\n/, $node->safe_psql('postgres', "SELECT DISTINCT database FROM inventory.stat_worker WHERE pid IS NOT NULL AND database IS NOT NULL");
passes($with, "${allow_drop}DROP EXTENSION inventory", "the worker of $with gives up its process");
ok($node->poll_query_until($with eq 'one' ? 'two' : 'one', "SELECT count(DISTINCT database) = 1 FROM inventory.stat_worker WHERE pid IS NOT NULL AND database <> '$with'"), 'which another database gets');
cmp_ok(times_logged('no free worker process for an inventory worker'), '<=', 2, 'the log does not repeat it every second');
$node->stop;
$node->append_conf('postgresql.conf', "max_worker_processes = 8\ninventory.max_databases = 1");
$node->start;
ok($node->poll_query_until('postgres', "SELECT pg_read_file('" . $node->logfile . "') LIKE '%more than 1 databases have the extension%HINT:%inventory.max_databases%'"), 'with too few slots, the log says so');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'inventory worker'"), '1', 'and one database has a worker');
$node->stop;

# A standby

my $primary = new_node('life_primary', streaming => 1);
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('life_standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
$primary->safe_psql('postgres', stock_sql());
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'inventory%'"), '0', 'on a standby there is neither launcher nor worker');
is($standby->safe_psql('postgres', 'SELECT state, pid FROM inventory.stat_worker'), 'stopped|', 'and stat_worker says so');
$primary->stop;
$standby->promote;
ok($standby->poll_query_until('postgres', "SELECT count(*) = 4 FROM inventory.stat_worker WHERE database = 'postgres' AND state = 'idle'"), 'promotion starts them');
ok($standby->poll_query_until('postgres', 'SELECT on_hand = 10 FROM inventory.stock'), 'and they work');
$standby->stop;

done_testing();
