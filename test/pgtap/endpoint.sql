-- Endpoints: servers and user mappings of the four foreign data wrappers; which
-- options they have, who may make them, and that secrets stay secret.
--
-- Runs in a database of its own: it makes servers and roles.
\set database inventory_pgtap_endpoint
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS :database WITH (FORCE);
DROP ROLE IF EXISTS endpoint_owner, endpoint_user, endpoint_other, endpoint_files;
CREATE DATABASE :database;
\c :database
SET client_min_messages = warning;
CREATE EXTENSION pgtap;
CREATE EXTENSION inventory;
SELECT no_plan();
CREATE ROLE endpoint_owner;
CREATE ROLE endpoint_user;
CREATE ROLE endpoint_other;
CREATE ROLE endpoint_files IN ROLE pg_read_server_files;
GRANT CREATE ON SCHEMA public TO PUBLIC;

-- Message and everything beside it of the error that a statement raises for a
-- role; its effects are undone.
CREATE FUNCTION public.complaint(role text, statement text) RETURNS text
	LANGUAGE plpgsql AS $$
DECLARE
	message text;
	detail text;
	hint text;
	context text;
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', role);
	EXECUTE statement;
	RAISE EXCEPTION 'done' USING ERRCODE = 'ZZ000';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT, context = PG_EXCEPTION_CONTEXT;
	IF SQLSTATE = 'ZZ000' THEN
		RETURN 'none';
	END IF;
	RETURN concat_ws(' | ', SQLSTATE, message, nullif(detail, ''), nullif(hint, ''));
END
$$;
CREATE FUNCTION public.server_complaint(sink text, options text) RETURNS text
	LANGUAGE sql AS $$
SELECT public.complaint('postgres', format('CREATE SERVER complained FOREIGN DATA WRAPPER inventory_%s OPTIONS (%s)', sink, options))
$$;
CREATE FUNCTION public.mapping_complaint(sink text, options text) RETURNS text
	LANGUAGE sql AS $$
SELECT public.complaint('postgres', format('CREATE SERVER complained FOREIGN DATA WRAPPER inventory_%s; CREATE USER MAPPING FOR PUBLIC SERVER complained OPTIONS (%s)', sink, options))
$$;

-- The wrappers

SELECT bag_eq($$SELECT fdwname::text, fdwhandler, fdwvalidator::regproc::text FROM pg_foreign_data_wrapper WHERE fdwname LIKE 'inventory\_%'$$,
	$$VALUES ('inventory_http', 0::oid, 'inventory.http_validator'), ('inventory_kafka', 0, 'inventory.kafka_validator'), ('inventory_rabbitmq', 0, 'inventory.rabbitmq_validator'), ('inventory_redis', 0, 'inventory.redis_validator')$$,
	'there is a foreign data wrapper for each kind of sink, without a handler');
SELECT is(public.complaint('endpoint_owner', format('CREATE SERVER s FOREIGN DATA WRAPPER inventory_%s', sink)),
	format('42501 | permission denied for foreign-data wrapper inventory_%s', sink), format('nobody makes a server of %s without being allowed to', sink))
FROM unnest(ARRAY['http', 'rabbitmq', 'redis', 'kafka']) sink;
GRANT USAGE ON FOREIGN DATA WRAPPER inventory_http TO endpoint_owner;
SELECT is(public.complaint('endpoint_owner', $$CREATE SERVER s FOREIGN DATA WRAPPER inventory_http OPTIONS (url 'https://example.com/')$$), 'none', 'but who has been');
CREATE SERVER plain FOREIGN DATA WRAPPER inventory_http OPTIONS (url 'https://example.com/');
SELECT matches(public.complaint('postgres', $$ALTER FOREIGN DATA WRAPPER inventory_http OPTIONS (ADD url 'https://example.com/')$$),
	'^HV00D .* There are no valid options in this context', 'the wrapper itself has no options');

-- Options that there are

