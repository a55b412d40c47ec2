/* report.h - what a run did: times, rates, peaks per tier, bytes, rank by rank.
 *
 * Throughput is counted as in the paper: generated tokens / (prefill time + decode time).
 * Layer: job.  May include: base, engine.  Thread safety: pure functions.
 */
#ifndef SL_JOB_REPORT_H
#define SL_JOB_REPORT_H

#include <stdint.h>
#include <stdio.h>

#include "base/status.h"
#include "engine/engine.h"
#include "job/json_text.h"
#include "job/pace.h"
#include "job/timeline.h"

/* What was expected of the job, of the rank that takes longest. */
typedef struct {
    int is_there;     /* 0: nothing was */
    char machine[64]; /* whose rates were taken */
    int n_prompts;    /* that were expected, with so many tokens in the mean */
    double prompt_len, gen_len;
    double prefill_s, decode_s, tokens_per_s;
    double busy_s[SL_QUEUE_COUNT];
    size_t peak_bytes[SL_TIER_COUNT];
} sl_report_plan;

/* What a rank's links were measured to give, by queue; bytes/s, 0: not known. */
typedef struct {
    double bps[SL_QUEUE_COUNT];
} sl_report_links;

typedef struct {
    const char *program; /* "run", "bench", "serve" */
    const char *model;
    const char *backend;   /* name and instruction set */
    const char *transport; /* "loopback", "mpi" */
    int n_threads;         /* of the first rank */
    const sl_policy *policy;
    double open_s; /* reading the model */
    double wall_s; /* the job itself, the reading of input and the writing included */
    sl_pace pace;
    uint64_t n_requests, n_refused; /* n_requests includes the refused ones */
    uint64_t n_prompt_tokens, n_generated_tokens;
    int prompt_len, gen_len; /* of a benchmark; 0 elsewhere */
    int n_ranks;
    const sl_engine_stats *ranks;     /* [n_ranks] */
    const sl_report_plan *plan;       /* NULL: nothing was expected */
    const sl_report_links *links;     /* [n_ranks], NULL: nothing is known */
    const sl_timeline_rank *timeline; /* [n_ranks], NULL: not recorded */
    double zero_s;                    /* this clock's reading where the timeline begins */
    int has_series;                   /* 1: the JSON has what happened when, too, which is long */
} sl_report;

/* Tokens per second, generated / (prefill + decode time); 0 before anything was computed. */
double sl_report_total_tps(const sl_report *report);

/* Of a rank, by tier. */
size_t sl_report_peak_bytes(const sl_engine_stats *rank, int tier);
size_t sl_report_budget_bytes(const sl_engine_stats *rank, int tier);

/* "gpu", "cpu", "disk". */
const char *sl_report_tier_name(int tier);

/* The most of any rank. */
double sl_report_most_busy_s(const sl_report *report, int queue);

/* Collective.  Gathers every rank's counters.  On the first rank *out is [n_ranks], the caller's to
 * free; elsewhere NULL.  Errors: SL_ERR_NOMEM, SL_ERR_COMM. */
sl_status sl_report_gather(const sl_engine *engine, sl_transport *transport, sl_engine_stats **out);

/* A table for people. */
void sl_report_print(const sl_report *report, FILE *stream);

/* report_plan.c: the expectation beside what happened; the object "plan" of the JSON. */
void sl_report_plan_print(const sl_report *report, FILE *stream);
void sl_report_plan_json(const sl_report *report, sl_json_text *out);

/* report_series.c: what happened when; members of the JSON's objects. */
void sl_report_history_json(const sl_report *report, sl_json_text *out);
void sl_report_timeline_json(const sl_report *report, int rank, sl_json_text *out);

/* One JSON object on one line, without '\n', with the same numbers.  Errors: SL_ERR_NOMEM. */
sl_status sl_report_json(const sl_report *report, sl_json_text *out);

#endif
