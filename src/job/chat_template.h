/* chat_template.h - the chat formats of common models, written natively.
 *
 * A model brings its chat format as a Jinja text.  We run no Jinja: the text is recognised by what
 * only templates of its family contain, and the conversation is written by code that gives the same
 * characters.  A template that is not recognised is refused by name; so is a conversation that the
 * template itself refuses.
 * Layer: job.  May include: base, model, engine.  Thread safety: pure functions.
 */
#ifndef SL_JOB_CHAT_TEMPLATE_H
#define SL_JOB_CHAT_TEMPLATE_H

#include <stddef.h>

#include "base/status.h"
#include "job/json_text.h"
#include "job/params.h"

typedef enum {
    SL_CHAT_CHATML,     /* Qwen 1.5 to 2.5, SmolLM, Hermes, ...: <|im_start|>role */
    SL_CHAT_QWEN3,      /* ChatML with thoughts, which are left out of older turns */
    SL_CHAT_LLAMA2,     /* [INST] <<SYS>> */
    SL_CHAT_LLAMA3,     /* <|start_header_id|>role<|end_header_id|> */
    SL_CHAT_LLAMA31,    /* the same with dates in a system turn that is always there: 3.1 to 3.3 */
    SL_CHAT_MISTRAL,    /* [INST] without a system turn: Mistral 7B Instruct 0.1 and 0.2 */
    SL_CHAT_MISTRAL_V3, /* [INST] with the system text in the last turn: 0.3 */
} sl_chat_family;

typedef struct {
    sl_chat_family family;
    int with_bos;        /* CHATML: begins with the begin-of-text token */
    int opens_thought;   /* CHATML, QWEN3: the answer begins with <think> */
    int space_after_eos; /* MISTRAL: 0.1 */
    int current_date;    /* LLAMA31: today's date instead of 26 Jul 2024 */
    const char *system;  /* CHATML: what is said where no system turn is; NULL: nothing */
    size_t system_bytes; /* with its escapes as in the template, which it points into */
} sl_chat_template;

typedef struct {
    const char *role;    /* "system", "user", "assistant" */
    const char *content; /* [content_bytes] */
    size_t content_bytes;
} sl_chat_message;

/* What a conversation is written with. */
typedef struct {
    const char *bos, *eos; /* texts of the tokenizer's tokens, "" for none */
    const char *date;      /* today as "26 Jul 2024" */
    int no_thinking;       /* QWEN3: enable_thinking is false */
} sl_chat_setting;

/* Recognises `text`, which has to outlive *out; NULL is no template.
 * Errors: SL_ERR_FORMAT, naming what the template seems to be. */
sl_status sl_chat_recognise(const char *text, sl_chat_template *out);

const char *sl_chat_name(sl_chat_family family); /* "ChatML", "Qwen3", ... */

/* Appends the conversation, and what makes the model answer, to *out.  Returns 1, or 0 with *error
 * filled in.  A failed allocation is left in *out. */
int sl_chat_render(const sl_chat_template *tmpl, const sl_chat_message *messages, int n,
                   const sl_chat_setting *setting, sl_json_text *out, sl_request_error *error);

#endif