SELECT is(public.server_complaint(sink, options), 'none', format('%s takes %s', sink, options))
FROM (VALUES
	('http', $$url 'https://example.com/hook?shop=1', mode 'structured', timeout '1 min', connect_timeout '500 ms', max_in_flight '64'$$),
	('http', $$url 'http://[::1]:8080/'$$),
	('http', $$url 'HTTPS://example.com'$$),
	('http', $$url 'https://example.com', ca_file '/etc/ssl/ca.pem', "header.X-Shop" 'a b'$$),
	('http', $$mode 'binary'$$),
	('rabbitmq', $$host 'mq.example.com', port '5671', vhost '/shop', exchange '', routing_key 'shop.{topic}.{key}', mandatory 'no', heartbeat '0', tls 'true', verify 'on', ca_file '/ca.pem'$$),
	('redis', $$host '127.0.0.1', port '6379', database '3', mode 'cache', name 'inventory:{sku}', cache 'set', ttl '1 hour', maxlen '1000'$$),
	('redis', $$socket '/run/redis.sock', mode 'publish', name 'x'$$),
	('kafka', $$brokers 'a:9092,b:9092', topic 'shop.{topic}', compression 'lz4', security_protocol 'sasl_ssl', sasl_mechanism 'SCRAM-SHA-512', ca_file '/ca.pem', verify 'off', max_message_size '5000000'$$)) x(sink, options);
