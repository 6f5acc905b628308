/*-------------------------------------------------------------------------
 *
 * buffer.c
 *		Bytes that grow.
 *
 *-------------------------------------------------------------------------
 */
#include "buffer.h"

#include <stdlib.h>
#include <string.h>

#define SMALLEST 4096

/* What a buffer may keep when it is empty: a large message is rare. */
#define KEPT (4 * 1024 * 1024)

/* The used part at the front goes before anything is enlarged. */
static bool
make_room(Buffer *buffer, size_t bytes)
{
	size_t		size = buffer->size ? buffer->size : SMALLEST;
	char	   *data;

	if (buffer->start > 0)
	{
		memmove(buffer->data, buffer->data + buffer->start, buffer_left(buffer));
		buffer->length -= buffer->start;
		buffer->start = 0;
	}
	while (size - buffer->length < bytes)
	{
		if (size > (size_t) -1 / 2)
			return false;
		size *= 2;
	}
	if (size == buffer->size)
		return true;
	data = realloc(buffer->data, size);
	if (data == NULL)
		return false;
	buffer->data = data;
	buffer->size = size;
	return true;
}

char *
buffer_room(Buffer *buffer, size_t bytes)
{
	if (buffer->failed)
		return NULL;
	if (buffer->size - buffer->length < bytes && !make_room(buffer, bytes))
	{
		buffer->failed = true;
		return NULL;
	}
	return buffer->data + buffer->length;
}

void
buffer_extend(Buffer *buffer, size_t bytes)
{
	buffer->length += bytes;
}

void
buffer_append(Buffer *buffer, const void *data, size_t bytes)
{
	char	   *room = buffer_room(buffer, bytes);

	if (room == NULL || bytes == 0)
		return;
	memcpy(room, data, bytes);
	buffer->length += bytes;
}

void
buffer_append_string(Buffer *buffer, const char *string)
{
	buffer_append(buffer, string, strlen(string));
}

void
buffer_terminate(Buffer *buffer)
{
	char	   *room = buffer_room(buffer, 1);

	if (room != NULL)
		*room = '\0';
}

void
buffer_use(Buffer *buffer, size_t bytes)
{
	buffer->start += bytes;
	if (buffer->start == buffer->length)
		buffer_clear(buffer);
}

void
buffer_clear(Buffer *buffer)
{
	buffer->start = 0;
	buffer->length = 0;
	buffer->failed = false;
	if (buffer->size > KEPT)
		buffer_free(buffer);
}

void
buffer_free(Buffer *buffer)
{
	free(buffer->data);
	memset(buffer, 0, sizeof(Buffer));
}
