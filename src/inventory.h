/*-------------------------------------------------------------------------
 *
 * inventory.h
 *		What every entry point asks first.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_H
#define INVENTORY_H

/* True while a dump is being loaded: triggers let every row pass, nothing else
 * is done.  See docs/restore.md. */
extern bool inventory_restoring;

/* Raises an error unless the library was preloaded. */
extern void inventory_check_loaded(void);

/* Raises an error while a dump is being loaded. */
extern void inventory_check_not_restoring(void);

/* Raises an error where nothing can be written: on a standby, in a read-only
 * transaction, in a parallel query, while a dump is being loaded. */
extern void inventory_check_writable(const char *operation);

#endif							/* INVENTORY_H */
