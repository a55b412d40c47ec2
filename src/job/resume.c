#include "job/resume.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "job/answered.h"
#include "job/result.h"

static const double SYNC_PERIOD_S = 1.0;
enum { SLACK_BYTES = 16 << 20 }; /* of written results that the journal may hold */

struct sl_resume {
    sl_writer *writer;
    char *output, *path, *path_new; /* of the output, the journal and the journal being made */
    sl_json_text head;              /* the journal's first line */
    uint64_t seed;
    int is_on;                     /* there is a journal, or will be */
    int goes_on;                   /* output and journal are of the same job */
    int overwrites;                /* it was told to begin anew */
    int fd;                        /* of the journal, or -1 */
    int fd_new;                    /* of the journal being made, or -1 */
    int unsynced;                  /* of the journal */
    uint64_t n_bytes, n_bytes_new; /* whole lines in the two */
    double last_sync_s;
    sl_answered written, held; /* held: those alone that are not written */
    uint64_t n_waiting;
};

/* ---- looking ---- */

static sl_status refuse(const sl_resume *r, const char *why) {
    return SL_FAIL(SL_ERR_ARG,
                   "output %s holds %llu bytes, and %s; name another file, or give --overwrite to "
                   "replace it",
                   r->output, (unsigned long long)sl_writer_bytes(r->writer), why);
}

/* The journal's first line.  *length_out = 0: it has none. */
static sl_status read_head(sl_resume *r, char **text_out, size_t *length_out) {
    struct stat info;
    if (fstat(r->fd, &info) != 0)
        return SL_FAIL(SL_ERR_IO, "read %s: %s", r->path, strerror(errno));
    const size_t room =
        info.st_size < SL_JOB_KEY_MAX_BYTES ? (size_t)info.st_size : SL_JOB_KEY_MAX_BYTES;
    char *text = malloc(room + 1);
    if (!text) return SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory", r->path);
    ssize_t n;
    do {
        n = pread(r->fd, text, room, 0);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        free(text);
        return SL_FAIL(SL_ERR_IO, "read %s: %s", r->path, strerror(errno));
    }
    const char *newline = memchr(text, '\n', (size_t)n);
    *length_out = newline ? (size_t)(newline - text) + 1 : 0;
    *text_out = text;
    return SL_OK;
}

/* Whether the journal is of the job `key`; if not, why in `why`. */
static sl_status compare(sl_resume *r, const sl_job_key *key, int *same_out, char *why,
                         size_t room) {
    char *text = NULL, differences[700];
    size_t length = 0;
    sl_job_key was = {0}, is = {0};
    *same_out = 0;
    SL_TRY(read_head(r, &text, &length));
    sl_status st = length ? sl_job_key_parse(text, length, &was)
                          : SL_FAIL(SL_ERR_FORMAT, "its first line has no end");
    free(text);
    if (st == SL_ERR_FORMAT) {
        char reason[256];
        snprintf(reason, sizeof reason, "%s", sl_error_message());
        snprintf(why, room, "%s does not say which job they belong to: %s", r->path, reason);
        return SL_OK;
    }
    if (st == SL_OK) st = sl_job_key_same_form(key, &is);
    if (st == SL_OK && sl_job_key_differs(&was, &is, differences, sizeof differences) > 0) {
        snprintf(why, room, "they belong to another job: %s", differences);
    } else if (st == SL_OK) {
        *same_out = 1;
        r->n_bytes = length;
    }
    sl_job_key_free(&was);
    sl_job_key_free(&is);
    return st;
}

