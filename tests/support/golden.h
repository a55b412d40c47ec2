/* golden.h - golden continuations read from JSON, and the comparison of results with them.
 *
 * Says what differs on stderr and counts; the caller fails the test.  Usable from cmocka tests and
 * from plain programs under mpirun.
 */
#ifndef SL_TESTS_GOLDEN_H
#define SL_TESTS_GOLDEN_H

#include <stdint.h>

#include "base/status.h"
#include "support/engine_run.h"

typedef struct {
    int n_prompt, n_tokens;
    int32_t *prompt;         /* [n_prompt] */
    double *prompt_logprobs; /* [n_prompt]; entry 0 has no meaning */
    int32_t *tokens;         /* [n_tokens] greedy continuation */
    double *logprobs;        /* [n_tokens] */
    double *margins;         /* [n_tokens] log-probability over the runner-up's */
    int stopped;             /* 1: the last token is a stop id and ends the choice */
} golden_case;

typedef struct {
    char model[4096]; /* as sl_source_open() takes it; "" where the file names none */
    int max_tokens;   /* to ask for */
    int n_stop_ids;
    int32_t stop_ids[SL_MAX_STOP_IDS];
    int n_cases;
    golden_case *cases;
} golden_set;

/* Reads FOLDER/golden.json.  Errors: SL_ERR_IO, SL_ERR_FORMAT naming the field. */
sl_status golden_load(const char *folder, golden_set *out);
void golden_free(golden_set *set);

/* A greedy request for one case, log-probabilities of prompt, choices and runners-up wanted. */
sl_engine_request golden_request(const golden_set *set, const golden_case *c);

/* Compares and returns the number of differences.
 *
 *   tolerance  of every log-probability.  A token must be the golden one where the margin is above
 *              2 * tolerance: then no error within tolerance can swap the two.  At a narrower
 * margin the other one may be chosen, and what follows it is not compared; *n_forks_out (may be
 *              NULL) counts that. */
int golden_compare(const golden_case *c, const run_result *result, double tolerance,
                   const char *label, int *n_forks_out);

#endif
