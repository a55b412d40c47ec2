/* scheduler.h - which sequences run, and what the next block computes: the first rank's decisions.
 *
 * Requests wait in batches, in order of arrival; within a batch those with a common beginning lie
 * together.  Sequences take seats; the seats of one block slot are computed together, and block
 * slots take turns so that every rank of the pipeline has work.  A finished sequence's seat is
 * taken by the next request at once.  What has started can always finish: pages are reserved for
 * the whole of a sequence when it is admitted; in the tier that computes, where not all seats fit,
 * for its prompt, and more as it grows, so that sequences of different ages fit in
 * (scheduler_pages.c).
 *
 * The pages of prompts stay in a tree (prefix.h) as long as nobody needs their room.  A sequence
 * shares those that its prompt begins with, and takes a copy of the first tokens of the next; it
 * waits while another one is computing them.  All of it is in the blocks' operations: SHARE, COPY,
 * KEEP, DROP.  A shared page has one home, so that sequences of another home compute the prefix
 * once more, once for each home; a sequence goes where most of its prompt is, if a seat is free
 * there.  What is waited for is always being computed by a sequence that has its pages, and pages
 * that only the tree holds count as free: there is no dead end.
 *
 * Pure bookkeeping: no transport, no device. Layer: engine.  May include: base, model, store.
 * Thread safety: one thread per scheduler.
 */
#ifndef SL_ENGINE_SCHEDULER_H
#define SL_ENGINE_SCHEDULER_H

#include <stdint.h>

#include "base/status.h"
#include "engine/block.h"
#include "engine/engine.h"
#include "engine/seats.h"

typedef struct {
    int micro_batch, num_micro_batches, max_rows;
    int n_block_slots;          /* blocks in flight */
    int n_pages[SL_TIER_COUNT]; /* per layer, by the seats' home, the smallest of all ranks */
    const sl_seat *seats;       /* [slots], borrowed until close; NULL: all homed in the gpu tier */
    int max_context;
    int vocab;
    sl_token_callback on_token; /* may be NULL */
    int no_sharing;             /* 1: every sequence computes its whole prompt */
    int two_phase;              /* 1: a block's sequences start together, and all of their prompts
                                 * are computed before any decodes */
} sl_scheduler_options;

typedef struct sl_scheduler sl_scheduler;

sl_status sl_scheduler_open(const sl_scheduler_options *options, sl_scheduler **out);
void sl_scheduler_close(sl_scheduler *sched);

/* As sl_engine_submit(). */
sl_status sl_scheduler_submit(sl_scheduler *sched, const sl_engine_request *request,
                              uint64_t *id_out);

int sl_scheduler_n_queued(const sl_scheduler *sched);
int sl_scheduler_n_running(const sl_scheduler *sched);
int sl_scheduler_n_in_flight(const sl_scheduler *sched);

/* Writes the next block of an idle block slot into *block, and marks the slot as in flight.
 * *formed_out = 0 when no idle slot has anything to compute.  *has_prefill_out: whether the block
 * holds prompt tokens.  Errors: SL_ERR_NOMEM. */
sl_status sl_scheduler_form(sl_scheduler *sched, sl_block *block, int *formed_out,
                            int *has_prefill_out);

/* Takes in the result of the oldest block in flight.
 * Errors: SL_ERR_COMM when it does not fit the block; the result's own failure. */
sl_status sl_scheduler_absorb(sl_scheduler *sched, const sl_block_result *result);

/* Counts the oldest block in flight as back without taking anything in: after a failure. */
void sl_scheduler_skip(sl_scheduler *sched);

/* As sl_engine_cancel(). */
void sl_scheduler_cancel(sl_scheduler *sched, uint64_t id);

/* Forgets all that is queued or running; blocks in flight are still to be absorbed. */
void sl_scheduler_drop_all(sl_scheduler *sched);

/* Next finished request or NULL; release gives it back. */
const sl_engine_result *sl_scheduler_take(sl_scheduler *sched);
void sl_scheduler_release(sl_scheduler *sched, const sl_engine_result *result);

/* Rows computed so far, by kind. */
uint64_t sl_scheduler_prefill_rows(const sl_scheduler *sched);
uint64_t sl_scheduler_decode_rows(const sl_scheduler *sched);
/* Prompt tokens of admitted sequences, and those of them that others had computed. */
uint64_t sl_scheduler_admitted_tokens(const sl_scheduler *sched);
uint64_t sl_scheduler_shared_tokens(const sl_scheduler *sched);
/* Pages that hold prompts nobody uses now, of all homes. */
int sl_scheduler_n_idle_pages(const sl_scheduler *sched);

#endif
