/* engine.h - the public library: open a model, submit requests, step, take results, close.
 *
 * On the first rank:                          On the other ranks:
 *     sl_engine_open(...)                         sl_engine_open(...)
 *     sl_engine_submit() as many as room allows   while (!done) sl_engine_step(engine, &done)
 *     sl_engine_step(engine, &done)               sl_engine_close(engine)
 *     sl_engine_take() until it gives none
 *     ... sl_engine_finish() when no more come, step until done
 *     sl_engine_close(engine)
 *
 * The engine works on token ids; text is the caller's business, except that the caller may cancel a
 * sequence at any time (stop strings).
 * Layer: engine.  May include: base, model, store.  Thread safety: one thread per engine.
 */
#ifndef SL_ENGINE_ENGINE_H
#define SL_ENGINE_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#include "base/pulse.h"
#include "base/status.h"
#include "engine/backend.h"
#include "engine/host_attention.h"
#include "engine/sampler.h"
#include "engine/span.h"
#include "engine/transport.h"
#include "model/source.h"
#include "store/placement.h"

typedef struct sl_engine sl_engine;

/* All decisions of a run.  Zero means "choose", but for the budgets: sl_engine_open() fills in what
 * it chose.  layers_per_rank then points into the engine, valid until close. */
typedef struct {
    int micro_batch;          /* sequences per micro-batch (the paper's gbs) */
    int num_micro_batches;    /* micro-batches per block (the paper's K) */
    int max_rows;             /* rows per micro-batch: bounds prefill chunks and buffers */
    int blocks_in_flight;     /* >= ranks keeps the pipeline full */
    int max_context;          /* longest prompt + output, tokens; at most the model's */
    sl_dtype cache_dtype;     /* F16, F32, Q8G64 or Q4G64 */
    size_t cpu_budget_bytes;  /* hard budget of this rank's host memory for tensors */
    const char *disk_dir;     /* folder of the disk tier, NULL: none; borrowed during open */
    size_t disk_budget_bytes; /* hard budget of this rank's files there */
    sl_shares weights;      /* shares of the decoder layers' weights that live on gpu, cpu and disk;
                             * all zero: as high as they fit */
    sl_dtype weights_dtype; /* F32, F16, Q8G64, Q4G64, or SL_DTYPE_AS_STORED, the default */
    const int *layers_per_rank; /* [n_ranks] summing to n_layers, or NULL: split by cost; borrowed
                                 * during open */
    sl_shares cache;  /* shares of the sequences whose pages live on gpu, cpu and disk; all zero:
                       * all in the tier that computes */
    sl_shares hidden; /* shares of the hidden states between layers; all zero: as cache */
    double
        host_attends; /* share, 0 to 1, of the sequences outside the gpu whose decode attention is
                       * computed on the host; the pages of the others are copied to the gpu */
    float sparsity;   /* of attention to values in decode, (0, 1]; 0: dense */
    int no_overlap;   /* 1: one task at a time, for comparison and to find faults */
    int no_sharing;   /* 1: common beginnings of prompts are computed for each of them */
    int two_phase;    /* 1: blocks of sequences that start together, all prompts before any decode,
                       * for comparison */
    /* Parts that the engine uses if they are there, borrowed until close. */
    sl_host_attention *host_attention; /* attention on the host; needed by host_attends on a gpu */
    sl_span_callback on_span;          /* is told of each task that is over, with span_user */
    void *span_user;
    /* Is told of a failure on this rank as soon as it is there, before the other ranks learn of it
     * by what is handed to them; with failure_user.  From the engine's thread. */
    void (*on_failure)(void *user, const char *message);
    void *failure_user;
    /* Moves with all that gets done; on the first rank busy in open and step, where ranks work
     * together.  For a thread that watches this one; borrowed until close. */
    sl_pulse *pulse;
} sl_policy;

/* Fills in the defaults: cache_dtype F16, no disk, everything else "choose". */
void sl_policy_init(sl_policy *policy);

/* One prompt. */
typedef struct {
    const int32_t *prompt; /* [n_prompt], n_prompt >= 1; copied by submit */
    int n_prompt;
    int max_tokens;       /* >= 0; 0 scores the prompt only */
    int n;                /* choices, >= 1 */
    int echo_logprobs;    /* 1: log-probabilities of the prompt's tokens too */
    sl_sampling sampling; /* key: choice c uses sl_rng_at(key, c); bias is copied */
    int n_stop_ids;       /* ids that end a choice; the id itself is part of the output */
    int32_t stop_ids[SL_MAX_STOP_IDS];
    void *user; /* given back with events and results */
} sl_engine_request;

typedef enum { SL_FINISH_NONE, SL_FINISH_STOP, SL_FINISH_LENGTH, SL_FINISH_CANCELLED } sl_finish;

/* One choice of a finished request. */
typedef struct {
    sl_finish finish; /* STOP: a stop id or the caller's cancel with keep; LENGTH: max_tokens */
    int n_tokens;
    const sl_choice *tokens; /* [n_tokens], generated, in order */
} sl_engine_choice;

typedef struct {
    void *user;
    uint64_t id;
    int n_prompt;
    const int32_t *prompt; /* [n_prompt] */
    const sl_choice
        *prompt_scores; /* [n_prompt] or NULL; entry 0 has no meaning (nothing precedes) */
    int n_choices;
    const sl_engine_choice *choices; /* [n_choices] */
} sl_engine_result;

