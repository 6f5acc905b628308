/*-------------------------------------------------------------------------
 *
 * maintenance.h
 *		What has to be done now and then.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_MAINTENANCE_H
#define INVENTORY_MAINTENANCE_H

#include "c.h"

/* Setting: days that request rows are kept, or -1. */
extern int	maintenance_request_retention;

/* One short piece of work in the present transaction; returns how much it was,
 * 0 when there is nothing to do now. */
extern int64 maintenance_run(void);

#endif							/* INVENTORY_MAINTENANCE_H */
