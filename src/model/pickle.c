#include "model/pickle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/checkpoint_impl.h"
#include "model/pickle_names.h"

/* The instructions of a state dict. */
enum {
    OP_MARK = '(',
    OP_STOP = '.',
    OP_EMPTY_TUPLE = ')',
    OP_BININT = 'J',
    OP_BININT1 = 'K',
    OP_BININT2 = 'M',
    OP_NONE = 'N',
    OP_BINPERSID = 'Q',
    OP_REDUCE = 'R',
    OP_BINUNICODE = 'X',
    OP_BUILD = 'b',
    OP_GLOBAL = 'c',
    OP_BINGET = 'h',
    OP_LONG_BINGET = 'j',
    OP_BINPUT = 'q',
    OP_LONG_BINPUT = 'r',
    OP_SETITEM = 's',
    OP_TUPLE = 't',
    OP_SETITEMS = 'u',
    OP_EMPTY_DICT = '}',
    OP_PROTO = 0x80,
    OP_TUPLE1 = 0x85,
    OP_TUPLE2 = 0x86,
    OP_TUPLE3 = 0x87,
    OP_NEWTRUE = 0x88,
    OP_NEWFALSE = 0x89,
    OP_LONG1 = 0x8a,
};

enum { GLOBAL_NAME_MAX = 256 };

typedef enum { NONE, BOOL, INT, TEXT, TUPLE, DICT, GLOBAL, STORAGE, TENSOR } value_kind;

static const char *const kind_names[] = {"None",   "a bool", "a number",  "a text",  "a tuple",
                                         "a dict", "a name", "a storage", "a tensor"};

/* Values live in one pool, refer to each other by index, and are freed together: a pickle may share
 * them and even close circles.  Nothing here walks them recursively. */
typedef struct {
    value_kind kind;
    union {
        int64_t number; /* INT, BOOL */
        struct {
            const char *at;
            size_t bytes;
        } text;
        struct {
            uint32_t first, n; /* in items */
        } tuple;
        struct {
            uint32_t head, tail; /* in pairs, 0: none */
        } dict;
        const sl_pickle_global *global;
        struct {
            uint32_t global, key, elems; /* values */
        } storage;
        struct {
            uint32_t storage, offset, dims, strides; /* values */
        } tensor;
    };
} value;

typedef struct {
    uint32_t key, item, next;
} pair;

typedef struct {
    const char *where;
    const unsigned char *data;
    size_t pos, bytes;
    value *values;
    uint32_t n_values, cap_values;
    uint32_t *items; /* of all tuples */
    uint32_t n_items, cap_items;
    pair *pairs; /* of all dicts; [0] unused */
    uint32_t n_pairs, cap_pairs;
    uint32_t *stack;
    uint32_t n_stack, cap_stack;
    uint32_t *marks; /* heights of the stack */
    uint32_t n_marks, cap_marks;
    uint32_t *memo; /* value + 1, 0: not set */
    uint32_t cap_memo;
} machine;

/* Room for `more` elements beyond *n.  Each instruction makes a bounded number of them, but for
 * tuples, which take as many items as they take from the stack: memory stays in proportion to the
 * pickle, whose size was checked. */
