/*-------------------------------------------------------------------------
 *
 * inventory.h
 *		What every entry point asks first.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_H
#define INVENTORY_H

/* Raises an error unless the library was preloaded. */
extern void inventory_check_loaded(void);

/* Raises an error where nothing can be written: on a standby, in a read-only
 * transaction, in a parallel query. */
extern void inventory_check_writable(const char *operation);

#endif							/* INVENTORY_H */
