/* detokenize.c - ids back to text, all at once or one by one.
 *
 * The decoder's steps are run as a stream: each takes a token's text and hands on what is certain.
 * A step that must see more first (a run of byte tokens, half a character, a tail that may be
 * stripped) holds it back until the next token or the flush.  Decoding a whole list is the same
 * stream with one flush, so the two cannot differ.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer_impl.h"
#include "model/utf8.h"

typedef struct {
    size_t n_tokens; /* that came to this step */
    int n_stripped;  /* STRIP, fused: characters taken from the start */
    int past_start;  /* STRIP, fused: another character came */
    sl_buffer held;
    sl_buffer made; /* the step's own output, before it is handed on */
} step_state;

struct sl_detokenizer {
    const sl_tokenizer *tok;
    int skip_special;
    step_state states[SL_TOKENIZER_MAX_STEPS];
    sl_buffer out;
    int runaway; /* a chain of replacements grew beyond all use; what follows is not decoded */
};

/* One token's text after a replacement; the longest tokens known have 512 bytes. */
enum { MAX_REPLACED_BYTES = 1 << 20 };

static void feed(sl_detokenizer *dec, int at, const char *text, size_t bytes);

/* ---- steps ---- */

static void feed_replaced(sl_detokenizer *dec, int at, const char *text, size_t bytes,
                          const char *to, size_t to_bytes) {
    const sl_decode_step *step = &dec->tok->decode[at];
    sl_buffer *made = &dec->states[at].made;
    sl_buffer_reset(made);
    for (size_t done = 0; done < bytes;) {
        const char *hit = memmem(text + done, bytes - done, step->from, step->from_bytes);
        const size_t end = hit ? (size_t)(hit - text) : bytes;
        sl_buffer_put(made, text + done, end - done);
        if (hit) sl_buffer_put(made, to, to_bytes);
        done = end + (hit ? step->from_bytes : 0);
        if (hit && made->n > MAX_REPLACED_BYTES) {
            dec->runaway = 1;
            return;
        }
    }
    feed(dec, at + 1, (const char *)made->data, made->n);
}

/* A run of byte tokens is text if it is valid as a whole, else one U+FFFD for each byte. */
static void release_bytes(sl_detokenizer *dec, int at) {
    sl_buffer *held = &dec->states[at].held;
    const size_t n = held->n;
    if (n == 0) return;
    held->n = 0; /* before feeding on: the data stays, nothing writes here meanwhile */
    const char *bytes = (const char *)held->data;
    if (sl_utf8_valid_prefix(bytes, n) == n) {
        feed(dec, at + 1, bytes, n);
        return;
    }
    for (size_t i = 0; i < n; i++) feed(dec, at + 1, "\xef\xbf\xbd", 3);
}

static void feed_fallback(sl_detokenizer *dec, int at, const char *text, size_t bytes) {
    const int value = sl_bpe_byte_token(text, bytes);
    if (value >= 0) {
        const char byte = (char)value;
        sl_buffer_put(&dec->states[at].held, &byte, 1);
        return;
    }
    release_bytes(dec, at);
    feed(dec, at + 1, text, bytes);
}

static int starts_with(const char *text, size_t bytes, const sl_decode_step *step) {
    return bytes >= step->from_bytes && memcmp(text, step->from, step->from_bytes) == 0;
}

static int ends_with(const char *text, size_t bytes, const sl_decode_step *step) {
    return bytes >= step->from_bytes &&
           memcmp(text + bytes - step->from_bytes, step->from, step->from_bytes) == 0;
}

static void feed_stripped(sl_detokenizer *dec, int at, const char *text, size_t bytes) {
    const sl_decode_step *step = &dec->tok->decode[at];
    step_state *state = &dec->states[at];
    if (!step->fused) {
        state->n_stripped = 0;
        state->past_start = 0;
    }
    while (!state->past_start && state->n_stripped < step->n_start && bytes > 0) {
        if (!starts_with(text, bytes, step)) {
            state->past_start = 1;
            break;
        }
        text += step->from_bytes;
        bytes -= step->from_bytes;
        state->n_stripped++;
    }
    if (!step->fused) {
        for (int i = 0; i < step->n_stop && ends_with(text, bytes, step); i++)
            bytes -= step->from_bytes;
        feed(dec, at + 1, text, bytes);
        return;
    }
    if (step->n_stop == 0) {
        feed(dec, at + 1, text, bytes);
        return;
    }
    /* The last n_stop characters may be the text's end: they wait. */
    sl_buffer *held = &state->held, *made = &state->made;
    sl_buffer_put(held, text, bytes);
    if (held->failed) return;
    size_t certain = held->n;
    for (int i = 0; i < step->n_stop && ends_with((const char *)held->data, certain, step); i++)
        certain -= step->from_bytes;
    sl_buffer_reset(made);
    sl_buffer_put(made, held->data, certain);
    if (certain > 0) memmove(held->data, held->data + certain, held->n - certain);
    held->n -= certain;
    feed(dec, at + 1, (const char *)made->data, made->n);
}

