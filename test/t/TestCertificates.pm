# Certificates for a server of a test's own.
package TestCertificates;

use strict;
use warnings FATAL => 'all';
use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(make_certificates);

# In a folder: an authority (ca.pem), a certificate of it for localhost and
# 127.0.0.1 (server.pem, server.key), and one that is nobody's (other.pem).
# False where there is no openssl.
sub make_certificates
{
	my ($dir) = @_;
	append_to_file("$dir/names", "subjectAltName = DNS:localhost, IP:127.0.0.1\n");
	my @new = ('-newkey', 'rsa:2048', '-nodes');
	for my $command (
		[ 'req', '-x509', @new, '-keyout', "$dir/ca.key", '-out', "$dir/ca.pem", '-subj', '/CN=authority', '-days', 2 ],
		[ 'req', @new, '-keyout', "$dir/server.key", '-out', "$dir/server.csr", '-subj', '/CN=server' ],
		[ 'x509', '-req', '-in', "$dir/server.csr", '-CA', "$dir/ca.pem", '-CAkey', "$dir/ca.key", '-CAcreateserial',
			'-out', "$dir/server.pem", '-days', 2, '-extfile', "$dir/names" ],
		[ 'req', '-x509', @new, '-keyout', "$dir/other.key", '-out', "$dir/other.pem", '-subj', '/CN=other', '-days', 2 ])
	{
		my ($out, $err) = ('', '');
		IPC::Run::run([ 'openssl', @$command ], '>', \$out, '2>', \$err) or return 0;
	}
	return 1;
}

1;
