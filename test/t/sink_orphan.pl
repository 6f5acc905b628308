# When the postmaster is killed, a delivery process leaves its receiver and ends.
use strict;
use warnings FATAL => 'all';
use FindBin;
use lib $FindBin::Bin;
use InventoryTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use WebhookDriver;
use WebhookServer;

plan skip_all => 'the webhook sink was not built' unless WebhookDriver::library('http');

my $receiver = WebhookServer->new(PostgreSQL::Test::Utils::tempdir() . '/requests');
my $node = new_node('orphan', conf => "inventory.http_allow = '127.0.0.1'\n");
my $url = $receiver->url;
$node->safe_psql('postgres', <<"SQL");
CREATE SERVER hook FOREIGN DATA WRAPPER inventory_http OPTIONS (url '$url', timeout '60 s');
CREATE USER MAPPING FOR CURRENT_USER SERVER hook;
SELECT inventory.subscribe('hook', ARRAY['#'], 'hook');
SELECT inventory.publish('test.stall', 'k', '{"answer": "stall"}');
SQL
my $give_up = time + 30;
sleep 0.1 until $receiver->requests || time > $give_up;
is(scalar(() = $receiver->requests), 1, 'a receiver that says nothing');
my $delivery = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'inventory delivery%'");
like($delivery, qr/^\d+$/, 'has a delivery process waiting');
$node->kill9;
my $killed = time;
sleep 0.1 while kill(0, $delivery) && time < $killed + 20;
cmp_ok(time - $killed, '<', 5, 'which ends with the postmaster');
done_testing();
