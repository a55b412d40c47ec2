#include "job/choice_text.h"

#include <stdlib.h>
#include <string.h>

#include "job/json_text.h"

/* Prompt tokens that are decoded ahead of the choice: a character takes at most 4 tokens (one byte
 * each), and one more settles whether the text has begun; the rest is margin for tokens that are
 * skipped. */
enum { CONTEXT_TOKENS = 16 };

struct sl_choice_text {
    sl_choice_text_options options;
    sl_detokenizer *decoder; /* NULL without a tokenizer */
    sl_json_text bytes;      /* the text, as a plain growing string */
    int64_t n_chars;         /* of the text, before it was cut at a stop string */
    int n_tokens;
    int stopped;
    int64_t *offsets; /* [room] */
    int room;
};

sl_status sl_choice_text_open(const sl_choice_text_options *options, sl_choice_text **out) {
    sl_status st = SL_OK;
    sl_choice_text *text = calloc(1, sizeof *text);
    if (!text) return SL_FAIL(SL_ERR_NOMEM, "choice: out of host memory");
    text->options = *options;
    text->options.prompt = NULL;
    if (options->tokenizer) {
        SL_GO(sl_detokenizer_open(options->tokenizer, options->params->skip_special_tokens,
                                  &text->decoder));
        int i = options->n_prompt - CONTEXT_TOKENS;
        for (i = i < 0 ? 0 : i; i < options->n_prompt; i++) {
            const char *piece;
            size_t n_bytes;
            SL_GO(sl_detokenizer_push(text->decoder, options->prompt[i], &piece, &n_bytes));
        }
    }
    *out = text;
    return SL_OK;

fail:
    sl_choice_text_close(text);
    return st;
}

void sl_choice_text_close(sl_choice_text *text) {
    if (!text) return;
    sl_detokenizer_close(text->decoder);
    sl_json_free(&text->bytes);
    free(text->offsets);
    free(text);
}

static sl_status note_offset(sl_choice_text *text) {
    if (text->n_tokens == text->room) {
        const int room = text->room ? 2 * text->room : 32;
        int64_t *offsets = realloc(text->offsets, (size_t)room * sizeof *offsets);
        if (!offsets) return SL_FAIL(SL_ERR_NOMEM, "choice: out of host memory at token %d", room);
        text->offsets = offsets;
        text->room = room;
    }
    text->offsets[text->n_tokens++] = text->n_chars;
    return SL_OK;
}

/* Cuts the text at the first stop string that lies in it and ends in the last `n_new` bytes. */
static void search_stops(sl_choice_text *text, size_t n_new) {
    const sl_params *params = text->options.params;
    sl_json_text *bytes = &text->bytes;
    const size_t n_old = bytes->n_bytes - n_new;
    size_t cut = SIZE_MAX, cut_bytes = 0;
    if (n_new == 0) return;
    for (int i = 0; i < params->n_stops; i++) {
        const sl_string *stop = &params->stops[i];
        const size_t from = n_old >= stop->n_bytes ? n_old - stop->n_bytes + 1 : 0;
        const char *found =
            memmem(bytes->data + from, bytes->n_bytes - from, stop->bytes, stop->n_bytes);
        if (!found || (size_t)(found - bytes->data) >= cut) continue;
        cut = (size_t)(found - bytes->data);
        cut_bytes = stop->n_bytes;
    }
    if (cut == SIZE_MAX) return;
    text->stopped = 1;
    bytes->n_bytes = cut + (params->include_stop ? cut_bytes : 0);
    bytes->data[bytes->n_bytes] = '\0';
    text->n_chars = (int64_t)sl_utf8_count(bytes->data, bytes->n_bytes);
}

static sl_status append(sl_choice_text *text, const char *piece, size_t n_bytes) {
    sl_json_bytes(&text->bytes, piece, n_bytes);
    SL_TRY(sl_json_status(&text->bytes));
    text->n_chars += (int64_t)sl_utf8_count(piece, n_bytes);
    if (text->n_tokens >= text->options.params->min_tokens) search_stops(text, n_bytes);
    return SL_OK;
}

