/* resume.h - going on with an output that an earlier run of the same job left unfinished.
 *
 * Beside the output OUT stands OUT.sluice, the journal.  Its first line is the key of the job
 * (job_key.h), so that an output of another job is never added to; after it follow results that are
 * ready and wait for an older line, so that a job in input order loses nothing that was computed.
 * What is answered is read from the output itself.
 *
 *     sl_resume_open()     looks, and refuses; changes nothing
 *     sl_resume_start()    cuts torn ends off, or begins anew
 *     sl_resume_look() for every line of the input; sl_resume_take_held() where it says so
 *     sl_resume_hold(), sl_resume_sync() during the job, sl_resume_finish() at its end
 *
 * Layer: job.  May include: base.  Thread safety: one owner.
 */
#ifndef SL_JOB_RESUME_H
#define SL_JOB_RESUME_H

#include <stdint.h>

#include "base/status.h"
#include "job/job_key.h"
#include "job/json_text.h"
#include "job/writer.h"

typedef struct {
    const char *output;    /* the path that the writer was opened with */
    sl_writer *writer;     /* borrowed until close */
    const sl_job_key *key; /* borrowed during open; NULL: keep no journal, go on with nothing */
    const char *why_not;   /* with key NULL: the reason, for the message */
    uint64_t seed;         /* of the job */
    int overwrite;         /* 1: begin anew whatever is there */
} sl_resume_options;

typedef struct sl_resume sl_resume;

/* Errors: SL_ERR_ARG where the output holds something that cannot be gone on with, saying why (what
 * differs, above all), SL_ERR_FORMAT where it holds what is no result, SL_ERR_IO, SL_ERR_NOMEM. */
sl_status sl_resume_open(const sl_resume_options *options, sl_resume **out);
void sl_resume_close(sl_resume *resume);

int sl_resume_is_on(const sl_resume *resume); /* 1: a later run can go on */
/* How a later run does that, to end a message with: "; run ... to go on", or "". */
const char *sl_resume_way_on(const sl_resume *resume);
/* Requests that the output answers, and of them those with an error. */
uint64_t sl_resume_n_written(const sl_resume *resume);
uint64_t sl_resume_n_refused(const sl_resume *resume);
/* Results that are ready in the journal and not yet taken. */
uint64_t sl_resume_n_waiting(const sl_resume *resume);

/* Brings output and journal into the state in which the job goes on, or begins.  The output is cut
 * before the journal is made, so that no moment pairs old results with a new key.
 * Errors: SL_ERR_IO. */
sl_status sl_resume_start(sl_resume *resume);

typedef enum {
    SL_RESUME_TO_DO,
    SL_RESUME_WRITTEN, /* the output answers it */
    SL_RESUME_HELD     /* its result is in the journal */
} sl_resume_state;

/* What is known of line `line` of the input. */
sl_resume_state sl_resume_look(const sl_resume *resume, uint64_t line);

/* Appends the result of a line that is HELD to *out, '\n' included; once for each line.
 * Errors: SL_ERR_IO, SL_ERR_NOMEM. */
sl_status sl_resume_take_held(sl_resume *resume, uint64_t line, sl_json_text *out, int *status_out);

/* Keeps a result that cannot be written yet.  Errors: SL_ERR_IO. */
sl_status sl_resume_hold(sl_resume *resume, const char *text, size_t n_bytes);

/* Whether most of the journal is results that were written since; `held_bytes` are not.  The caller
 * then calls begin, hold for every result that is still held, and end.
 * Errors: SL_ERR_IO. */
int sl_resume_is_long(const sl_resume *resume, size_t held_bytes);
sl_status sl_resume_renew_begin(sl_resume *resume);
sl_status sl_resume_renew_end(sl_resume *resume);

/* Puts what was written onto the disk if a second would otherwise pass without: called after each
 * turn, `turn_s` is how long the next one may take.  Errors: SL_ERR_IO. */
sl_status sl_resume_sync(sl_resume *resume, double turn_s);

/* The job is done, or stopped: puts everything onto the disk; with `all_written` the journal keeps
 * the key alone.  Errors: SL_ERR_IO. */
sl_status sl_resume_finish(sl_resume *resume, int all_written);

#endif
