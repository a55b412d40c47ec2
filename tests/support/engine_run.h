/* engine_run.h - opens an engine with the CPU backend, runs requests, keeps copies of the results.
 *
 * Usable from cmocka tests and from plain programs under mpirun.
 */
#ifndef SL_TESTS_ENGINE_RUN_H
#define SL_TESTS_ENGINE_RUN_H

#include <stdint.h>

#include "engine/engine.h"

typedef struct {
    sl_finish finish;
    int n_tokens;
    sl_choice *tokens; /* [n_tokens] */
} run_choice;

/* Copy of one request's result, or of its refusal. */
typedef struct {
    sl_status status;  /* of submit */
    char message[256]; /* why submit refused */
    int n_answers;     /* results seen for it: 1, or 0 after a refusal */
    int order;         /* it was the order-th to finish */
    int n_prompt;
    sl_choice *prompt_scores; /* [n_prompt] or NULL */
    int n_choices;
    run_choice *choices; /* [n_choices] */
} run_result;

/* How requests reach the engine. */
typedef enum {
    RUN_ALL_AT_ONCE, /* submitted before the first step */
    RUN_TRICKLE,     /* one with each step, so that sequences of all ages share blocks */
    RUN_ALONE,       /* the next one when the engine is empty */
} run_arrival;

typedef struct {
    const char *model;   /* as sl_source_open() takes it */
    sl_policy policy;    /* no budget means 256 MiB */
    int reference;       /* 1: the reference operators */
    int n_threads;       /* 0: as the backend likes */
    size_t device_bytes; /* of host memory that stands in for a device's; 0: none */
    run_arrival arrival;
    sl_token_callback on_token; /* or NULL; its user is &results[i] of the request */
    int stop_after;             /* > 0: sl_engine_stop() after that many steps */
} run_options;

/* Greedy, all filters off, two alternatives per token, prompt scored, one choice. */
sl_engine_request run_greedy_request(const int32_t *prompt, int n_prompt, int max_tokens);

/* Collective over the transport.  Opens the engine, runs the requests to their end and closes it.
 *
 *   requests  first rank: [n]; `user` is set by the run.  NULL elsewhere
 *   results   first rank: [n], freed with run_results_free(), also after a failure.  NULL elsewhere
 *   stats     this rank's counters at the end, may be NULL
 *
 * A refused request is a result, not a failure.  Errors: whatever the engine reports; SL_ERR_ARG if
 * a request was answered twice or not at all. */
sl_status run_engine(const run_options *options, sl_transport *transport,
                     const sl_engine_request *requests, int n, run_result *results,
                     sl_engine_stats *stats);
void run_results_free(run_result *results, int n);

/* Differences between two results, to the bit: ids, log-probabilities, alternatives, finish.
 * Says the first of them on stderr. */
int run_results_differ(const run_result *a, const run_result *b, const char *label);

#endif
