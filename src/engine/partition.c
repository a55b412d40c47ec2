#include "engine/partition.h"

#include <stdlib.h>

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

sl_status sl_partition_by_cost(const sl_source *source, int n_ranks, int *first_out) {
    const int n = sl_source_config(source)->n_layers;
    SL_TRY(check_ranks(n, n_ranks));
    sl_status st = SL_OK;
    /* sum[i]: cost of layers [0, i).  best[r][i]: the costliest of r + 1 ranks over them. */
    double *sum = calloc((size_t)n + 1, sizeof *sum);
    double *best = calloc((size_t)n_ranks * ((size_t)n + 1), sizeof *best);
    int *cut = calloc((size_t)n_ranks * ((size_t)n + 1), sizeof *cut);
    if (!sum || !best || !cut) {
        st = SL_FAIL(SL_ERR_NOMEM, "partition: out of host memory");
        goto fail;
    }
    double embed, head;
    SL_GO(layer_cost(source, SL_LAYER_EMBED, &embed));
    SL_GO(layer_cost(source, n, &head));
    for (int i = 0; i < n; i++) {
        double cost;
        SL_GO(layer_cost(source, i, &cost));
        sum[i + 1] = sum[i] + cost + (i == 0 ? embed : 0.0) + (i == n - 1 ? head : 0.0);
    }
    const size_t stride = (size_t)n + 1;
    for (int i = 1; i <= n; i++) best[i] = sum[i];
    for (int r = 1; r < n_ranks; r++) {
        for (int i = r + 1; i <= n; i++) {
            double *b = &best[(size_t)r * stride + (size_t)i];
            *b = -1.0;
            for (int c = r; c < i; c++) { /* this rank takes [c, i) */
                const double before = best[(size_t)(r - 1) * stride + (size_t)c];
                const double here = sum[i] - sum[c];
                const double most = before > here ? before : here;
                /* Among equals the later cut: earlier ranks take more, the last one less. */
                if (*b >= 0.0 && most > *b) continue;
                *b = most;
                cut[(size_t)r * stride + (size_t)i] = c;
            }
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
    free(best);
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
