/* seats.h - where the cache of each sequence slot lives, and who computes its attention.
 *
 * A slot is a seat of a micro-batch: slot = (block * K + micro-batch) * micro_batch + seat.  The
 * policy's shares are met in every micro-batch as closely as whole sequences allow, and over all of
 * them exactly but for rounding, so that all micro-batches take about the same time.  A pure
 * function of the policy: all ranks get the same. Layer: engine.  May include: base, store.  Thread
 * safety: pure functions.
 */
#ifndef SL_ENGINE_SEATS_H
#define SL_ENGINE_SEATS_H

#include "store/placement.h"

typedef struct {
    unsigned char home;    /* sl_tier_kind of its pages */
    unsigned char on_host; /* 1: its decode attention is computed on the host */
} sl_seat;

/* Fills out[n_micro_batches * micro_batch].
 *   cache         shares of the sequences' pages by home; all zero: all in the gpu tier, which is
 * the tier that computes host_attends  share, 0 to 1, of the sequences outside the gpu that attend
 * on the host */
void sl_seats_assign(const sl_shares *cache, double host_attends, int micro_batch,
                     int n_micro_batches, sl_seat *out);

/* The order of rows within a micro-batch: those that attend in the same way lie together.
 * decodes: 1 for a single row that is not part of a prompt. */
int sl_seats_row_order(const sl_seat *seat, int n_rows);

#endif
