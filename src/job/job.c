#include "job/job.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "job/item.h"

enum {
    WARNED_FIELDS = 64, /* names of unknown fields that are remembered */
    WINDOW_SEATS = 16,  /* lines under way or waiting for an older one, per seat of the engine */
    WINDOW_LINES_MIN = 256,    /* at least so many */
    HELD_BYTES_MAX = 256 << 20 /* results that wait for an older line */
};

typedef struct {
    const sl_job_options *o;
    sl_job_counts *counts;
    sl_item_shared shared;
    sl_item *first, *last; /* in the order of the lines */
    int n_items, window;
    size_t held_bytes; /* of results that are ready and not written */
    int n_open;        /* prompts that the engine has */
    int ended;         /* no more lines */
    int stopped;
    sl_job_format format;
    uint64_t line_number; /* of the line in hand */
    int n_warned;
    char warned[WARNED_FIELDS][64];
} job;

/* ---- items ---- */

static void link_item(job *j, sl_item *it) {
    it->before = j->last;
    if (j->last) {
        j->last->after = it;
    } else {
        j->first = it;
    }
    j->last = it;
    j->n_items++;
}

static void unlink_item(job *j, sl_item *it) {
    if (it->before) {
        it->before->after = it->after;
    } else {
        j->first = it->after;
    }
    if (it->after) {
        it->after->before = it->before;
    } else {
        j->last = it->before;
    }
    j->n_items--;
}

/* ---- results ---- */

static sl_status write_item(job *j, sl_item *it) {
    SL_TRY(sl_writer_put(j->o->writer, it->line.data, it->line.n_bytes));
    if (it->request.error.status_code) {
        j->counts->n_refused++;
    } else {
        j->counts->n_answered++;
    }
    j->held_bytes -= it->line.n_bytes;
    unlink_item(j, it);
    sl_item_close(it);
    return SL_OK;
}

/* Writes what is ready; in input order only as far as no older line is missing, unless `all`. */
static sl_status write_ready(job *j, int all) {
    for (sl_item *it = j->first, *next; it; it = next) {
        next = it->after;
        if (it->ready) {
            SL_TRY(write_item(j, it));
        } else if (j->o->order == SL_ORDER_INPUT && !all) {
            return SL_OK;
        }
    }
    return SL_OK;
}

/* In input order a run that can be gone on with writes no line before an older one, whatever
 * happens; without that, what is ready at the end is better written than lost. */
static int keeps_order(const job *j) {
    return j->o->order == SL_ORDER_INPUT && j->o->resume && sl_resume_is_on(j->o->resume);
}

/* All prompts of the line are back from the engine, or it never got there. */
static sl_status complete_item(job *j, sl_item *it) {
    if (it->dropped) {
        if (keeps_order(j)) return SL_OK; /* stays, and with it what is behind it */
        unlink_item(j, it);
        sl_item_close(it);
        return SL_OK;
    }
    SL_TRY(sl_item_finish(it));
    j->held_bytes += it->line.n_bytes;
    if (keeps_order(j) && it != j->first)
        SL_TRY(sl_resume_hold(j->o->resume, it->line.data, it->line.n_bytes));
    return write_ready(j, 0);
}

/* The journal without the results that were written since. */
static sl_status renew_journal(job *j) {
    SL_TRY(sl_resume_renew_begin(j->o->resume));
    for (sl_item *it = j->first; it; it = it->after) {
        if (it->ready) SL_TRY(sl_resume_hold(j->o->resume, it->line.data, it->line.n_bytes));
    }
    return sl_resume_renew_end(j->o->resume);
}

static sl_status take_results(job *j) {
    for (;;) {
        const sl_engine_result *result = NULL;
        SL_TRY(sl_engine_take(j->o->engine, &result));
        if (!result) return SL_OK;
        sl_item *it = ((sl_item_part *)result->user)->item;
        sl_item_take(result->user, result);
        j->n_open--;
        if (it->n_open == 0) SL_TRY(complete_item(j, it));
    }
}

int sl_job_on_token(void *user, int choice, const sl_choice *token) {
    return sl_item_on_token(user, choice, token);
}

/* ---- reading ---- */