static int is_end_id(const sl_choice_text *text, int32_t id) {
    for (int i = 0; i < text->options.n_end_ids; i++) {
        if (text->options.end_ids[i] == id) return 1;
    }
    return 0;
}

sl_status sl_choice_text_push(sl_choice_text *text, int32_t id, int *ended_out) {
    SL_TRY(note_offset(text));
    /* The id that ends a choice is not part of its text, unless the caller wants the stop shown. */
    const int silent = is_end_id(text, id) && !text->options.params->include_stop;
    if (text->decoder && !text->stopped && !silent) {
        const char *piece;
        size_t n_bytes;
        SL_TRY(sl_detokenizer_push(text->decoder, id, &piece, &n_bytes));
        SL_TRY(append(text, piece, n_bytes));
    }
    *ended_out = text->stopped;
    return SL_OK;
}

sl_status sl_choice_text_finish(sl_choice_text *text) {
    if (!text->decoder || text->stopped) return SL_OK;
    const char *piece;
    size_t n_bytes;
    SL_TRY(sl_detokenizer_flush(text->decoder, &piece, &n_bytes));
    /* What a prompt of ids left unfinished and no token completed is none of this choice's text. */
    return text->n_tokens > 0 ? append(text, piece, n_bytes) : SL_OK;
}

const char *sl_choice_text_get(const sl_choice_text *text, size_t *bytes_out) {
    *bytes_out = text->bytes.n_bytes;
    return text->bytes.data ? text->bytes.data : "";
}

size_t sl_choice_text_settled(const sl_choice_text *text) {
    const size_t n = text->bytes.n_bytes;
    size_t open = 0; /* longest end of the text that begins a stop string */
    for (int i = 0; !text->stopped && i < text->options.params->n_stops; i++) {
        const sl_string *stop = &text->options.params->stops[i];
        size_t k = stop->n_bytes - 1 < n ? stop->n_bytes - 1 : n;
        while (k > open && memcmp(text->bytes.data + n - k, stop->bytes, k) != 0) k--;
        if (k > open) open = k;
    }
    return n - open;
}

int sl_choice_text_is_stopped(const sl_choice_text *text) {
    return text->stopped;
}

int sl_choice_text_count(const sl_choice_text *text) {
    return text->n_tokens;
}

int64_t sl_choice_text_offset(const sl_choice_text *text, int i) {
    return text->offsets[i] < text->n_chars ? text->offsets[i] : text->n_chars;
}

sl_status sl_prompt_decode(const sl_tokenizer *tokenizer, const int32_t *ids, int n,
                           int skip_special, int flush, int64_t *offsets, sl_string *text_out) {
    sl_status st = SL_OK;
    sl_detokenizer *decoder = NULL;
    sl_json_text bytes = {0};
    const char *piece;
    size_t n_bytes;
    int64_t n_chars = 0;
    SL_GO(sl_detokenizer_open(tokenizer, skip_special, &decoder));
    for (int i = 0; i < n; i++) {
        offsets[i] = n_chars;
        SL_GO(sl_detokenizer_push(decoder, ids[i], &piece, &n_bytes));
        sl_json_bytes(&bytes, piece, n_bytes);
        n_chars += (int64_t)sl_utf8_count(piece, n_bytes);
    }
    if (flush) {
        SL_GO(sl_detokenizer_flush(decoder, &piece, &n_bytes));
        sl_json_bytes(&bytes, piece, n_bytes);
    }
    sl_json_bytes(&bytes, "", 0); /* a terminator even for an empty text */
    SL_GO(sl_json_status(&bytes));
    *text_out = (sl_string){bytes.data, bytes.n_bytes};
    bytes.data = NULL;

fail:
    sl_json_free(&bytes);
    sl_detokenizer_close(decoder);
    return st;
}