/* Called on the first rank for each generated token, in order, during step.  Returns 1 to end the
 * choice here (finish STOP, the token stays in the output), 0 to go on. */
typedef int (*sl_token_callback)(void *user, int choice, const sl_choice *token);

/* Collective.  Loads this rank's slice of the model and agrees with the other ranks on the outcome:
 * all succeed or all fail, with one message.  `policy` is read and filled in.  backend and
 * transport are borrowed until close; `source` until open returns (its config is copied). Errors:
 * SL_ERR_ARG, SL_ERR_NOMEM (budget, with the numbers), SL_ERR_IO, SL_ERR_FORMAT. */
sl_status sl_engine_open(const sl_source *source, sl_backend *backend, sl_transport *transport,
                         sl_policy *policy, sl_token_callback on_token, sl_engine **out);
void sl_engine_close(sl_engine *engine); /* not collective; safe after a failure */

/* First rank.  Checks and queues a request.
 * Errors: SL_ERR_ARG when it can never run (empty prompt, id out of range, context too long, with
 * the numbers): an error of that request alone. */
sl_status sl_engine_submit(sl_engine *engine, const sl_engine_request *request, uint64_t *id_out);

/* First rank, not from the token callback.  Ends a request wherever it is: its choices that are not
 * over get the finish CANCELLED with the tokens they have, and it comes back through take.  An id
 * that is unknown or finished is left alone. */
void sl_engine_cancel(sl_engine *engine, uint64_t id);

/* First rank.  Requests that are queued and not yet started; keep some here so that a finished
 * sequence is replaced at once. */
int sl_engine_n_queued(const sl_engine *engine);
int sl_engine_n_running(const sl_engine *engine); /* sequences */
/* Sequences that the policy's blocks hold in all. */
int sl_engine_n_seats(const sl_engine *engine);

/* First rank: no more requests will come; step reports done when the last one is finished. */
void sl_engine_finish(sl_engine *engine);
/* First rank: drop all that is queued or running; step reports done soon. */
void sl_engine_stop(sl_engine *engine);

/* One turn: on the first rank, form and compute a block and take in results; elsewhere, compute one
 * block.  Blocks while there is nothing to do but wait for a peer.  *done_out = 1 when the engine
 * has finished (all requests, after finish or stop).
 * Errors: a failure anywhere in the pipeline, on all ranks, with the message of the failing rank.
 */
sl_status sl_engine_step(sl_engine *engine, int *done_out);

/* First rank.  The next finished request, or *out = NULL.  Valid until sl_engine_release(). */
sl_status sl_engine_take(sl_engine *engine, const sl_engine_result **out);
void sl_engine_release(sl_engine *engine, const sl_engine_result *result);

/* Counters of this rank since open. */
typedef struct {
    int rank;
    int first_layer, last_layer;             /* slice [first, last) */
    size_t weight_bytes[SL_TIER_COUNT];      /* packed bytes of the slice's weights, by home */
    size_t cpu_budget_bytes, cpu_peak_bytes; /* peak: pages never used are not counted */
    size_t gpu_budget_bytes, gpu_peak_bytes; /* 0 without a device */
    size_t disk_budget_bytes, disk_peak_bytes;
    uint64_t disk_read_bytes;                /* of weights */
    double disk_read_s;                      /* while reads of weights were under way */
    uint64_t uploaded_bytes;                 /* weights copied to the device, loading left out */
    int pages_total, pages_peak, pages_free; /* per layer; free: now */
    int home_pages[SL_TIER_COUNT];           /* of pages_total, by home */
    size_t page_bytes;                       /* of one page in one layer */
    uint64_t n_blocks;
    uint64_t n_prefill_rows, n_decode_rows; /* rows computed; counted on the first rank */
    /* On the first rank: prompt tokens of sequences that have begun, and those of them that others
     * had computed. */
    uint64_t n_admitted_tokens, n_shared_tokens;
    int pages_idle;                       /* that hold prompts nobody uses now; on the first rank */
    double compute_s;                     /* in operators */
    double sweep_s;                       /* computing blocks, waiting included */
    double busy_s[SL_QUEUE_COUNT];        /* in tasks, by queue */
    uint64_t moved_bytes[SL_QUEUE_COUNT]; /* over the queue's link; ATTEND: pages read */
    double wire_wait_s;                   /* waiting for peers */
    double run_s;                         /* from the first step to the last */
    /* Of run_s, with nothing to compute: before the first block came; later, because other ranks
     * were computing; because hidden states that had left the rank before were on the wire. */
    double start_s, bubble_s, exposed_wire_s;
    uint64_t sent_bytes, received_bytes; /* hidden states, headers, results */
    /* First rank: time in step() while any block in flight held prompt rows / none did. */
    double prefill_s, decode_s;
    uint64_t n_steady_allocs; /* tensor allocations after the first block: 0 */
    uint64_t n_drains;        /* waits for the whole device after the first block: 0 */
} sl_engine_stats;

void sl_engine_get_stats(const sl_engine *engine, sl_engine_stats *out);
const sl_policy *sl_engine_policy(const sl_engine *engine); /* as chosen */

#endif