/* The bytes that a token's letters stand for; a text with other letters stands for itself. */
static void put_byte_level(const char *text, size_t bytes, sl_buffer *out) {
    const size_t before = out->n;
    for (size_t i = 0; i < bytes;) {
        uint32_t code_point;
        i += (size_t)sl_utf8_next(text + i, &code_point);
        const int value = sl_bpe_byte_of_letter(code_point);
        if (value < 0) {
            out->n = before;
            sl_buffer_put(out, text, bytes);
            return;
        }
        const char byte = (char)value;
        sl_buffer_put(out, &byte, 1);
    }
}

static void feed_byte_level(sl_detokenizer *dec, int at, const char *text, size_t bytes) {
    sl_buffer *held = &dec->states[at].held, *made = &dec->states[at].made;
    put_byte_level(text, bytes, held);
    if (held->failed || held->n == 0) return;
    /* All but an incomplete last character is certain. */
    const char *data = (const char *)held->data;
    size_t certain = 0;
    while (certain < held->n) {
        certain += sl_utf8_valid_prefix(data + certain, held->n - certain);
        if (certain == held->n) break;
        sl_utf8_state utf8;
        const int n = sl_utf8_check(data + certain, held->n - certain, &utf8);
        if (utf8 == SL_UTF8_INCOMPLETE) break;
        certain += (size_t)n;
    }
    sl_buffer_reset(made);
    sl_utf8_put_lossy(made, data, certain);
    memmove(held->data, held->data + certain, held->n - certain);
    held->n -= certain;
    feed(dec, at + 1, (const char *)made->data, made->n);
}

/* Hands one token's text (after FUSE: a part of the text) to step `at`. */
static void feed(sl_detokenizer *dec, int at, const char *text, size_t bytes) {
    if (at == dec->tok->n_decode) {
        sl_buffer_put(&dec->out, text, bytes);
        return;
    }
    const sl_decode_step *step = &dec->tok->decode[at];
    step_state *state = &dec->states[at];
    const int is_first = state->n_tokens++ == 0;
    switch (step->kind) {
    case SL_DECODE_JOIN:
        if (!is_first) feed(dec, at + 1, " ", 1);
        feed(dec, at + 1, text, bytes);
        break;
    case SL_DECODE_REPLACE:
        feed_replaced(dec, at, text, bytes, step->to, step->to_bytes);
        break;
    case SL_DECODE_METASPACE:
        feed_replaced(dec, at, text, bytes, " ", is_first && !step->keep_first ? 0 : 1);
        break;
    case SL_DECODE_BYTE_FALLBACK:
        feed_fallback(dec, at, text, bytes);
        break;
    case SL_DECODE_FUSE:
        feed(dec, at + 1, text, bytes);
        break;
    case SL_DECODE_STRIP:
        feed_stripped(dec, at, text, bytes);
        break;
    case SL_DECODE_BYTE_LEVEL:
        feed_byte_level(dec, at, text, bytes);
        break;
    }
}

static void flush_steps(sl_detokenizer *dec) {
    for (int at = 0; at < dec->tok->n_decode; at++) {
        step_state *state = &dec->states[at];
        if (dec->tok->decode[at].kind == SL_DECODE_BYTE_FALLBACK) release_bytes(dec, at);
        if (dec->tok->decode[at].kind == SL_DECODE_BYTE_LEVEL) {
            sl_buffer_reset(&state->made);
            sl_utf8_put_lossy(&state->made, (const char *)state->held.data, state->held.n);
            feed(dec, at + 1, (const char *)state->made.data, state->made.n);
        }
        /* What STRIP holds is what it strips. */
        sl_buffer_reset(&state->held);
        state->n_tokens = 0;
        state->n_stripped = 0;
        state->past_start = 0;
    }
}

static sl_status check_buffers(const sl_detokenizer *dec) {
    if (dec->runaway)
        return SL_FAIL(SL_ERR_FORMAT, "the tokenizer's decoder makes more than %d bytes of a token",
                       MAX_REPLACED_BYTES);
    for (int at = 0; at < dec->tok->n_decode; at++) {
        SL_TRY(sl_buffer_status(&dec->states[at].held));
        SL_TRY(sl_buffer_status(&dec->states[at].made));
    }
    return sl_buffer_status(&dec->out);
}

static void push_id(sl_detokenizer *dec, int32_t id) {
    size_t bytes = 0;
    const char *text = sl_vocab_text(&dec->tok->vocab, id, &bytes);
    if (!text || dec->runaway) return;
    if (dec->skip_special && dec->tok->vocab.tokens[id].flags & SL_TOKEN_SPECIAL) return;
    feed(dec, 0, text, bytes);
}

/* ---- public ---- */

