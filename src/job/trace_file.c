#include "job/trace_file.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "job/json_text.h"

enum { FLUSH_BYTES = 64 << 10 };

struct sl_trace_file {
    FILE *stream;
    char *path;
    sl_json_text text; /* not written yet */
    int n_events;      /* 0: the next one needs no comma; stays 1 afterwards */
    int error;         /* errno of the first write that failed, 0: none */
    uint64_t n_spans, n_dropped;
};

static void flush(sl_trace_file *f) {
    if (f->text.failed) return; /* told at the end */
    errno = 0;
    if (!f->error && fwrite(f->text.data, 1, f->text.n_bytes, f->stream) != f->text.n_bytes)
        f->error = errno ? errno : EIO;
    sl_json_clear(&f->text);
}

static void free_file(sl_trace_file *f) {
    free(f->path);
    sl_json_free(&f->text);
    free(f);
}

sl_status sl_trace_file_open(const char *path, sl_trace_file **out) {
    sl_trace_file *f = calloc(1, sizeof *f);
    char *copy = strdup(path);
    if (!f || !copy) {
        free(copy);
        free(f);
        return SL_FAIL(SL_ERR_NOMEM, "trace %s: out of host memory", path);
    }
    f->path = copy;
    f->stream = fopen(path, "w");
    if (!f->stream) {
        const sl_status st = SL_FAIL(SL_ERR_IO, "open trace %s: %s", path, strerror(errno));
        free_file(f);
        return st;
    }
    sl_json_raw(&f->text, "{\"traceEvents\":[");
    *out = f;
    return SL_OK;
}

static void begin_event(sl_trace_file *f) {
    sl_json_raw(&f->text, f->n_events ? ",\n" : "\n");
    f->n_events = 1;
}

/* ---- names ---- */

static void put_name(sl_trace_file *f, const char *what, int rank, int queue, const char *field) {
    begin_event(f);
    sl_json_raw(&f->text, "{\"name\":\"");
    sl_json_raw(&f->text, what);
    sl_json_raw(&f->text, "\",\"ph\":\"M\",\"pid\":");
    sl_json_int(&f->text, rank);
    if (queue >= 0) {
        sl_json_raw(&f->text, ",\"tid\":");
        sl_json_int(&f->text, queue);
    }
    sl_json_raw(&f->text, ",\"args\":{\"");
    sl_json_raw(&f->text, field);
    sl_json_raw(&f->text, "\":");
}

static void put_text_name(sl_trace_file *f, const char *what, int rank, int queue,
                          const char *field, const char *value) {
    put_name(f, what, rank, queue, field);
    sl_json_cstring(&f->text, value);
    sl_json_raw(&f->text, "}}");
}

/* Viewers order processes and threads by this. */
static void put_place(sl_trace_file *f, const char *what, int rank, int queue, int place) {
    put_name(f, what, rank, queue, "sort_index");
    sl_json_int(&f->text, place);
    sl_json_raw(&f->text, "}}");
}

void sl_trace_file_rank(sl_trace_file *f, int rank, const char *host, uint32_t queues,
                        uint64_t n_dropped) {
    char text[320];
    snprintf(text, sizeof text, "rank %d (%.255s)", rank, host);
    put_text_name(f, "process_name", rank, -1, "name", text);
    put_place(f, "process_sort_index", rank, -1, rank);
    if (n_dropped) {
        snprintf(text, sizeof text, "%" PRIu64 " spans dropped", n_dropped);
        put_text_name(f, "process_labels", rank, -1, "labels", text);
    }
    for (int q = 0; q < SL_QUEUE_COUNT; q++) {
        if (!(queues >> q & 1)) continue;
        put_text_name(f, "thread_name", rank, q, "name", sl_queue_name((sl_queue)q));
        put_place(f, "thread_sort_index", rank, q, q);
    }
    f->n_dropped += n_dropped;
}

/* ---- spans ---- */

/* Seconds as microseconds with three digits behind the point, whatever the locale. */
static void put_us(sl_json_text *out, double seconds) {
    char text[48];
    const int64_t ns = isfinite(seconds) && seconds > 0 ? llround(seconds * 1e9) : 0;
    snprintf(text, sizeof text, "%" PRId64 ".%03d", ns / 1000, (int)(ns % 1000));
    sl_json_raw(out, text);
}

static void put_arg(sl_json_text *out, const char *name, int64_t value, int *n) {
    sl_json_raw(out, *n ? ",\"" : "\"");
    sl_json_raw(out, name);
    sl_json_raw(out, "\":");
    sl_json_int(out, value);
    (*n)++;
}

void sl_trace_file_span(sl_trace_file *f, int rank, double zero_s, const sl_span *span) {
    sl_json_text *out = &f->text;
    int n_args = 0;
    begin_event(f);
    sl_json_raw(out, "{\"name\":");
    sl_json_cstring(out, span->name);
    sl_json_raw(out, ",\"cat\":\"");
    sl_json_raw(out, sl_queue_name(span->queue));
    sl_json_raw(out, "\",\"ph\":\"X\",\"ts\":");
    put_us(out, span->start_s - zero_s);
    sl_json_raw(out, ",\"dur\":");
    put_us(out, span->end_s - span->start_s);
    sl_json_raw(out, ",\"pid\":");
    sl_json_int(out, rank);
    sl_json_raw(out, ",\"tid\":");
    sl_json_int(out, (int)span->queue);
    sl_json_raw(out, ",\"args\":{");
    if (span->layer >= 0) put_arg(out, "layer", span->layer, &n_args);
    if (span->micro_batch >= 0) put_arg(out, "micro_batch", span->micro_batch, &n_args);
    if (span->bytes) put_arg(out, "bytes", (int64_t)span->bytes, &n_args);
    sl_json_raw(out, "}}");
    f->n_spans++;
    if (out->n_bytes >= FLUSH_BYTES) flush(f);
}

sl_status sl_trace_file_close(sl_trace_file *f) {
    if (!f) return SL_OK;
    sl_json_raw(&f->text, "\n],\"displayTimeUnit\":\"ms\",\"otherData\":{\"spans\":");
    sl_json_int(&f->text, (int64_t)f->n_spans);
    sl_json_raw(&f->text, ",\"dropped_spans\":");
    sl_json_int(&f->text, (int64_t)f->n_dropped);
    sl_json_raw(&f->text, "}}\n");
    sl_status st = sl_json_status(&f->text);
    flush(f);
    if (fclose(f->stream) != 0 && !f->error) f->error = errno;
    if (f->error) st = SL_FAIL(SL_ERR_IO, "write trace %s: %s", f->path, strerror(f->error));
    free_file(f);
    return st;
}
