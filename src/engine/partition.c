#include "engine/partition.h"

#include <math.h>
#include <stdlib.h>

/* The share of the rows of which logits are wanted: all of those that decode, one of a prompt. What
 * prompts and outputs will be like is not known here. */
static const double wanted_rows = 0.25;

/* Elements of the layer's matrices that a row is multiplied with. */
static sl_status layer_cost(const sl_source *source, int layer, double *out) {
    static const sl_role counted[] = {
        SL_ROLE_Q,  SL_ROLE_K,    SL_ROLE_V,          SL_ROLE_O,           SL_ROLE_GATE,
        SL_ROLE_UP, SL_ROLE_DOWN, SL_ROLE_PROJECT_IN, SL_ROLE_PROJECT_OUT, SL_ROLE_HEAD};
    double cost = 0.0;
    for (size_t i = 0; i < sizeof counted / sizeof counted[0]; i++) {
        if (!sl_source_has(source, layer, counted[i])) continue;
        int64_t rows, cols;
        sl_dtype dtype;
        SL_TRY(sl_source_shape(source, layer, counted[i], &rows, &cols, &dtype));
        cost += (double)rows * (double)cols;
    }
    *out = cost;
    return SL_OK;
}

static sl_status check_ranks(int n_layers, int n_ranks) {
    if (n_ranks < 1 || n_ranks > n_layers)
        return SL_FAIL(SL_ERR_ARG, "%d ranks for a model of %d layers: expected 1 to %d", n_ranks,
                       n_layers, n_layers);
    return SL_OK;
}

/* sum[i]: cost of layers [0, i), embedding and head included. */
static sl_status sum_costs(const sl_source *source, double *sum) {
    const int n = sl_source_config(source)->n_layers;
    double embed, head;
    SL_TRY(layer_cost(source, SL_LAYER_EMBED, &embed));
    SL_TRY(layer_cost(source, n, &head));
    for (int i = 0; i < n; i++) {
        double cost;
        SL_TRY(layer_cost(source, i, &cost));
        sum[i + 1] =
            sum[i] + cost + (i == 0 ? embed : 0.0) + (i == n - 1 ? wanted_rows * head : 0.0);
    }
    return SL_OK;
}

/* Whether n_ranks slices are enough of which none costs more than `most`. */
static int fits_in(const double *sum, int n, int n_ranks, double most) {
    int end = 0;
    for (int r = 0; r < n_ranks && end < n; r++) {
        const int first = end;
        while (end < n && sum[end + 1] - sum[first] <= most) end++;
        if (end == first) return 0;
    }
    return end == n;
}

/* What the costliest of n_ranks slices costs at least. */
static double least_most(const double *sum, int n, int n_ranks) {
    double best = sum[n];
    for (int i = 0; i < n; i++)
        for (int k = i + 1; k <= n; k++) {
            const double most = sum[k] - sum[i];
            if (most < best && fits_in(sum, n, n_ranks, most)) best = most;
        }
    return best;
}

sl_status sl_partition_by_cost(const sl_source *source, int n_ranks, int *first_out) {
    const int n = sl_source_config(source)->n_layers;
    SL_TRY(check_ranks(n, n_ranks));
    sl_status st = SL_OK;
    /* square[r][i]: the least sum of squared costs of r + 1 ranks over the first i layers. */
    const size_t stride = (size_t)n + 1;
    double *sum = calloc(stride, sizeof *sum);
    double *square = calloc((size_t)n_ranks * stride, sizeof *square);
    int *cut = calloc((size_t)n_ranks * stride, sizeof *cut);
    if (!sum || !square || !cut) {
        st = SL_FAIL(SL_ERR_NOMEM, "partition: out of host memory");
        goto fail;
    }
    SL_GO(sum_costs(source, sum));
    const double most = least_most(sum, n, n_ranks) * (1 + 1e-9);
    for (int r = 0; r < n_ranks; r++)
        for (int i = 1; i <= n; i++) {
            double *best = &square[(size_t)r * stride + (size_t)i];
            *best = INFINITY;
            for (int c = r; c < (r ? i : 1); c++) { /* this rank takes [c, i) */
                const double here = sum[i] - sum[c];
                const double before = r ? square[(size_t)(r - 1) * stride + (size_t)c] : 0;
                if (here > most || before + here * here >= *best) continue;
                *best = before + here * here;
                cut[(size_t)r * stride + (size_t)i] = c;
            }
        }
    int end = n;
    for (int r = n_ranks - 1; r >= 0; r--) {
        first_out[r + 1] = end;
        end = r ? cut[(size_t)r * stride + (size_t)end] : 0;
    }
    first_out[0] = 0;

fail:
    free(cut);
    free(square);
    free(sum);
    return st;
}

sl_status sl_partition_explicit(const sl_source *source, int n_ranks, const int *layers_per_rank,
                                int *first_out) {
    const int n = sl_source_config(source)->n_layers;
    SL_TRY(check_ranks(n, n_ranks));
    int total = 0;
    for (int r = 0; r < n_ranks; r++) {
        if (layers_per_rank[r] < 1 || layers_per_rank[r] > n - total)
            return SL_FAIL(SL_ERR_ARG, "rank %d is given %d layers, %d of %d are left", r,
                           layers_per_rank[r], n - total, n);
        total += layers_per_rank[r];
    }
    if (total != n)
        return SL_FAIL(SL_ERR_ARG, "the ranks are given %d layers, the model has %d", total, n);
    first_out[0] = 0;
    for (int r = 0; r < n_ranks; r++) first_out[r + 1] = first_out[r] + layers_per_rank[r];
    return SL_OK;
}
