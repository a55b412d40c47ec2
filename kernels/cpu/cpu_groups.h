/* cpu_groups.h - rows of the group formats (model/pack.h) to float32 and back, per instruction set.
 *
 * One description serves weights, whose rows hold codes and pairs, and pages, which hold the codes
 * of all tokens before the pairs of all tokens (store/kv_format.h).  Every variant gives the same
 * bits: code * step is exact in float32, so a fused multiply-add rounds as sum and product do.
 * Layer: kernels/cpu.  Thread safety: pure functions.
 */
#ifndef SL_CPU_GROUPS_H
#define SL_CPU_GROUPS_H

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"

/* Codes are read in pieces of 16 bytes counted from a row's start: behind the last one come the
 * padding of a weight's row or the pairs of a page's head. */
typedef struct {
    const uint8_t *codes; /* of row 0 */
    size_t code_stride;   /* bytes from a row to the next */
    const uint8_t *pairs; /* f16 step and f16 min of each group of row 0 */
    size_t pair_stride;
    int bits; /* 8 or 4 */
} sl_cpu_group_rows;

/* What sl_cpu_kernels says of expand(); k0 is a multiple of SL_GROUP_ELEMS. */
void sl_cpu_expand_groups_plain(float *panel, const sl_cpu_group_rows *rows, int n_rows, int k0,
                                int n_k);
void sl_cpu_expand_groups_avx2(float *panel, const sl_cpu_group_rows *rows, int n_rows, int k0,
                               int n_k);
void sl_cpu_expand_groups_avx512(float *panel, const sl_cpu_group_rows *rows, int n_rows, int k0,
                                 int n_k);

/* What sl_cpu_kernels says of values(). */
void sl_cpu_group_values_plain(float *panels, const sl_cpu_group_rows *rows, int head_dim,
                               int n_valid);
void sl_cpu_group_values_avx2(float *panels, const sl_cpu_group_rows *rows, int head_dim,
                              int n_valid);
void sl_cpu_group_values_avx512(float *panels, const sl_cpu_group_rows *rows, int head_dim,
                                int n_valid);

/* The bytes of sl_pack_group(), which is the plain variant. */
void sl_cpu_pack_group_avx2(uint8_t *codes, uint16_t pair_out[2], const float *x, int bits, int n);
void sl_cpu_pack_group_avx512(uint8_t *codes, uint16_t pair_out[2], const float *x, int bits,
                              int n);

#endif
