/*-------------------------------------------------------------------------
 *
 * progress.h
 *		What long work has done so far, for others to see.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_PROGRESS_H
#define INVENTORY_PROGRESS_H

#include "c.h"

extern Size progress_shmem_size(void);
extern void progress_shmem_init(void);
extern void progress_init(void);

/* The end of the (sub)transaction ends it too, also by an error. */
extern void progress_begin(const char *operation);

/* A new part of the work: of so many units, or 0 when that is not known. */
extern void progress_phase(const char *phase, int64 total);

/* So many more units of the phase are done. */
extern void progress_done(int64 units);

extern void progress_end(void);

#endif							/* INVENTORY_PROGRESS_H */
