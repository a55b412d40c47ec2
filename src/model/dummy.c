#include "model/dummy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/rng.h"
#include "model/roles.h"

/* 16 random bits pick one of this many values: four elements for each draw of 64 bits. */
enum { N_VALUES = 1 << 16, PER_DRAW = 4 };

struct sl_dummy {
    uint64_t seed;
    int n_scales;
    float scale[SL_ROLE_N_MATRICES];    /* [n_scales] distinct standard deviations */
    int table_of[SL_ROLE_N_MATRICES];   /* role -> its scale's number */
    sl_f16 *tables[SL_ROLE_N_MATRICES]; /* [n_scales][N_VALUES], owned */
    float *normal;                      /* [N_VALUES], standard deviation 1, owned */
};

/* Sums of 12 uniform numbers (Irwin-Hall): near enough to normal, bounded by 6, and free of library
 * functions whose last bit differs between machines.  The second half mirrors the first, so that
 * the mean is exactly zero: a bias of the table would add up over a row's thousands of columns. */
static void fill_normal(float *normal) {
    for (uint64_t i = 0; i < N_VALUES / 2; i++) {
        int64_t sum = 0;
        for (uint64_t j = 0; j < 3; j++) {
            const uint64_t bits = sl_rng_at(0x6e6f726d616cu, i * 3 + j);
            for (int k = 0; k < 64; k += 16) sum += (int64_t)(bits >> k & 0xffff);
        }
        const float z = (float)(2 * sum - 12 * 0xffff) * (1.0f / (2 * 0xffff));
        normal[i] = z;
        normal[i + N_VALUES / 2] = -z;
    }
}

static float standard_deviation(const sl_model_config *config, sl_role role) {
    int64_t rows, cols;
    sl_role_shape(config, role, &rows, &cols);
    float variance = 1.0f / (float)cols;
    if (role == SL_ROLE_O || role == SL_ROLE_DOWN) variance /= 2.0f * (float)config->n_layers;
    return sqrtf(variance);
}

/* Roles of equal scale share a table: it is 128 KiB, and a cache holds few. */
static sl_status add_table(sl_dummy *d, sl_role role, float scale) {
    int i = 0;
    while (i < d->n_scales && d->scale[i] != scale) i++;
    d->table_of[role] = i;
    if (i < d->n_scales) return SL_OK;
    d->tables[i] = malloc(N_VALUES * sizeof *d->tables[i]);
    if (!d->tables[i]) return SL_FAIL(SL_ERR_NOMEM, "dummy weights: out of host memory");
    for (int j = 0; j < N_VALUES; j++) d->tables[i][j] = sl_f32_to_f16(d->normal[j] * scale);
    d->scale[i] = scale;
    d->n_scales++;
    return SL_OK;
}

sl_status sl_dummy_open(const sl_model_config *config, uint64_t seed, sl_dummy **out) {
    sl_status st = SL_OK;
    sl_dummy *d = calloc(1, sizeof *d);
    if (!d) return SL_FAIL(SL_ERR_NOMEM, "dummy weights: out of host memory");
    d->seed = seed;
    d->normal = malloc(N_VALUES * sizeof *d->normal);
    if (!d->normal) {
        st = SL_FAIL(SL_ERR_NOMEM, "dummy weights: out of host memory");
        goto fail;
    }
    fill_normal(d->normal);
    for (int role = 0; role < SL_ROLE_N_MATRICES; role++)
        SL_GO(add_table(d, (sl_role)role, standard_deviation(config, (sl_role)role)));
    *out = d;
    return SL_OK;

fail:
    sl_dummy_close(d);
    return st;
}

void sl_dummy_close(sl_dummy *d) {
    if (!d) return;
    for (int i = 0; i < SL_ROLE_N_MATRICES; i++) free(d->tables[i]);
    free(d->normal);
    free(d);
}

sl_dtype sl_dummy_dtype(sl_role role) {
    return sl_role_is_vector(role) ? SL_DTYPE_F32 : SL_DTYPE_F16;
}

static int is_gain(sl_role role) {
    return role == SL_ROLE_ATTN_NORM_GAIN || role == SL_ROLE_MLP_NORM_GAIN ||
           role == SL_ROLE_FINAL_NORM_GAIN || role == SL_ROLE_Q_NORM_GAIN ||
           role == SL_ROLE_K_NORM_GAIN;
}

/* 16 bits for element `index` of the tensor of that key. */
static unsigned bits_of(uint64_t key, uint64_t index) {
    return (unsigned)(sl_rng_at(key, index / PER_DRAW) >> (index % PER_DRAW * 16)) & 0xffff;
}

static void fill_vector(const sl_dummy *d, uint64_t key, sl_role role, int64_t n, char *dst) {
    const float mean = is_gain(role) ? 1.0f : 0.0f, spread = is_gain(role) ? 0.05f : 0.02f;
    for (int64_t i = 0; i < n; i++) {
        const float noise = spread * d->normal[bits_of(key, (uint64_t)i)];
        const float value = mean + noise;
        memcpy(dst + (size_t)i * sizeof value, &value, sizeof value);
    }
}

/* Elements [begin, end) of the tensor; a range may begin and end in the middle of a draw. */
static void fill_matrix(const sl_f16 *table, uint64_t key, uint64_t begin, uint64_t end,
                        char *dst) {
    uint64_t i = begin;
    for (; i < end && i % PER_DRAW != 0; i++, dst += sizeof *table)
        memcpy(dst, &table[bits_of(key, i)], sizeof *table);
    for (; i + PER_DRAW <= end; i += PER_DRAW, dst += PER_DRAW * sizeof *table) {
        const uint64_t bits = sl_rng_at(key, i / PER_DRAW);
        const sl_f16 four[PER_DRAW] = {table[bits & 0xffff], table[bits >> 16 & 0xffff],
                                       table[bits >> 32 & 0xffff], table[bits >> 48]};
        memcpy(dst, four, sizeof four);
    }
    for (; i < end; i++, dst += sizeof *table) memcpy(dst, &table[bits_of(key, i)], sizeof *table);
}

void sl_dummy_read_rows(const sl_dummy *d, int layer, sl_role role, int64_t row0, int64_t n_rows,
                        int64_t cols, void *dst) {
    const uint64_t key = sl_rng_at(sl_rng_at(d->seed, (uint64_t)(layer + 1)), (uint64_t)role);
    if (sl_role_is_vector(role)) {
        fill_vector(d, key, role, cols, dst);
        return;
    }
    const uint64_t begin = (uint64_t)row0 * (uint64_t)cols;
    const uint64_t end = begin + (uint64_t)n_rows * (uint64_t)cols;
    fill_matrix(d->tables[d->table_of[role]], key, begin, end, dst);
}
