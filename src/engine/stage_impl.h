/* stage_impl.h - the inside of a stage, shared by stage.c (running), stage_rows.c (what a block
 * asks for), stage_turn.c (its sweep, and the next block), stage_tasks.c (the tasks), stage_wire.c
 * (the hand-off), stage_open.c (memory). Layer: engine, private.  Thread safety: one owner. */
#ifndef SL_ENGINE_STAGE_IMPL_H
#define SL_ENGINE_STAGE_IMPL_H

#include "engine/executor.h"
#include "engine/program.h"
#include "engine/slots.h"
#include "engine/stage.h"
#include "engine/sweep.h"
#include "store/hidden.h"
#include "store/kv_cache.h"
#include "store/kv_visits.h"
#include "store/weights.h"

/* Goes before the hidden states of a micro-batch, and a failure with it. */
typedef struct {
    int32_t status; /* SL_ERR_DEVICE: no data follow from device to device */
    char message[252];
} sl_stage_notice;

typedef enum {
    SL_WIRE_IDLE,
    SL_WIRE_WANTED,  /* in: waits for its buffer; out: for the next rank to have room */
    SL_WIRE_POSTED,  /* in: it may come */
    SL_WIRE_FLOWING, /* on the wire */
    SL_WIRE_RAISED,  /* on the device's stream */
    SL_WIRE_HERE,    /* in: where it is computed */
} sl_wire_state;

enum { SL_CREDIT_NONE, SL_CREDIT_ROOM };

/* Hidden states of a micro-batch on their way in ... */
typedef struct {
    sl_wire_state state;
    size_t bytes;
    int32_t credit; /* given */
    sl_stage_notice notice;
    sl_ticket notice_ticket, data_ticket; /* direct: of the credit instead of the data */
    sl_event *begin, *end;                /* devices only */
    double notice_s, raised_s, here_s;
} sl_stage_arrival;

/* ... and out. */
typedef struct {
    sl_wire_state state;
    size_t bytes;
    int32_t credit; /* taken */
    sl_stage_notice notice;
    sl_ticket notice_ticket, data_ticket; /* WANTED: of the credit */
    sl_event *begin, *end;                /* direct only */
    double start_s;
} sl_stage_departure;

/* Two sets of hidden states: while one block is computed, those of the block before are sent and
 * those of the next come in.  A single rank has one. */
enum { SL_STAGE_SETS = 2 };

/* A run of rows that attend to pages of one place. */
typedef enum { SL_PART_HERE, SL_PART_VISIT, SL_PART_HOST } sl_part_kind;

typedef struct {
    sl_part_kind kind;
    int row0;
    int visitor0; /* of its first segment among the micro-batch's visitors */
    sl_rows rows;
} sl_stage_part;

typedef struct {
    sl_rows rows;
    int32_t *token, *position; /* [max_rows] */
    int32_t *wanted;           /* [max_rows] */
    sl_segment *segment;       /* [micro_batch], rows counted from their part's first */
    sl_kv_visitor *visitor;    /* [micro_batch] */
    int n_visitors;
    sl_stage_part part[SL_ROW_PARTS];
    int n_parts;
    int host_part; /* number of the part that attends on the host; -1: none */
    int choice0;   /* of the micro-batch's first wanted row in the block */
    int is_begun;  /* last rank: 1 if the head is queued, and its choices are fetched afterwards */
} sl_stage_rows;

/* What a micro-batch between BEFORE and AFTER has on the host. */
typedef struct {
    unsigned char *ask;    /* pinned: queries, keys, values of the rows, as the program's outbox */
    unsigned char *answer; /* pinned: [host_rows, q_cols] */
    sl_host_row *row;      /* [host_rows] */
    void **page;           /* [host_rows, pages of a full context] */
} sl_stage_lane;

/* What is remembered of a task of a sweep. */
typedef struct {
    sl_event *begin, *end; /* devices only */
    double begin_s;
    size_t bytes;
    int is_queued; /* ahead of its sweep */
} sl_stage_work;

