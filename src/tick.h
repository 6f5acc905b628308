/*-------------------------------------------------------------------------
 *
 * tick.h
 *		Ticks: recorded MVCC snapshots, and which transactions are in them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_TICK_H
#define INVENTORY_TICK_H

#include "access/htup.h"
#include "datatype/timestamp.h"
#include "utils/snapshot.h"

#define TICK_HASH_BYTES 32

/*
 * Transactions are in the order of their ids as signed numbers: those of restored
 * events, which came from another cluster, have been made negative, and are
 * before all of this one.  See sql/restore.sql.
 */
#define XID_FIRST ((uint64) PG_INT64_MIN)
#define XID_LAST ((uint64) PG_INT64_MAX)

static inline bool
xid_precedes(uint64 a, uint64 b)
{
	return (int64) a < (int64) b;
}

/* The transactions that a tick includes: those before xmax, and not in xip. */
typedef struct Boundary
{
	uint64		xmax;
	int			xip_count;
	uint64	   *xip;			/* ascending */
} Boundary;

typedef struct Tick
{
	int64		tick_id;		/* 0: before the first tick */
	TimestampTz ticked_at;
	Boundary	boundary;
	int64		events;
	int64		snapshots;
	char	   *key_id;			/* or NULL */
	uint8		hash[TICK_HASH_BYTES];
} Tick;

/* As pg_snapshot. */
extern void boundary_from_datum(Datum datum, Boundary *boundary);
extern Datum boundary_to_datum(const Boundary *boundary);

extern bool boundary_includes(const Boundary *boundary, uint64 xid);
extern void boundary_now(Boundary *boundary);
extern void boundary_cut(const Boundary *previous, const Boundary *next,
						 uint64 xid, Boundary *result);

extern void tick_latest(Snapshot snapshot, Tick *tick);
extern bool tick_find(int64 tick_id, Snapshot snapshot, Tick *tick);
extern void tick_insert(const Tick *tick);

#endif							/* INVENTORY_TICK_H */
