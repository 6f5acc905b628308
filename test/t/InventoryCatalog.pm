# What the catalogs say of the schema inventory, as lines of text without oids,
# so that two installations can be compared: a restored with the original one,
# an updated with a fresh one.
package InventoryCatalog;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use Test::More;

our @EXPORT = qw(catalog_of same_catalog);

my $catalog = <<'SQL';
SET search_path = pg_catalog;
CREATE TEMP VIEW rights AS
SELECT o.classid, o.objid, o.objsubid,
	string_agg(format('%s=%s%s', CASE a.grantee WHEN 0 THEN 'public' ELSE a.grantee::regrole::text END,
		a.privilege_type, CASE WHEN a.is_grantable THEN '*' ELSE '' END), ' '
		ORDER BY a.grantee::regrole::text, a.privilege_type) AS acl
FROM (
	SELECT 'pg_class'::regclass AS classid, c.oid AS objid, 0 AS objsubid,
		coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, c.relowner)) AS acl FROM pg_class c
	UNION ALL
	SELECT 'pg_class'::regclass, t.attrelid, t.attnum, t.attacl FROM pg_attribute t
	UNION ALL
	SELECT 'pg_proc'::regclass, p.oid, 0, coalesce(p.proacl, acldefault('f', p.proowner)) FROM pg_proc p
	UNION ALL
	SELECT 'pg_type'::regclass, t.oid, 0, coalesce(t.typacl, acldefault('T', t.typowner)) FROM pg_type t
	UNION ALL
	SELECT 'pg_namespace'::regclass, n.oid, 0, coalesce(n.nspacl, acldefault('n', n.nspowner)) FROM pg_namespace n
) o CROSS JOIN LATERAL aclexplode(o.acl) a GROUP BY 1, 2, 3;

-- What every object has.
CREATE FUNCTION pg_temp.of(class regclass, object oid) RETURNS text LANGUAGE sql AS $$
	SELECT format(' | owner %s | acl %s | comment %s | %s', owner::regrole,
		(SELECT r.acl FROM pg_temp.rights r WHERE r.classid = class AND r.objid = object AND r.objsubid = 0),
		obj_description(object, class::name),
		(SELECT 'member' FROM pg_depend d WHERE d.classid = class AND d.objid = object AND d.deptype = 'e'))
	FROM (
		SELECT c.relowner AS owner FROM pg_class c WHERE class = 'pg_class'::regclass AND c.oid = object
		UNION ALL
		SELECT p.proowner FROM pg_proc p WHERE class = 'pg_proc'::regclass AND p.oid = object
		UNION ALL
		SELECT t.typowner FROM pg_type t WHERE class = 'pg_type'::regclass AND t.oid = object) o
$$;

WITH relation AS (
	SELECT c.* FROM pg_class c WHERE c.relnamespace = 'inventory'::regnamespace AND c.relname ~ :'only'
)
SELECT format('schema | %s | %s', (SELECT r.acl FROM pg_temp.rights r WHERE r.classid = 'pg_namespace'::regclass AND r.objid = 'inventory'::regnamespace),
	obj_description('inventory'::regnamespace, 'pg_namespace'))
UNION ALL
SELECT format('relation %s | %s | %s | %s | partition %s of %s', c.relname, c.relkind, c.relpersistence, c.reloptions,
	pg_get_expr(c.relpartbound, c.oid), (SELECT i.inhparent::regclass FROM pg_inherits i WHERE i.inhrelid = c.oid)) || pg_temp.of('pg_class', c.oid)
FROM relation c WHERE c.relkind <> 'i' AND c.relkind <> 'I'
UNION ALL
SELECT format('column %s %s | %s | %s | not null %s | default %s | identity %s | collation %s | storage %s | %s | acl %s | %s',
	c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attidentity,
	a.attcollation::regcollation, a.attstorage, a.attisdropped,
	(SELECT r.acl FROM pg_temp.rights r WHERE r.classid = 'pg_class'::regclass AND r.objid = c.oid AND r.objsubid = a.attnum),
	col_description(c.oid, a.attnum))
FROM relation c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relkind <> 'i' AND c.relkind <> 'I'
UNION ALL
SELECT format('constraint %s %s | %s | %s | %s', c.relname, n.conname, pg_get_constraintdef(n.oid), n.convalidated, obj_description(n.oid, 'pg_constraint'))
FROM relation c JOIN pg_constraint n ON n.conrelid = c.oid
UNION ALL
SELECT format('index %s | valid %s | %s | in %s', pg_get_indexdef(i.indexrelid), i.indisvalid, obj_description(i.indexrelid, 'pg_class'),
	(SELECT h.inhparent::regclass FROM pg_inherits h WHERE h.inhrelid = i.indexrelid))
FROM relation c JOIN pg_index i ON i.indrelid = c.oid
UNION ALL
SELECT format('trigger %s | %s | cloned %s', pg_get_triggerdef(t.oid), t.tgenabled, t.tgparentid <> 0)
FROM relation c JOIN pg_trigger t ON t.tgrelid = c.oid WHERE NOT t.tgisinternal OR t.tgparentid <> 0
UNION ALL
SELECT format('view %s %s', c.relname, pg_get_viewdef(c.oid)) FROM relation c WHERE c.relkind = 'v'
UNION ALL
SELECT format('sequence %s | %s | %s %s %s %s %s %s | of %s', c.relname, format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle,
	(SELECT pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid) || d.deptype::text FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')))
FROM relation c JOIN pg_sequence s ON s.seqrelid = c.oid
UNION ALL
SELECT format('function %s', CASE p.prokind WHEN 'a' THEN p.oid::regprocedure::text ELSE pg_get_functiondef(p.oid) END) || pg_temp.of('pg_proc', p.oid)
FROM pg_proc p WHERE p.pronamespace = 'inventory'::regnamespace
UNION ALL
SELECT format('type %s | %s | %s', t.typname, t.typtype,
	(SELECT string_agg(e.enumlabel, ', ' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid)) || pg_temp.of('pg_type', t.oid)
FROM pg_type t WHERE t.typnamespace = 'inventory'::regnamespace AND t.typname ~ :'only'
UNION ALL
SELECT format('extension | %s | %s', x.extversion, x.extrelocatable) FROM pg_extension x WHERE x.extname = 'inventory'
UNION ALL
SELECT format('dumped %s | %s', x.extconfig[n]::regclass, x.extcondition[n])
FROM pg_extension x CROSS JOIN generate_subscripts(x.extconfig, 1) n WHERE x.extname = 'inventory'
UNION ALL
SELECT format('member %s', pg_describe_object(d.classid, d.objid, d.objsubid))
FROM pg_depend d JOIN pg_extension x ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = x.oid WHERE x.extname = 'inventory' AND d.deptype = 'e';
SQL

# The lines, with relations whose name matches (all by default).
sub catalog_of
{
	my ($node, $database, $only) = @_;
	return $node->safe_psql($database, $catalog, extra_params => [ '-v', 'only=' . ($only // '') ]);
}

# That two catalogs are the same: shows the lines that are in one of them only.
sub same_catalog
{
	my ($one, $other, $name) = @_;
	my %in_one = map { $_ => 1 } split /\n/, $one;
	my %in_other = map { $_ => 1 } split /\n/, $other;
	my @difference = (
		(map { "- $_" } grep { !$in_other{$_} } sort keys %in_one),
		(map { "+ $_" } grep { !$in_one{$_} } sort keys %in_other));
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	cmp_ok(scalar keys %in_one, '>', 500, "$name: there is something to compare");
	return is(join("\n", @difference), '', $name);
}

1;
