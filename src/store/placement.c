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

/* Pieces of one matrix change homes among themselves, so that those of a tier lie one after
 * another: they are multiplied as one. */
static void sort_matrix(const sl_layout *layout, int from, int to, unsigned char *home) {
    for (int i = from; i < to; i++)
        for (int j = i + 1; j < to; j++)
            if (home[j] < home[i] && layout->pieces[i].bytes == layout->pieces[j].bytes) {
                const unsigned char h = home[i];
                home[i] = home[j];
                home[j] = h;
            }
}

void sl_place_layer(const sl_layout *layout, const sl_shares *shares, sl_tier_kind fast,
                    sl_place_carry *carry, unsigned char *home_out) {
    for (int p = 0; p < layout->n_pieces; p++) {
        const sl_piece *piece = &layout->pieces[p];
        home_out[p] = (unsigned char)fast;
        if (sl_role_is_vector(piece->role)) continue;
        /* Each tier is owed its share of this piece; who is owed most gets all of it. */
        int best = -1;
        for (int t = 0; t < SL_TIER_COUNT; t++) {
            carry->owed_bytes[t] += shares->frac[t] * (double)piece->bytes;
            if (shares->frac[t] == 0.0) continue;
            if (best < 0 || carry->owed_bytes[t] > carry->owed_bytes[best]) best = t;
        }
        carry->owed_bytes[best] -= (double)piece->bytes;
        home_out[p] = (unsigned char)best;
    }
    for (int p = 0, end; p < layout->n_pieces; p = end) {
        end = p + 1;
        while (end < layout->n_pieces && layout->pieces[end].role == layout->pieces[p].role) end++;
        if (!sl_role_is_vector(layout->pieces[p].role)) sort_matrix(layout, p, end, home_out);
    }
}