static sl_status reserve(const machine *m, void **array, size_t elem_bytes, uint32_t n,
                         uint32_t more, uint32_t *cap) {
    const uint64_t need = (uint64_t)n + more;
    if (need <= *cap) return SL_OK;
    const uint64_t grown_cap = need < 64 ? 64 : 2 * need;
    if (grown_cap > UINT32_MAX)
        return SL_FAIL(SL_ERR_FORMAT, "%s: the pickle holds more than 2^31 values", m->where);
    void *grown = realloc(*array, (size_t)grown_cap * elem_bytes);
    if (!grown) return SL_FAIL(SL_ERR_NOMEM, "%s: out of host memory", m->where);
    *array = grown;
    *cap = (uint32_t)grown_cap;
    return SL_OK;
}
#define RESERVE(m, array, more)                                                                    \
    reserve((m), (void **)&(m)->array, sizeof *(m)->array, (m)->n_##array, (more),                 \
            &(m)->cap_##array)

static sl_status take(machine *m, size_t bytes, const unsigned char **out) {
    if (bytes > m->bytes - m->pos)
        return SL_FAIL(SL_ERR_FORMAT, "%s: pickle byte %zu: needs %zu bytes, %zu are left",
                       m->where, m->pos, bytes, m->bytes - m->pos);
    *out = m->data + m->pos;
    m->pos += bytes;
    return SL_OK;
}

/* An unsigned little-endian number of `bytes` <= 8 bytes. */
static sl_status take_number(machine *m, size_t bytes, uint64_t *out) {
    const unsigned char *at = NULL;
    uint64_t v = 0;
    SL_TRY(take(m, bytes, &at));
    for (size_t i = 0; i < bytes; i++) v |= (uint64_t)at[i] << 8 * i;
    *out = v;
    return SL_OK;
}

static sl_status push(machine *m, uint32_t index) {
    SL_TRY(RESERVE(m, stack, 1));
    m->stack[m->n_stack++] = index;
    return SL_OK;
}

static sl_status push_value(machine *m, value v) {
    SL_TRY(RESERVE(m, values, 1));
    m->values[m->n_values++] = v;
    return push(m, m->n_values - 1);
}

static sl_status push_number(machine *m, value_kind kind, int64_t number) {
    return push_value(m, (value){.kind = kind, .number = number});
}

/* Takes `n` values off the stack, none from below the last mark; *first_out is where they stay
 * until the next push. */
static sl_status pop(machine *m, uint32_t n, uint32_t *first_out) {
    const uint32_t base = m->n_marks ? m->marks[m->n_marks - 1] : 0;
    if (m->n_stack - base < n)
        return SL_FAIL(SL_ERR_FORMAT, "%s: pickle byte %zu: needs %u values, the stack has %u",
                       m->where, m->pos, n, m->n_stack - base);
    m->n_stack -= n;
    *first_out = m->n_stack;
    return SL_OK;
}

/* Takes everything above the last mark off the stack, and the mark. */
static sl_status pop_mark(machine *m, uint32_t *first_out, uint32_t *n_out) {
    if (m->n_marks == 0)
        return SL_FAIL(SL_ERR_FORMAT, "%s: pickle byte %zu: no mark on the stack", m->where,
                       m->pos);
    *first_out = m->marks[--m->n_marks];
    *n_out = m->n_stack - *first_out;
    m->n_stack = *first_out;
    return SL_OK;
}

static sl_status expect(const machine *m, uint32_t index, value_kind kind, const char *what) {
    if (m->values[index].kind == kind) return SL_OK;
    return SL_FAIL(SL_ERR_FORMAT, "%s: pickle byte %zu: %s is %s, expected %s", m->where, m->pos,
                   what, kind_names[m->values[index].kind], kind_names[kind]);
}

static sl_status do_tuple(machine *m, uint32_t first, uint32_t n) {
    SL_TRY(RESERVE(m, items, n));
    if (n > 0) memcpy(m->items + m->n_items, m->stack + first, n * sizeof *m->items);
    const value v = {.kind = TUPLE, .tuple = {m->n_items, n}};
    m->n_items += n;
    return push_value(m, v);
}

static sl_status do_text(machine *m) {
    const unsigned char *at = NULL;
    uint64_t bytes = 0;
    char shown[64];
    SL_TRY(take_number(m, 4, &bytes));
    SL_TRY(take(m, (size_t)bytes, &at));
    const char *text = (const char *)at;
    if (!sl_checkpoint_is_utf8(text, (size_t)bytes))
        return SL_FAIL(SL_ERR_FORMAT, "%s: pickle byte %zu: found \"%s\", expected UTF-8", m->where,
                       m->pos, sl_checkpoint_printable(text, (size_t)bytes, shown, sizeof shown));
    return push_value(m, (value){.kind = TEXT, .text = {text, (size_t)bytes}});
}

/* A signed number of any length up to eight bytes. */
static sl_status do_long(machine *m) {
    uint64_t bytes = 0, v = 0;
    SL_TRY(take_number(m, 1, &bytes));
    if (bytes > 8)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: pickle byte %zu: a number of %llu bytes, expected at most 8", m->where,
                       m->pos, (unsigned long long)bytes);
    SL_TRY(take_number(m, (size_t)bytes, &v));
    if (bytes > 0 && bytes < 8 && v >> (8 * bytes - 1)) v |= UINT64_MAX << 8 * bytes;
    return push_number(m, INT, (int64_t)v);
}

