# Examples of the documentation, so that tests run what people paste.
package InventoryDocs;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use FindBin;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(example);

# The fenced block of a page whose first line is this.
sub example
{
	my ($page, $first_line) = @_;
	my $text = slurp_file("$FindBin::Bin/../../docs/$page");
	my @found = $text =~ /^```\w*\n(\Q$first_line\E\n.*?)^```$/msg;
	die "docs/$page has not one example \"$first_line\"" unless @found == 1;
	return $found[0];
}

1;