sl_status sl_detokenizer_open(const sl_tokenizer *tok, int skip_special, sl_detokenizer **out) {
    sl_detokenizer *dec = calloc(1, sizeof *dec);
    if (!dec) return SL_FAIL(SL_ERR_NOMEM, "detokenizer: out of host memory");
    dec->tok = tok;
    dec->skip_special = skip_special;
    *out = dec;
    return SL_OK;
}

void sl_detokenizer_close(sl_detokenizer *dec) {
    if (!dec) return;
    for (int i = 0; i < SL_TOKENIZER_MAX_STEPS; i++) {
        sl_buffer_free(&dec->states[i].held);
        sl_buffer_free(&dec->states[i].made);
    }
    sl_buffer_free(&dec->out);
    free(dec);
}

static sl_status give_out(sl_detokenizer *dec, const char **piece_out, size_t *bytes_out) {
    const char end = '\0';
    sl_buffer_put(&dec->out, &end, 1);
    SL_TRY(check_buffers(dec));
    *piece_out = (const char *)dec->out.data;
    *bytes_out = dec->out.n - 1;
    return SL_OK;
}

sl_status sl_detokenizer_push(sl_detokenizer *dec, int32_t id, const char **piece_out,
                              size_t *bytes_out) {
    sl_buffer_reset(&dec->out);
    push_id(dec, id);
    return give_out(dec, piece_out, bytes_out);
}

sl_status sl_detokenizer_flush(sl_detokenizer *dec, const char **piece_out, size_t *bytes_out) {
    sl_buffer_reset(&dec->out);
    flush_steps(dec);
    return give_out(dec, piece_out, bytes_out);
}

sl_status sl_tokenizer_decode(const sl_tokenizer *tok, const int32_t *ids, size_t n,
                              int skip_special, char **text_out, size_t *bytes_out) {
    sl_detokenizer *dec = NULL;
    const char *piece = NULL;
    size_t bytes = 0;
    SL_TRY(sl_detokenizer_open(tok, skip_special, &dec));
    for (size_t i = 0; i < n; i++) push_id(dec, ids[i]);
    flush_steps(dec);
    const sl_status st = give_out(dec, &piece, &bytes);
    if (st == SL_OK) {
        *text_out = (char *)dec->out.data; /* handed over */
        *bytes_out = bytes;
        dec->out = (sl_buffer){0};
    }
    sl_detokenizer_close(dec);
    return st;
}

/* The bytes that a token stands for wherever it is in a text. */
static void put_token_bytes(const sl_tokenizer *tok, const char *text, size_t bytes,
                            sl_buffer *out) {
    const int value = sl_bpe_byte_token(text, bytes);
    for (int at = 0; at < tok->n_decode; at++) {
        const sl_decode_step *step = &tok->decode[at];
        if (step->kind == SL_DECODE_BYTE_LEVEL) {
            put_byte_level(text, bytes, out);
            return;
        }
        if (step->kind == SL_DECODE_BYTE_FALLBACK && value >= 0) {
            const char byte = (char)value;
            sl_buffer_put(out, &byte, 1);
            return;
        }
        if (step->kind != SL_DECODE_REPLACE && step->kind != SL_DECODE_METASPACE) continue;
        if (value >= 0) continue;
        const int is_replace = step->kind == SL_DECODE_REPLACE;
        for (size_t done = 0; done < bytes;) {
            const char *hit = memmem(text + done, bytes - done, step->from, step->from_bytes);
            const size_t end = hit ? (size_t)(hit - text) : bytes;
            sl_buffer_put(out, text + done, end - done);
            if (hit)
                sl_buffer_put(out, is_replace ? step->to : " ", is_replace ? step->to_bytes : 1);
            done = end + (hit ? step->from_bytes : 0);
        }
        return;
    }
    sl_buffer_put(out, text, bytes);
}

const char *sl_tokenizer_display(const sl_tokenizer *tok, int32_t id, char *buf, size_t buf_bytes) {
    size_t bytes = 0;
    const char *text = tok ? sl_vocab_text(&tok->vocab, id, &bytes) : NULL;
    if (!text) {
        snprintf(buf, buf_bytes, "token_id:%d", id);
        return buf;
    }
    sl_buffer raw = {0};
    put_token_bytes(tok, text, bytes, &raw);
    if (raw.failed) {
        snprintf(buf, buf_bytes, "token_id:%d", id);
    } else if (sl_utf8_valid_prefix((const char *)raw.data, raw.n) == raw.n) {
        size_t n = raw.n < buf_bytes ? raw.n : buf_bytes - 1;
        if (n < raw.n) /* cut between characters */
            while (n > 0 && (raw.data[n] & 0xc0) == 0x80) n--;
        if (n > 0) memcpy(buf, raw.data, n);
        buf[n] = '\0';
    } else {
        size_t at = (size_t)snprintf(buf, buf_bytes, "bytes:");
        for (size_t i = 0; i < raw.n && at + 4 < buf_bytes; i++)
            at += (size_t)snprintf(buf + at, buf_bytes - at, "\\x%02x", raw.data[i]);
    }
    sl_buffer_free(&raw);
    return buf;
}