static sl_status scan_output(sl_resume *r) {
    const int fd = open(r->output, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return SL_FAIL(SL_ERR_IO, "read output %s: %s", r->output, strerror(errno));
    const sl_status st = sl_answered_scan(fd, 0, r->output, &r->written);
    close(fd);
    if (st != SL_OK) return st;
    for (size_t i = 1; i < r->written.n; i++) {
        if (r->written.lines[i].key == r->written.lines[i - 1].key)
            return refuse(r, "answers a request twice");
    }
    return SL_OK;
}

/* Results in the journal that the output lacks.  A damaged journal costs computing them again. */
static sl_status scan_journal(sl_resume *r) {
    const sl_status st = sl_answered_scan(r->fd, r->n_bytes, r->path, &r->held);
    if (st != SL_OK && st != SL_ERR_FORMAT) return st;
    if (st == SL_ERR_FORMAT) r->held = (sl_answered){.whole_bytes = r->n_bytes};
    size_t n = 0;
    for (size_t i = 0; i < r->held.n; i++) {
        const sl_answered_line line = r->held.lines[i];
        if (n && r->held.lines[n - 1].key == line.key) continue;
        if (!sl_answered_find(&r->written, line.key)) r->held.lines[n++] = line;
    }
    r->held.n = r->n_waiting = n;
    return SL_OK;
}

/* Decides whether the run goes on with what is there (goes_on), begins anew, or is refused. */
static sl_status look(sl_resume *r, const sl_resume_options *o) {
    char why[1024];
    const int has_results = sl_writer_bytes(r->writer) > 0;
    if (o->overwrite || sl_writer_is_new(r->writer)) return SL_OK;
    if (!o->key) return has_results ? refuse(r, o->why_not) : SL_OK;
    r->fd = open(r->path, O_RDWR | O_APPEND | O_CLOEXEC);
    if (r->fd < 0 && errno != ENOENT)
        return SL_FAIL(SL_ERR_IO, "open %s: %s", r->path, strerror(errno));
    if (r->fd < 0) {
        snprintf(why, sizeof why, "there is no %s that says which job they belong to", r->path);
        return has_results ? refuse(r, why) : SL_OK;
    }
    SL_TRY(compare(r, o->key, &r->goes_on, why, sizeof why));
    if (!r->goes_on) return has_results ? refuse(r, why) : SL_OK;
    SL_TRY(scan_output(r));
    return scan_journal(r);
}

sl_status sl_resume_open(const sl_resume_options *o, sl_resume **out) {
    sl_status st = SL_OK;
    sl_resume *r = calloc(1, sizeof *r);
    if (!r) return SL_FAIL(SL_ERR_NOMEM, "resume: out of host memory");
    r->fd = r->fd_new = -1;
    r->writer = o->writer;
    r->seed = o->seed;
    r->overwrites = o->overwrite;
    if (sl_writer_is_file(o->writer)) {
        if (asprintf(&r->path, "%s.sluice", o->output) < 0) r->path = NULL;
        if (asprintf(&r->path_new, "%s.sluice.new", o->output) < 0) r->path_new = NULL;
        r->output = strdup(o->output);
        if (!r->path || !r->path_new || !r->output) {
            st = SL_FAIL(SL_ERR_NOMEM, "resume: out of host memory");
            goto fail;
        }
        r->is_on = o->key != NULL;
        if (r->is_on) SL_GO(sl_job_key_write(o->key, &r->head));
        SL_GO(look(r, o));
    }
    *out = r;
    return SL_OK;

fail:
    sl_resume_close(r);
    return st;
}

void sl_resume_close(sl_resume *r) {
    if (!r) return;
    if (r->fd >= 0) close(r->fd);
    if (r->fd_new >= 0) close(r->fd_new);
    sl_answered_free(&r->written);
    sl_answered_free(&r->held);
    sl_json_free(&r->head);
    free(r->output);
    free(r->path);
    free(r->path_new);
    free(r);
}

int sl_resume_is_on(const sl_resume *r) {
    return r->is_on;
}

const char *sl_resume_way_on(const sl_resume *r) {
    if (!r->is_on) return "";
    return r->overwrites ? "; run the same command without --overwrite to go on"
                         : "; run the same command again to go on";
}

uint64_t sl_resume_n_written(const sl_resume *r) {
    return r->written.n;
}

uint64_t sl_resume_n_refused(const sl_resume *r) {
    return r->written.n_refused;
}

uint64_t sl_resume_n_waiting(const sl_resume *r) {
    return r->n_waiting;
}

/* ---- lines ---- */

sl_resume_state sl_resume_look(const sl_resume *r, uint64_t line) {
    const uint64_t key = sl_result_key(r->seed, line);
    if (sl_answered_find(&r->written, key)) return SL_RESUME_WRITTEN;
    return sl_answered_find(&r->held, key) ? SL_RESUME_HELD : SL_RESUME_TO_DO;
}

sl_status sl_resume_take_held(sl_resume *r, uint64_t line, sl_json_text *out, int *status_out) {
    const sl_answered_line *held = sl_answered_find(&r->held, sl_result_key(r->seed, line));
    if (!held) return SL_FAIL(SL_ERR_ARG, "line %llu is not held", (unsigned long long)line);
    char *text = malloc(held->n_bytes);
    if (!text)
        return SL_FAIL(SL_ERR_NOMEM, "a result of %zu bytes: out of host memory", held->n_bytes);
    size_t got = 0;
    while (got < held->n_bytes) {
        const ssize_t n =
            pread(r->fd, text + got, held->n_bytes - got, (off_t)(held->offset + got));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            free(text);
            return SL_FAIL(SL_ERR_IO, "read %s: %s", r->path,
                           n < 0 ? strerror(errno) : "it has become shorter");
        }
        got += (size_t)n;
    }
    sl_json_bytes(out, text, got);
    free(text);
    SL_TRY(sl_json_status(out));
    *status_out = held->status_code;
    r->n_waiting--;
    return SL_OK;
}

/* ---- the journal ---- */