/* A block and its sweep: what the header asks for, and how far it is done. */
typedef struct {
    const sl_block *block;
    sl_stage_rows *mb;  /* [num_micro_batches] */
    sl_choice_ask *ask; /* [ask_room], last rank: of the block's choices */
    int ask_room;
    sl_sweep sweep;
    sl_stage_work *work; /* [n_work] by task number */
    int n_work;
    sl_event *epoch; /* the device's clock: recorded when the sweep begins, at epoch_s */
    double epoch_s;
    int epoch_is_done;
    int next_ahead, n_ahead; /* task to look at next; tasks queued ahead of the sweep */
} sl_stage_turn;

struct sl_stage {
    sl_stage_options opt;
    sl_model_config config;
    sl_kv_format format;
    int is_first, is_last;
    const sl_device_ops *device; /* NULL: the host computes */
    sl_tier *cpu, *gpu;          /* gpu: NULL without a device */
    sl_tier *fast;               /* the one of the two that computes */
    sl_weights *weights;
    sl_program *program;
    unsigned char *home; /* [n_slots] sl_tier_kind here: without a device the gpu's is cpu */
    sl_kv_cache *kv;
    sl_kv_visits *visits; /* NULL: all sequences live where they are computed */
    sl_hidden *hidden_store;
    int travels; /* 1: hidden states live in hidden_store */
    int n_places, n_lanes, host_rows;
    sl_stage_lane *lane; /* [n_lanes], with host_rows > 0 */
    sl_slots slots;
    sl_executor *executor;
    unsigned char *is_fetched, *is_uploaded; /* [layers of the slice] */
    unsigned char *visit;                    /* [num_micro_batches] SL_VISIT_... of the block */
    sl_stage_turn turn[SL_STAGE_SETS]; /* by set: the next block is prepared beside the one under
                                        * way */
    int is_resident;                   /* 1: nothing of the slice moves during a sweep */
    int n_sets;
    void **hidden[SL_STAGE_SETS];        /* [num_micro_batches] rows, where it is computed */
    unsigned char **wire[SL_STAGE_SETS]; /* [num_micro_batches] rows, host; may be the same memory
                                          * as hidden */
    int own_wire;                        /* 1: it is not */
    int direct; /* 1: hidden states go from device to device, wire is of no use */
    sl_stage_arrival *arrival[SL_STAGE_SETS];     /* [num_micro_batches] */
    sl_stage_departure *departure[SL_STAGE_SETS]; /* [num_micro_batches] */
    int expects;                                  /* 1: the next block is expected */
    int left_set;                                 /* of the micro-batch that departed last */
    int n_unqueued;          /* computations of the sweep that have not been queued */
    int is_prepared;         /* 1: the next block is laid out */
    sl_block_result *result; /* last rank, being filled */
    int set;                 /* of the block being computed */
    sl_status failed;        /* first failure seen here or before; sticks */
    char message[sizeof((sl_stage_notice *)0)->message];
    double wait_s, sweep_s;
    double started_s, ended_s;   /* of the work */
    double computed_s, waited_s; /* when the last computation ended, and the last message from
                                  * another rank came */
    int has_computed;
    double start_s, bubble_s, exposed_s;
    uint64_t sent_bytes, received_bytes;
    double busy_s[SL_QUEUE_COUNT], busy_until_s[SL_QUEUE_COUNT];
    uint64_t moved_bytes[SL_QUEUE_COUNT];
    uint64_t n_drains;
    size_t taken_at_start; /* calls of sl_tier_take() by the end of open */
};

static inline size_t sl_stage_row_bytes(const sl_stage *s) {
    return (size_t)s->config.hidden * s->opt.backend->ops->act_bytes;
}

static inline int sl_stage_n_layers(const sl_stage *s) {
    return s->opt.last_layer - s->opt.first_layer;
}

/* The rows of a micro-batch of the block under way. */
static inline sl_stage_rows *sl_stage_rows_of(const sl_stage *s, int mb) {
    return &s->turn[s->set].mb[mb];
}

static inline sl_pinned_from sl_stage_pinned(const sl_stage *s) {
    return (sl_pinned_from){s->cpu, s->opt.backend, s->device, s->opt.backend->ops->hollow};
}

/* Remembers the first failure; those that follow are its echo. */
void sl_stage_note_failure(sl_stage *s, sl_status status, const char *message, int add_rank);

/* stage_rows.c: applies the header to this rank's state and lays out the block's rows in a set. */
sl_status sl_stage_take_in(sl_stage *s, int set, const sl_block *block);

