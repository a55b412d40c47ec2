#include "job/answered.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK_BYTES = 1 << 20 };

/* ---- one line ---- */

/* Advances *at past `word`; 0 if something else stands there. */
static int skip_word(const char **at, const char *end, const char *word) {
    const size_t n = strlen(word);
    if ((size_t)(end - *at) < n || memcmp(*at, word, n) != 0) return 0;
    *at += n;
    return 1;
}

static int read_hex(const char **at, const char *end, int n_digits, uint64_t *out) {
    uint64_t value = 0;
    if (end - *at < n_digits) return 0;
    for (int i = 0; i < n_digits; i++) {
        const char c = (*at)[i];
        if (c >= '0' && c <= '9') {
            value = value << 4 | (uint64_t)(c - '0');
        } else if (c >= 'a' && c <= 'f') {
            value = value << 4 | (uint64_t)(c - 'a' + 10);
        } else {
            return 0;
        }
    }
    *at += n_digits;
    *out = value;
    return 1;
}

/* Past a JSON string, its quotes included. */
static int skip_string(const char **at, const char *end) {
    const char *p = *at;
    if (p == end || *p != '"') return 0;
    for (p++; p < end && *p != '"'; p++) {
        if (*p == '\\' && ++p == end) return 0;
    }
    if (p == end) return 0;
    *at = p + 1;
    return 1;
}

int sl_answered_read_line(const char *line, size_t n_bytes, uint64_t *key_out, int *status_out) {
    static const char tail[] = "}}, \"error\": null}"; /* as sl_result_answer() ends each */
    const size_t n_tail = sizeof tail - 1;
    if (n_bytes < n_tail || memcmp(line + n_bytes - n_tail, tail, n_tail) != 0) return 0;
    const char *at = line, *const end = line + n_bytes - n_tail;
    uint64_t key, rest;
    int status = 0;
    if (!skip_word(&at, end, "{\"id\": \"batch_req_") || !read_hex(&at, end, 16, &key) ||
        !read_hex(&at, end, 8, &rest) || !skip_word(&at, end, "\", \"custom_id\": ") ||
        !skip_string(&at, end) || !skip_word(&at, end, ", \"response\": {\"status_code\": "))
        return 0;
    const char *digits = at;
    for (; at < end && at - digits < 3 && *at >= '0' && *at <= '9'; at++)
        status = status * 10 + (*at - '0');
    if (at - digits != 3 || !skip_word(&at, end, ", ")) return 0;
    *key_out = key;
    *status_out = status;
    return 1;
}

/* ---- the file ---- */

static sl_status add_line(sl_answered *a, const sl_answered_line *line) {
    if (a->n == a->room) {
        const size_t room = a->room ? 2 * a->room : 1024;
        sl_answered_line *lines = realloc(a->lines, room * sizeof *lines);
        if (!lines) return SL_FAIL(SL_ERR_NOMEM, "%zu results: out of host memory", room);
        a->lines = lines;
        a->room = room;
    }
    a->lines[a->n++] = *line;
    a->n_refused += line->status_code != 200;
    return SL_OK;
}

/* The part of the file that is looked at: unread bytes are data[begin, end). */
typedef struct {
    int fd;
    const char *path;
    char *data;
    size_t room, begin, end;
    uint64_t offset; /* in the file, of data[begin] */
} window;

static sl_status fill(window *w, int *ended_out) {
    if (w->begin > 0) {
        memmove(w->data, w->data + w->begin, w->end - w->begin);
        w->end -= w->begin;
        w->begin = 0;
    }
    if (w->room - w->end < CHUNK_BYTES) {
        const size_t room = 2 * w->room + CHUNK_BYTES;
        char *data = realloc(w->data, room);
        if (!data)
            return SL_FAIL(SL_ERR_NOMEM, "%s: a line of %zu bytes: out of host memory", w->path,
                           w->end);
        w->data = data;
        w->room = room;
    }
    ssize_t n;
    do {
        n = pread(w->fd, w->data + w->end, w->room - w->end, (off_t)(w->offset + w->end));
    } while (n < 0 && errno == EINTR);
    if (n < 0) return SL_FAIL(SL_ERR_IO, "read %s: %s", w->path, strerror(errno));
    w->end += (size_t)n;
    *ended_out = n == 0;
    return SL_OK;
}

/* Takes the line data[begin, begin + n_bytes); *torn_out = 1 where nothing further counts. */
static sl_status take_line(const window *w, size_t n_bytes, sl_answered *a, int *torn_out) {
    const char *text = w->data + w->begin;
    sl_answered_line line = {.offset = w->offset, .n_bytes = n_bytes};
    *torn_out = memchr(text, '\0', n_bytes) != NULL;
    if (*torn_out) return SL_OK;
    if (!sl_answered_read_line(text, n_bytes - 1, &line.key, &line.status_code))
        return SL_FAIL(
            SL_ERR_FORMAT,
            "%s: what stands at byte %llu is no result of this program; name another file, "
            "or give --overwrite to replace it",
            w->path, (unsigned long long)w->offset);
    SL_TRY(add_line(a, &line));
    a->whole_bytes = w->offset + n_bytes;
    return SL_OK;
}

static int by_key(const void *a, const void *b) {
    const uint64_t x = ((const sl_answered_line *)a)->key, y = ((const sl_answered_line *)b)->key;
    return (x > y) - (x < y);
}

sl_status sl_answered_scan(int fd, uint64_t from, const char *path, sl_answered *out) {
    sl_status st = SL_OK;
    sl_answered a = {.whole_bytes = from};
    window w = {.fd = fd, .path = path, .offset = from};
    size_t searched = 0; /* bytes behind `begin` without '\n' */
    int ended = 0, torn = 0;
    while (!ended && !torn) {
        SL_GO(fill(&w, &ended));
        for (;;) {
            const char *from_here = w.data + w.begin + searched;
            const char *newline = memchr(from_here, '\n', w.end - w.begin - searched);
            if (!newline) break;
            const size_t n_bytes = (size_t)(newline - (w.data + w.begin)) + 1;
            SL_GO(take_line(&w, n_bytes, &a, &torn));
            if (torn) break;
            w.begin += n_bytes;
            w.offset += n_bytes;
            searched = 0;
        }
        searched = w.end - w.begin;
    }
    if (a.n) qsort(a.lines, a.n, sizeof *a.lines, by_key);
    free(w.data);
    *out = a;
    return SL_OK;

fail:
    free(w.data);
    sl_answered_free(&a);
    return st;
}

void sl_answered_free(sl_answered *answered) {
    free(answered->lines);
    *answered = (sl_answered){0};
}

const sl_answered_line *sl_answered_find(const sl_answered *answered, uint64_t key) {
    const sl_answered_line wanted = {.key = key};
    if (answered->n == 0) return NULL;
    return bsearch(&wanted, answered->lines, answered->n, sizeof *answered->lines, by_key);
}
