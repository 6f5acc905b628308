/*-------------------------------------------------------------------------
 *
 * partition.h
 *		The monthly partitions of the event table.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_PARTITION_H
#define INVENTORY_PARTITION_H

#include "datatype/timestamp.h"

extern int	partition_months_ahead;

extern Size partition_shmem_size(void);
extern void partition_shmem_init(void);

extern Oid	partition_for(TimestampTz recorded_at);
extern void partition_written(Oid partition);
extern void partition_restart_notes(void);
extern bool partition_is_older(Oid partition, Oid xid_index, uint64 xid);

#endif							/* INVENTORY_PARTITION_H */
