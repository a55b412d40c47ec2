/* The group formats in plain C. */
#include <string.h>

#include "cpu/cpu_groups.h"
#include "cpu/cpu_kernels.h"
#include "model/pack.h"

/* Group `group` of row `row`, its first n elements. */
static void unpack(float *y, const sl_cpu_group_rows *rows, int row, int group, int n) {
    uint16_t pair[2];
    memcpy(pair, rows->pairs + (size_t)row * rows->pair_stride + (size_t)group * sizeof pair,
           sizeof pair);
    const size_t first = (size_t)group * SL_GROUP_ELEMS * (size_t)rows->bits / 8;
    sl_unpack_group(y, rows->codes + (size_t)row * rows->code_stride + first, pair, rows->bits, n);
}

static int group_width(int total, int from) {
    return total - from < SL_GROUP_ELEMS ? total - from : SL_GROUP_ELEMS;
}

void sl_cpu_expand_groups_plain(float *panel, const sl_cpu_group_rows *rows, int n_rows, int k0,
                                int n_k) {
    float y[SL_GROUP_ELEMS];
    if (n_rows < SL_STRIP) memset(panel, 0, (size_t)n_k * SL_STRIP * sizeof *panel); /* defined */
    for (int n = 0; n < n_rows; n++) {
        for (int k = 0; k < n_k; k += SL_GROUP_ELEMS) {
            const int width = group_width(n_k, k);
            unpack(y, rows, n, (k0 + k) / SL_GROUP_ELEMS, width);
            for (int i = 0; i < width; i++) panel[(k + i) * SL_STRIP + n] = y[i];
        }
    }
}

void sl_cpu_group_values_plain(float *panels, const sl_cpu_group_rows *rows, int head_dim,
                               int n_valid) {
    float y[SL_GROUP_ELEMS];
    const size_t strips = ((size_t)head_dim + SL_STRIP - 1) / SL_STRIP;
    if (head_dim % SL_STRIP != 0 || n_valid < SL_STRIP)
        memset(panels, 0, strips * SL_STRIP * SL_STRIP * sizeof *panels);
    for (int j = 0; j < n_valid; j++) {
        for (int d = 0; d < head_dim; d += SL_GROUP_ELEMS) {
            const int width = group_width(head_dim, d);
            unpack(y, rows, j, d / SL_GROUP_ELEMS, width);
            for (int i = 0; i < width; i++)
                panels[(d + i) / SL_STRIP * SL_STRIP * SL_STRIP + j * SL_STRIP +
                       (d + i) % SL_STRIP] = y[i];
        }
    }
}
