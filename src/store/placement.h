/* placement.h - which tier each piece of the weights lives in.
 *
 * Fractions are met in every layer, not only over the whole model, so that every layer streams
 * about the same bytes and no link idles while another layer's share waits. Layer: store.  May
 * include: base, model.  Thread safety: pure functions.
 */
#ifndef SL_STORE_PLACEMENT_H
#define SL_STORE_PLACEMENT_H

#include "base/status.h"
#include "model/layout.h"
#include "store/tier.h"

/* Shares of bytes by tier; they sum to 1. */
typedef struct {
    double frac[SL_TIER_COUNT];
} sl_shares;

/* What was left over in the layers before: bytes that each tier is owed.  Zeroed at the start. */
typedef struct {
    double owed_bytes[SL_TIER_COUNT];
} sl_place_carry;

/* Whether any share is given; all zero stands for "choose". */
int sl_shares_are_set(const sl_shares *shares);

/* Checks that the shares are within [0, 1] and sum to 1 (within 1e-6).
 * Errors: SL_ERR_ARG naming `what` and the numbers. */
sl_status sl_shares_check(const sl_shares *shares, const char *what);

/* Chooses the home of each piece of a layer: the first pieces go to the gpu, as many as it is owed,
 * the next ones to the cpu, the rest to the disk, so that a layer has two matrices at most that lie
 * in several places, which are several products or copies.  Vectors always go to `fast`, the tier
 * that computes.
 *   home_out  [layout->n_pieces] sl_tier_kind */
void sl_place_layer(const sl_layout *layout, const sl_shares *shares, sl_tier_kind fast,
                    sl_place_carry *carry, unsigned char *home_out);

#endif
