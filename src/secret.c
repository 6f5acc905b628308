/*-------------------------------------------------------------------------
 *
 * secret.c
 *		Secrets in files: what a user mapping names instead of having it, so that
 *		it is in no dump, no backup, no WAL and no log.
 *
 * A file is read as the operating system's user that runs the server, on behalf
 * of whoever has made the user mapping.  So only those may name a file who may
 * read the server's files anyway (checked when the option is set), the file
 * must lie in one directory that the administrator has set aside, whatever
 * links there are, and nobody else on the machine may read it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mb/pg_wchar.h"
#include "storage/fd.h"

#include "compat.h"
#include "secret.h"

#define SECRET_MAX_SIZE 16384

pg_noreturn static void
secret_error(const char *name, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIG_FILE_ERROR),
			 errmsg("could not read the secret file \"%s\"", name),
			 errdetail_internal("%s", detail)));
}

/* Links are followed, and must not lead out of the directory. */
static void
secret_locate(const char *directory, const char *name, char *path)
{
	char		within[PATH_MAX];
	char	   *wanted;
	size_t		length;

	if (directory == NULL || directory[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("could not read the secret file \"%s\"", name),
				 errdetail("The setting \"inventory.secret_dir\" is empty."),
				 errhint("Set it to the directory that secrets are in.")));
	if (realpath(directory, within) == NULL)
		secret_error(name, psprintf("\"inventory.secret_dir\": %s", strerror(errno)));
	wanted = is_absolute_path(name) ? pstrdup(name) : psprintf("%s/%s", within, name);
	if (realpath(wanted, path) == NULL)
		secret_error(name, pstrdup(strerror(errno)));
	length = strlen(within);
	if (strncmp(path, within, length) != 0 || path[length] != '/')
		secret_error(name, "It is not in the directory \"inventory.secret_dir\".");
}

static void
secret_check_file(const char *name, int file)
{
	struct stat status;

	if (fstat(file, &status) != 0)
		secret_error(name, pstrdup(strerror(errno)));
	if (!S_ISREG(status.st_mode))
		secret_error(name, "It is not a file.");
	if ((status.st_mode & (S_IRWXG | S_IRWXO)) != 0)
		secret_error(name, "Its group or others have a right on it: chmod 0600.");
	if (status.st_size > SECRET_MAX_SIZE)
		secret_error(name, psprintf("It has more than %d bytes.", SECRET_MAX_SIZE));
}

char *
secret_read(const char *directory, const char *name)
{
	char		path[PATH_MAX];
	char	   *secret = palloc(SECRET_MAX_SIZE + 1);
	ssize_t		length;
	int			file;

	secret_locate(directory, name, path);
	/* The transaction closes it if there is an error. */
	file = OpenTransientFile(path, O_RDONLY | O_NONBLOCK | PG_BINARY);
	if (file < 0)
		secret_error(name, pstrdup(strerror(errno)));
	secret_check_file(name, file);
	length = read(file, secret, SECRET_MAX_SIZE);
	if (length < 0)
		secret_error(name, pstrdup(strerror(errno)));
	CloseTransientFile(file);

	while (length > 0 && (secret[length - 1] == '\n' || secret[length - 1] == '\r'))
		length--;
	secret[length] = '\0';
	if (length == 0)
		secret_error(name, "It is empty.");
	/* An error about the encoding would quote what is wrong with it. */
	if (strlen(secret) != (size_t) length || !pg_verifymbstr(secret, length, true))
		secret_error(name, "It is not text in the database's encoding.");
	return secret;
}