/* Whether the block is about sequences alone that live where it is computed. */
int sl_stage_stays(const sl_stage *s, const sl_block *block);

/* stage_turn.c: makes the sweep of the block at hand, and room for what is remembered of its tasks,
 * and sets the device's clock by a stream that has nothing to do. */
sl_status sl_stage_begin_sweep(sl_stage *s, sl_stream idle);

/* stage_rehearse.c: calls what a sweep calls once, on a device, before time counts.  The pages are
 * there, and no sequence is.  Errors: SL_ERR_DEVICE, SL_ERR_NOMEM. */
sl_status sl_stage_rehearse(sl_stage *s);

/* stage_tasks.c: the executor's runner. */
sl_task_runner sl_stage_runner(sl_stage *s);
/* Something is over: into the counters, and to who listens. */
void sl_stage_account(sl_stage *s, const sl_span *span);
/* Queues a computation of the block at hand before its sweep is run. */
sl_status sl_stage_queue_ahead(sl_stage *s, const sl_task *task);

/* stage_wire.c: hidden states on their way in and out. */
sl_status sl_stage_wire_open(sl_stage *s);
void sl_stage_wire_close(sl_stage *s);
/* The micro-batch has left the slice.  Errors of these three: the hand-off is broken. */
sl_status sl_stage_depart(sl_stage *s, int mb);
sl_status sl_stage_wait_sent(sl_stage *s, int set);
/* Whether hidden states of the set are still to leave. */
int sl_stage_is_sending(const sl_stage *s, int set);
/* Whether the device may still be at transfers. */
int sl_stage_has_wire_work(const sl_stage *s);
/* The work has come to its end. */
void sl_stage_end(sl_stage *s);
/* A computation is over: if its queue was idle before, for what. */
void sl_stage_count_gap(sl_stage *s, const sl_span *span);

/* stage_memory.c: how the budgets are divided. */
typedef struct {
    size_t backend_bytes;        /* of the device's memory, taken by the backend before */
    size_t fast_bytes;           /* buffers, hidden states and places in the tier that computes */
    size_t host_bytes;           /* beside a device: what else is taken of host memory */
    size_t disk_bytes;           /* hidden states on disk */
    size_t per_page;             /* one page in every layer */
    size_t context;              /* pages of one full context */
    size_t pages[SL_TIER_COUNT]; /* to make room for when weights are placed, by home here */
    size_t tails;                /* of sequences on disk, in host memory */
    int n_slots[SL_TIER_COUNT];  /* by home here */
} sl_stage_plan;

/* What follows from the options: homes here, who attends, and how far micro-batches may be apart.
 * Fills in the stage's fields; s->home is taken. */
sl_status sl_stage_settle(sl_stage *s);
sl_weights_options sl_stage_weights_options(const sl_stage *s, const sl_source *source);
sl_program_options sl_stage_program_options(const sl_stage *s);
sl_kv_visits_options sl_stage_visits_options(const sl_stage *s);
sl_hidden_options sl_stage_hidden_options(const sl_stage *s);
/* Bytes of one micro-batch's hidden states. */
sl_status sl_stage_hidden_room(const sl_stage *s, size_t *out);
size_t sl_stage_lane_bytes(const sl_stage *s, int answer);
sl_status sl_stage_plan_memory(const sl_stage *s, sl_stage_plan *plan);
/* Fills in the weights' shares where the policy left them open. */
sl_status sl_stage_choose_shares(const sl_stage *s, sl_stage_plan *plan, sl_weights_options *w);
/* All but the pages: what has been taken by now, and what will be once weights of this size and the
 * buffers are there. */
void sl_stage_used(const sl_stage *s, const sl_stage_plan *plan, size_t out[SL_TIER_COUNT]);
void sl_stage_planned(const sl_stage *s, const sl_stage_plan *plan, const sl_weights_size *w,
                      size_t out[SL_TIER_COUNT]);
/* Host memory at its peak: what is taken for loading is given back before rings, buffers and pages
 * are taken. */
size_t sl_stage_loading_peak(const sl_weights_size *w, size_t in_the_end);
/* Pages by the seats' homes that the budgets hold beside what is used. */
sl_status sl_stage_count_pages(const sl_stage *s, const sl_stage_plan *plan,
                               const size_t used[SL_TIER_COUNT], int64_t out[SL_TIER_COUNT]);

#endif
