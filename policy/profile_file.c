/* Machine profiles as JSON files. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "profile_impl.h"

/* Goes up when keys change their meaning. */
enum { FILE_VERSION = 1, FILE_BYTES_MAX = 1 << 20 };

/* ---- reading ---- */

static const char *type_name(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a text";
    case JSON_INTEGER:
    case JSON_REAL:
        return "a number";
    case JSON_NULL:
        return "null";
    default:
        return "true or false";
    }
}

/* Where a value stands, for messages. */
typedef struct {
    const char *file, *key, *format; /* format: NULL but within keys that have one curve for each */
} place;

static sl_status refuse(const place *at, const json_t *found, const char *expected) {
    return SL_FAIL(SL_ERR_FORMAT, "%s: %s%s%s: found %s, expected %s", at->file, at->key,
                   at->format ? "." : "", at->format ? at->format : "", type_name(found), expected);
}

static sl_status read_text(const place *at, const json_t *value, char *out, size_t room) {
    if (!json_is_string(value)) return refuse(at, value, "a text");
    if (json_string_length(value) >= room || strlen(json_string_value(value)) >= room)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s: found %zu characters, expected at most %zu",
                       at->file, at->key, json_string_length(value), room - 1);
    memset(out, 0, room);
    memcpy(out, json_string_value(value), strlen(json_string_value(value)));
    return SL_OK;
}

static sl_status read_count(const place *at, const json_t *value, int *out) {
    const json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < 0 || n > 1 << 20)
        return refuse(at, value, "a whole number from 1 to 1048576");
    *out = (int)n;
    return SL_OK;
}

static sl_status read_number(const place *at, const json_t *value, double *out) {
    if (!json_is_number(value)) return refuse(at, value, "a number");
    *out = json_number_value(value);
    return SL_OK;
}

static sl_status read_curve(const place *at, const json_t *value, sl_curve *out) {
    sl_curve curve = {0};
    if (!json_is_array(value)) return refuse(at, value, "an array of points [x, y]");
    if (json_array_size(value) > SL_CURVE_MAX)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s: found %zu points, expected at most %d", at->file,
                       at->key, json_array_size(value), (int)SL_CURVE_MAX);
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *point = json_array_get(value, i);
        if (!json_is_array(point) || json_array_size(point) != 2)
            return refuse(at, point, "points [x, y]");
        SL_TRY(read_number(at, json_array_get(point, 0), &curve.x[i]));
        SL_TRY(read_number(at, json_array_get(point, 1), &curve.y[i]));
    }
    curve.n = (int)json_array_size(value);
    *out = curve;
    return SL_OK;
}

static sl_status refuse_other_formats(const place *at, json_t *value) {
    const char *name;
    json_t *curve;
    json_object_foreach(value, name, curve) {
        int known = 0;
        for (int f = 0; f < SL_PROFILE_FORMATS; f++)
            known |= strcmp(name, sl_profile_format_names[f]) == 0;
        if (!known)
            return SL_FAIL(SL_ERR_FORMAT, "%s: %s: unknown key \"%.100s\", expected f16, q8 and q4",
                           at->file, at->key, name);
    }
    return SL_OK;
}

static sl_status read_curves(const place *at, json_t *value, sl_curve *out) {
    if (!json_is_object(value)) return refuse(at, value, "an object of curves");
    SL_TRY(refuse_other_formats(at, value));
    for (int f = 0; f < SL_PROFILE_FORMATS; f++) {
        const place within = {at->file, at->key, sl_profile_format_names[f]};
        const json_t *curve = json_object_get(value, within.format);
        if (!curve)
            return SL_FAIL(SL_ERR_FORMAT, "%s: %s.%s is missing", at->file, at->key, within.format);
        SL_TRY(read_curve(&within, curve, &out[f]));
    }
    return SL_OK;
}

