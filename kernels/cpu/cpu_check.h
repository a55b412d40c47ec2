/* cpu_check.h - argument checks at the entry points of the CPU backend's table.
 *
 * One function for each operator; it looks at everything that can be seen without walking the data:
 * pointers, shapes, segments against their page lists, ids against their tables.
 * Layer: kernels/cpu.  Thread safety: pure functions.  Errors: SL_ERR_ARG with the numbers.
 */
#ifndef SL_CPU_CHECK_H
#define SL_CPU_CHECK_H

#include "engine/backend.h"

/* y and x: [n_rows, cols], not NULL unless n_rows is 0. */
sl_status sl_cpu_check_shape(const char *op, const void *y, const void *x, int n_rows, int cols);

sl_status sl_cpu_check_embed(const void *y, const sl_weight *token_table, const sl_rows *rows);
sl_status sl_cpu_check_add_positions(const void *y, const sl_weight *pos_table, int position_offset,
                                     const sl_rows *rows);
sl_status sl_cpu_check_norm(const void *y, const void *x, sl_norm_kind kind, float eps, int n_rows,
                            int cols);
sl_status sl_cpu_check_linear(const void *y, int ldy, const void *x, const sl_weight *w,
                              int n_rows);
sl_status sl_cpu_check_rope(const void *x, int ldx, int n_heads, int head_dim,
                            const float *inv_freq, const sl_rows *rows);
sl_status sl_cpu_check_kv_append(const sl_kv_view *cache, const void *k, const void *v, int ld,
                                 const sl_rows *rows);
sl_status sl_cpu_check_attend(const void *out, const void *q, int ldq, int n_heads,
                              const sl_kv_view *cache, int window, const sl_rows *rows);
sl_status sl_cpu_check_activate(const void *y, const void *g, int ld, sl_activation act, int n_rows,
                                int n_cols);
sl_status sl_cpu_check_gather(const void *y, const void *x, const int32_t *index, int n, int cols);
sl_status sl_cpu_check_choose(const void *logits, int n_rows, int vocab, const sl_choice_ask *ask,
                              const sl_choice *out);
sl_status sl_cpu_check_page_copy(const sl_kv_view *cache, int32_t from, int32_t to);

#endif
