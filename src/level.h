/*-------------------------------------------------------------------------
 *
 * level.h
 *		Levels: the escrow counters of each stock item in shared memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_LEVEL_H
#define INVENTORY_LEVEL_H

#include "datatype/timestamp.h"

typedef enum LevelCounter
{
	LEVEL_ON_HAND,
	LEVEL_AVAILABLE,			/* on hand - reserved - committed */
} LevelCounter;

#define LEVEL_COUNTERS (LEVEL_AVAILABLE + 1)

/* What the tables say of a stock item; filled in by the loader. */
typedef struct LevelBase
{
	int64		on_hand;
	int64		available;
} LevelBase;

/* Holds past their deadline, as the tables show them at one moment. */
typedef struct LevelOverdue
{
	int64		quantity;
	TimestampTz next_expiry;	/* the first deadline after the moment */
} LevelOverdue;

/* Who reads the tables.  level.c knows no SQL; event.c and expiry.c set these. */
typedef void (*LevelLoader) (int64 stock_id, LevelBase *base);
typedef void (*LevelOverdueReader) (int64 stock_id, TimestampTz now,
									TransactionId covered, LevelOverdue *overdue);

extern LevelLoader level_loader;
extern LevelOverdueReader level_overdue_reader;

/* A stock item that the present transaction has touched. */
typedef struct LevelTouch LevelTouch;

typedef struct LevelStatistics
{
	int64		capacity;
	int64		entries;
	int32		bytes_per_entry;
	int64		hits;
	int64		misses;
	int64		loads;
	int64		waits;
	int64		evictions;
	TimestampTz reset_at;
} LevelStatistics;

extern int	level_capacity;

extern Size level_shmem_size(void);
extern void level_shmem_request_locks(void);
extern void level_shmem_init(void);
extern void level_init(void);

/* With a backorder as large promised on top, sums are still a bigint. */
#define LEVEL_ON_HAND_MAX (PG_INT64_MAX / 2)

/* No counter's floor. */
#define LEVEL_NO_FLOOR PG_INT64_MIN

extern int	level_compare_places(const void *a, const void *b);
extern bool level_same_stripe(int64 a, int64 b);
extern LevelTouch *level_touch(int64 stock_id, bool exclusive);
extern void level_reload(int64 stock_id);
extern bool level_take(LevelTouch *touch, LevelCounter counter, int64 quantity,
					   int64 floor);
extern int64 level_take_up_to(LevelTouch *touch, LevelCounter counter,
							  int64 quantity, int64 floor);
extern void level_give_back(LevelTouch *touch, LevelCounter counter,
							int64 quantity);
extern bool level_debit(LevelTouch *touch, LevelCounter counter, int64 quantity,
						int64 floor);
extern bool level_credit(LevelTouch *touch, LevelCounter counter,
						 int64 quantity);
extern int64 level_seen(LevelTouch *touch, LevelCounter counter);

extern TimestampTz level_time(LevelTouch *touch);
extern void level_deadline(LevelTouch *touch, TimestampTz deadline);
extern bool level_claim(LevelTouch *touch, TimestampTz deadline);
extern bool level_has_overdue(LevelTouch *touch);
extern bool level_expire(LevelTouch *touch, int64 quantity,
						 TimestampTz deadline);
extern void level_settle_soon(LevelTouch *touch, TimestampTz deadline);

extern void level_read(int64 stock_id, int64 *on_hand, int64 *available);

extern bool level_lock_quiet(int64 stock_id);
extern void level_unlock_quiet(int64 stock_id);
extern bool level_peek_base(int64 stock_id, int64 *on_hand, int64 *available);

extern void level_statistics(LevelStatistics *statistics);
extern void level_statistics_reset(void);

#endif							/* INVENTORY_LEVEL_H */
