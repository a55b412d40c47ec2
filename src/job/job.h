/* job.h - a whole job: requests from the reader through the engine to the writer.
 *
 * The first rank reads, submits, writes; the other ranks only step.  Every line that is not blank
 * is answered exactly once, by an answer or by an error that names it. Layer: job.  May include:
 * base, model, engine.  Thread safety: one thread.
 */
#ifndef SL_JOB_JOB_H
#define SL_JOB_JOB_H

#include <signal.h>
#include <stdint.h>

#include "base/status.h"
#include "engine/engine.h"
#include "job/pace.h"
#include "job/progress.h"
#include "job/reader.h"
#include "job/request.h"
#include "job/resume.h"
#include "job/writer.h"
#include "model/config.h"
#include "model/tokenizer.h"

typedef enum {
    SL_ORDER_INPUT, /* results in the order of the lines */
    SL_ORDER_FINISH /* as they finish */
} sl_job_order;

/* All pointers are borrowed during sl_job_run(). */
typedef struct {
    sl_engine *engine; /* opened with sl_job_on_token */
    const sl_model_config *config;
    const sl_tokenizer *tokenizer; /* NULL: prompts must be token ids, texts are empty */
    sl_reader *reader;
    sl_writer *writer;
    sl_resume *resume; /* what an earlier run has answered; NULL: nothing, and none can go on */
    sl_job_format format;
    sl_job_order order;
    sl_params defaults;     /* for fields that a request does not give */
    uint64_t seed;          /* for requests without one of their own */
    const char *model_name; /* for the results */
    sl_progress *progress;
    void (*warn)(void *context, const char *text); /* one call per unknown field's name */
    void *warn_context;
    const volatile sig_atomic_t *stop; /* becomes non-zero when the job is to end early; or NULL */
} sl_job_options;

typedef struct {
    uint64_t n_lines;    /* requests read, blank lines and answered ones not counted */
    uint64_t n_answered; /* with a completion */
    uint64_t n_refused;  /* with an error */
    uint64_t n_before;   /* answered by earlier runs: not among the others */
    uint64_t n_prompt_tokens, n_generated_tokens;
    int engine_failed; /* 1: the failure is the engine's, all ranks have it; 0: this rank's own */
    sl_pace pace;
} sl_job_counts;

/* The engine's token callback of a job. */
int sl_job_on_token(void *user, int choice, const sl_choice *token);

/* First rank.  Runs the job to its end.  Lines that the output answers already are passed over; the
 * others get the same tokens as in a run that did them all.  *counts is filled in on failure too:
 * it says how far the job got, and so does the message, with how to go on.
 * Errors: SL_ERR_STOPPED when *stop ended it early (what was finished is written);
 *         SL_ERR_IO from reader and writer, after the other ranks were told to end;
 *         whatever the engine's step reports, on all ranks. */
sl_status sl_job_run(const sl_job_options *options, sl_job_counts *counts);

/* The other ranks: steps until the first rank is done. */
sl_status sl_job_follow(sl_engine *engine);

#endif
