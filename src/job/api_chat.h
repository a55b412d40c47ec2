/* api_chat.h - the messages of a body as token ids.
 *
 * Private to api.c.  Layer: job.  May include: base, model.  Thread safety: pure functions.
 */
#ifndef SL_JOB_API_CHAT_H
#define SL_JOB_API_CHAT_H

#include <jansson.h>

#include "job/api.h"

/* Renders body["messages"] with the model's template and encodes the text.  What cannot be is SL_OK
 * with *error set.  *ids_out is malloc'ed. */
sl_status sl_api_chat_ids(const sl_api *api, const json_t *body, int32_t **ids_out, size_t *n_out,
                          sl_request_error *error);

/* Reads the fields that a chat has beside or instead of a completion's. */
int sl_api_chat_params(const json_t *body, sl_params *params, sl_request_error *error);

extern const char *const sl_api_chat_fields[]; /* those, NULL-terminated */

#endif
