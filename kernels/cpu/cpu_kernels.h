/* cpu_kernels.h - the inner kernels of the CPU backend, one table per instruction set.
 *
 * Matrix product and attention share one shape of work: a strip of SL_STRIP outputs, expanded to
 * float32 as panel[k][SL_STRIP], against a tile of at most SL_TILE rows.  Lanes run along the
 * outputs and k runs in order, so an element is one chain of multiply-adds whatever tile its row
 * is in: this is why a row's bits do not depend on the rows beside it, on the split into tiles or
 * on threads.
 * Layer: kernels/cpu.  Thread safety: pure functions with caller's scratch.
 */
#ifndef SL_CPU_KERNELS_H
#define SL_CPU_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "cpu/cpu_groups.h"

enum {
    SL_STRIP = 32,       /* outputs of a strip: two AVX-512 registers; SL_PAGE_TOKENS keys */
    SL_TILE = 14,        /* rows: 14 x 2 accumulators + 2 weights + 1 broadcast = 31 of 32 */
    SL_PANEL_DEPTH = 256 /* k per panel: 32 KiB stay in L1; a multiple of every dtype's block */
};

/* Floats of scratch that expand() needs: half a strip of float32 rows, transposed afterwards. */
enum { SL_EXPAND_SCRATCH = 16 * SL_PANEL_DEPTH };

typedef struct {
    const char *name;

    /* panel[k][n] = element (n, k0 + k) of n_rows <= SL_STRIP stored rows; anything for n >=
     * n_rows.
     *   panel    float32, [n_k, SL_STRIP], 64-byte aligned;  n_k <= SL_PANEL_DEPTH
     *   data     rows in `dtype`, no group format, row_bytes apart;  k0: a multiple of
     *            SL_PANEL_DEPTH
     *   scratch  float32, [SL_EXPAND_SCRATCH], 64-byte aligned */
    void (*expand)(float *panel, const void *data, sl_dtype dtype, size_t row_bytes, int n_rows,
                   int k0, int n_k, float *scratch);

    /* The same of rows in a group format. */
    void (*expand_groups)(float *panel, const sl_cpu_group_rows *rows, int n_rows, int k0, int n_k);

    /* to[k][m] = x[m, k] for m < n_rows <= SL_TILE, k < n_k: the form that multiply() takes.
     *   to  [n_k, n_rows];  x: [n_rows, ldx], the first n_k of each row */
    void (*pack)(float *to, const float *x, int ldx, int n_rows, int n_k);

    /* y[m, n] = (add ? y[m, n] : 0) + sum_k x[k, m] * panel[k, n], m < n_rows, n < n_cols.
     *   y  [n_rows, ldy];  x: [n_k, n_rows], packed;  n_rows <= SL_TILE, n_cols <= SL_STRIP */
    void (*multiply)(float *y, int ldy, const float *x, const float *panel, int n_rows, int n_k,
                     int n_cols, int add);

    /* y[m, n] += sum_j p[m, j] * panel[j, n], j < SL_STRIP, n < SL_STRIP.
     *   y  [n_rows, ldy];  p: [n_rows, SL_STRIP];  panel: [SL_STRIP, SL_STRIP] */
    void (*mix)(float *y, int ldy, const float *p, const float *panel, int n_rows);

    /* Values of one head of a page as panels of SL_STRIP columns.
     *   panels   float32, [ceil(head_dim / SL_STRIP)][SL_PAGE_TOKENS][SL_STRIP]; 0 where no value
     *   src      F16 or F32, [SL_PAGE_TOKENS, head_dim]; only the first n_valid tokens are read */
    void (*values)(float *panels, const void *src, sl_dtype dtype, int head_dim, int n_valid);

    /* The same of a page in a group format: row j has token j. */
    void (*group_values)(float *panels, const sl_cpu_group_rows *rows, int head_dim, int n_valid);

    /* One block of the online softmax: s[j] = exp(s[j] - max') for first <= j < last, else 0,
     * where max' = max(*max, s[first..last)).  Updates *max and *sum, returns exp(max - max'), by
     * which what was accumulated before is to be scaled.  s: [SL_STRIP]; last > first. */
    float (*softmax)(float *s, int first, int last, float *max, float *sum);

    /* y[i] = x[i] as binary16, to nearest even.  y: unaligned is fine. */
    void (*to_f16)(void *y, const float *x, int n);

    /* sl_pack_group() to the byte. */
    void (*pack_group)(uint8_t *codes, uint16_t pair_out[2], const float *x, int bits, int n);

    /* y[i] = g[i] / (1 + exp(-g[i])) * u[i]; u may be NULL (1).  y may be g. */
    void (*silu)(float *y, const float *g, const float *u, int n);
} sl_cpu_kernels;

/* Plain C; always there. */
const sl_cpu_kernels *sl_cpu_kernels_plain(void);

/* NULL where the processor (or the compiler's target) lacks the instructions. */
const sl_cpu_kernels *sl_cpu_kernels_avx2(void);
const sl_cpu_kernels *sl_cpu_kernels_avx512(void);

#endif
