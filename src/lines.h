/*-------------------------------------------------------------------------
 *
 * lines.h
 *		Lines given as JSON.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_LINES_H
#define INVENTORY_LINES_H

#include "utils/jsonb.h"

#include "catalog.h"
#include "compat.h"
#include "event.h"

typedef enum LineField
{
	LINE_TYPE,
	LINE_SKU,
	LINE_LOCATION,
	LINE_FROM_LOCATION,
	LINE_TO_LOCATION,
	LINE_LOT,
	LINE_CONDITION,
	LINE_REFERENCE,
	LINE_REASON,
	LINE_EFFECTIVE_AT,
	LINE_QUANTITY,
	LINE_EXPECTED,
	LINE_LINE_NO,
	LINE_METADATA,
} LineField;

#define LINE_FIELDS (LINE_METADATA + 1)
#define LINE_FIELD(field) (1 << (field))

typedef struct Line
{
	int			number;			/* its place, from 1 */
	int			given;			/* a bit for each field that was given */
	text	   *texts[LINE_QUANTITY];	/* the text fields, or NULL */
	int64		quantity;
	int64		expected;
	int64		line_no;
	Jsonb	   *metadata;
	TimestampTz effective_at;
} Line;

extern Line *lines_parse(Jsonb *json, int allowed, int *count);
extern void line_require(const Line *line, LineField field);
pg_noreturn extern void line_error(int number, const char *message);

#endif							/* INVENTORY_LINES_H */
