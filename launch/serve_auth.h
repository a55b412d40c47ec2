/* serve_auth.h - the bearer token of `sluice serve`.
 *
 * Layer: launch.  May include: all.  Thread safety: pure functions.
 */
#ifndef SL_LAUNCH_SERVE_AUTH_H
#define SL_LAUNCH_SERVE_AUTH_H

#include "base/status.h"

/* Whether an Authorization header's value (NULL: there is none) is "Bearer " with the token.  The
 * time it takes hangs on the length of what is given, and not on how much of it is right. */
int sl_auth_is_bearer(const char *header, const char *token);

/* The first line of a file, without white space at its ends.  *out is malloc'ed.
 * Errors: SL_ERR_IO, SL_ERR_ARG when it is empty, SL_ERR_NOMEM. */
sl_status sl_auth_read_token(const char *path, char **out);

#endif