static sl_status append(const sl_resume *r, int fd, const char *text, size_t n_bytes,
                        uint64_t *end) {
    size_t done = 0;
    while (done < n_bytes) {
        const ssize_t n = write(fd, text + done, n_bytes - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            const sl_status st =
                SL_FAIL(SL_ERR_IO, "write %zu bytes to %s: %s", n_bytes, r->path, strerror(errno));
            if (ftruncate(fd, (off_t)*end) != 0) return st; /* cut by the next run */
            return st;
        }
        done += (size_t)n;
    }
    *end += n_bytes;
    return SL_OK;
}

sl_status sl_resume_hold(sl_resume *r, const char *text, size_t n_bytes) {
    if (!r->is_on) return SL_OK;
    if (r->fd_new >= 0) return append(r, r->fd_new, text, n_bytes, &r->n_bytes_new);
    r->unsynced = 1;
    return append(r, r->fd, text, n_bytes, &r->n_bytes);
}

int sl_resume_is_long(const sl_resume *r, size_t held_bytes) {
    return r->is_on && r->n_waiting == 0 &&
           r->n_bytes > r->head.n_bytes + 2 * (uint64_t)held_bytes + SLACK_BYTES;
}

sl_status sl_resume_renew_begin(sl_resume *r) {
    r->fd_new = open(r->path_new, O_RDWR | O_APPEND | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (r->fd_new < 0) return SL_FAIL(SL_ERR_IO, "make %s: %s", r->path_new, strerror(errno));
    r->n_bytes_new = 0;
    return append(r, r->fd_new, r->head.data, r->head.n_bytes, &r->n_bytes_new);
}

/* A name is on the disk once its folder is.  Some file systems cannot, and need not, do that. */
static void sync_folder(const char *path) {
    char *folder = strdup(path);
    char *slash = folder ? strrchr(folder, '/') : NULL;
    if (slash) slash[slash == folder] = '\0';
    const int fd = folder ? open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
    free(folder);
}

static sl_status sync_file(int fd, const char *path) {
    if (fdatasync(fd) == 0 || errno == EINVAL) return SL_OK;
    return SL_FAIL(SL_ERR_IO, "write %s to disk: %s", path, strerror(errno));
}

sl_status sl_resume_renew_end(sl_resume *r) {
    /* What the old journal held and the new one does not must be in the output for good. */
    SL_TRY(sl_writer_sync(r->writer));
    SL_TRY(sync_file(r->fd_new, r->path_new));
    if (rename(r->path_new, r->path) != 0)
        return SL_FAIL(SL_ERR_IO, "rename %s to %s: %s", r->path_new, r->path, strerror(errno));
    sync_folder(r->path);
    if (r->fd >= 0) close(r->fd);
    r->fd = r->fd_new;
    r->fd_new = -1;
    r->n_bytes = r->n_bytes_new;
    r->unsynced = 0;
    return SL_OK;
}

/* ---- the job ---- */

sl_status sl_resume_start(sl_resume *r) {
    r->last_sync_s = sl_clock_s();
    if (!r->path) return sl_writer_start(r->writer, 0);
    if (!r->goes_on) {
        SL_TRY(sl_writer_start(r->writer, 0));
        if (r->is_on) {
            SL_TRY(sl_resume_renew_begin(r));
            return sl_resume_renew_end(r);
        }
        /* A journal of the old results must not meet new ones. */
        if (unlink(r->path) != 0 && errno != ENOENT)
            return SL_FAIL(SL_ERR_IO, "remove %s: %s", r->path, strerror(errno));
        return SL_OK;
    }
    SL_TRY(sl_writer_start(r->writer, r->written.whole_bytes));
    if (ftruncate(r->fd, (off_t)r->held.whole_bytes) != 0)
        return SL_FAIL(SL_ERR_IO, "cut %s to %llu bytes: %s", r->path,
                       (unsigned long long)r->held.whole_bytes, strerror(errno));
    r->n_bytes = r->held.whole_bytes;
    return SL_OK;
}

static sl_status sync_now(sl_resume *r) {
    SL_TRY(sl_writer_sync(r->writer));
    if (r->unsynced) SL_TRY(sync_file(r->fd, r->path));
    r->unsynced = 0;
    r->last_sync_s = sl_clock_s();
    return SL_OK;
}

sl_status sl_resume_sync(sl_resume *r, double turn_s) {
    if (sl_clock_s() + turn_s - r->last_sync_s < SYNC_PERIOD_S) return SL_OK;
    return sync_now(r);
}

sl_status sl_resume_finish(sl_resume *r, int all_written) {
    SL_TRY(sync_now(r));
    if (!r->is_on || !all_written || r->n_bytes == r->head.n_bytes) return SL_OK;
    if (ftruncate(r->fd, (off_t)r->head.n_bytes) != 0)
        return SL_FAIL(SL_ERR_IO, "cut %s to its first line: %s", r->path, strerror(errno));
    r->n_bytes = r->head.n_bytes;
    return SL_OK;
}
