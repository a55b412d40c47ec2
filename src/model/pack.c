#include "model/pack.h"

#include <math.h>
#include <string.h>

#include "base/half.h"
#include "base/lanes.h"

enum { N_VECTORS = SL_GROUP_ELEMS / SL_LANES };

static const float F16_MAX = 65504.0f;

static float clamp_f16(float x) {
    return x > F16_MAX ? F16_MAX : x < -F16_MAX ? -F16_MAX : x;
}

/* The next f16 toward -inf or +inf; h is finite and stays so, since callers clamp before. */
static sl_f16 f16_below(sl_f16 h) {
    if (h == 0) return 0x8001; /* below +0: the smallest negative */
    return h & 0x8000 ? (sl_f16)(h + 1) : (sl_f16)(h - 1);
}

static sl_f16 f16_above(sl_f16 h) {
    if (h == 0x8000) return 0x0001;
    return h & 0x8000 ? (sl_f16)(h - 1) : (sl_f16)(h + 1);
}

static sl_f16 round_down(float x) {
    const float inside = clamp_f16(x);
    const sl_f16 h = sl_f32_to_f16(inside);
    return sl_f16_to_f32(h) > inside ? f16_below(h) : h;
}

static sl_f16 round_up(float x) {
    const float inside = clamp_f16(x);
    const sl_f16 h = sl_f32_to_f16(inside);
    return sl_f16_to_f32(h) < inside ? f16_above(h) : h;
}

void sl_pack_range(float low, float high, int bits, uint16_t pair_out[2]) {
    const float top = (float)((1 << bits) - 1);
    low += 0.0f; /* -0 becomes 0: which zero is found first must not show in the bytes */
    high += 0.0f;
    pair_out[1] = round_down(low);
    const float min = sl_f16_to_f32(pair_out[1]);
    /* Division by the count first: high - min may exceed float32's range. */
    pair_out[0] = round_up(high / top - min / top);
}

/* The elements in lanes, the first one again behind the last. */
static void load(sl_lanes v[N_VECTORS], const float *x, int n) {
    float padded[SL_GROUP_ELEMS];
    memcpy(padded, x, (size_t)n * sizeof *x);
    for (int i = n; i < SL_GROUP_ELEMS; i++) padded[i] = x[0];
    memcpy(v, padded, sizeof padded);
}

/* Least and greatest of the elements to sl_pack_range(). */
static void find_pair(uint16_t pair_out[2], const sl_lanes v[N_VECTORS], int bits) {
    sl_lanes low = v[0], high = v[0], zero = v[0] * 0.0f; /* 0, or NaN of what is not finite */
    for (int i = 1; i < N_VECTORS; i++) {
        low = sl_lanes_min(v[i], low);
        high = sl_lanes_max(v[i], high);
        zero += v[i] * 0.0f;
    }
    if (sl_lanes_sum(zero) != 0.0f) { /* NaN is not equal to anything */
        pair_out[0] = 0;
        pair_out[1] = 0x7e00; /* NaN */
        return;
    }
    float least = low[0], greatest = high[0];
    for (int i = 1; i < SL_LANES; i++) {
        least = low[i] < least ? low[i] : least;
        greatest = high[i] > greatest ? high[i] : greatest;
    }
    sl_pack_range(least, greatest, bits, pair_out);
}

static void store_codes(uint8_t *codes, const sl_lanes v[N_VECTORS], const uint16_t pair[2],
                        int bits, int n) {
    const float step = sl_f16_to_f32(pair[0]);
    if (!(step > 0.0f)) {
        memset(codes, 0, (size_t)(n * bits + 7) / 8);
        return;
    }
    const sl_lanes min = sl_lanes_all(sl_f16_to_f32(pair[1])), width = sl_lanes_all(step);
    const sl_lanes zero = sl_lanes_all(0.0f), top = sl_lanes_all((float)((1 << bits) - 1));
    int32_t whole[SL_GROUP_ELEMS];
    for (int i = 0; i < N_VECTORS; i++) {
        const sl_lanes code = sl_lanes_min(sl_lanes_max((v[i] - min) / width, zero), top);
        const sl_lane_ints rounded = __builtin_convertvector(sl_lanes_round(code), sl_lane_ints);
        memcpy(whole + i * SL_LANES, &rounded, sizeof rounded);
    }
    if (bits == 8) {
        for (int i = 0; i < n; i++) codes[i] = (uint8_t)whole[i];
        return;
    }
    if (n % 2) whole[n] = 0; /* the last byte's high half */
    for (int i = 0; i < (n + 1) / 2; i++)
        codes[i] = (uint8_t)(whole[2 * i] | whole[2 * i + 1] << 4);
}

void sl_pack_pair(uint16_t pair_out[2], const float *x, int bits, int n) {
    sl_lanes v[N_VECTORS];
    load(v, x, n);
    find_pair(pair_out, v, bits);
}

void sl_pack_codes(uint8_t *codes, const uint16_t pair[2], const float *x, int bits, int n) {
    sl_lanes v[N_VECTORS];
    load(v, x, n);
    store_codes(codes, v, pair, bits, n);
}

void sl_pack_group(uint8_t *codes, uint16_t pair_out[2], const float *x, int bits, int n) {
    sl_lanes v[N_VECTORS];
    load(v, x, n);
    find_pair(pair_out, v, bits);
    store_codes(codes, v, pair_out, bits, n);
}

void sl_unpack_group(float *y, const uint8_t *codes, const uint16_t pair[2], int bits, int n) {
    const float step = sl_f16_to_f32(pair[0]), min = sl_f16_to_f32(pair[1]);
    for (int i = 0; i < n; i++) {
        const int code = bits == 8 ? codes[i] : codes[i / 2] >> (i % 2 * 4) & 15;
        y[i] = (float)code * step + min;
    }
}

static int group_at(int64_t cols, int64_t i) {
    return (int)(cols - i < SL_GROUP_ELEMS ? cols - i : SL_GROUP_ELEMS);
}

void sl_pack_row(void *row, const float *x, sl_dtype dtype, int64_t cols) {
    const int bits = sl_dtype_group_bits(dtype);
    const size_t code_bytes = sl_pack_code_bytes(dtype, (size_t)cols);
    uint8_t *codes = row, *pairs = codes + code_bytes;
    const size_t pair_bytes = ((size_t)sl_pack_groups(cols) * 4 + 15) & ~(size_t)15;
    memset(row, 0, code_bytes + pair_bytes); /* the padding too: packed files are compared */
    for (int64_t i = 0; i < cols; i += SL_GROUP_ELEMS) {
        uint16_t pair[2];
        sl_pack_group(codes + i * bits / 8, pair, x + i, bits, group_at(cols, i));
        memcpy(pairs + i / SL_GROUP_ELEMS * 4, pair, sizeof pair);
    }
}

void sl_unpack_row(float *y, const void *row, sl_dtype dtype, int64_t cols) {
    const int bits = sl_dtype_group_bits(dtype);
    const uint8_t *codes = row, *pairs = codes + sl_pack_code_bytes(dtype, (size_t)cols);
    for (int64_t i = 0; i < cols; i += SL_GROUP_ELEMS) {
        uint16_t pair[2];
        memcpy(pair, pairs + i / SL_GROUP_ELEMS * 4, sizeof pair);
        sl_unpack_group(y + i, codes + i * bits / 8, pair, bits, group_at(cols, i));
    }
}
