#include "expect.h"

#include <stdlib.h>

#include "job/reader.h"

enum { MOST_LINES = 512, MOST_PROMPTS = 4096, KINDS = 16, BYTES_PER_TOKEN = 4 };

typedef struct {
    int prompt_len, gen_len;
} lengths;

typedef struct {
    const sl_expect_ask *ask;
    lengths *prompt; /* [MOST_PROMPTS] */
    int n_prompts;
    int n_lines; /* that they are of */
} sample;

static sl_status count_tokens(const sl_expect_ask *ask, const sl_prompt *prompt, int with_special,
                              int *out) {
    int32_t *ids = NULL;
    if (!prompt->text.bytes || !ask->tokenizer) {
        *out =
            prompt->text.bytes ? (int)(prompt->text.n_bytes / BYTES_PER_TOKEN) + 1 : prompt->n_ids;
        return SL_OK;
    }
    size_t n = 0;
    const sl_status st = sl_tokenizer_encode(ask->tokenizer, prompt->text.bytes,
                                             prompt->text.n_bytes, with_special, &ids, &n);
    free(ids);
    if (st == SL_ERR_NOMEM) return st;
    *out = st == SL_OK ? (int)n : 0; /* the job itself will refuse it */
    return SL_OK;
}

static sl_status add_request(sample *s, const sl_request *r) {
    if (r->error.status_code != 0) return SL_OK;
    s->n_lines++;
    for (int i = 0; i < r->n_prompts && s->n_prompts < MOST_PROMPTS; i++) {
        int n = 0;
        SL_TRY(count_tokens(s->ask, &r->prompts[i], r->params.add_special_tokens, &n));
        if (n < 1 || n >= s->ask->max_context) continue;
        const int room = s->ask->max_context - n, gen = r->params.max_tokens * r->params.n;
        s->prompt[s->n_prompts++] = (lengths){n, gen < 1 ? 1 : gen < room ? gen : room};
    }
    return SL_OK;
}

static sl_status read_sample(sample *s, sl_reader *reader) {
    const int64_t step = (s->ask->n_lines + MOST_LINES - 1) / MOST_LINES;
    sl_job_format format = s->ask->format;
    sl_read read = {0};
    for (int64_t n = 0; n < s->ask->n_lines;) {
        SL_TRY(sl_reader_next(reader, 0, &read));
        if (read.kind == SL_READ_END || read.kind == SL_READ_NOTHING) return SL_OK;
        if (read.kind == SL_READ_LINE && sl_request_is_blank(read.line, read.n_bytes)) continue;
        const int wanted = read.kind == SL_READ_LINE && (step <= 1 || n % step == 0);
        n++;
        if (!wanted) continue;
        if (format == SL_FORMAT_AUTO) format = sl_request_detect(read.line, read.n_bytes);
        sl_request request;
        SL_TRY(sl_request_parse(read.line, read.n_bytes, read.number, format, s->ask->defaults,
                                NULL, NULL, &request));
        const sl_status st = add_request(s, &request);
        sl_request_free(&request);
        SL_TRY(st);
    }
    return SL_OK;
}

static int by_length(const void *a, const void *b) {
    const lengths *x = a, *y = b;
    if (x->prompt_len != y->prompt_len) return x->prompt_len - y->prompt_len;
    return x->gen_len - y->gen_len;
}

/* Kinds of about as many prompts each, neighbours in length. */
static void make_kinds(const sample *s, sl_workload *w) {
    const int n_kinds = s->n_prompts < KINDS ? s->n_prompts : KINDS;
    qsort(s->prompt, (size_t)s->n_prompts, sizeof *s->prompt, by_length);
    w->n_bins = 0;
    for (int k = 0; k < n_kinds; k++) {
        const int from = (int)((int64_t)s->n_prompts * k / n_kinds);
        const int to = (int)((int64_t)s->n_prompts * (k + 1) / n_kinds);
        int64_t prompt = 0, gen = 0;
        for (int i = from; i < to; i++) {
            prompt += s->prompt[i].prompt_len;
            gen += s->prompt[i].gen_len;
        }
        const int n = to - from;
        const sl_workload_bin bin = {(int)((prompt + n / 2) / n), (int)((gen + n / 2) / n), n};
        sl_workload_bin *last = w->n_bins > 0 ? &w->bin[w->n_bins - 1] : NULL;
        if (last && last->prompt_len == bin.prompt_len && last->gen_len == bin.gen_len)
            last->weight += bin.weight;
        else
            w->bin[w->n_bins++] = bin;
    }
}

sl_status sl_expect_from_file(const sl_expect_ask *ask, sl_workload *w) {
    static const int64_t most = 1 << 30;
    sample s = {.ask = ask, .prompt = malloc(MOST_PROMPTS * sizeof *s.prompt)};
    sl_reader *reader = NULL;
    sl_status st = SL_OK;
    double n = (double)ask->n_left;
    if (!s.prompt) return SL_FAIL(SL_ERR_NOMEM, "lengths of prompts: out of host memory");
    SL_GO(sl_reader_open(ask->input, 0, &reader));
    SL_GO(read_sample(&s, reader));
    if (s.n_prompts > 0) {
        make_kinds(&s, w);
        n *= (double)s.n_prompts / s.n_lines;
    }
    w->n_prompts = n < 1 ? 1 : n < (double)most ? (int)n : (int)most;

fail:
    sl_reader_close(reader);
    free(s.prompt);
    return st;
}
