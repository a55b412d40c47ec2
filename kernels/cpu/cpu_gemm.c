/* The matrix product over weights as they are stored.
 *
 * A work item is one strip of SL_STRIP outputs for all rows.  Its weights are expanded to float32
 * SL_PANEL_DEPTH columns at a time into a panel that stays in the thread's L1, and the packed rows
 * stream past it from L2.  Order of sums: within a panel one chain of multiply-adds from zero, the
 * panels in order on top of what y holds, the bias last; nothing of it depends on n_rows, on the
 * tiles or on the team.
 *
 * BLAS does not do this work: it chooses its kernels by the sizes of the call, so a row's bits
 * would depend on its batch, and it wants the whole matrix in float32.  Measured with bench_cpu on
 * two cores of an Intel Xeon with AVX-512 (family 6, model 167), OpenBLAS 0.3.21, November 2026,
 * [M, 576] x [1536, 576] with Q4_1 weights against sgemm on float32 ones, GFLOP/s:
 * M = 8: 174 to 62, 32: 261 to 158, 128: 323 to 263, 512: 317 to 315. */
#include "base/bytes.h"
#include "cpu/cpu_ops.h"
#include "model/pack.h"

typedef struct {
    const sl_cpu *cpu;
    float *y;
    int ldy;
    const float *x;
    const sl_weight *w;
    const float *bias;
    int n_rows;
    int accumulate;
    int n_tiles;
    float *packed; /* by panel, by tile: [n_k, rows of the tile] */
} product;

/* Tiles of equal size but for one row: 32 rows are 11 + 11 + 10, not 14 + 14 + 4. */
static int tile_row0(const product *p, int tile) {
    return (int)((int64_t)tile * p->n_rows / p->n_tiles);
}

static int panel_depth(const product *p, int k0) {
    return p->w->cols - k0 < SL_PANEL_DEPTH ? p->w->cols - k0 : SL_PANEL_DEPTH;
}

static float *packed_tile(const product *p, int k0, int row0) {
    return p->packed + (size_t)k0 * (size_t)p->n_rows + (size_t)row0 * (size_t)panel_depth(p, k0);
}

static void pack_tile(void *context, int tile, int thread) {
    (void)thread;
    const product *p = context;
    const int row0 = tile_row0(p, tile), n_rows = tile_row0(p, tile + 1) - row0;
    const float *x = p->x + (size_t)row0 * (size_t)p->w->cols;
    for (int k0 = 0; k0 < p->w->cols; k0 += SL_PANEL_DEPTH)
        p->cpu->kernels->pack(packed_tile(p, k0, row0), x + k0, p->w->cols, n_rows,
                              panel_depth(p, k0));
}

static int slab_strips(const sl_slab *slab) {
    return (slab->n_rows + SL_STRIP - 1) / SL_STRIP;
}

/* Columns [k0, k0 + n_k) of n rows from `first` of a slab. */
static void expand_rows(const sl_cpu_kernels *kernels, float *panel, const sl_slab *slab, int first,
                        int n, int k0, int n_k, float *scratch) {
    const uint8_t *stored = (const uint8_t *)slab->data + (size_t)first * slab->row_bytes;
    const int bits = sl_dtype_group_bits(slab->dtype);
    if (!bits) {
        kernels->expand(panel, stored, slab->dtype, slab->row_bytes, n, k0, n_k, scratch);
        return;
    }
    const sl_cpu_group_rows rows = {.codes = stored,
                                    .code_stride = slab->row_bytes,
                                    .pairs = stored +
                                             sl_pack_code_bytes(slab->dtype, (size_t)slab->cols),
                                    .pair_stride = slab->row_bytes,
                                    .bits = bits};
    kernels->expand_groups(panel, &rows, n, k0, n_k);
}

static void compute_strip(void *context, int strip, int thread) {
    const product *p = context;
    const sl_cpu_kernels *kernels = p->cpu->kernels;
    const sl_slab *slab = p->w->slabs;
    while (strip >= slab_strips(slab)) strip -= slab_strips(slab++);
    const int first = strip * SL_STRIP; /* row of the slab */
    const int n = slab->n_rows - first < SL_STRIP ? slab->n_rows - first : SL_STRIP;
    float *y = p->y + slab->row0 + first;

    float *panel = sl_cpu_own(p->cpu, thread);
    float *scratch = panel + SL_PANEL_DEPTH * SL_STRIP;
    for (int k0 = 0; k0 < p->w->cols; k0 += SL_PANEL_DEPTH) {
        const int n_k = panel_depth(p, k0);
        expand_rows(kernels, panel, slab, first, n, k0, n_k, scratch);
        for (int t = 0; t < p->n_tiles; t++) {
            const int row0 = tile_row0(p, t);
            kernels->multiply(y + (size_t)row0 * (size_t)p->ldy, p->ldy, packed_tile(p, k0, row0),
                              panel, tile_row0(p, t + 1) - row0, n_k, n, k0 > 0 || p->accumulate);
        }
    }
    if (!p->bias) return;
    const float *bias = p->bias + slab->row0 + first;
    for (int r = 0; r < p->n_rows; r++)
        for (int c = 0; c < n; c++) y[(size_t)r * (size_t)p->ldy + (size_t)c] += bias[c];
}

sl_status sl_cpu_linear(sl_cpu *cpu, float *y, int ldy, const float *x, const sl_weight *w,
                        const float *bias, int n_rows, int accumulate) {
    size_t packed_bytes;
    SL_TRY(sl_size_mul((size_t)n_rows * (size_t)w->cols, sizeof(float), &packed_bytes));
    SL_TRY(sl_cpu_reserve(&cpu->shared, packed_bytes, "packed rows"));
    SL_TRY(sl_cpu_reserve_own(cpu, (SL_PANEL_DEPTH * SL_STRIP + SL_EXPAND_SCRATCH) * sizeof(float),
                              "weight panels"));

    product p = {.cpu = cpu,
                 .y = y,
                 .ldy = ldy,
                 .x = x,
                 .w = w,
                 .bias = bias,
                 .n_rows = n_rows,
                 .accumulate = accumulate,
                 .n_tiles = (n_rows + SL_TILE - 1) / SL_TILE,
                 .packed = cpu->shared.data};
    int n_strips = 0;
    for (int s = 0; s < w->n_slabs; s++) n_strips += slab_strips(&w->slabs[s]);
    const double weights = (double)w->rows * w->cols;
    sl_cpu_run(cpu, (double)n_rows * w->cols, p.n_tiles, pack_tile, &p);
    sl_cpu_run(cpu, (n_rows + 4.0) * weights, n_strips, compute_strip, &p);
    return SL_OK;
}