static sl_status read_field(const char *file, const sl_profile_key *k, json_t *root,
                            sl_profile *out) {
    const place at = {file, k->name, NULL};
    json_t *value = json_object_get(root, k->name);
    void *field = (char *)out + k->offset;
    if (!value && k->is_optional) return SL_OK; /* all zero: not known */
    if (!value) return SL_FAIL(SL_ERR_FORMAT, "%s: %s is missing", file, k->name);
    switch (k->kind) {
    case SL_KEY_TEXT:
        return read_text(&at, value, field, k->bytes);
    case SL_KEY_COUNT:
        return read_count(&at, value, field);
    case SL_KEY_NUMBER:
        return read_number(&at, value, field);
    case SL_KEY_CURVE:
        return read_curve(&at, value, field);
    default:
        return read_curves(&at, value, field);
    }
}

static sl_status refuse_unknown(const char *file, json_t *root) {
    const char *name;
    json_t *value;
    json_object_foreach(root, name, value) {
        int known = strcmp(name, "profile_version") == 0;
        for (int k = 0; k < SL_PROFILE_N_KEYS; k++)
            known |= strcmp(name, sl_profile_keys[k].name) == 0;
        if (!known) return SL_FAIL(SL_ERR_FORMAT, "%s: unknown key \"%.100s\"", file, name);
    }
    return SL_OK;
}

static sl_status read_root(const char *file, json_t *root, sl_profile *out) {
    if (!json_is_object(root))
        return SL_FAIL(SL_ERR_FORMAT, "%s: found %s, expected an object", file, type_name(root));
    const json_t *version = json_object_get(root, "profile_version");
    if (!version) return SL_FAIL(SL_ERR_FORMAT, "%s: profile_version is missing", file);
    if (json_integer_value(version) != FILE_VERSION)
        return SL_FAIL(SL_ERR_FORMAT, "%s: profile_version: found %lld, expected %d", file,
                       (long long)json_integer_value(version), (int)FILE_VERSION);
    SL_TRY(refuse_unknown(file, root));
    for (int k = 0; k < SL_PROFILE_N_KEYS; k++)
        SL_TRY(read_field(file, &sl_profile_keys[k], root, out));
    return SL_OK;
}

sl_status sl_profile_parse(const char *text, size_t bytes, const char *where, sl_profile *out) {
    json_error_t error;
    sl_profile profile = {0};
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    if (!root) return SL_FAIL(SL_ERR_FORMAT, "%s: line %d: %s", where, error.line, error.text);
    sl_status st = read_root(where, root, &profile);
    json_decref(root);
    SL_TRY(st);
    st = sl_profile_check(&profile);
    if (st != SL_OK) {
        char reason[512];
        snprintf(reason, sizeof reason, "%s", sl_error_message());
        char *source_place = strrchr(reason, '('); /* ours stands behind it */
        if (source_place > reason) source_place[-1] = '\0';
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s", where, reason);
    }
    *out = profile;
    return SL_OK;
}

sl_status sl_profile_read(const char *path, sl_profile *out) {
    sl_status st = SL_OK;
    size_t n = 0;
    char *text = malloc(FILE_BYTES_MAX);
    FILE *file = fopen(path, "rb");
    if (!file) {
        st = SL_FAIL(SL_ERR_IO, "open %s: %s", path, strerror(errno));
    } else if (!text) {
        st = SL_FAIL(SL_ERR_NOMEM, "read %s: out of host memory", path);
    } else {
        n = fread(text, 1, FILE_BYTES_MAX, file);
        if (ferror(file)) st = SL_FAIL(SL_ERR_IO, "read %s: %s", path, strerror(errno));
        if (n == FILE_BYTES_MAX)
            st = SL_FAIL(SL_ERR_FORMAT, "%s: larger than any machine profile", path);
    }
    if (file) fclose(file);
    if (st == SL_OK) st = sl_profile_parse(text, n, path, out);
    free(text);
    return st;
}

/* ---- writing ---- */