static void warn_unknown(void *context, const char *field) {
    job *j = context;
    char text[160];
    for (int i = 0; i < j->n_warned; i++) {
        if (strncmp(j->warned[i], field, sizeof j->warned[i] - 1) == 0) return;
    }
    if (j->n_warned == WARNED_FIELDS || !j->o->warn) return;
    snprintf(j->warned[j->n_warned++], sizeof j->warned[0], "%s", field);
    snprintf(text, sizeof text,
             "line %" PRIu64 ": unknown field \"%.60s\" is ignored, here and below", j->line_number,
             field);
    if (j->o->progress) sl_progress_clear(j->o->progress);
    j->o->warn(j->o->warn_context, text);
}

static sl_status parse_line(job *j, const sl_read *read, sl_request *out) {
    j->line_number = read->number;
    if (read->kind == SL_READ_TOO_LONG)
        return sl_request_refused_line(read->number, "longer than 64 MiB", out);
    return sl_request_parse(read->line, read->n_bytes, read->number, j->format, &j->o->defaults,
                            warn_unknown, j, out);
}

/* A line whose result an earlier run has kept: it waits for its turn to be written. */
static sl_status admit_held(job *j, uint64_t line) {
    sl_request request = {.line = line};
    sl_item *it = NULL;
    int status = 0;
    SL_TRY(sl_item_open(&j->shared, &request, &it));
    const sl_status st = sl_resume_take_held(j->o->resume, line, &it->line, &status);
    if (st != SL_OK) {
        sl_item_close(it);
        return st;
    }
    it->request.error.status_code = status == 200 ? 0 : status;
    it->ready = 1;
    j->counts->n_lines++;
    j->held_bytes += it->line.n_bytes;
    link_item(j, it);
    return write_ready(j, 0);
}

static sl_status admit_line(job *j, const sl_read *read) {
    sl_request request;
    sl_item *it = NULL;
    if (read->kind == SL_READ_LINE && sl_request_is_blank(read->line, read->n_bytes)) return SL_OK;
    if (read->kind == SL_READ_LINE && j->format == SL_FORMAT_AUTO)
        j->format = sl_request_detect(read->line, read->n_bytes);
    if (j->o->resume) {
        const sl_resume_state state = sl_resume_look(j->o->resume, read->number);
        if (state == SL_RESUME_WRITTEN) return SL_OK;
        if (state == SL_RESUME_HELD) return admit_held(j, read->number);
    }
    SL_TRY(parse_line(j, read, &request));
    const sl_status st = sl_item_open(&j->shared, &request, &it);
    if (st != SL_OK) {
        sl_request_free(&request);
        return st;
    }
    j->counts->n_lines++;
    link_item(j, it);
    SL_TRY(sl_item_submit(it));
    j->n_open += it->n_open;
    return it->n_open > 0 ? SL_OK : complete_item(j, it);
}

/* Reads lines as long as the window has room for them, so that the engine sees which prompts of
 * many begin in the same way; waits for one only where there is nothing else to do. */
static sl_status admit(job *j) {
    sl_engine *engine = j->o->engine;
    while (!j->ended && sl_engine_n_queued(engine) < j->window && j->n_items < j->window &&
           j->held_bytes < HELD_BYTES_MAX) {
        sl_read read;
        SL_TRY(sl_reader_next(j->o->reader, j->n_open == 0, &read));
        if (read.kind == SL_READ_NOTHING) return SL_OK;
        if (read.kind == SL_READ_END) {
            j->ended = 1;
            sl_engine_finish(engine);
            return SL_OK;
        }
        SL_TRY(admit_line(j, &read));
        if (j->o->stop && *j->o->stop) return SL_OK;
    }
    return SL_OK;
}

/* ---- the job ---- */

/* Failures inside the token callback come to light after the turn. */
static sl_status check_tokens(const job *j) {
    if (j->shared.token_st == SL_OK) return SL_OK;
    return sl_fail_text(j->shared.token_st, j->shared.token_message);
}

/* Between two turns: what was written goes to the disk, and the journal is kept short. */
static sl_status keep_safe(job *j, double turn_s) {
    if (!j->o->resume) return SL_OK;
    if (sl_resume_is_long(j->o->resume, j->held_bytes)) SL_TRY(renew_journal(j));
    return sl_resume_sync(j->o->resume, turn_s);
}

