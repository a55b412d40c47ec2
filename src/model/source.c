#include "model/source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "base/half.h"
#include "model/arch.h"
#include "model/config_folder.h"
#include "model/config_gguf.h"
#include "model/dummy.h"
#include "model/roles.h"

enum {
    MAX_NAME = 160,             /* of a tensor; the table's longest is below 64 */
    INTERLEAVED_READ = 4 << 20, /* bytes read at once where rows have to be put in order */
};

struct sl_source {
    sl_model_config config;
    char *path;           /* what sl_source_path() gives, owned */
    sl_dummy *dummy;      /* dummy models, else NULL */
    sl_checkpoint *ckpt;  /* the others, else NULL */
    int interleaved_qk;   /* GGUF's order of the rows of Q and K */
    const sl_tensor **at; /* [n_layers + 2][SL_ROLE_COUNT]: layer + 1, role; owned, borrowed
                           * entries; NULL where the role does not occur */
};

static const sl_tensor **slot(const sl_source *s, int layer, sl_role role) {
    return &s->at[(size_t)(layer + 1) * SL_ROLE_COUNT + (size_t)role];
}

/* Finding the tensors. */

static sl_status fail_shape(const sl_tensor *t, int layer, sl_role role, int64_t rows,
                            int64_t cols) {
    const int is_vector = sl_role_is_vector(role);
    char found[64] = "", expected[64];
    size_t used = 0;
    for (int i = 0; i < t->n_dims && used < sizeof found; i++) {
        const int n = snprintf(found + used, sizeof found - used, "%s%lld", i > 0 ? ", " : "",
                               (long long)t->dims[i]);
        if (n > 0) used += (size_t)n;
    }
    if (is_vector)
        snprintf(expected, sizeof expected, "%lld", (long long)cols);
    else
        snprintf(expected, sizeof expected, "%lld, %lld", (long long)rows, (long long)cols);
    return SL_FAIL(SL_ERR_FORMAT, "%s: tensor %s is [%s], expected [%s] for %s of layer %d",
                   t->file, t->name, found, expected, sl_role_name(role), layer);
}

static sl_status check_tensor(const sl_model_config *config, const sl_tensor *t, int layer,
                              sl_role role) {
    int64_t rows, cols;
    size_t row_bytes, bytes;
    sl_role_shape(config, role, &rows, &cols);
    const int fits = sl_role_is_vector(role)
                         ? t->n_dims == 1 && t->dims[0] == cols
                         : t->n_dims == 2 && t->dims[0] == rows && t->dims[1] == cols;
    if (!fits) return fail_shape(t, layer, role, rows, cols);
    if (sl_role_is_vector(role) && t->dtype != SL_DTYPE_F32 && t->dtype != SL_DTYPE_F16 &&
        t->dtype != SL_DTYPE_BF16)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: tensor %s is stored as %s, expected F32, F16 or BF16 for a "
                       "vector",
                       t->file, t->name, sl_dtype_name(t->dtype));
    if (cols % sl_dtype_block_elems(t->dtype) != 0)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: tensor %s has rows of %lld elements, no multiple of %s's block of %d",
                       t->file, t->name, (long long)cols, sl_dtype_name(t->dtype),
                       sl_dtype_block_elems(t->dtype));
    SL_TRY(sl_dtype_row_bytes(t->dtype, cols, &row_bytes));
    SL_TRY(sl_size_mul(row_bytes, (size_t)rows, &bytes));
    if (bytes != t->bytes)
        return SL_FAIL(SL_ERR_FORMAT, "%s: tensor %s is %llu bytes long, expected %zu", t->file,
                       t->name, (unsigned long long)t->bytes, bytes);
    return SL_OK;
}

/* HF names start with what the checkpoint's author saved: the whole model or its body only. */
static sl_status find_prefix(const sl_source *s, const sl_arch *arch, const char **out) {
    char name[MAX_NAME];
    for (const char *const *prefix = arch->prefixes; *prefix; prefix++) {
        SL_TRY(
            sl_arch_hf_name(arch, *prefix, SL_LAYER_EMBED, SL_ROLE_TOKEN_EMBED, name, sizeof name));
        if (!sl_checkpoint_find(s->ckpt, name)) continue;
        *out = *prefix;
        return SL_OK;
    }
    *out = arch->prefixes[0]; /* its embedding will be reported missing */
    return SL_OK;
}

