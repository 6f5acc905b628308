/*-------------------------------------------------------------------------
 *
 * extension.h
 *		The extension's own row in pg_extension.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_EXTENSION_H
#define INVENTORY_EXTENSION_H

#define EXTENSION_NAME "inventory"

typedef struct ExtensionRow
{
	Oid			id;
	Oid			owner;
	char		version[64];
} ExtensionRow;

extern bool extension_find(ExtensionRow *row);
extern bool extension_lock(ExtensionRow *row);
extern bool extension_is(Oid id);

#endif							/* INVENTORY_EXTENSION_H */
