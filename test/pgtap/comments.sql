-- Every object of the extension is explained where it stands: the comments are
-- the source of the reference manual.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS inventory;
BEGIN;
SELECT no_plan();

CREATE TEMP VIEW member AS
SELECT d.classid, d.objid
FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
WHERE e.extname = 'inventory' AND d.deptype = 'e';

CREATE TEMP VIEW explained AS
SELECT 'the schema' AS kind, n.nspname::text AS name, obj_description(n.oid, 'pg_namespace') AS comment
FROM pg_namespace n WHERE n.nspname = 'inventory'
UNION ALL
SELECT 'function', m.objid::regprocedure::text, obj_description(m.objid, 'pg_proc') FROM member m WHERE m.classid = 'pg_proc'::regclass
UNION ALL
SELECT CASE c.relkind WHEN 'v' THEN 'view' ELSE 'table' END, c.oid::regclass::text, obj_description(c.oid, 'pg_class')
FROM member m JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid WHERE c.relkind IN ('r', 'p', 'v')
UNION ALL
SELECT CASE c.relkind WHEN 'v' THEN 'view column' WHEN 'c' THEN 'type field' ELSE 'column' END, c.oid::regclass || '.' || a.attname, col_description(c.oid, a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'inventory'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'c') AND NOT c.relispartition
UNION ALL
SELECT 'foreign data wrapper', w.fdwname::text, obj_description(w.oid, 'pg_foreign_data_wrapper')
FROM member m JOIN pg_foreign_data_wrapper w ON m.classid = 'pg_foreign_data_wrapper'::regclass AND w.oid = m.objid
UNION ALL
SELECT 'type', t.oid::regtype::text, obj_description(t.oid, 'pg_type')
FROM member m JOIN pg_type t ON m.classid = 'pg_type'::regclass AND t.oid = m.objid
WHERE t.typtype IN ('e', 'd', 'r') OR t.typtype = 'c' AND (SELECT relkind FROM pg_class WHERE oid = t.typrelid) = 'c'
UNION ALL
SELECT 'index', i.indexrelid::regclass::text, obj_description(i.indexrelid, 'pg_class')
FROM pg_index i JOIN member m ON m.classid = 'pg_class'::regclass AND m.objid = i.indrelid
UNION ALL
SELECT 'index', x.indexrelid::regclass::text, obj_description(x.indexrelid, 'pg_class')
FROM pg_index x JOIN pg_inherits i ON i.inhrelid = x.indrelid WHERE i.inhparent = 'inventory.event'::regclass
UNION ALL
SELECT 'partition', i.inhrelid::regclass::text, obj_description(i.inhrelid, 'pg_class')
FROM pg_inherits i WHERE i.inhparent = 'inventory.event'::regclass;

SELECT cmp_ok((SELECT count(*) FROM explained WHERE kind = e.kind), '>=', e.least, format('there is something to look at: %s', e.kind))
FROM (VALUES ('function', 30::bigint), ('table', 7), ('view', 5), ('column', 60), ('view column', 40), ('type field', 9), ('type', 3), ('foreign data wrapper', 4), ('index', 15), ('partition', 4)) e(kind, least);
SELECT ok(length(e.comment) > 3, format('%s %s has a comment', e.kind, e.name)) FROM explained e ORDER BY e.kind, e.name;
SELECT is_empty($$SELECT name FROM explained WHERE kind = 'index' AND comment NOT LIKE 'Query: %'$$, 'the comment of an index names its query');
SELECT * FROM finish();
ROLLBACK;
