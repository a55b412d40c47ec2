/* api.h - the bodies of API requests: completions, chats, tokenize, detokenize, models.
 *
 * What a body asks for becomes an sl_request; what can be answered without the engine is answered.
 * Layer: job.  May include: base, model, engine.  Thread safety: an sl_api is not changed once
 * made, and several threads may use it at once.
 */
#ifndef SL_JOB_API_H
#define SL_JOB_API_H

#include <stdint.h>

#include "base/status.h"
#include "job/chat_template.h"
#include "job/json_text.h"
#include "job/request.h"
#include "model/tokenizer.h"

/* All pointers are borrowed. */
typedef struct {
    const sl_tokenizer *tokenizer; /* NULL: prompts must be token ids, no chats */
    const char *model_name;        /* as answers give it */
    const char *model_path;        /* another name for it */
    int64_t created;               /* seconds since 1970, of the service */
    int max_context;               /* tokens */
    sl_params defaults;            /* for what a body does not say */
    int has_chat;                  /* 1: `chat` says how; 0: chat_refusal says why not */
    sl_chat_template chat;
    char chat_refusal[512];
    char bos[64], eos[64]; /* texts of the tokenizer's tokens, "": none */
} sl_api;

/* Fills in what follows from the tokenizer, which may be NULL. */
void sl_api_init(const sl_tokenizer *tokenizer, sl_api *out);

/* Reads a body that asks for a completion or a chat (`form`, not LINE).  What it cannot ask for is
 * SL_OK with out->error set.  The caller owns *out: sl_request_free().  `number` is out->line.
 * Errors: SL_ERR_NOMEM, SL_ERR_FORMAT (the tokenizer's own pattern runs away). */
sl_status sl_api_read(const sl_api *api, sl_answer_form form, const char *body, size_t n_bytes,
                      uint64_t number, sl_request *out);

/* Answers {"prompt": text} or {"messages": [...]} with token ids, and {"tokens": ids} with text.
 * *status_out: 200, or 400 with an error object in *out.  Errors: as sl_api_read(). */
sl_status sl_api_tokenize(const sl_api *api, const char *body, size_t n_bytes, int *status_out,
                          sl_json_text *out);
sl_status sl_api_detokenize(const sl_api *api, const char *body, size_t n_bytes, int *status_out,
                            sl_json_text *out);

/* The list of models: this one. */
void sl_api_models(const sl_api *api, sl_json_text *out);

#endif
