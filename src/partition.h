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

extern Oid	partition_for(TimestampTz recorded_at);

#endif							/* INVENTORY_PARTITION_H */