SELECT is(public.mapping_complaint(sink, options), 'none', format('a mapping of %s takes %s', sink, options))
FROM (VALUES
	('http', $$secret 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'$$),
	('http', $$secret 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw  whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD'$$),
	('http', $$bearer_token 'x', "header.X-Key" 'secret', url 'https://example.com/T0001/secret'$$),
	('http', $$user 'me', password_file 'hook'$$),
	('http', $$secret_file '/run/secrets/hook', bearer_token_file 'token'$$),
	('rabbitmq', $$user 'me', password 'x'$$),
	('redis', $$password ' with spaces '$$),
	('kafka', $$user 'me', password_file 'k'$$)) x(sink, options);

-- And those that there are not

SELECT is(public.server_complaint('http', $$uri 'x'$$), 'HV00D | invalid option "uri" | Valid options in this context are: url, mode, timeout, connect_timeout, max_in_flight, ca_file, header.*', 'an unknown option is refused, and the others are named');
SELECT is(public.mapping_complaint('redis', $$token 'x'$$), 'HV00D | invalid option "token" | Valid options in this context are: user, password, password_file', 'also for a mapping');
SELECT is(public.server_complaint(sink, format('%I %L', name, 'x')), format('HV00D | invalid option "%s" | It is an option of the user mapping, where others do not see it.', name), format('a server of %s does not take %s, which others could see there', sink, name))
FROM (VALUES ('http', 'secret'), ('http', 'secret_file'), ('http', 'bearer_token'), ('http', 'bearer_token_file'), ('http', 'user'), ('http', 'password'), ('http', 'password_file'),
	('rabbitmq', 'user'), ('rabbitmq', 'password'), ('rabbitmq', 'password_file'), ('redis', 'password'), ('redis', 'password_file'), ('kafka', 'password'), ('kafka', 'password_file')) x(sink, name);
SELECT is(public.mapping_complaint('http', $$timeout '1 s'$$), 'HV00D | invalid option "timeout" | It is an option of the server.', 'a mapping does not take what is the server''s');
SELECT matches(public.server_complaint('kafka', $$url 'https://example.com'$$), '^HV00D', 'a sink does not take another one''s option');

-- Values

SELECT matches(public.server_complaint(sink, format('%I %L', name, value)), format('^22(023|007) \| invalid (value for option "%s"|input syntax)', replace(name, '*', '\*')), format('%s does not take %s %L', sink, name, regexp_replace(left(value, 50), '\s', ' ', 'g')))
FROM (VALUES
	('http', 'url', ''), ('http', 'url', 'example.com'), ('http', 'url', 'ftp://example.com/'), ('http', 'url', 'file:///etc/passwd'), ('http', 'url', 'https:///path'), ('http', 'url', 'https://'),
	('http', 'url', 'https://example.com:0/'), ('http', 'url', 'https://example.com:65536/'), ('http', 'url', 'https://example.com:80x/'), ('http', 'url', 'https://example.com:/'), ('http', 'url', 'https://[::1/'),
	('http', 'url', 'https://me@example.com/'), ('http', 'url', 'https://me:you@example.com/'), ('http', 'url', 'https://example.com/#top'), ('http', 'url', 'https://example.com/a b'), ('http', 'url', 'https://exämple.com/'),
	('http', 'url', E'https://example.com/\nHost: x'), ('http', 'url', 'https://example.com\@evil/'), ('http', 'url', 'https://' || repeat('a', 5000)),
	('http', 'mode', 'Binary'), ('http', 'mode', ''), ('http', 'mode', 'binary structured'), ('http', 'mode', 'bin'),
	('http', 'timeout', '0'), ('http', 'timeout', '-1 s'), ('http', 'timeout', '2 hours'), ('http', 'timeout', 'soon'), ('http', 'timeout', '1 ms'),
	('http', 'max_in_flight', '0'), ('http', 'max_in_flight', '65'), ('http', 'max_in_flight', '1.5'), ('http', 'max_in_flight', '8x'), ('http', 'max_in_flight', ''), ('http', 'max_in_flight', '99999999999999999999'),
	('http', 'ca_file', 'ca.pem'), ('http', 'header.X', E'a\r\nb'), ('http', 'header.', 'x'), ('http', 'header.a b', 'x'), ('http', 'header.Host', 'x'), ('http', 'header.CE-id', 'x'), ('http', 'header.webhook-id', 'x'), ('http', 'header.content-length', '1'),
	('rabbitmq', 'host', ''), ('rabbitmq', 'host', 'a b'), ('rabbitmq', 'host', 'a/b'), ('rabbitmq', 'port', '0'), ('rabbitmq', 'port', '65536'), ('rabbitmq', 'port', 'amqp'), ('rabbitmq', 'mandatory', 'maybe'), ('rabbitmq', 'routing_key', '{lot}'), ('rabbitmq', 'routing_key', '{topic'), ('rabbitmq', 'vhost', ''),
	('redis', 'database', '-1'), ('redis', 'mode', 'list'), ('redis', 'cache', 'drop'), ('redis', 'name', ''), ('redis', 'name', '{lot}'), ('redis', 'name', '{}'), ('redis', 'maxlen', '0'), ('redis', 'ttl', '0'), ('redis', 'socket', 'redis.sock'),
	('kafka', 'brokers', ''), ('kafka', 'compression', 'zip'), ('kafka', 'security_protocol', 'tls'), ('kafka', 'sasl_mechanism', 'plain'), ('kafka', 'topic', '{key}'), ('kafka', 'verify', 'maybe'), ('kafka', 'max_message_size', '10')) x(sink, name, value);
SELECT is(public.server_complaint('redis', $$host 'a', socket '/b'$$), '22023 | options "host" and "socket" exclude each other', 'a server is at one place');
SELECT is(public.mapping_complaint('redis', $$password 'a', password_file 'b'$$), '22023 | options "password" and "password_file" exclude each other', 'a secret is at one place');

-- No error quotes a secret

SELECT ok(complaint <> 'none' AND complaint NOT LIKE '%GEHEIM%', format('an error about %s of a mapping of %s does not quote it: %s', name, sink, complaint))
FROM (VALUES ('http', 'secret', 'GEHEIM'), ('http', 'secret', 'whsec_GEHEIM'), ('http', 'secret', 'whsec_GEHEIM!GEHEIM!GEHEIM!GEHEIM!GEHEIM!'), ('http', 'secret', ''), ('http', 'secret', 'whsec_' || repeat('GEHEIM12', 20)),
	('http', 'secret', repeat('whsec_GEHEIM12GEHEIM12GEHEIM12GEHEIM12 ', 9)), ('http', 'bearer_token', E'GEHEIM\n'), ('http', 'url', 'https://me:GEHEIM@example.com/'), ('http', 'url', 'GEHEIM'), ('http', 'header.X', E'GEHEIM\n'), ('http', 'password', ''), ('redis', 'password', E'GEHEIM\t'), ('kafka', 'password', repeat('GEHEIM', 1000))) x(sink, name, value)
CROSS JOIN LATERAL public.mapping_complaint(sink, format('%I %L', name, value)) complaint;

-- Files are read as the server's user: who may name one

GRANT USAGE ON FOREIGN SERVER plain TO endpoint_user, endpoint_files;
SELECT is(public.complaint('endpoint_user', $$CREATE USER MAPPING FOR endpoint_user SERVER plain OPTIONS (user 'me', password 'x')$$), 'none', 'who has USAGE on a server makes a mapping for itself');
SELECT matches(public.complaint('endpoint_user', format($$CREATE USER MAPPING FOR endpoint_user SERVER plain OPTIONS (%s 'x')$$, name)), format('^42501 \| permission denied to set option "%s"', name), format('but names no file: %s', name))
FROM unnest(ARRAY['secret_file', 'password_file', 'bearer_token_file']) name;
SELECT is(public.complaint('endpoint_files', $$CREATE USER MAPPING FOR endpoint_files SERVER plain OPTIONS (secret_file 'x')$$), 'none', 'who may read the server''s files does');
SELECT matches(public.complaint('endpoint_owner', $$CREATE SERVER s FOREIGN DATA WRAPPER inventory_http OPTIONS (ca_file '/etc/shadow')$$), '^42501', 'nor does the owner of a server');

-- Who sees what

ALTER SERVER plain OWNER TO endpoint_owner;
CREATE USER MAPPING FOR endpoint_user SERVER plain OPTIONS (user 'me', password 'GEHEIM');
CREATE USER MAPPING FOR PUBLIC SERVER plain OPTIONS (password 'GEHEIM');
GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC;
SET ROLE endpoint_other;
SELECT is_empty($$SELECT umoptions FROM pg_user_mappings WHERE umoptions IS NOT NULL$$, 'others see no options of a mapping');
SELECT throws_ok('SELECT * FROM pg_user_mapping', '42501', NULL, 'nor the table that they are in');
SELECT throws_ok('SHOW inventory.http_allow', '42501', NULL, 'nor where webhooks may go');
SELECT throws_ok('SHOW inventory.secret_dir', '42501', NULL, 'nor where secrets are');
SELECT is_empty($$SELECT 1 FROM pg_settings WHERE name IN ('inventory.http_allow', 'inventory.secret_dir')$$, 'in no view either');
SELECT throws_ok($$CREATE USER MAPPING FOR endpoint_other SERVER plain$$, '42501', NULL, 'and make no mapping');
RESET ROLE;
SET ROLE endpoint_user;
SELECT is((SELECT string_agg(umoptions::text, ' ') FROM pg_user_mappings), '{user=me,password=GEHEIM}', 'its own is what a user sees');
RESET ROLE;

-- The settings; these statements cannot be in a function.

\set ON_ERROR_STOP off
ALTER SYSTEM SET inventory.http_allow = '10.0.0.0/8, hooks.example.com *.shop.internal,::1 fd00::/8 192.168.0.1';
SELECT is(:'SQLSTATE'::text, '00000', 'hosts, addresses and networks are allowed');
ALTER SYSTEM RESET inventory.http_allow;
\set wrong :SQLSTATE
ALTER SYSTEM SET inventory.http_allow = '10.0.0.0/33';
\set wrong :wrong ' ' :SQLSTATE
ALTER SYSTEM SET inventory.http_allow = 'http://example.com';
\set wrong :wrong ' ' :SQLSTATE
ALTER SYSTEM SET inventory.http_allow = '10.1/16';
\set wrong :wrong ' ' :SQLSTATE
ALTER SYSTEM SET inventory.http_allow = '*.';
\set wrong :wrong ' ' :SQLSTATE
ALTER SYSTEM SET inventory.http_allow = '1.2.3.4.5';
\set wrong :wrong ' ' :SQLSTATE
\set ON_ERROR_STOP on
SELECT is(:'wrong'::text, '00000 22023 22023 22023 22023 22023', 'and nothing else is');
SELECT throws_ok($$SET inventory.http_allow = '127.0.0.1'$$, '55P02', NULL, 'nobody allows himself an address');
SELECT throws_ok($$SET inventory.secret_dir = '/'$$, '55P02', NULL, 'or a directory');

-- Dropping

SELECT throws_ok('DROP EXTENSION inventory', '2BP01', NULL, 'the extension is not dropped from under a server');
SELECT is_empty('SELECT * FROM inventory.verify()', 'verify() finds no discrepancy');
DROP SERVER plain CASCADE;
DROP OWNED BY endpoint_owner, endpoint_user, endpoint_other, endpoint_files;
DROP ROLE endpoint_owner, endpoint_user, endpoint_other, endpoint_files;
SELECT * FROM finish();
\c :home
DROP DATABASE :database;
