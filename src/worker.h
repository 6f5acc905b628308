/*-------------------------------------------------------------------------
 *
 * worker.h
 *		The background processes: one launcher, one worker per database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_WORKER_H
#define INVENTORY_WORKER_H

#include "datatype/timestamp.h"

/* Settings. */
extern bool worker_enabled;
extern int	worker_max_databases;
extern int	worker_tick_interval;	/* milliseconds */

/* In _PG_init(), after the settings are defined. */
extern void launcher_register(void);
extern void lifecycle_init(void);

/* There is work in this database.  For commit callbacks: cannot fail, allocate
 * or wait, and costs two memory reads when that is known already. */
extern void worker_wake(void);

/* Time has moved: deadlines must be looked at again, in all databases. */
extern void worker_wake_all(void);

/* For the processes: settings that nobody's defaults may change. */
extern void worker_pin_settings(const char *application_name);

/* What the running task has left to do; does nothing in other processes. */
extern void worker_report_backlog(int64 backlog);

#endif							/* INVENTORY_WORKER_H */