/* Module and name, a line each. */
static sl_status do_global(machine *m) {
    char name[GLOBAL_NAME_MAX], shown[GLOBAL_NAME_MAX];
    size_t n = 0;
    for (int line = 0; line < 2; line++) {
        const unsigned char *at = NULL;
        for (;;) {
            SL_TRY(take(m, 1, &at));
            if (*at == '\n') break;
            if (n + 2 < sizeof name) name[n] = (char)*at;
            n++;
        }
        if (line == 0 && n + 2 < sizeof name) name[n] = '.';
        if (line == 0) n++;
    }
    /* A name cut to fit is longer than any that is known. */
    if (n > sizeof name - 2) n = sizeof name - 2;
    name[n] = '\0';
    const sl_pickle_global *known = sl_pickle_find_global(name, n);
    if (known) return push_value(m, (value){.kind = GLOBAL, .global = known});
    return SL_FAIL(
        SL_ERR_FORMAT,
        "%s: the pickle calls for \"%s\", expected only what a dict of float32, float16, "
        "bfloat16 or integer tensors needs",
        m->where, sl_checkpoint_printable(name, n, shown, sizeof shown));
}

/* ('storage', type, key, location, elements): where torch keeps it is of no account here. */
static sl_status do_persistent_id(machine *m) {
    uint32_t at = 0;
    SL_TRY(pop(m, 1, &at));
    const uint32_t id = m->stack[at];
    SL_TRY(expect(m, id, TUPLE, "a persistent id"));
    if (m->values[id].tuple.n != 5)
        return SL_FAIL(SL_ERR_FORMAT, "%s: pickle byte %zu: a persistent id of %u items, not 5",
                       m->where, m->pos, m->values[id].tuple.n);
    const uint32_t *item = m->items + m->values[id].tuple.first;
    SL_TRY(expect(m, item[0], TEXT, "a persistent id's kind"));
    SL_TRY(expect(m, item[1], GLOBAL, "a storage's type"));
    SL_TRY(expect(m, item[2], TEXT, "a storage's key"));
    SL_TRY(expect(m, item[4], INT, "a storage's size"));
    const value *kind = &m->values[item[0]];
    if (kind->text.bytes != 7 || memcmp(kind->text.at, "storage", 7) != 0 ||
        m->values[item[1]].global->role != SL_PICKLE_STORAGE)
        return SL_FAIL(SL_ERR_FORMAT, "%s: pickle byte %zu: a persistent id is of no storage",
                       m->where, m->pos);
    return push_value(m, (value){.kind = STORAGE, .storage = {item[1], item[2], item[4]}});
}

