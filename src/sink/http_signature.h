/*-------------------------------------------------------------------------
 *
 * http_signature.h
 *		Signatures as Standard Webhooks has them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_HTTP_SIGNATURE_H
#define INVENTORY_HTTP_SIGNATURE_H

#include <stddef.h>

#define HTTP_MAX_SECRETS 8
#define HTTP_SIGNATURE_LENGTH 48	/* "v1,", 44 of base64, and the end */

typedef struct HttpSecret
{
	unsigned char key[64];
	int			length;
} HttpSecret;

/* From "whsec_... whsec_...": how many, or -1 if one is not valid. */
extern int	http_read_secrets(const char *text, HttpSecret *secrets);

/* False if there is no memory. */
extern int	http_sign(const HttpSecret *secret, const char *id,
					  const char *timestamp, const char *body,
					  size_t body_length, char *signature);

#endif							/* INVENTORY_HTTP_SIGNATURE_H */
