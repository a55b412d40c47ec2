#include "policy_file.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

/* Goes up when keys change their meaning. */
enum { FILE_VERSION = 1, FILE_BYTES_MAX = 1 << 16 };

typedef enum { KEY_TEXT, KEY_COUNT, KEY_DTYPE, KEY_SHARES, KEY_FRACTION } key_kind;

typedef struct {
    const char *name;
    key_kind kind;
    size_t offset;
    int is_optional;
} key;

#define AT(field) offsetof(sl_policy, field)

static const key keys[] = {
    {"model", KEY_TEXT, 0, 1},
    {"machine", KEY_TEXT, 0, 1},
    {"micro_batch", KEY_COUNT, AT(micro_batch), 0},
    {"num_micro_batches", KEY_COUNT, AT(num_micro_batches), 0},
    {"max_rows", KEY_COUNT, AT(max_rows), 0},
    {"blocks_in_flight", KEY_COUNT, AT(blocks_in_flight), 0},
    {"max_context", KEY_COUNT, AT(max_context), 0},
    {"weights", KEY_DTYPE, AT(weights_dtype), 0},
    {"cache", KEY_DTYPE, AT(cache_dtype), 0},
    {"weights_at", KEY_SHARES, AT(weights), 0},
    {"cache_at", KEY_SHARES, AT(cache), 0},
    {"hidden_at", KEY_SHARES, AT(hidden), 0},
    {"cpu_attention", KEY_FRACTION, AT(host_attends), 0},
};
enum { N_KEYS = sizeof keys / sizeof keys[0] };

/* As the options of `sluice run` name them. */
static const struct {
    const char *name;
    sl_dtype dtype;
} dtypes[] = {{"stored", SL_DTYPE_AS_STORED},
              {"f32", SL_DTYPE_F32},
              {"f16", SL_DTYPE_F16},
              {"q8", SL_DTYPE_Q8G64},
              {"q4", SL_DTYPE_Q4G64}};
enum { N_DTYPES = sizeof dtypes / sizeof dtypes[0] };

/* ---- reading ---- */

typedef struct {
    const char *file;
    const key *key;
} place;

static sl_status refuse(place at, const char *expected) {
    return SL_FAIL(SL_ERR_FORMAT, "%s: %s: expected %s", at.file, at.key->name, expected);
}

static sl_status read_count(place at, const json_t *value, int *out) {
    const json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < 0 || n > INT_MAX)
        return refuse(at, "a whole number of at least 0");
    *out = (int)n;
    return SL_OK;
}

static sl_status read_dtype(place at, const json_t *value, sl_dtype *out) {
    const char *name = json_string_value(value);
    const int is_cache = strcmp(at.key->name, "cache") == 0;
    for (int i = is_cache; name && i < N_DTYPES; i++) {
        if (strcmp(name, dtypes[i].name) != 0) continue;
        *out = dtypes[i].dtype;
        return SL_OK;
    }
    return refuse(at, is_cache ? "f32, f16, q8 or q4" : "stored, f32, f16, q8 or q4");
}

static sl_status read_fraction(place at, const json_t *value, double *out) {
    const double x = json_number_value(value);
    if (!json_is_number(value) || !(x >= 0 && x <= 1)) return refuse(at, "a number from 0 to 1");
    *out = x;
    return SL_OK;
}

static sl_status read_shares(place at, json_t *value, sl_shares *out) {
    sl_shares shares = {{0}};
    double sum = 0;
    if (json_is_null(value)) {
        *out = shares;
        return SL_OK;
    }
    if (!json_is_object(value) || json_object_size(value) != SL_TIER_COUNT)
        return refuse(at, "null, or shares of gpu, cpu and disk");
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        const json_t *share = json_object_get(value, sl_tier_name((sl_tier_kind)t));
        if (!share) return refuse(at, "shares of gpu, cpu and disk");
        SL_TRY(read_fraction(at, share, &shares.frac[t]));
        sum += shares.frac[t];
    }
    if (sum < 1 - 1e-6 || sum > 1 + 1e-6) return refuse(at, "shares that sum to 1");
    *out = shares;
    return SL_OK;
}

static sl_status read_key(const char *file, const key *k, json_t *root, sl_policy *p) {
    const place at = {file, k};
    json_t *value = json_object_get(root, k->name);
    void *field = (char *)p + k->offset;
    if (!value && k->is_optional) return SL_OK;
    if (!value) return SL_FAIL(SL_ERR_FORMAT, "%s: %s is missing", file, k->name);
    switch (k->kind) {
    case KEY_TEXT:
        return json_is_string(value) ? SL_OK : refuse(at, "a text");
    case KEY_COUNT:
        return read_count(at, value, field);
    case KEY_DTYPE:
        return read_dtype(at, value, field);
    case KEY_SHARES:
        return read_shares(at, value, field);
    default:
        return read_fraction(at, value, field);
    }
}