/* (storage, offset, shape, strides, requires_grad, hooks [, metadata]) */
static sl_status rebuild_tensor(machine *m, const value *args) {
    if (args->tuple.n < 6 || args->tuple.n > 7)
        return SL_FAIL(SL_ERR_FORMAT, "%s: pickle byte %zu: a tensor of %u parts, expected 6 or 7",
                       m->where, m->pos, args->tuple.n);
    const uint32_t *item = m->items + args->tuple.first;
    SL_TRY(expect(m, item[0], STORAGE, "a tensor's storage"));
    SL_TRY(expect(m, item[1], INT, "a tensor's offset"));
    SL_TRY(expect(m, item[2], TUPLE, "a tensor's shape"));
    SL_TRY(expect(m, item[3], TUPLE, "a tensor's strides"));
    return push_value(m, (value){.kind = TENSOR, .tensor = {item[0], item[1], item[2], item[3]}});
}

static sl_status do_reduce(machine *m) {
    uint32_t at = 0;
    SL_TRY(pop(m, 2, &at));
    SL_TRY(expect(m, m->stack[at], GLOBAL, "what is called"));
    SL_TRY(expect(m, m->stack[at + 1], TUPLE, "the arguments"));
    const sl_pickle_global *global = m->values[m->stack[at]].global;
    const value args = m->values[m->stack[at + 1]];
    switch (global->role) {
    case SL_PICKLE_DICT:
        if (args.tuple.n == 0) return push_value(m, (value){.kind = DICT});
        break;
    case SL_PICKLE_TENSOR:
        return rebuild_tensor(m, &args);
    case SL_PICKLE_PARAMETER: /* (tensor, requires_grad, hooks): the tensor itself */
        if (args.tuple.n != 3) break;
        SL_TRY(expect(m, m->items[args.tuple.first], TENSOR, "a parameter"));
        return push(m, m->items[args.tuple.first]);
    case SL_PICKLE_STORAGE:
        break;
    }
    return SL_FAIL(SL_ERR_FORMAT, "%s: pickle byte %zu: %s called with %u arguments", m->where,
                   m->pos, global->name, args.tuple.n);
}

/* An OrderedDict's attributes (torch keeps module versions there) are dropped. */
static sl_status do_build(machine *m) {
    uint32_t at = 0;
    SL_TRY(pop(m, 1, &at));
    SL_TRY(expect(m, m->stack[at], DICT, "an object's state"));
    SL_TRY(pop(m, 1, &at));
    SL_TRY(expect(m, m->stack[at], DICT, "an object with state"));
    m->n_stack++; /* it stays */
    return SL_OK;
}

static sl_status add_pairs(machine *m, uint32_t first, uint32_t n) {
    uint32_t at = 0;
    /* The items lie above the stack's end; only the dict's place below them is touched. */
    SL_TRY(pop(m, 1, &at));
    SL_TRY(expect(m, m->stack[at], DICT, "what gets items"));
    m->n_stack++;
    if (n % 2 != 0)
        return SL_FAIL(SL_ERR_FORMAT, "%s: pickle byte %zu: %u keys and values, not pairs",
                       m->where, m->pos, n);
    SL_TRY(RESERVE(m, pairs, n / 2 + 1));
    if (m->n_pairs == 0) m->n_pairs = 1;
    value *dict = &m->values[m->stack[at]];
    for (uint32_t i = 0; i < n; i += 2) {
        const uint32_t p = m->n_pairs++;
        m->pairs[p] = (pair){m->stack[first + i], m->stack[first + i + 1], 0};
        if (dict->dict.tail)
            m->pairs[dict->dict.tail].next = p;
        else
            dict->dict.head = p;
        dict->dict.tail = p;
    }
    return SL_OK;
}

