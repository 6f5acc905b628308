# Two-phase commit after a movement is refused, and nothing stays behind.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use Test::More;

my $node = new_node('prepared', conf => 'max_prepared_transactions = 10');
add_skus($node, 10, 'a');
my $held = $node->safe_psql('postgres', "SELECT inventory.reserve('a', 'L', 2)");
my $session = session($node);

for my $call (
	"inventory.receive('a', 'L', 1)", "inventory.issue('a', 'L', 1)",
	"inventory.adjust('a', 'L', -1, 'broken')", "inventory.set_on_hand('a', 'L', 9, 10)",
	"inventory.reserve('a', 'L', 3, request_id => 'prepared')", "inventory.try_reserve('a', 'L', 3)",
	"inventory.confirm($held)", "inventory.release($held)", "inventory.extend($held, '1 hour')")
{
	unlike(ask($session, "BEGIN; SELECT $call"), qr/^(?:IV|XX)/, "$call is done");
	is(ask($session, "PREPARE TRANSACTION 'p'"), '0A000', "$call: PREPARE TRANSACTION is refused");
	ask($session, 'ROLLBACK');
	is($node->safe_psql('postgres', "SELECT inventory.on_hand('a'), inventory.available('a'), (SELECT count(*) FROM pg_prepared_xacts), (SELECT count(*) FROM inventory.request)"),
		'10|8|0|0', "$call: nothing stays behind");
}
is(ask($session, "BEGIN; INSERT INTO inventory.event (stock_id, type, on_hand_delta) SELECT stock_id, 'receive', 1 FROM inventory.stock; PREPARE TRANSACTION 'p'"),
	'0A000', 'a plain INSERT cannot be prepared either');
ask($session, 'ROLLBACK');
is(ask($session, "BEGIN; SAVEPOINT a; SELECT inventory.issue('a', 'L', 1); RELEASE a; PREPARE TRANSACTION 'p'") =~ s/^\d+\n//r,
	'0A000', 'nor a movement in a subtransaction');
ask($session, 'ROLLBACK');

# Others can.
ask($session, "CREATE TABLE other (n integer)");
is(ask($session, "BEGIN; INSERT INTO other VALUES (1); PREPARE TRANSACTION 'p'"), '', 'a transaction without a movement is prepared');
is($node->safe_psql('postgres', "SELECT inventory.issue('a', 'L', 1) > 0"), 't', 'while it waits, stock moves');
is(ask($session, "COMMIT PREPARED 'p'"), '', 'and it commits');
is($node->safe_psql('postgres', 'SELECT count(*) FROM other'), '1', 'with its effect');
agrees($node, 'after all the refusals');

# The whole of it is for sale still.
like($node->safe_psql('postgres', "SELECT inventory.issue('a', 'L', 7)"), qr/^\d+$/, 'all that is available can be sold');
agrees($node, 'sold out');

$session->quit;
$node->stop;
done_testing();