static sl_status refuse_unknown(const char *file, json_t *root) {
    const char *name;
    json_t *value;
    json_object_foreach(root, name, value) {
        int known = strcmp(name, "policy_version") == 0;
        for (int k = 0; k < N_KEYS; k++) known |= strcmp(name, keys[k].name) == 0;
        if (!known) return SL_FAIL(SL_ERR_FORMAT, "%s: unknown key \"%.100s\"", file, name);
    }
    return SL_OK;
}

static sl_status read_root(const char *file, json_t *root, sl_policy *p) {
    if (!json_is_object(root)) return SL_FAIL(SL_ERR_FORMAT, "%s: expected an object", file);
    const json_t *version = json_object_get(root, "policy_version");
    if (json_integer_value(version) != FILE_VERSION)
        return SL_FAIL(SL_ERR_FORMAT, "%s: policy_version: found %lld, expected %d", file,
                       (long long)json_integer_value(version), (int)FILE_VERSION);
    SL_TRY(refuse_unknown(file, root));
    for (int k = 0; k < N_KEYS; k++) SL_TRY(read_key(file, &keys[k], root, p));
    return SL_OK;
}

sl_status sl_policy_parse(const char *text, size_t bytes, const char *where, sl_policy *policy) {
    json_error_t error;
    sl_policy p = *policy;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    if (!root) return SL_FAIL(SL_ERR_FORMAT, "%s: line %d: %s", where, error.line, error.text);
    const sl_status st = read_root(where, root, &p);
    json_decref(root);
    if (st == SL_OK) *policy = p;
    return st;
}

sl_status sl_policy_read(const char *path, sl_policy *policy) {
    char *text = malloc(FILE_BYTES_MAX);
    FILE *file = text ? fopen(path, "rb") : NULL;
    size_t n = 0;
    sl_status st = SL_OK;
    if (!text) {
        st = SL_FAIL(SL_ERR_NOMEM, "read %s: out of host memory", path);
    } else if (!file) {
        st = SL_FAIL(SL_ERR_IO, "open %s: %s", path, strerror(errno));
    } else {
        n = fread(text, 1, FILE_BYTES_MAX, file);
        if (ferror(file)) st = SL_FAIL(SL_ERR_IO, "read %s: %s", path, strerror(errno));
        if (n == FILE_BYTES_MAX) st = SL_FAIL(SL_ERR_FORMAT, "%s: larger than any policy", path);
    }
    if (file) fclose(file);
    if (st == SL_OK) st = sl_policy_parse(text, n, path, policy);
    free(text);
    return st;
}

/* ---- writing ---- */

static void print_shares(const sl_shares *s, sl_json_text *out) {
    if (!sl_shares_are_set(s)) {
        sl_json_raw(out, "null");
        return;
    }
    for (int t = 0; t < SL_TIER_COUNT; t++) {
        sl_json_raw(out, t ? ", \"" : "{\"");
        sl_json_raw(out, sl_tier_name((sl_tier_kind)t));
        sl_json_raw(out, "\": ");
        sl_json_double(out, s->frac[t]);
    }
    sl_json_raw(out, "}");
}

static const char *dtype_name(sl_dtype dtype) {
    for (int i = 0; i < N_DTYPES; i++)
        if (dtypes[i].dtype == dtype) return dtypes[i].name;
    return "f16";
}

void sl_policy_print(const sl_policy *policy, const char *model, const char *machine,
                     sl_json_text *out) {
    sl_json_raw(out, "{\n  \"policy_version\": ");
    sl_json_int(out, FILE_VERSION);
    for (int k = 0; k < N_KEYS; k++) {
        const void *field = (const char *)policy + keys[k].offset;
        const char *text = strcmp(keys[k].name, "model") == 0 ? model : machine;
        if (keys[k].kind == KEY_TEXT && !text) continue;
        sl_json_raw(out, ",\n  \"");
        sl_json_raw(out, keys[k].name);
        sl_json_raw(out, "\": ");
        if (keys[k].kind == KEY_TEXT) sl_json_cstring(out, text);
        if (keys[k].kind == KEY_COUNT) sl_json_int(out, *(const int *)field);
        if (keys[k].kind == KEY_DTYPE) sl_json_cstring(out, dtype_name(*(const sl_dtype *)field));
        if (keys[k].kind == KEY_SHARES) print_shares(field, out);
        if (keys[k].kind == KEY_FRACTION) sl_json_double(out, *(const double *)field);
    }
    sl_json_raw(out, "\n}\n");
}

sl_status sl_policy_write(const sl_policy *policy, const char *model, const char *machine,
                          const char *path) {
    sl_json_text text = {0};
    sl_policy_print(policy, model, machine, &text);
    sl_status st = sl_json_status(&text);
    FILE *file = st == SL_OK ? fopen(path, "w") : NULL;
    if (st == SL_OK && !file) st = SL_FAIL(SL_ERR_IO, "write %s: %s", path, strerror(errno));
    if (file) {
        const int wrote = fwrite(text.data, 1, text.n_bytes, file) == text.n_bytes;
        if (fclose(file) != 0 || !wrote)
            st = SL_FAIL(SL_ERR_IO, "write %s: %s", path, strerror(errno));
    }
    sl_json_free(&text);
    return st;
}
