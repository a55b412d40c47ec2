/* cpu_reference.h - the operators whose fast forms differ in arithmetic, in the plainest C.
 *
 * The oracle of every test: one thread, one loop per sign of the formula, sums in double.  The
 * meaning of each is in engine/backend.h; buffers are host, float32; arguments are checked by the
 * caller.
 * Layer: kernels/cpu.  Thread safety: pure functions with caller's scratch.
 */
#ifndef SL_CPU_REFERENCE_H
#define SL_CPU_REFERENCE_H

#include "engine/backend.h"

void sl_cpu_reference_norm(float *y, const float *x, const float *gain, const float *bias,
                           sl_norm_kind kind, float eps, int n_rows, int cols);

/* scratch: [w->cols] */
void sl_cpu_reference_linear(float *y, int ldy, const float *x, const sl_weight *w,
                             const float *bias, int n_rows, int accumulate, float *scratch);

void sl_cpu_reference_rope(float *x, int ldx, int n_heads, int head_dim, const float *inv_freq,
                           const sl_rows *rows);

/* scratch: [keys of the longest segment + head_dim] */
void sl_cpu_reference_attend(float *out, const float *q, int ldq, int n_heads,
                             const sl_kv_view *cache, float scale, int window, const sl_rows *rows,
                             double *scratch);

void sl_cpu_reference_activate(float *y, const float *g, const float *u, int ld, sl_activation act,
                               int n_rows, int n_cols);

#endif
