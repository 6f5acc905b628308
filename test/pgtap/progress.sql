-- Long work is seen by others while it goes on, and by nobody afterwards,
-- however it ends.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS inventory;
SELECT no_plan();
BEGIN;
CREATE TEMP VIEW mine AS SELECT * FROM inventory.stat_progress WHERE pid = pg_backend_pid();

SELECT is_empty('SELECT * FROM mine', 'who does nothing is not shown');
SELECT inventory.progress_begin('archive') IS NULL AS done \gset
SELECT is((database, operation, phase, done, total)::text, format('(%s,archive,"",0,)', current_database()), 'work that begins is shown') FROM mine;
SELECT ok(started_at BETWEEN now() - interval '1 hour' AND clock_timestamp(), 'with its start') FROM mine;
SELECT inventory.progress_phase('adding up', 5000) IS NULL AS done \gset
SELECT inventory.progress_done(7) IS NULL AS done \gset
SELECT inventory.progress_done(3) IS NULL AS done \gset
SELECT is((phase, done, total)::text, '("adding up",10,5000)', 'a phase, and what is done of it') FROM mine;
SELECT inventory.progress_phase('next', 0) IS NULL AS done \gset
SELECT is((phase, done, total)::text, '(next,0,)', 'a new phase begins at 0; a total that is not known is NULL') FROM mine;
SELECT is(count(*), 5000::bigint, 'rows that are counted are all let through') FROM generate_series(1, 5000) WHERE inventory.progress_row();
SELECT is(done, 4096::bigint, 'and reported a thousand at a time') FROM mine;

SELECT inventory.progress_begin('inner') IS NULL AS done \gset
SELECT inventory.progress_phase('inner phase', 3) IS NULL AS done \gset
SELECT inventory.progress_done(1) IS NULL AS done \gset
SELECT is((operation, phase, done)::text, '(archive,next,4096)', 'work inside of other work adds nothing') FROM mine;
SELECT inventory.progress_end() IS NULL AS done \gset
SELECT is(count(*), 1::bigint, 'nor does its end end the outer one') FROM mine;
SELECT inventory.progress_end() IS NULL AS done \gset
SELECT is_empty('SELECT * FROM mine', 'work that has ended is gone');
SELECT lives_ok('SELECT inventory.progress_end()', 'an end without a beginning does no harm');

SAVEPOINT s;
SELECT inventory.progress_begin('verify') IS NULL AS done \gset
ROLLBACK TO s;
SELECT is_empty('SELECT * FROM mine', 'a subtransaction that is undone takes the work that it began with it');
SELECT inventory.progress_begin('verify') IS NULL AS done \gset
SAVEPOINT s;
SELECT inventory.progress_done(1) IS NULL AS done \gset
ROLLBACK TO s;
SELECT is(count(*), 1::bigint, 'but not the work that was there before it') FROM mine;
RELEASE s;
SELECT inventory.progress_end() IS NULL AS done \gset
SAVEPOINT s;
SELECT inventory.progress_begin('verify') IS NULL AS done \gset
RELEASE s;
SAVEPOINT t;
ROLLBACK TO t;
SELECT is(count(*), 1::bigint, 'work of a released savepoint is the transaction''s') FROM mine;
SELECT inventory.progress_end() IS NULL AS done \gset
SELECT throws_ok($$SELECT inventory.progress_begin('rebuild'), 1 / (random() * 0)::int$$, '22012', NULL, 'work that fails');
SELECT is_empty('SELECT * FROM mine', 'is not shown as going on');
SELECT inventory.progress_begin(repeat('long', 100)) IS NULL AS done \gset
SELECT is(length(operation), 63, 'a long name is cut') FROM mine;
COMMIT;
SELECT is_empty('SELECT * FROM mine', 'the end of the transaction ends it');
SELECT finish();
