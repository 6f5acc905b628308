/*-------------------------------------------------------------------------
 *
 * lines.c
 *		Lines given as JSON: an array of objects.  Every error names the line,
 *		counted from 1, and the field.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "error.h"
#include "lines.h"

static const char *const field_names[] = {
	[LINE_TYPE] = "type",
	[LINE_SKU] = "sku",
	[LINE_LOCATION] = "location",
	[LINE_FROM_LOCATION] = "from_location",
	[LINE_TO_LOCATION] = "to_location",
	[LINE_LOT] = "lot",
	[LINE_CONDITION] = "condition",
	[LINE_REFERENCE] = "reference",
	[LINE_REASON] = "reason",
	[LINE_EFFECTIVE_AT] = "effective_at",
	[LINE_QUANTITY] = "quantity",
	[LINE_EXPECTED] = "expected",
	[LINE_LINE_NO] = "line_no",
	[LINE_METADATA] = "metadata",
};

StaticAssertDecl(lengthof(field_names) == LINE_FIELDS,
				 "every field has a name");

void
line_error(int number, const char *message)
{
	ereport(ERROR,
			(errcode(ERRCODE_IV_INVALID_LINES),
			 errmsg("line %d: %s", number, message)));
}

void
line_require(const Line *line, LineField field)
{
	if ((line->given & LINE_FIELD(field)) == 0)
		line_error(line->number,
				   psprintf("field \"%s\" is missing", field_names[field]));
}

static LineField
line_field(const Line *line, const JsonbValue *key, int allowed)
{
	for (int i = 0; i < LINE_FIELDS; i++)
	{
		if ((allowed & LINE_FIELD(i)) != 0 &&
			key->val.string.len == (int) strlen(field_names[i]) &&
			memcmp(key->val.string.val, field_names[i], key->val.string.len) == 0)
			return (LineField) i;
	}
	line_error(line->number,
			   psprintf("unknown field \"%.*s\"", key->val.string.len,
						key->val.string.val));
}

static int64
line_integer(const Line *line, LineField field, const JsonbValue *value)
{
	Datum		number;
	Datum		least = NumericGetDatum(int64_to_numeric(PG_INT64_MIN));
	Datum		greatest = NumericGetDatum(int64_to_numeric(PG_INT64_MAX));
	int64		result;

	if (value->type != jbvNumeric)
		line_error(line->number,
				   psprintf("field \"%s\" must be an integer", field_names[field]));
	number = NumericGetDatum(value->val.numeric);
	if (DatumGetBool(DirectFunctionCall2(numeric_lt, number, least)) ||
		DatumGetBool(DirectFunctionCall2(numeric_gt, number, greatest)))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("line %d: field \"%s\" is out of range for type bigint",
						line->number, field_names[field])));
	result = DatumGetInt64(DirectFunctionCall1(numeric_int8, number));
	if (!DatumGetBool(DirectFunctionCall2(numeric_eq, number,
										  NumericGetDatum(int64_to_numeric(result)))))
		line_error(line->number,
				   psprintf("field \"%s\" must be an integer", field_names[field]));
	return result;
}

static text *
line_text(const Line *line, LineField field, const JsonbValue *value)
{
	if (value->type != jbvString)
		line_error(line->number,
				   psprintf("field \"%s\" must be a string", field_names[field]));
	return cstring_to_text_with_len(value->val.string.val, value->val.string.len);
}

static TimestampTz
line_timestamp(const Line *line, const text *value)
{
	TimestampTz at = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in,
															 CStringGetDatum(text_to_cstring(value)),
															 ObjectIdGetDatum(InvalidOid),
															 Int32GetDatum(-1)));

	if (TIMESTAMP_NOT_FINITE(at))
		line_error(line->number, "field \"effective_at\" must be finite");
	return at;
}

static void
line_set(Line *line, LineField field, JsonbValue *value)
{
	if (value->type == jbvNull)
		return;					/* as if it were not given */
	line->given |= LINE_FIELD(field);
	switch (field)
	{
		case LINE_QUANTITY:
			line->quantity = line_integer(line, field, value);
			break;
		case LINE_EXPECTED:
			line->expected = line_integer(line, field, value);
			break;
		case LINE_LINE_NO:
			line->line_no = line_integer(line, field, value);
			break;
		case LINE_METADATA:
			line->metadata = JsonbValueToJsonb(value);
			break;
		case LINE_EFFECTIVE_AT:
			line->effective_at = line_timestamp(line, line_text(line, field, value));
			break;
		default:
			line->texts[field] = line_text(line, field, value);
	}
}

static void
line_parse(Line *line, JsonbContainer *object, int allowed)
{
	JsonbIterator *iterator = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	key;
	JsonbValue	value;

	(void) JsonbIteratorNext(&iterator, &key, false);	/* WJB_BEGIN_OBJECT */
	while ((token = JsonbIteratorNext(&iterator, &key, true)) == WJB_KEY)
	{
		LineField	field = line_field(line, &key, allowed);

		(void) JsonbIteratorNext(&iterator, &value, true);
		line_set(line, field, &value);
	}
}

/*
 * Parses an array of objects with fields from the allowed ones.
 */
Line *
lines_parse(Jsonb *json, int allowed, int *count)
{
	Line	   *lines;
	JsonbContainer *root = &json->root;

	if (!JsonContainerIsArray(root) || JsonContainerIsScalar(root))
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_LINES),
				 errmsg("lines must be a JSON array of objects")));
	*count = JsonContainerSize(root);
	if (*count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_IV_INVALID_LINES),
				 errmsg("there must be at least one line")));
	lines = palloc0_array(Line, *count);
	for (int i = 0; i < *count; i++)
	{
		JsonbValue *element = getIthJsonbValueFromContainer(root, i);

		lines[i].number = i + 1;
		if (element->type != jbvBinary ||
			!JsonContainerIsObject(element->val.binary.data))
			line_error(i + 1, "must be a JSON object");
		line_parse(&lines[i], element->val.binary.data, allowed);
	}
	return lines;
}
