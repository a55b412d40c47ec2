#include "job/job_key.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

/* Goes up when the line, or what results follow from, changes so that an output of an older program
 * cannot be gone on with. */
enum { VERSION = 1 };

enum { SHOWN_ENTRIES = 3, SHOWN_BYTES = 80 };

void sl_job_key_free(sl_job_key *key) {
    for (int i = 0; i < key->n; i++) {
        free(key->entries[i].name);
        free(key->entries[i].value);
    }
    *key = (sl_job_key){0};
}

/* Takes over `value`. */
static sl_status add_entry(sl_job_key *key, const char *name, char *value) {
    char *own = value ? strdup(name) : NULL;
    if (!own || key->n == SL_JOB_KEY_ENTRIES) {
        const int is_full = own != NULL;
        free(own);
        free(value);
        if (is_full) return SL_FAIL(SL_ERR_FORMAT, "more than %d entries", SL_JOB_KEY_ENTRIES);
        return SL_FAIL(SL_ERR_NOMEM, "key of the job: out of host memory");
    }
    key->entries[key->n++] = (sl_job_key_entry){own, value};
    return SL_OK;
}

sl_status sl_job_key_add(sl_job_key *key, const char *name, const char *fmt, ...) {
    va_list args;
    char *value = NULL;
    va_start(args, fmt);
    if (vasprintf(&value, fmt, args) < 0) value = NULL;
    va_end(args);
    return add_entry(key, name, value);
}

sl_status sl_job_key_write(const sl_job_key *key, sl_json_text *out) {
    sl_json_raw(out, "{\"sluice_job\": ");
    sl_json_int(out, VERSION);
    sl_json_raw(out, ", \"key\": {");
    for (int i = 0; i < key->n; i++) {
        if (i) sl_json_raw(out, ", ");
        sl_json_cstring(out, key->entries[i].name);
        sl_json_raw(out, ": ");
        sl_json_cstring(out, key->entries[i].value);
    }
    sl_json_raw(out, "}}\n");
    return sl_json_status(out);
}

static sl_status read_entries(const json_t *entries, sl_job_key *key) {
    const char *name;
    json_t *value;
    if (!json_is_object(entries)) return SL_FAIL(SL_ERR_FORMAT, "no \"key\" object");
    json_object_foreach((json_t *)(uintptr_t)entries, name, value) {
        if (!json_is_string(value)) return SL_FAIL(SL_ERR_FORMAT, "\"%.80s\" is no string", name);
        SL_TRY(add_entry(key, name, strdup(json_string_value(value))));
    }
    return SL_OK;
}

sl_status sl_job_key_parse(const char *line, size_t n_bytes, sl_job_key *out) {
    json_error_t fault;
    sl_job_key key = {0};
    if (n_bytes > SL_JOB_KEY_MAX_BYTES)
        return SL_FAIL(SL_ERR_FORMAT, "a line of %zu bytes", n_bytes);
    json_t *root = json_loadb(line, n_bytes, JSON_REJECT_DUPLICATES, &fault);
    if (!root)
        return SL_FAIL(SL_ERR_FORMAT, "no valid JSON: %s (byte %d)", fault.text, fault.position);
    sl_status st = SL_OK;
    const json_t *version = json_object_get(root, "sluice_job");
    if (!json_is_integer(version)) {
        st = SL_FAIL(SL_ERR_FORMAT, "no \"sluice_job\"");
    } else if (json_integer_value(version) != VERSION) {
        st = SL_FAIL(SL_ERR_FORMAT, "version %" JSON_INTEGER_FORMAT ", expected %d",
                     json_integer_value(version), VERSION);
    } else {
        st = read_entries(json_object_get(root, "key"), &key);
    }
    json_decref(root);
    if (st == SL_OK) {
        *out = key;
    } else {
        sl_job_key_free(&key);
    }
    return st;
}

static const char *find(const sl_job_key *key, const char *name) {
    for (int i = 0; i < key->n; i++) {
        if (strcmp(key->entries[i].name, name) == 0) return key->entries[i].value;
    }
    return NULL;
}

/* A value in a message: long ones are cut, one that is missing is said to be. */
static void show(const char *value, char *out, size_t room) {
    if (!value) {
        snprintf(out, room, "not known");
    } else if (strlen(value) > SHOWN_BYTES) {
        snprintf(out, room, "%.*s...", SHOWN_BYTES, value);
    } else {
        snprintf(out, room, "%s", value);
    }
}

static void append_difference(const char *name, const char *was, const char *is, int n, char *text,
                              size_t room) {
    char before[SHOWN_BYTES + 8], now[SHOWN_BYTES + 8];
    const size_t used = strlen(text);
    if (n > SHOWN_ENTRIES) return;
    show(was, before, sizeof before);
    show(is, now, sizeof now);
    if (used < room)
        snprintf(text + used, room - used, "%s%.80s was %s, is %s", n > 1 ? "; " : "", name, before,
                 now);
}

int sl_job_key_differs(const sl_job_key *was, const sl_job_key *is, char *text, size_t room) {
    int n = 0;
    text[0] = '\0';
    for (int i = 0; i < is->n; i++) {
        const sl_job_key_entry *e = &is->entries[i];
        const char *before = find(was, e->name);
        if (!before || strcmp(before, e->value) != 0)
            append_difference(e->name, before, e->value, ++n, text, room);
    }
    for (int i = 0; i < was->n; i++) {
        const sl_job_key_entry *e = &was->entries[i];
        if (!find(is, e->name)) append_difference(e->name, e->value, NULL, ++n, text, room);
    }
    return n;
}

sl_status sl_job_key_same_form(const sl_job_key *key, sl_job_key *out) {
    sl_json_text text = {0};
    sl_status st = sl_job_key_write(key, &text);
    if (st == SL_OK) st = sl_job_key_parse(text.data, text.n_bytes, out);
    sl_json_free(&text);
    return st;
}
