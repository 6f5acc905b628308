/*-------------------------------------------------------------------------
 *
 * json_object.c
 *		Writing a JSON object, name by name.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/numeric.h"

#include "json_object.h"

void
json_object_begin(JsonObject *object)
{
	object->state = NULL;
	pushJsonbValue(&object->state, WJB_BEGIN_OBJECT, NULL);
}

static void
put(JsonObject *object, const char *name, JsonbValue *value)
{
	JsonbValue	key;

	key.type = jbvString;
	key.val.string.val = unconstify(char *, name);
	key.val.string.len = strlen(name);
	pushJsonbValue(&object->state, WJB_KEY, &key);
	pushJsonbValue(&object->state, WJB_VALUE, value);
}

void
json_object_number(JsonObject *object, const char *name, int64 number)
{
	JsonbValue	value;

	value.type = jbvNumeric;
	value.val.numeric = int64_to_numeric(number);
	put(object, name, &value);
}

static void
put_string(JsonObject *object, const char *name, const char *string, int length)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = unconstify(char *, string);
	value.val.string.len = length;
	put(object, name, &value);
}

void
json_object_string(JsonObject *object, const char *name, const char *string)
{
	if (string)
		put_string(object, name, string, strlen(string));
}

void
json_object_text(JsonObject *object, const char *name, const text *string)
{
	if (string)
		put_string(object, name, VARDATA_ANY(string), VARSIZE_ANY_EXHDR(string));
}

void
json_object_json(JsonObject *object, const char *name, Jsonb *json)
{
	JsonbValue	value;

	if (json == NULL)
		return;
	JsonbToJsonbValue(json, &value);
	put(object, name, &value);
}

Jsonb *
json_object_end(JsonObject *object)
{
	return JsonbValueToJsonb(pushJsonbValue(&object->state, WJB_END_OBJECT, NULL));
}