static sl_status bind(sl_source *s, const sl_arch *arch, const char *prefix, int layer,
                      sl_role role) {
    const int is_gguf = sl_checkpoint_format(s->ckpt) == SL_CHECKPOINT_GGUF;
    char name[MAX_NAME];
    if (role == SL_ROLE_HEAD && s->config.tied_head) {
        *slot(s, layer, role) = *slot(s, SL_LAYER_EMBED, SL_ROLE_TOKEN_EMBED);
        return SL_OK;
    }
    if (is_gguf)
        SL_TRY(sl_arch_gguf_name(layer, role, name, sizeof name));
    else
        SL_TRY(sl_arch_hf_name(arch, prefix, layer, role, name, sizeof name));
    const sl_tensor *t = sl_checkpoint_find(s->ckpt, name);
    if (!t && role == SL_ROLE_HEAD) {
        /* Written without a head of its own: the embedding is the head. */
        s->config.tied_head = 1;
        return bind(s, arch, prefix, layer, role);
    }
    if (!t) {
        int64_t rows, cols;
        sl_role_shape(&s->config, role, &rows, &cols);
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: tensor %s is missing, expected [%lld, %lld] for %s of layer %d",
                       sl_checkpoint_path(s->ckpt), name, (long long)rows, (long long)cols,
                       sl_role_name(role), layer);
    }
    SL_TRY(check_tensor(&s->config, t, layer, role));
    *slot(s, layer, role) = t;
    return SL_OK;
}

static sl_status bind_all(sl_source *s) {
    const sl_arch *arch = sl_arch_find(s->config.arch);
    const char *prefix = "";
    if (!arch)
        return SL_FAIL(SL_ERR_FORMAT, "%s: architecture %s is unknown", s->path, s->config.arch);
    if (sl_checkpoint_format(s->ckpt) != SL_CHECKPOINT_GGUF) SL_TRY(find_prefix(s, arch, &prefix));
    s->at = calloc((size_t)(s->config.n_layers + 2) * SL_ROLE_COUNT, sizeof *s->at);
    if (!s->at) return SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory", s->path);
    for (int layer = SL_LAYER_EMBED; layer <= s->config.n_layers; layer++)
        for (int role = 0; role < SL_ROLE_COUNT; role++)
            if (sl_role_wanted(&s->config, layer, (sl_role)role))
                SL_TRY(bind(s, arch, prefix, layer, (sl_role)role));
    return SL_OK;
}

/* Opening. */

static sl_status new_source(const char *path, sl_source **out) {
    sl_source *s = calloc(1, sizeof *s);
    if (s) s->path = strdup(path);
    if (!s || !s->path) {
        free(s);
        return SL_FAIL(SL_ERR_NOMEM, "open %s: out of host memory", path);
    }
    *out = s;
    return SL_OK;
}

sl_status sl_source_open_dummy(const sl_model_config *config, const char *name, uint64_t seed,
                               sl_source **out) {
    SL_TRY(sl_config_check(config, name));
    sl_source *s;
    SL_TRY(new_source(name, &s));
    s->config = *config;
    const sl_status st = sl_dummy_open(config, seed, &s->dummy);
    if (st != SL_OK) {
        sl_source_close(s);
        return st;
    }
    *out = s;
    return SL_OK;
}

static sl_status open_dummy(const char *name, uint64_t seed, sl_source **out) {
    sl_model_config config;
    struct stat info;
    sl_status st = sl_config_named(name, &config);
    if (st != SL_OK && stat(name, &info) == 0)
        st = S_ISDIR(info.st_mode) ? sl_config_read_folder(name, &config)
                                   : sl_config_read_file(name, &config);
    return st == SL_OK ? sl_source_open_dummy(&config, name, seed, out) : st;
}

static sl_status open_checkpoint(sl_source *s, int is_folder) {
    if (is_folder) {
        SL_TRY(sl_config_read_folder(s->path, &s->config));
        SL_TRY(sl_checkpoint_open(s->path, &s->ckpt));
    } else {
        SL_TRY(sl_gguf_open(s->path, &s->ckpt));
        SL_TRY(sl_config_read_gguf(s->ckpt, &s->config));
        const sl_arch *arch = sl_arch_find(s->config.arch);
        s->interleaved_qk = arch && arch->gguf_interleaves_qk;
    }
    return bind_all(s);
}

