/*-------------------------------------------------------------------------
 *
 * clock.h
 *		The only source of time, so that tests can set it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_CLOCK_H
#define INVENTORY_CLOCK_H

#include "datatype/timestamp.h"

extern Size clock_shmem_size(void);
extern void clock_shmem_init(void);

extern TimestampTz clock_time(void);
extern TimestampTz clock_transaction_time(void);

#endif							/* INVENTORY_CLOCK_H */
