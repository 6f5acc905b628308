/*-------------------------------------------------------------------------
 *
 * secret.h
 *		Secrets in files.
 *
 *-------------------------------------------------------------------------
 */
#ifndef INVENTORY_SECRET_H
#define INVENTORY_SECRET_H

/* What the file has, without the newline at its end.  The name is relative to
 * the directory, or a path in it. */
extern char *secret_read(const char *directory, const char *name);

#endif							/* INVENTORY_SECRET_H */