static sl_status run_turns(job *j) {
    int done = 0;
    while (!done) {
        const double start_s = sl_clock_s();
        if (j->o->stop && *j->o->stop && !j->stopped) {
            j->stopped = j->ended = 1;
            sl_engine_stop(j->o->engine);
        }
        SL_TRY(admit(j));
        if (j->n_open == 0 && !j->ended) continue; /* a signal came while waiting for a line */
        j->counts->engine_failed = 1;
        SL_TRY(sl_pace_step(&j->counts->pace, j->o->engine, &done));
        j->counts->engine_failed = 0;
        SL_TRY(check_tokens(j));
        SL_TRY(take_results(j));
        sl_pace_answered(&j->counts->pace, j->counts->n_answered + j->counts->n_refused);
        if (j->o->progress)
            sl_progress_update(j->o->progress, j->counts->n_answered + j->counts->n_refused,
                               j->shared.n_generated_tokens, sl_pace_hits_frac(&j->counts->pace));
        SL_TRY(keep_safe(j, sl_clock_s() - start_s));
    }
    SL_TRY(write_ready(j, !keeps_order(j)));
    return j->o->resume ? sl_resume_finish(j->o->resume, !j->stopped) : SL_OK;
}

/* A failure of our own, which the other ranks know nothing of: ends them, keeps the message. */
static sl_status end_others(job *j, sl_status failure) {
    char message[1024];
    snprintf(message, sizeof message, "%s", sl_error_message());
    sl_engine_stop(j->o->engine);
    int done = 0;
    while (!done && sl_engine_step(j->o->engine, &done) == SL_OK) {
    }
    return sl_fail_text(failure, message);
}

/* "12 of 40 requests are answered". */
static void say_progress(const job *j, char *text, size_t room) {
    const uint64_t n_done = j->counts->n_before + j->counts->n_answered + j->counts->n_refused;
    const int64_t total = j->o->progress ? j->o->progress->total : -1;
    if (total < 0) {
        snprintf(text, room, "%" PRIu64 " requests are answered", n_done);
    } else {
        snprintf(text, room, "%" PRIu64 " of %" PRId64 " requests are answered", n_done, total);
    }
    int n_held = 0;
    for (const sl_item *it = j->first; it; it = it->after) n_held += it->ready;
    const size_t used = strlen(text);
    if (keeps_order(j) && n_held > 0)
        snprintf(text + used, room - used, ", and %d more are kept until older ones are", n_held);
}

/* The message of a job that ended early: the reason, how far it got, how to go on. */
static sl_status end_early(const job *j, sl_status failure) {
    char reason[700], progress[160], message[1024];
    const char *way_on = j->o->resume ? sl_resume_way_on(j->o->resume) : "";
    if (failure != SL_ERR_STOPPED && !*way_on) return failure;
    snprintf(reason, sizeof reason, "%s",
             failure == SL_ERR_STOPPED ? "stopped by a signal" : sl_error_message());
    say_progress(j, progress, sizeof progress);
    snprintf(message, sizeof message, "%s: %s%s", reason, progress, way_on);
    return sl_fail_text(failure, message);
}

sl_status sl_job_run(const sl_job_options *options, sl_job_counts *counts) {
    *counts = (sl_job_counts){0};
    job *j = calloc(1, sizeof *j);
    if (!j) return SL_FAIL(SL_ERR_NOMEM, "job: out of host memory");
    j->o = options;
    j->counts = counts;
    j->format = options->format;
    j->shared = (sl_item_shared){.engine = options->engine,
                                 .config = options->config,
                                 .result = {.model = options->model_name,
                                            .tokenizer = options->tokenizer,
                                            .seed = options->seed}};
    const int seats = sl_engine_n_seats(options->engine);
    j->window = seats > WINDOW_LINES_MIN / WINDOW_SEATS ? WINDOW_SEATS * seats : WINDOW_LINES_MIN;

    if (options->resume) counts->n_before = sl_resume_n_written(options->resume);
    if (options->progress) options->progress->n_before = counts->n_before;
    sl_status st =
        options->resume ? sl_resume_start(options->resume) : sl_writer_start(options->writer, 0);
    if (st == SL_OK) st = run_turns(j);
    if (st != SL_OK && !counts->engine_failed) st = end_others(j, st);
    if (st == SL_OK && j->stopped) st = SL_ERR_STOPPED;
    if (st != SL_OK) st = end_early(j, st);

    counts->n_prompt_tokens = j->shared.n_prompt_tokens;
    counts->n_generated_tokens = j->shared.n_generated_tokens;
    if (options->progress) sl_progress_clear(options->progress);
    while (j->first) {
        sl_item *it = j->first;
        unlink_item(j, it);
        sl_item_close(it);
    }
    free(j);
    return st;
}

sl_status sl_job_follow(sl_engine *engine) {
    int done = 0;
    while (!done) SL_TRY(sl_engine_step(engine, &done));
    return SL_OK;
}
