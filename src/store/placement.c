#include "store/placement.h"

#include <math.h>

int sl_shares_are_set(const sl_shares *s) {
    for (int t = 0; t < SL_TIER_COUNT; t++)
        if (s->frac[t] != 0.0) return 1;
    return 0;
}

sl_status sl_shares_check(const sl_shares *s, const char *what) {
    double sum = 0.0;
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        if (!(s->frac[t] >= 0.0 && s->frac[t] <= 1.0))
            return SL_FAIL(SL_ERR_ARG, "%s: share of the %s tier is %g, expected 0 to 1", what,
                           sl_tier_name((sl_tier_kind)t), s->frac[t]);
        sum += s->frac[t];
    }
    if (fabs(sum - 1.0) > 1e-6)
        return SL_FAIL(SL_ERR_ARG, "%s: the shares of the tiers sum to %g, expected 1", what, sum);
    return SL_OK;
}

/* The next tier below `t` with a share; t itself if there is none. */
static int next_tier(const sl_shares *shares, int t) {
    for (int below = t + 1; below < SL_TIER_COUNT; below++)
        if (shares->frac[below] > 0.0) return below;
    return t;
}

void sl_place_layer(const sl_layout *layout, const sl_shares *shares, sl_tier_kind fast,
                    sl_place_carry *carry, unsigned char *home_out) {
    double all_bytes = 0.0;
    for (int p = 0; p < layout->n_pieces; p++)
        if (!sl_role_is_vector(layout->pieces[p].role))
            all_bytes += (double)layout->pieces[p].bytes;
    for (int t = 0; t < SL_TIER_COUNT; t++) carry->owed_bytes[t] += shares->frac[t] * all_bytes;
    int at = next_tier(shares, -1);
    for (int p = 0; p < layout->n_pieces; p++) {
        const sl_piece *piece = &layout->pieces[p];
        home_out[p] = (unsigned char)fast;
        if (sl_role_is_vector(piece->role)) continue;
        /* A tier takes pieces as long as that brings it nearer to what it is owed. */
        while (carry->owed_bytes[at] < 0.5 * (double)piece->bytes && next_tier(shares, at) != at)
            at = next_tier(shares, at);
        carry->owed_bytes[at] -= (double)piece->bytes;
        home_out[p] = (unsigned char)at;
    }
}
