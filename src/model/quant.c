#include "model/quant.h"

#include <string.h>

#include "base/half.h"
#include "model/pack.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "checkpoints are little-endian");

/* Every product below is exact in binary32: a scale has 11 significant bits (f16), a scale of a
 * sub-block at most 7 and a code at most 5.  So an element is rounded at most once, when a minimum
 * is added, and neither the order of factors nor a fused multiply-add can change the result. */

static float f16_at(const uint8_t *p) {
    return sl_f16_to_f32((sl_f16)(p[0] | p[1] << 8));
}

static uint32_t u32_at(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Blocks of 32: low nibbles hold elements 0..15, high nibbles 16..31; the fifth bits of the Q5
 * formats stand in a u32, bit i for element i. */

/* f16 d, codes: (q - 8) * d */
static void q4_0_block(float *y, const uint8_t *x) {
    const float d = f16_at(x);
    for (int i = 0; i < 16; i++) {
        y[i] = (float)((x[2 + i] & 15) - 8) * d;
        y[16 + i] = (float)((x[2 + i] >> 4) - 8) * d;
    }
}

/* f16 d, f16 m, codes: q * d + m */
static void q4_1_block(float *y, const uint8_t *x) {
    const float d = f16_at(x), m = f16_at(x + 2);
    for (int i = 0; i < 16; i++) {
        y[i] = (float)(x[4 + i] & 15) * d + m;
        y[16 + i] = (float)(x[4 + i] >> 4) * d + m;
    }
}

/* f16 d, u32 fifth bits, codes: (q - 16) * d */
static void q5_0_block(float *y, const uint8_t *x) {
    const float d = f16_at(x);
    const uint32_t fifth = u32_at(x + 2);
    for (int i = 0; i < 16; i++) {
        const int low = (x[6 + i] & 15) | (int)(fifth >> i & 1) << 4;
        const int high = (x[6 + i] >> 4) | (int)(fifth >> (i + 16) & 1) << 4;
        y[i] = (float)(low - 16) * d;
        y[16 + i] = (float)(high - 16) * d;
    }
}

/* f16 d, f16 m, u32 fifth bits, codes: q * d + m */
static void q5_1_block(float *y, const uint8_t *x) {
    const float d = f16_at(x), m = f16_at(x + 2);
    const uint32_t fifth = u32_at(x + 4);
    for (int i = 0; i < 16; i++) {
        const int low = (x[8 + i] & 15) | (int)(fifth >> i & 1) << 4;
        const int high = (x[8 + i] >> 4) | (int)(fifth >> (i + 16) & 1) << 4;
        y[i] = (float)low * d + m;
        y[16 + i] = (float)high * d + m;
    }
}

/* f16 d, 32 signed bytes: q * d */
static void q8_0_block(float *y, const uint8_t *x) {
    const float d = f16_at(x);
    for (int i = 0; i < 32; i++) y[i] = (float)(int8_t)x[2 + i] * d;
}

/* Super-blocks of 256.  Q4_K and Q5_K have eight sub-blocks of 32, whose scales and minima are 6
 * bits each, packed in 12 bytes: bytes 0..3 and 4..7 hold the scales and minima of sub-blocks 0..3
 * in their low 6 bits, and the upper two bits of sub-blocks 4..7, whose low 4 bits are in
 * bytes 8..11. */
static void k_scale_min(const uint8_t *packed, int j, int *scale, int *min) {
    if (j < 4) {
        *scale = packed[j] & 63;
        *min = packed[j + 4] & 63;
    } else {
        *scale = (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4;
        *min = (packed[j + 4] >> 4) | (packed[j] >> 6) << 4;
    }
}

/* f16 d, f16 dmin, 12 packed bytes, 128 code bytes: 32 bytes hold two sub-blocks, the first in
 * their low nibbles.  d*scale*q - dmin*min */
static void q4_k_block(float *y, const uint8_t *x) {
    const float d = f16_at(x), dmin = f16_at(x + 2);
    const uint8_t *packed = x + 4, *codes = x + 16;
    for (int j = 0; j < 8; j++) {
        int scale, min;
        k_scale_min(packed, j, &scale, &min);
        const float step = d * (float)scale, floor_ = dmin * (float)min;
        const uint8_t *q = codes + 32 * (j / 2);
        for (int i = 0; i < 32; i++)
            y[32 * j + i] = step * (float)(q[i] >> 4 * (j % 2) & 15) - floor_;
    }
}

/* As Q4_K, with 32 bytes of fifth bits before the codes: bit j of byte i is for element i of
 * sub-block j. */
static void q5_k_block(float *y, const uint8_t *x) {
    const float d = f16_at(x), dmin = f16_at(x + 2);
    const uint8_t *packed = x + 4, *fifth = x + 16, *codes = x + 48;
    for (int j = 0; j < 8; j++) {
        int scale, min;
        k_scale_min(packed, j, &scale, &min);
        const float step = d * (float)scale, floor_ = dmin * (float)min;
        const uint8_t *q = codes + 32 * (j / 2);
        for (int i = 0; i < 32; i++) {
            const int code = (q[i] >> 4 * (j % 2) & 15) | (fifth[i] >> j & 1) << 4;
            y[32 * j + i] = step * (float)code - floor_;
        }
    }
}

/* 128 bytes of low nibbles, 64 bytes of upper two bits, 16 signed scales (one for 16 elements),
 * f16 d: d*scale*(q - 32).  A half of 128 elements takes 64 and 32 of these bytes; its quarters of
 * 32 use the low nibbles of bytes 0..31, of 32..63, then the high ones of the same. */
static void q6_k_block(float *y, const uint8_t *x) {
    const float d = f16_at(x + 208);
    for (int e = 0; e < 256; e++) {
        const int half = e / 128, quarter = e / 32 % 4, i = e % 32;
        const int low = x[64 * half + 32 * (quarter % 2) + i] >> 4 * (quarter / 2) & 15;
        const int high = x[128 + 32 * half + i] >> 2 * quarter & 3;
        const float scale = (float)(int8_t)x[192 + e / 16];
        y[e] = d * scale * (float)((low | high << 4) - 32);
    }
}

static void plain_row(float *y, const uint8_t *x, sl_dtype dtype, int64_t n) {
    if (dtype == SL_DTYPE_F32) {
        memcpy(y, x, (size_t)n * sizeof *y);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        const uint16_t h = (uint16_t)(x[2 * i] | x[2 * i + 1] << 8);
        y[i] = dtype == SL_DTYPE_F16 ? sl_f16_to_f32(h) : sl_bf16_to_f32(h);
    }
}

void sl_dequantize_row(float *y, const void *x, sl_dtype dtype, int64_t n) {
    static void (*const blocks[SL_DTYPE_COUNT])(float *, const uint8_t *) = {
        [SL_DTYPE_Q4_0] = q4_0_block, [SL_DTYPE_Q4_1] = q4_1_block, [SL_DTYPE_Q5_0] = q5_0_block,
        [SL_DTYPE_Q5_1] = q5_1_block, [SL_DTYPE_Q8_0] = q8_0_block, [SL_DTYPE_Q4_K] = q4_k_block,
        [SL_DTYPE_Q5_K] = q5_k_block, [SL_DTYPE_Q6_K] = q6_k_block,
    };
    if ((int)dtype < 0 || dtype >= SL_DTYPE_COUNT) return;
    const uint8_t *at = x;
    if (sl_dtype_group_bits(dtype)) {
        sl_unpack_row(y, x, dtype, n);
        return;
    }
    if (!blocks[dtype]) {
        plain_row(y, at, dtype, n);
        return;
    }
    const int elems = sl_dtype_block_elems(dtype);
    const size_t bytes = sl_dtype_block_bytes(dtype);
    for (int64_t i = 0; i + elems <= n; i += elems, at += bytes) blocks[dtype](y + i, at);
}
