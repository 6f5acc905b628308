# kill -9 in each phase of archive() and of rebuild(): the server comes back
# with the partition archived, or not; with the rows repaired, or not.
#
# The phases are found by triggers that the test puts on the tables that they
# write; the triggers wait for an advisory lock that the test holds.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = new_node('archive_crash', conf => "restart_after_crash = on\ninventory.workers = off");
my @skus = map { "sku-$_" } 1 .. 20;

sub clock
{
	my ($at) = @_;
	$node->safe_psql('postgres', "SELECT inventory.set_test_clock('$at')");
	return;
}

# Three months of business, with reservations that stay open.
clock('2027-01-15 12:00:00+00');
add_skus($node, 1000, @skus);
for my $day ('2027-01-31 23:59:59.999999+00', '2027-02-28 12:00:00+00', '2027-03-01 00:00:00+00', '2027-04-10 12:00:00+00')
{
	clock($day);
	$node->safe_psql('postgres', qq{
SELECT count(inventory.issue('sku-' || 1 + n % 20, 'L', 1)) FROM generate_series(1, 200) n;
SELECT inventory.project();
SELECT count(inventory.confirm(inventory.reserve('sku-' || 1 + n % 20, 'L', 1, ttl => NULL))) FROM generate_series(1, 50) n;
SELECT count(inventory.reserve('sku-' || 1 + n % 20, 'L', 1, ttl => NULL)) FROM generate_series(1, 50) n;
SELECT inventory.project()});
}
$node->safe_psql('postgres', q{
CREATE FUNCTION public.wait_here() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_advisory_xact_lock(4712);
	RETURN NEW;
END $$;
CREATE TABLE public.stock_before AS SELECT sku, on_hand, reserved, committed FROM inventory.stock_level;
});
$node->safe_psql('postgres', q{CALL inventory.archive('2027-01-01')});
agrees($node, 'before');

# The old backends hold on to their shared memory until they have noticed.
sub start_again
{
	my $tries = 0;
	until ($node->start(fail_ok => 1))
	{
		die 'the server does not start' if ++$tries > 300;
		usleep(100_000);
		$node->kill9;
	}
	clock('2027-04-10 12:00:00+00');
	return;
}

# Lets a call run until it waits in a trigger, or for the lock of a session.
sub crash_in
{
	my ($phase, $call, $trigger, %options) = @_;
	my $holder = session($node);
	ask($holder, $options{hold} // 'SELECT pg_advisory_lock(4712)');
	$node->safe_psql('postgres', $trigger) if $trigger;
	my $caller = $node->background_psql('postgres', on_error_stop => 0);
	$caller->query_until(qr/begun/, "\\echo begun\n$call;\n");
	ok( $node->poll_query_until('postgres', $options{until} // q{
SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND objid = 4712 AND NOT granted}),
		"$phase: the call has come this far");
	my $seen = $node->safe_psql('postgres', "SELECT count(*) FROM inventory.stat_progress WHERE operation IN ('archive', 'rebuild')");
	is($seen, $phase =~ /committing/ ? '0' : '1', "$phase: stat_progress shows what is going on");
	$node->kill9;
	start_again();
	$_->{run}->kill_kill(grace => 0) for ($holder, $caller);
	$node->safe_psql('postgres', $trigger =~ s/CREATE (?:CONSTRAINT )?TRIGGER (\w+) .* ON (inventory\.\w+) .*/DROP TRIGGER $1 ON $2/sr) if $trigger;
	is($node->safe_psql('postgres', 'SELECT count(*) FROM inventory.stat_progress'), '0', "$phase: afterwards nothing is shown as going on");
	return;
}

sub partitions
{
	return $node->safe_psql('postgres',
		q{SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = 'inventory.event'::regclass AND relname < 'event_2027_04'});
}

sub stock_is_what_it_was
{
	my ($name) = @_;
	is($node->safe_psql('postgres', 'SELECT count(*) FROM public.stock_before FULL JOIN inventory.stock_level USING (sku, on_hand, reserved, committed) WHERE stock_level.sku IS NULL OR stock_before.sku IS NULL'),
		'0', "$name: stock is what it was");
	agrees($node, $name);
	return;
}

my $wait = 'FOR EACH STATEMENT EXECUTE FUNCTION public.wait_here()';
my $wait_row = 'FOR EACH ROW EXECUTE FUNCTION public.wait_here()';
my $before = partitions();
is($before, 'event_2027_01 event_2027_02 event_2027_03', 'three months to archive');