static sl_status do_put(machine *m, size_t index_bytes) {
    uint64_t index = 0;
    uint32_t at = 0;
    SL_TRY(take_number(m, index_bytes, &index));
    SL_TRY(pop(m, 1, &at));
    m->n_stack++;
    /* Numbered in order by all writers; an honest pickle has at most one per byte. */
    if (index > m->bytes)
        return SL_FAIL(SL_ERR_FORMAT, "%s: pickle byte %zu: memo %llu in a pickle of %zu bytes",
                       m->where, m->pos, (unsigned long long)index, m->bytes);
    if (index >= m->cap_memo) {
        const uint32_t before = m->cap_memo;
        SL_TRY(reserve(m, (void **)&m->memo, sizeof *m->memo, (uint32_t)index, 1, &m->cap_memo));
        memset(m->memo + before, 0, (m->cap_memo - before) * sizeof *m->memo);
    }
    m->memo[index] = m->stack[at] + 1;
    return SL_OK;
}

static sl_status do_get(machine *m, size_t index_bytes) {
    uint64_t index = 0;
    SL_TRY(take_number(m, index_bytes, &index));
    if (index >= m->cap_memo || m->memo[index] == 0)
        return SL_FAIL(SL_ERR_FORMAT, "%s: pickle byte %zu: memo %llu was not set", m->where,
                       m->pos, (unsigned long long)index);
    return push(m, m->memo[index] - 1);
}

static sl_status do_protocol(machine *m) {
    uint64_t version = 0;
    SL_TRY(take_number(m, 1, &version));
    if (version != 2)
        return SL_FAIL(SL_ERR_FORMAT, "%s: pickle protocol %llu, expected torch.save's 2", m->where,
                       (unsigned long long)version);
    return SL_OK;
}

static sl_status step(machine *m, unsigned op) {
    uint64_t v = 0;
    uint32_t first = 0, n = 0;
    switch (op) {
    case OP_PROTO:
        return do_protocol(m);
    case OP_NONE:
        return push_number(m, NONE, 0);
    case OP_NEWTRUE:
    case OP_NEWFALSE:
        return push_number(m, BOOL, op == OP_NEWTRUE);
    case OP_BININT:
        SL_TRY(take_number(m, 4, &v));
        return push_number(m, INT, (int32_t)(uint32_t)v);
    case OP_BININT1:
        SL_TRY(take_number(m, 1, &v));
        return push_number(m, INT, (int64_t)v);
    case OP_BININT2:
        SL_TRY(take_number(m, 2, &v));
        return push_number(m, INT, (int64_t)v);
    case OP_LONG1:
        return do_long(m);
    case OP_BINUNICODE:
        return do_text(m);
    case OP_EMPTY_TUPLE:
        return do_tuple(m, 0, 0);
    case OP_TUPLE1:
    case OP_TUPLE2:
    case OP_TUPLE3:
        n = op - OP_TUPLE1 + 1;
        SL_TRY(pop(m, n, &first));
        return do_tuple(m, first, n);
    case OP_TUPLE:
        SL_TRY(pop_mark(m, &first, &n));
        return do_tuple(m, first, n);
    case OP_EMPTY_DICT:
        return push_value(m, (value){.kind = DICT});
    case OP_SETITEM:
        SL_TRY(pop(m, 2, &first));
        return add_pairs(m, first, 2);
    case OP_SETITEMS:
        SL_TRY(pop_mark(m, &first, &n));
        return add_pairs(m, first, n);
    case OP_MARK:
        SL_TRY(RESERVE(m, marks, 1));
        m->marks[m->n_marks++] = m->n_stack;
        return SL_OK;
    case OP_GLOBAL:
        return do_global(m);
    case OP_BINPERSID:
        return do_persistent_id(m);
    case OP_REDUCE:
        return do_reduce(m);
    case OP_BUILD:
        return do_build(m);
    case OP_BINPUT:
        return do_put(m, 1);
    case OP_LONG_BINPUT:
        return do_put(m, 4);
    case OP_BINGET:
        return do_get(m, 1);
    case OP_LONG_BINGET:
        return do_get(m, 4);
    default:
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: pickle byte %zu: instruction %s (0x%02x), expected nothing but "
                       "tensors in a dict",
                       m->where, m->pos - 1, sl_pickle_opcode_name(op), op);
    }
}