sl_status sl_source_open(const char *model, uint64_t dummy_seed, sl_source **out) {
    if (strncmp(model, "dummy:", 6) == 0) return open_dummy(model + 6, dummy_seed, out);
    struct stat info;
    if (stat(model, &info) != 0)
        return SL_FAIL(
            SL_ERR_IO,
            "model %s: %s; expected a folder with config.json, a GGUF file or dummy:NAME", model,
            strerror(errno));
    sl_source *s;
    SL_TRY(new_source(model, &s));
    const sl_status st = open_checkpoint(s, S_ISDIR(info.st_mode));
    if (st != SL_OK) {
        sl_source_close(s);
        return st;
    }
    *out = s;
    return SL_OK;
}

void sl_source_close(sl_source *s) {
    if (!s) return;
    free(s->at);
    sl_checkpoint_close(s->ckpt);
    sl_dummy_close(s->dummy);
    free(s->path);
    free(s);
}

const sl_model_config *sl_source_config(const sl_source *s) {
    return &s->config;
}

const sl_checkpoint *sl_source_checkpoint(const sl_source *s) {
    return s->ckpt;
}

const char *sl_source_path(const sl_source *s) {
    return s->path;
}

int sl_source_is_dummy(const sl_source *s) {
    return s->dummy != NULL;
}

/* Reading. */

int sl_source_has(const sl_source *s, int layer, sl_role role) {
    return sl_role_wanted(&s->config, layer, role);
}

sl_status sl_source_shape(const sl_source *s, int layer, sl_role role, int64_t *rows_out,
                          int64_t *cols_out, sl_dtype *dtype_out) {
    if (!sl_source_has(s, layer, role))
        return SL_FAIL(SL_ERR_ARG, "%s: layer %d has no tensor %s", s->path, layer,
                       sl_role_name(role));
    sl_role_shape(&s->config, role, rows_out, cols_out);
    *dtype_out = s->dummy ? sl_dummy_dtype(role) : (*slot(s, layer, role))->dtype;
    return SL_OK;
}

/* GGUF stores rows 2j and 2j+1 of a head where the kernels expect j and j + head_dim/2. */
static int64_t stored_row(int64_t row, int head_dim) {
    const int64_t in_head = row % head_dim, half = head_dim / 2;
    return row - in_head + 2 * (in_head % half) + in_head / half;
}

/* Puts rows [begin, end) in order; `stored` begins with stored row `first`. */
static void put_in_order(char *dst, const char *stored, int64_t begin, int64_t end, int64_t first,
                         int head_dim, size_t row_bytes) {
    for (int64_t row = begin; row < end; row++) {
        const size_t from = (size_t)(stored_row(row, head_dim) - first);
        memcpy(dst + (size_t)(row - begin) * row_bytes, stored + from * row_bytes, row_bytes);
    }
}

/* Reads whole heads where it can, several at once, and only the span of rows that it needs where
 * the range begins or ends within a head. */
static sl_status read_interleaved_rows(const sl_source *s, const sl_tensor *t, int64_t row0,
                                       int64_t n_rows, size_t row_bytes, char *dst) {
    const int head_dim = s->config.head_dim;
    size_t head_bytes, span_bytes;
    SL_TRY(sl_size_mul(row_bytes, (size_t)head_dim, &head_bytes));
    const int64_t heads = (int64_t)(INTERLEAVED_READ / head_bytes);
    const int64_t unit = (heads > 1 ? heads : 1) * head_dim; /* rows read at once */
    SL_TRY(sl_size_mul(row_bytes, (size_t)(unit < t->dims[0] ? unit : t->dims[0]), &span_bytes));
    char *span = malloc(span_bytes);
    if (!span)
        return SL_FAIL(SL_ERR_NOMEM, "read %s: no memory for %zu bytes", t->name, span_bytes);

    sl_status st = SL_OK;
    const int64_t last = row0 + n_rows;
    for (int64_t begin = row0, end; begin < last && st == SL_OK; begin = end) {
        end = (begin / unit + 1) * unit;
        if (end > last) end = last;
        int64_t low = INT64_MAX, high = -1;
        for (int64_t row = begin; row < end; row++) {
            const int64_t at = stored_row(row, head_dim);
            if (at < low) low = at;
            if (at > high) high = at;
        }
        st = sl_checkpoint_read_rows(s->ckpt, t, low, high - low + 1, span,
                                     (size_t)(high - low + 1) * row_bytes);
        if (st == SL_OK)
            put_in_order(dst + (size_t)(begin - row0) * row_bytes, span, begin, end, low, head_dim,
                         row_bytes);
    }
    free(span);
    return st;
}

