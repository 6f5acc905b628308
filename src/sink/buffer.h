/*-------------------------------------------------------------------------
 *
 * buffer.h
 *		Bytes that grow.
 *
 * Memory is malloc's, as nothing of PostgreSQL is used here.  A buffer that
 * could not grow is marked and takes nothing more: who has written to it looks
 * once, at the end.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_SINK_BUFFER_H
#define INVENTORY_SINK_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

typedef struct Buffer
{
	char	   *data;
	size_t		start;			/* what is before it has been used up */
	size_t		length;			/* from data, the used part included */
	size_t		size;
	bool		failed;			/* there was no memory */
} Buffer;

/* Room for so many bytes at the end, or NULL; buffer_extend() makes them count. */
extern char *buffer_room(Buffer *buffer, size_t bytes);
extern void buffer_extend(Buffer *buffer, size_t bytes);

extern void buffer_append(Buffer *buffer, const void *data, size_t bytes);
extern void buffer_append_string(Buffer *buffer, const char *string);

/* A terminating zero that does not count. */
extern void buffer_terminate(Buffer *buffer);

extern void buffer_use(Buffer *buffer, size_t bytes);
extern void buffer_clear(Buffer *buffer);
extern void buffer_free(Buffer *buffer);

static inline size_t
buffer_left(const Buffer *buffer)
{
	return buffer->length - buffer->start;
}

#endif							/* INVENTORY_SINK_BUFFER_H */