for my $phase (
	[ 'adding up', "CREATE TRIGGER t AFTER INSERT ON inventory.baseline $wait" ],
	[ 'removing snapshots', "CREATE TRIGGER t AFTER DELETE ON inventory.snapshot $wait" ],
	[ 'thinning ticks', "CREATE TRIGGER t BEFORE DELETE ON inventory.tick $wait" ],
	[ 'detached', "CREATE TRIGGER t BEFORE INSERT ON inventory.archived $wait" ],
	[ 'committing', "CREATE CONSTRAINT TRIGGER t AFTER INSERT ON inventory.archived DEFERRABLE INITIALLY DEFERRED $wait_row" ])
{
	my ($name, $trigger) = @$phase;
	crash_in("archive, $name", "CALL inventory.archive('2027-04-01')", $trigger);
	is(partitions(), $before, "archive, $name: nothing is half done");
	stock_is_what_it_was("archive, $name");
}

crash_in('archive, waiting to detach', "CALL inventory.archive('2027-04-01')", undef,
	hold => 'BEGIN; SELECT count(*) FROM inventory.event WHERE false',
	until => q{SELECT count(*) > 0 FROM inventory.stat_progress WHERE phase LIKE 'detaching %'});
is(partitions(), $before, 'archive, waiting to detach: nothing is half done');
stock_is_what_it_was('archive, waiting to detach');

# After the first partition
crash_in('archive, committing the second month', "CALL inventory.archive('2027-04-01')",
	"CREATE CONSTRAINT TRIGGER t AFTER INSERT ON inventory.archived DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.partition = 'event_2027_02') EXECUTE FUNCTION public.wait_here()");
is(partitions(), 'event_2027_02 event_2027_03', 'archive, committing the second month: the first one is archived, the second one is not');
stock_is_what_it_was('archive, committing the second month');
is($node->safe_psql('postgres', 'SELECT count(*) > 0 FROM inventory.event_archive_2027_01'), 't', 'and its events are kept');

$node->safe_psql('postgres', q{CALL inventory.archive('2027-04-01')});
is(partitions(), '', 'called again, it goes on');
stock_is_what_it_was('archived');

# Cancelled rather than killed
clock('2027-05-01 00:00:00+00');
{
	my $holder = session($node);
	ask($holder, 'SELECT pg_advisory_lock(4712)');
	$node->safe_psql('postgres', "CREATE TRIGGER t BEFORE INSERT ON inventory.archived $wait");
	my $caller = session($node);
	$caller->query_until(qr/begun/, "\\echo begun\nCALL inventory.archive('2027-05-01');\n");
	$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM inventory.stat_progress WHERE phase LIKE 'detaching %'}) or die;
	$node->safe_psql('postgres', 'SELECT pg_cancel_backend(pid) FROM inventory.stat_progress');
	ok($node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM inventory.stat_progress'), 'a cancelled archive is gone from stat_progress');
	isnt($node->safe_psql('postgres', q{SELECT to_regclass('inventory.event_2027_04')}), '', 'and has archived nothing');
	$node->safe_psql('postgres', 'DROP TRIGGER t ON inventory.archived');
	$_->quit for ($holder, $caller);
	stock_is_what_it_was('cancelled');
}

# Rebuild

sub corrupt
{
	$node->safe_psql('postgres', q{
BEGIN;
SET LOCAL session_replication_role = replica;
UPDATE inventory.stock SET on_hand = on_hand + 100 WHERE stock_id <= 10;
UPDATE inventory.snapshot SET on_hand = 0 WHERE stock_id BETWEEN 5 AND 15;
COMMIT});
	return;
}

sub wrong
{
	return $node->safe_psql('postgres', q{SELECT check_name, stock_id, expected, found, detail FROM inventory.verify() WHERE check_name <> 'level' ORDER BY 1, 2, 3, 5});
}

for my $phase (
	[ 'snapshots', "CREATE TRIGGER t AFTER UPDATE ON inventory.snapshot $wait" ],
	[ 'stock rows', "CREATE TRIGGER t AFTER UPDATE ON inventory.stock $wait" ],
	[ 'writing events', "CREATE TRIGGER t AFTER INSERT ON inventory.event FOR EACH ROW WHEN (NEW.type = 'rebuild') EXECUTE FUNCTION public.wait_here()" ],
	[ 'committing', "CREATE CONSTRAINT TRIGGER t AFTER UPDATE ON inventory.stock DEFERRABLE INITIALLY DEFERRED $wait_row" ])
{
	my ($name, $trigger) = @$phase;
	corrupt();
	my $wrong = wrong();
	isnt($wrong, '', "rebuild, $name: there is something to repair");
	crash_in("rebuild, $name", 'SELECT inventory.rebuild()', $trigger);
	is(wrong(), $wrong, "rebuild, $name: nothing is half done");
	$node->safe_psql('postgres', 'SELECT inventory.rebuild()');
	stock_is_what_it_was("rebuild, $name, and again");
}

$node->stop;
done_testing();