static void print_curve(const sl_curve *curve, sl_json_text *out) {
    sl_json_raw(out, "[");
    for (int i = 0; i < curve->n; i++) {
        sl_json_raw(out, i > 0 ? ", [" : "[");
        sl_json_double(out, curve->x[i]);
        sl_json_raw(out, ", ");
        sl_json_double(out, curve->y[i]);
        sl_json_raw(out, "]");
    }
    sl_json_raw(out, "]");
}

static void print_field(const void *field, sl_profile_key_kind kind, sl_json_text *out) {
    switch (kind) {
    case SL_KEY_TEXT:
        sl_json_cstring(out, field);
        break;
    case SL_KEY_COUNT:
        sl_json_int(out, *(const int *)field);
        break;
    case SL_KEY_NUMBER:
        sl_json_double(out, *(const double *)field);
        break;
    case SL_KEY_CURVE:
        print_curve(field, out);
        break;
    case SL_KEY_CURVES:
        for (int f = 0; f < SL_PROFILE_FORMATS; f++) {
            sl_json_raw(out, f == 0 ? "{\n    \"" : ",\n    \"");
            sl_json_raw(out, sl_profile_format_names[f]);
            sl_json_raw(out, "\": ");
            print_curve((const sl_curve *)field + f, out);
        }
        sl_json_raw(out, "\n  }");
        break;
    }
}

/* Whether an optional field tells anything. */
static int is_known(const void *field, sl_profile_key_kind kind) {
    if (kind == SL_KEY_NUMBER) return *(const double *)field != 0.0;
    for (int f = 0; f < SL_PROFILE_FORMATS; f++)
        if (((const sl_curve *)field)[f].n > 0) return 1;
    return 0;
}

void sl_profile_print(const sl_profile *profile, sl_json_text *out) {
    sl_json_raw(out, "{\n  \"profile_version\": ");
    sl_json_int(out, FILE_VERSION);
    for (int i = 0; i < SL_PROFILE_N_KEYS; i++) {
        const sl_profile_key *k = &sl_profile_keys[i];
        const void *field = (const char *)profile + k->offset;
        if (k->is_optional && !is_known(field, k->kind)) continue;
        sl_json_raw(out, ",\n  \"");
        sl_json_raw(out, k->name);
        sl_json_raw(out, "\": ");
        print_field(field, k->kind, out);
    }
    sl_json_raw(out, "\n}\n");
}

static sl_status write_text(const sl_json_text *text, const char *path) {
    FILE *file = fopen(path, "w");
    if (!file) return SL_FAIL(SL_ERR_IO, "write %s: %s", path, strerror(errno));
    const int wrote = fwrite(text->data, 1, text->n_bytes, file) == text->n_bytes;
    if (fclose(file) == 0 && wrote) return SL_OK;
    return SL_FAIL(SL_ERR_IO, "write %s: %s", path, strerror(errno));
}

/* Writes it beside its place first. */
static sl_status put_text(const sl_json_text *text, const char *path) {
    char partial[4096];
    const int n = snprintf(partial, sizeof partial, "%s.%ld", path, (long)getpid());
    if (n < 0 || (size_t)n >= sizeof partial)
        return SL_FAIL(SL_ERR_IO, "write %s: a path of %d characters", path, n);
    sl_status st = write_text(text, partial);
    if (st == SL_OK && rename(partial, path) != 0)
        st = SL_FAIL(SL_ERR_IO, "write %s: %s", path, strerror(errno));
    if (st != SL_OK) unlink(partial);
    return st;
}

sl_status sl_profile_write(const sl_profile *profile, const char *path) {
    struct stat is;
    sl_json_text text = {0};
    SL_TRY(sl_profile_check(profile));
    sl_profile_print(profile, &text);
    sl_status st = sl_json_status(&text);
    /* What is no file, such as a pipe, is written to, not replaced. */
    const int is_file = stat(path, &is) != 0 || S_ISREG(is.st_mode);
    if (st == SL_OK) st = is_file ? put_text(&text, path) : write_text(&text, path);
    sl_json_free(&text);
    return st;
}
