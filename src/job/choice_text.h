/* choice_text.h - the text of one choice as its tokens arrive, and where it ends.
 *
 * Tokens are decoded one by one, never giving half a character, and the text is searched for stop
 * strings as it grows; the text ends before the first of them.  The prompt's last tokens are run
 * through the decoder first, because what a token says depends on what precedes it (the space
 * before a word at the start of a text is dropped by sentencepiece, within the text it is not).
 * Layer: job.  May include: base, model.  Thread safety: one owner per text.
 */
#ifndef SL_JOB_CHOICE_TEXT_H
#define SL_JOB_CHOICE_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "job/params.h"
#include "model/tokenizer.h"

typedef struct {
    const sl_tokenizer *tokenizer; /* NULL: no text at all; borrowed until close */
    const sl_params *params;       /* stops, min_tokens, ...; borrowed until close */
    const int32_t *prompt;         /* [n_prompt]; borrowed during open */
    int n_prompt;
    const int32_t *end_ids; /* [n_end_ids] ids that end the choice and are no text; borrowed until
                             * close */
    int n_end_ids;
} sl_choice_text_options;

typedef struct sl_choice_text sl_choice_text;

/* Errors: SL_ERR_NOMEM. */
sl_status sl_choice_text_open(const sl_choice_text_options *options, sl_choice_text **out);
void sl_choice_text_close(sl_choice_text *text);

/* Takes the next generated token.  *ended_out = 1 when a stop string is complete; tokens pushed
 * after that change nothing.  Errors: SL_ERR_NOMEM. */
sl_status sl_choice_text_push(sl_choice_text *text, int32_t id, int *ended_out);

/* No more tokens come: gives out what the decoder held back.  May be called again. */
sl_status sl_choice_text_finish(sl_choice_text *text);

/* The text so far, zero-terminated; valid until the next push or finish. */
const char *sl_choice_text_get(const sl_choice_text *text, size_t *bytes_out);

/* Bytes of the text that no later token takes back: all but an end that may become a stop string.
 */
size_t sl_choice_text_settled(const sl_choice_text *text);

/* 1: ended by a stop string. */
int sl_choice_text_is_stopped(const sl_choice_text *text);

int sl_choice_text_count(const sl_choice_text *text); /* tokens pushed */

/* Where token i's text begins, in characters from the start of this choice's text; never beyond its
 * end.  i is below the number of tokens pushed. */
int64_t sl_choice_text_offset(const sl_choice_text *text, int i);

/* Decodes a prompt for `echo`: the text that its tokens make, and where each begins.
 *   offsets  [n], filled in
 *   flush    0: a character that the prompt leaves unfinished is left to the text that follows
 * *text_out is zero-terminated; the caller frees text_out->bytes.
 * Errors: SL_ERR_NOMEM. */
sl_status sl_prompt_decode(const sl_tokenizer *tokenizer, const int32_t *ids, int n,
                           int skip_special, int flush, int64_t *offsets, sl_string *text_out);

#endif