static sl_status take_ints(const machine *m, const value *tuple, const char *what, int64_t *out) {
    for (uint32_t i = 0; i < tuple->tuple.n; i++) {
        const uint32_t item = m->items[tuple->tuple.first + i];
        SL_TRY(expect(m, item, INT, what));
        out[i] = m->values[item].number;
    }
    return SL_OK;
}

static sl_status visit_pair(const machine *m, const pair *p,
                            sl_status (*visit)(void *, const sl_pickle_tensor *), void *ctx) {
    const value *key = &m->values[p->key], *item = &m->values[p->item];
    int64_t dims[SL_TENSOR_MAX_DIMS], strides[SL_TENSOR_MAX_DIMS];
    char shown[128];
    if (key->kind != TEXT)
        return SL_FAIL(SL_ERR_FORMAT, "%s: a key of the state dict is %s, expected a text",
                       m->where, kind_names[key->kind]);
    sl_checkpoint_printable(key->text.at, key->text.bytes, shown, sizeof shown);
    if (item->kind != TENSOR)
        return SL_FAIL(SL_ERR_FORMAT, "%s: the state dict's \"%s\" is %s, expected a tensor",
                       m->where, shown, kind_names[item->kind]);
    const value *shape = &m->values[item->tensor.dims], *step_ = &m->values[item->tensor.strides];
    if (shape->tuple.n > SL_TENSOR_MAX_DIMS || step_->tuple.n != shape->tuple.n)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: tensor \"%s\" has %u dimensions and %u strides, expected at most %d of "
                       "both",
                       m->where, shown, shape->tuple.n, step_->tuple.n, (int)SL_TENSOR_MAX_DIMS);
    SL_TRY(take_ints(m, shape, "a dimension", dims));
    SL_TRY(take_ints(m, step_, "a stride", strides));
    const value *storage = &m->values[item->tensor.storage];
    const sl_pickle_global *global = m->values[storage->storage.global].global;
    const value *storage_key = &m->values[storage->storage.key];
    const sl_pickle_tensor tensor = {
        .name = key->text.at,
        .name_bytes = key->text.bytes,
        .storage_type = global->name,
        .is_float = global->is_float,
        .dtype = global->dtype,
        .elem_bytes = global->elem_bytes,
        .key = storage_key->text.at,
        .key_bytes = storage_key->text.bytes,
        .storage_elems = m->values[storage->storage.elems].number,
        .offset = m->values[item->tensor.offset].number,
        .n_dims = shape->tuple.n,
        .dims = dims,
        .strides = strides,
    };
    return visit(ctx, &tensor);
}

static sl_status run(machine *m, uint32_t *top_out) {
    for (;;) {
        const unsigned char *op = NULL;
        SL_TRY(take(m, 1, &op));
        if (*op == OP_STOP) break;
        SL_TRY(step(m, *op));
    }
    if (m->n_stack != 1 || m->n_marks != 0 || m->pos != m->bytes)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: the pickle stops at byte %zu of %zu with %u values, expected its end "
                       "and one dict",
                       m->where, m->pos, m->bytes, m->n_stack);
    *top_out = m->stack[0];
    return expect(m, *top_out, DICT, "the whole");
}

sl_status sl_pickle_read(const char *where, const void *data, size_t bytes,
                         sl_status (*visit)(void *ctx, const sl_pickle_tensor *tensor), void *ctx) {
    sl_status st = SL_OK;
    uint32_t top = 0;
    machine m = {.where = where, .data = data, .bytes = bytes};
    SL_GO(run(&m, &top));
    for (uint32_t p = m.values[top].dict.head; p != 0; p = m.pairs[p].next)
        SL_GO(visit_pair(&m, &m.pairs[p], visit, ctx));
fail:
    free(m.values);
    free(m.items);
    free(m.pairs);
    free(m.stack);
    free(m.marks);
    free(m.memo);
    return st;
}
