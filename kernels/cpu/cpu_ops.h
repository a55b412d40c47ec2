/* cpu_ops.h - the fast operators of the CPU backend.
 *
 * Same arguments in the same order as the table in engine/backend.h, which says what they mean;
 * buffers are host, float32; arguments are checked by the caller.  Threads divide rows, heads or
 * output columns, never the sum behind one number, so the bits do not depend on them.
 * Layer: kernels/cpu.  Thread safety: one thread per backend.
 * Errors: SL_ERR_NOMEM where scratch grows, and as said below.
 */
#ifndef SL_CPU_OPS_H
#define SL_CPU_OPS_H

#include "cpu/cpu_state.h"

/* cpu_gemm.c */
sl_status sl_cpu_linear(sl_cpu *cpu, float *y, int ldy, const float *x, const sl_weight *w,
                        const float *bias, int n_rows, int accumulate);

/* cpu_attention.c */
sl_status sl_cpu_attend(sl_cpu *cpu, float *out, const float *q, int ldq, int n_heads,
                        const sl_kv_view *cache, float scale, int window, const sl_rows *rows);
/* cpu_sparse.c; as the operator attend_sparse. */
sl_status sl_cpu_attend_sparse(sl_cpu *cpu, float *out, const float *q, int ldq, int n_heads,
                               const sl_kv_view *cache, float scale, int window, float sparsity,
                               const sl_rows *rows);
void sl_cpu_kv_append(sl_cpu *cpu, const sl_kv_view *cache, const float *k, const float *v, int ld,
                      const sl_rows *rows);
void sl_cpu_page_copy(const sl_kv_view *cache, int32_t from, int32_t to);

/* cpu_ops.c */
void sl_cpu_embed(sl_cpu *cpu, float *y, const sl_weight *token_table, const sl_rows *rows);
sl_status sl_cpu_add_positions(sl_cpu *cpu, float *y, const sl_weight *pos_table,
                               int position_offset, const sl_rows *rows);
void sl_cpu_norm(sl_cpu *cpu, float *y, const float *x, const float *gain, const float *bias,
                 sl_norm_kind kind, float eps, int n_rows, int cols);
sl_status sl_cpu_rope(sl_cpu *cpu, float *x, int ldx, int n_heads, int head_dim,
                      const float *inv_freq, const sl_rows *rows);
void sl_cpu_activate(sl_cpu *cpu, float *y, const float *g, const float *u, int ld,
                     sl_activation act, int n_rows, int n_cols);
void sl_cpu_add(sl_cpu *cpu, float *y, const float *x, int n_rows, int cols);
void sl_cpu_gather(sl_cpu *cpu, float *y, const float *x, const int32_t *index, int n, int cols);

/* Of several failing rows the first one's error is reported.
 * Errors: those of sl_sampler_choose(), SL_ERR_NOMEM. */
sl_status sl_cpu_choose(sl_cpu *cpu, float *logits, int n_rows, int vocab, const sl_choice_ask *ask,
                        sl_choice *out);

#endif
