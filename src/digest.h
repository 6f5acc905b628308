/*-------------------------------------------------------------------------
 *
 * digest.h
 *		The hash chain over the events.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_DIGEST_H
#define INVENTORY_DIGEST_H

#include "access/htup.h"
#include "access/tupdesc.h"

#include "tick.h"

typedef struct Digest Digest;

extern char *digest_key_id(const char *key);
extern Digest *digest_begin(const uint8 *previous, const char *key);
extern void digest_event(Digest *digest, HeapTuple tuple, TupleDesc descriptor);
extern void digest_end(Digest *digest, const Tick *tick, uint8 *hash);

#endif							/* INVENTORY_DIGEST_H */
