/*-------------------------------------------------------------------------
 *
 * http_signature.c
 *		Signatures as Standard Webhooks has them: the base64 of HMAC-SHA256 over
 *		"id.timestamp.body", so that a receiver knows who sent it, when, and that
 *		nobody has changed it.
 *
 *-------------------------------------------------------------------------
 */
#include "http_signature.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "whsec_"

/* EVP_DecodeBlock() counts the padding as bytes, too. */
static int
read_secret(const char *text, size_t length, HttpSecret *secret)
{
	unsigned char bytes[96];
	int			size;

	if (length < strlen(PREFIX) || strncmp(text, PREFIX, strlen(PREFIX)) != 0)
		return 0;
	text += strlen(PREFIX);
	length -= strlen(PREFIX);
	if (length == 0 || length % 4 != 0 || length / 4 * 3 > sizeof(bytes))
		return 0;
	size = EVP_DecodeBlock(bytes, (const unsigned char *) text, (int) length);
	for (size_t i = length; i > 0 && text[i - 1] == '='; i--)
		size--;
	if (size <= 0 || size > (int) sizeof(secret->key))
		return 0;
	memcpy(secret->key, bytes, (size_t) size);
	secret->length = size;
	OPENSSL_cleanse(bytes, sizeof(bytes));
	return 1;
}

int
http_read_secrets(const char *text, HttpSecret *secrets)
{
	int			count = 0;

	for (;;)
	{
		size_t		length;

		text += strspn(text, " ");
		length = strcspn(text, " ");
		if (length == 0)
			return count;
		if (count == HTTP_MAX_SECRETS || !read_secret(text, length, &secrets[count]))
			return -1;
		count++;
		text += length;
	}
}

int
http_sign(const HttpSecret *secret, const char *id, const char *timestamp,
		  const char *body, size_t body_length, char *signature)
{
	size_t		id_length = strlen(id);
	size_t		timestamp_length = strlen(timestamp);
	size_t		length = id_length + timestamp_length + body_length + 2;
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int digest_length = 0;
	unsigned char *text = malloc(length);
	unsigned char *place = text;

	if (text == NULL)
		return 0;
	memcpy(place, id, id_length);
	place += id_length;
	*place++ = '.';
	memcpy(place, timestamp, timestamp_length);
	place += timestamp_length;
	*place++ = '.';
	if (body_length > 0)
		memcpy(place, body, body_length);
	if (HMAC(EVP_sha256(), secret->key, secret->length, text, length,
			 digest, &digest_length) == NULL)
		digest_length = 0;
	free(text);
	if (digest_length == 0)
		return 0;
	memcpy(signature, "v1,", 3);
	EVP_EncodeBlock((unsigned char *) signature + 3, digest, (int) digest_length);
	return 1;
}