/* A vector in the file's order is one row; its elements are what is out of order. */
static sl_status read_interleaved_vector(const sl_source *s, const sl_tensor *t, size_t bytes,
                                         char *dst) {
    char *stored = malloc(bytes);
    if (!stored) return SL_FAIL(SL_ERR_NOMEM, "read %s: no memory for %zu bytes", t->name, bytes);
    const sl_status st = sl_checkpoint_read_rows(s->ckpt, t, 0, 1, stored, bytes);
    if (st == SL_OK)
        put_in_order(dst, stored, 0, t->dims[0], 0, s->config.head_dim,
                     sl_dtype_block_bytes(t->dtype));
    free(stored);
    return st;
}

sl_status sl_source_read_rows(const sl_source *s, int layer, sl_role role, int64_t row0,
                              int64_t n_rows, void *dst, size_t dst_bytes) {
    int64_t rows, cols;
    sl_dtype dtype;
    size_t row_bytes, bytes;
    SL_TRY(sl_source_shape(s, layer, role, &rows, &cols, &dtype));
    if (row0 < 0 || n_rows < 0 || row0 > rows || n_rows > rows - row0)
        return SL_FAIL(SL_ERR_ARG, "read %lld rows from row %lld of %s in layer %d, which has %lld",
                       (long long)n_rows, (long long)row0, sl_role_name(role), layer,
                       (long long)rows);
    SL_TRY(sl_dtype_row_bytes(dtype, cols, &row_bytes));
    SL_TRY(sl_size_mul(row_bytes, (size_t)n_rows, &bytes));
    if (bytes != dst_bytes)
        return SL_FAIL(SL_ERR_ARG, "read %lld rows of %s in layer %d into %zu bytes, expected %zu",
                       (long long)n_rows, sl_role_name(role), layer, dst_bytes, bytes);
    if (n_rows == 0) return SL_OK;

    if (s->dummy) {
        if (role == SL_ROLE_HEAD && s->config.tied_head) {
            layer = SL_LAYER_EMBED;
            role = SL_ROLE_TOKEN_EMBED;
        }
        sl_dummy_read_rows(s->dummy, layer, role, row0, n_rows, cols, dst);
        return SL_OK;
    }
    const sl_tensor *t = *slot(s, layer, role);
    if (s->interleaved_qk && (role == SL_ROLE_Q || role == SL_ROLE_K))
        return read_interleaved_rows(s, t, row0, n_rows, row_bytes, dst);
    if (s->interleaved_qk && (role == SL_ROLE_Q_BIAS || role == SL_ROLE_K_BIAS))
        return read_interleaved_vector(s, t, bytes, dst);
    return sl_checkpoint_read_rows(s->ckpt, t, row0, n_rows, dst, dst_bytes);
}

sl_status sl_source_read_vector(const sl_source *s, int layer, sl_role role, float *dst,
                                int64_t cols) {
    int64_t rows, found;
    sl_dtype dtype;
    size_t bytes;
    SL_TRY(sl_source_shape(s, layer, role, &rows, &found, &dtype));
    if (!sl_role_is_vector(role) || cols != found)
        return SL_FAIL(SL_ERR_ARG, "read %s of layer %d as a vector of %lld, it is [%lld, %lld]",
                       sl_role_name(role), layer, (long long)cols, (long long)rows,
                       (long long)found);
    SL_TRY(sl_dtype_row_bytes(dtype, cols, &bytes));
    if (dtype == SL_DTYPE_F32) return sl_source_read_rows(s, layer, role, 0, 1, dst, bytes);

    uint16_t *stored = malloc(bytes);
    if (!stored)
        return SL_FAIL(SL_ERR_NOMEM, "read %s of layer %d: no memory for %zu bytes",
                       sl_role_name(role), layer, bytes);
    const sl_status st = sl_source_read_rows(s, layer, role, 0, 1, stored, bytes);
    if (st == SL_OK)
        for (int64_t i = 0; i < cols; i++)
            dst[i] = dtype == SL_DTYPE_F16 ? sl_f16_to_f32(stored[i]) : sl_bf16_to_f32(stored[i]);
    free(stored);
    return st;
}
