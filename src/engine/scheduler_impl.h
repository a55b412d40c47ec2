/* scheduler_impl.h - the inside of the scheduler, shared by scheduler.c (requests in, results out),
 * scheduler_admit.c (who is seated where, and what it takes over), scheduler_pages.c (pages as
 * sequences grow), scheduler_form.c (the rows of a block) and scheduler_leave.c (what they leave).
 * Layer: engine, private.  Thread safety: one owner. */
#ifndef SL_ENGINE_SCHEDULER_IMPL_H
#define SL_ENGINE_SCHEDULER_IMPL_H

#include "engine/prefix.h"
#include "engine/request.h"
#include "engine/scheduler.h"

/* A run of rows that is in flight: where its choices go. */
typedef struct {
    sl_sequence *sequence; /* NULL once dropped */
    int position0, n_rows;
    int score, want_last;
} sl_sent_segment;

typedef struct {
    int in_flight;
    int n_seated;
    int n_sent;
    sl_sent_segment *sent; /* [seats of a block] */
    uint64_t number;       /* of the block in flight */
} sl_block_slot;

/* A sequence of the micro-batch being formed, and how many of its rows are computed. */
typedef struct {
    sl_sequence *sequence;
    int n_rows;
    int order; /* of its rows in the micro-batch */
} sl_row_candidate;

/* Of what the work consists, recent sequences more than old ones. */
typedef struct {
    double begun_rows; /* prompt rows of sequences that have begun, shared ones left out */
    double begun_most,
        ended_most;      /* tokens that those that run, and that have ended, were allowed */
    double ended_tokens; /* tokens that the latter generated */
    int n_ended;
} sl_job_mix;

/* Of a sequence that runs. */
typedef struct {
    int missing; /* pages that it may still want */
    int sure;    /* that it is sure to give back at its end: those in the tree may be shared */
    int own;     /* that it will probably give back */
    double left; /* pages' worth of tokens that it will probably still generate */
} sl_page_need;

struct sl_scheduler {
    sl_scheduler_options opt;
    int seats;            /* per block slot */
    sl_sequence **seat;   /* [n_block_slots * seats], by slot number; NULL: free */
    sl_block_slot *block; /* [n_block_slots] */
    int next_block;       /* whose turn it is */
    uint64_t n_blocks, n_absorbed, n_requests, n_admissions;
    /* Those that came since the last batch, the batch from which sequences are seated (a request
     * stays until all of its choices are), and those that are over. */
    sl_request_queue arrived, waiting, finished;
    sl_row_candidate *candidate; /* scratch: [micro_batch] sequences */
    sl_prefix_node **path;       /* scratch: [pages of a context] */
    int *released;               /* slots to be released with the next block */
    int *dropped;                /* kept pages to be given up with it */
    int n_released, n_dropped;
    int n_running;
    int n_free_pages[SL_TIER_COUNT]; /* neither reserved nor in the tree, by home */
    sl_prefix_tree *prefixes;        /* NULL: nothing is shared */
    int grows; /* the home whose sequences take pages as they grow; -1: none */
    int n_growing_seats;
    double begin_rate, begin_credit; /* sequences that may begin: in a turn of all blocks, now */
    sl_page_need *need;              /* scratch: [seats of all slots + 1] */
    sl_sequence **growing;           /* scratch: [seats] */
    uint64_t prefill_rows, decode_rows, admitted_tokens, shared_tokens;
    sl_job_mix mix;
};

static inline int sl_scheduler_home(const sl_scheduler *s, int slot) {
    return s->opt.seats ? s->opt.seats[slot].home : SL_TIER_GPU;
}

/* Alternatives that scores of its tokens hold. */
static inline int sl_scheduler_logprobs(const sl_request *r) {
    return r->ask.sampling.n_logprobs > 0 ? r->ask.sampling.n_logprobs : 0;
}

/* scheduler_admit.c: seats waiting requests in block slot b, as far as seats and pages go. */
sl_status sl_scheduler_admit(sl_scheduler *sched, int b, sl_block *block);

/* Takes pages from the tree until `need` are free; its operations go to the block. */
sl_status sl_scheduler_make_room(sl_scheduler *sched, int home, int need, sl_block *block);

/* scheduler_pages.c */
sl_status sl_scheduler_open_pages(sl_scheduler *sched);
void sl_scheduler_close_pages(sl_scheduler *sched);

/* Pages of a sequence in the end, and those that it is given when it is seated. */
int sl_scheduler_whole_pages(const sl_request *request);
int sl_scheduler_first_pages(const sl_scheduler *sched, const sl_request *request, int home);

/* Whether a sequence may begin in the home whose sequences grow, so that it and all others can be
 * expected to go on without a break, and are sure to finish.
 *   n_shared  pages that it shares
 *   n_idle    of these, the ones that nobody uses now */
int sl_scheduler_may_begin(sl_scheduler *sched, const sl_sequence *q, int n_shared, int n_idle);

/* It has begun. */
void sl_scheduler_note_begun(sl_scheduler *sched, int home);

/* Pages for the next rows of block slot b; sequences that cannot have one sit out. */
sl_status sl_scheduler_grow(sl_scheduler *sched, int b, sl_block *block);

/* Sequences that wait for a seat, counted as far as `most`. */
int sl_scheduler_n_waiting(const sl_scheduler *sched, int most);

/* Gives up a seat; its pages become free with the next block, before any admission. */
void sl_scheduler_leave_seat(sl_scheduler *sched, sl_sequence *q);

/* Rows of the sequence have been sent: pages that they fill can be shared from the next block on.
 */
void sl_scheduler_note_sent(sl_scheduler *sched, sl_sequence *q);

/* All of the prompt's scores are in: those who share it need not compute them again. */
void sl_scheduler_note_scores(sl_scheduler *sched, const sl_sequence *q);

#endif
