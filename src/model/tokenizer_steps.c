/* tokenizer_steps.c - the sections of tokenizer.json that are lists of steps: normalizer,
 * pre-tokenizer, post-processor and decoder.  What Sluice has no step for is refused by name. */
#include <string.h>

#include "model/tokenizer_read.h"
#include "model/utf8.h"

/* ---- members ---- */

sl_status sl_tokenizer_bool(const json_t *object, const char *key, int preset, const char *where,
                            int *out) {
    const json_t *v = json_object_get(object, key);
    *out = preset;
    if (!v || json_is_null(v)) return SL_OK;
    if (!json_is_boolean(v))
        return SL_FAIL(SL_ERR_FORMAT, "%s: \"%s\" is not true or false", where, key);
    *out = json_is_true(v);
    return SL_OK;
}

static const char *type_of(const json_t *section) {
    const char *type = json_string_value(json_object_get(section, "type"));
    return type ? type : "(no type)";
}

static sl_status refuse(const char *what, const json_t *section, const char *where) {
    return SL_FAIL(SL_ERR_FORMAT, "%s: %s \"%.60s\" is not supported", where, what,
                   type_of(section));
}

/* A member that must be a string, copied. */
static sl_status copy_member(const json_t *object, const char *key, const char *where, char **out,
                             size_t *bytes_out) {
    const json_t *v = json_object_get(object, key);
    if (!json_is_string(v))
        return SL_FAIL(SL_ERR_FORMAT, "%s: \"%s\" of \"%.60s\" is not a string", where, key,
                       type_of(object));
    return sl_tokenizer_copy_text(json_string_value(v), json_string_length(v), out, bytes_out);
}

sl_status sl_tokenizer_string_pattern(const json_t *pattern, const char *what, const char *where,
                                      char **out, size_t *bytes_out) {
    const json_t *text = json_object_get(pattern, "String");
    if (json_object_get(pattern, "Regex"))
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s with a pattern is not supported", where, what);
    if (!json_is_string(text) || json_string_length(text) == 0)
        return SL_FAIL(SL_ERR_FORMAT, "%s: %s has no text to look for", where, what);
    return sl_tokenizer_copy_text(json_string_value(text), json_string_length(text), out,
                                  bytes_out);
}

/* Calls `read` for every element of the member `list` of a Sequence.  Sequences within sequences
 * are bounded by the JSON reader's own depth. */
static sl_status read_sequence(sl_tokenizer *tok, const json_t *section, const char *list,
                               const char *where,
                               sl_status (*read)(sl_tokenizer *, const json_t *, const char *)) {
    const json_t *steps = json_object_get(section, list);
    if (!json_is_array(steps))
        return SL_FAIL(SL_ERR_FORMAT, "%s: a Sequence without \"%s\"", where, list);
    for (size_t i = 0; i < json_array_size(steps); i++)
        SL_TRY(read(tok, json_array_get(steps, i), where));
    return SL_OK;
}

/* ---- normalizer ---- */

sl_status sl_tokenizer_read_normalizer(sl_tokenizer *tok, const json_t *section,
                                       const char *where) {
    if (!section || json_is_null(section)) return SL_OK;
    const char *type = type_of(section);
    sl_normalize_step *step = NULL;
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(tok, section, "normalizers", where, sl_tokenizer_read_normalizer);
    if (strcmp(type, "NFC") == 0)
        return sl_tokenizer_new_normalize(tok, SL_NORMALIZE_NFC, where, &step);
    if (strcmp(type, "Prepend") == 0) {
        SL_TRY(sl_tokenizer_new_normalize(tok, SL_NORMALIZE_PREPEND, where, &step));
        return copy_member(section, "prepend", where, &step->to, &step->to_bytes);
    }
    if (strcmp(type, "Replace") == 0) {
        SL_TRY(sl_tokenizer_new_normalize(tok, SL_NORMALIZE_REPLACE, where, &step));
        SL_TRY(copy_member(section, "content", where, &step->to, &step->to_bytes));
        return sl_tokenizer_string_pattern(json_object_get(section, "pattern"),
                                           "the normalizer Replace", where, &step->from,
                                           &step->from_bytes);
    }
    return refuse("the normalizer", section, where);
}

/* ---- pre-tokenizer ---- */

static sl_status read_separator(const json_t *section, const char *where, sl_split_step *step) {
    static const struct {
        const char *name;
        sl_separator rule;
    } rules[] = {{"Removed", SL_SEPARATOR_REMOVED},
                 {"Isolated", SL_SEPARATOR_ISOLATED},
                 {"MergedWithPrevious", SL_SEPARATOR_WITH_PREVIOUS},
                 {"MergedWithNext", SL_SEPARATOR_WITH_NEXT},
                 {"Contiguous", SL_SEPARATOR_CONTIGUOUS}};
    const json_t *behavior = json_object_get(section, "behavior");
    if (!behavior) return SL_OK;
    const char *name = json_is_string(behavior) ? json_string_value(behavior) : "";
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (strcmp(name, rules[i].name) != 0) continue;
        step->separator = rules[i].rule;
        return SL_OK;
    }
    return SL_FAIL(SL_ERR_FORMAT, "%s: behavior \"%.60s\" of the pre-tokenizer \"%s\" is unknown",
                   where, name, type_of(section));
}

static sl_status read_byte_level(sl_tokenizer *tok, const json_t *section, const char *where) {
    int prefix = 1, regex = 1;
    SL_TRY(sl_tokenizer_bool(section, "add_prefix_space", 1, where, &prefix));
    SL_TRY(sl_tokenizer_bool(section, "use_regex", 1, where, &regex));
    if (prefix) {
        sl_split_step *step = NULL;
        SL_TRY(sl_tokenizer_new_split(tok, SL_PREFIX_SPACE, where, &step));
    }
    tok->bpe.byte_level = 1;
    return regex ? sl_tokenizer_split_gpt2(tok, where) : SL_OK;
}

static sl_status read_split(sl_tokenizer *tok, const json_t *section, const char *where) {
    const json_t *pattern = json_object_get(section, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex");
    sl_split_step *step = NULL;
    SL_TRY(sl_tokenizer_new_split(tok, regex ? SL_SPLIT_PATTERN : SL_SPLIT_STRING, where, &step));
    SL_TRY(sl_tokenizer_bool(section, "invert", 0, where, &step->invert));
    SL_TRY(read_separator(section, where, step));
    if (!regex)
        return sl_tokenizer_string_pattern(pattern, "the pre-tokenizer Split", where, &step->text,
                                           &step->text_bytes);
    if (!json_is_string(regex))
        return SL_FAIL(SL_ERR_FORMAT, "%s: \"Regex\" of a Split is not a string", where);
    return sl_pattern_open(json_string_value(regex), json_string_length(regex), where,
                           &step->pattern);
}

/* prepend_scheme, or the older add_prefix_space. */
static sl_status read_prepend(const json_t *section, const char *where, sl_prepend *out) {
    const json_t *scheme = json_object_get(section, "prepend_scheme");
    if (!scheme) {
        int prefix = 1;
        SL_TRY(sl_tokenizer_bool(section, "add_prefix_space", 1, where, &prefix));
        *out = prefix ? SL_PREPEND_ALWAYS : SL_PREPEND_NEVER;
        return SL_OK;
    }
    const char *name = json_is_string(scheme) ? json_string_value(scheme) : "";
    if (strcmp(name, "always") == 0)
        *out = SL_PREPEND_ALWAYS;
    else if (strcmp(name, "first") == 0)
        *out = SL_PREPEND_FIRST;
    else if (strcmp(name, "never") == 0)
        *out = SL_PREPEND_NEVER;
    else
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: Metaspace's prepend_scheme is \"%.60s\", expected always, first or "
                       "never",
                       where, name);
    return SL_OK;
}

static sl_status read_replacement(const json_t *section, const char *where, char **out,
                                  size_t *bytes_out) {
    uint32_t code_point;
    SL_TRY(copy_member(section, "replacement", where, out, bytes_out));
    if (*bytes_out == 0 || (size_t)sl_utf8_next(*out, &code_point) != *bytes_out)
        return SL_FAIL(SL_ERR_FORMAT, "%s: Metaspace's replacement \"%.60s\" is not one character",
                       where, *out);
    return SL_OK;
}

static sl_status read_metaspace(sl_tokenizer *tok, const json_t *section, const char *where) {
    sl_split_step *step = NULL;
    SL_TRY(sl_tokenizer_new_split(tok, SL_METASPACE, where, &step));
    SL_TRY(read_replacement(section, where, &step->text, &step->text_bytes));
    SL_TRY(read_prepend(section, where, &step->prepend));
    return sl_tokenizer_bool(section, "split", 1, where, &step->split);
}

static sl_status read_digits(sl_tokenizer *tok, const json_t *section, const char *where) {
    int individual = 0;
    sl_split_step *step = NULL;
    SL_TRY(sl_tokenizer_bool(section, "individual_digits", 0, where, &individual));
    SL_TRY(sl_tokenizer_new_split(tok, SL_SPLIT_DIGITS, where, &step));
    step->separator = individual ? SL_SEPARATOR_ISOLATED : SL_SEPARATOR_CONTIGUOUS;
    return SL_OK;
}

static sl_status read_punctuation(sl_tokenizer *tok, const json_t *section, const char *where) {
    sl_split_step *step = NULL;
    SL_TRY(sl_tokenizer_new_split(tok, SL_SPLIT_PUNCTUATION, where, &step));
    return read_separator(section, where, step);
}

sl_status sl_tokenizer_read_splits(sl_tokenizer *tok, const json_t *section, const char *where) {
    static const struct {
        const char *type;
        sl_status (*read)(sl_tokenizer *, const json_t *, const char *);
    } readers[] = {{"ByteLevel", read_byte_level},
                   {"Split", read_split},
                   {"Metaspace", read_metaspace},
                   {"Digits", read_digits},
                   {"Punctuation", read_punctuation}};
    if (!section || json_is_null(section)) return SL_OK;
    const char *type = type_of(section);
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(tok, section, "pretokenizers", where, sl_tokenizer_read_splits);
    for (size_t i = 0; i < sizeof readers / sizeof readers[0]; i++) {
        if (strcmp(type, readers[i].type) != 0) continue;
        /* Words are kept as bytes, so nothing can look at GPT-2's letters after ByteLevel. */
        if (tok->bpe.byte_level)
            return SL_FAIL(SL_ERR_FORMAT,
                           "%s: the pre-tokenizer \"%s\" after ByteLevel is not "
                           "supported",
                           where, type);
        return readers[i].read(tok, section, where);
    }
    return refuse("the pre-tokenizer", section, where);
}

/* ---- post-processor ---- */

static sl_status push_special(const json_t *template, const json_t *name, const char *where,
                              sl_ids *out) {
    const json_t *specials = json_object_get(template, "special_tokens");
    const char *text = json_string_value(name);
    const json_t *ids = text ? json_object_get(json_object_get(specials, text), "ids") : NULL;
    if (!json_is_array(ids))
        return SL_FAIL(SL_ERR_FORMAT, "%s: TemplateProcessing has no ids for \"%.60s\"", where,
                       text ? text : "?");
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        const json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
        if (value < 0 || value >= SL_VOCAB_MAX_TOKENS)
            return SL_FAIL(SL_ERR_FORMAT, "%s: TemplateProcessing's id of \"%.60s\" is no token id",
                           where, text);
        SL_TRY(sl_ids_push(out, (int32_t)value));
    }
    return SL_OK;
}

static sl_status append(sl_ids *ids, const sl_ids *more) {
    for (size_t i = 0; i < more->n; i++) SL_TRY(sl_ids_push(ids, more->data[i]));
    return SL_OK;
}

/* {"single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}], ...}.  A second template
 * goes around what the first one made. */
static sl_status read_template(sl_tokenizer *tok, const json_t *section, const char *where) {
    sl_status st = SL_OK;
    sl_ids before = {0}, after = {0};
    int n_texts = 0;
    const json_t *single = json_object_get(section, "single");
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *part = json_array_get(single, i);
        const json_t *special = json_object_get(part, "SpecialToken");
        if (special)
            SL_GO(push_special(section, json_object_get(special, "id"), where,
                               n_texts ? &after : &before));
        else if (json_object_get(part, "Sequence"))
            n_texts++;
    }
    if (n_texts != 1) {
        st = SL_FAIL(SL_ERR_FORMAT, "%s: TemplateProcessing takes %d texts, expected 1", where,
                     n_texts);
        goto fail;
    }
    SL_GO(append(&before, &tok->prefix));
    SL_GO(append(&tok->suffix, &after));
    const sl_ids swap = tok->prefix;
    tok->prefix = before;
    before = swap;
fail:
    sl_ids_free(&before);
    sl_ids_free(&after);
    return st;
}

sl_status sl_tokenizer_read_post(sl_tokenizer *tok, const json_t *section, const char *where) {
    if (!section || json_is_null(section)) return SL_OK;
    const char *type = type_of(section);
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(tok, section, "processors", where, sl_tokenizer_read_post);
    if (strcmp(type, "ByteLevel") == 0) return SL_OK; /* changes offsets only */
    if (strcmp(type, "TemplateProcessing") == 0) return read_template(tok, section, where);
    return refuse("the post-processor", section, where);
}

/* ---- decoder ---- */

static sl_status read_strip(const json_t *section, const char *where, sl_decode_step *step) {
    SL_TRY(copy_member(section, "content", where, &step->from, &step->from_bytes));
    const json_t *start = json_object_get(section, "start"),
                 *stop = json_object_get(section, "stop");
    const json_int_t n_start = json_is_integer(start) ? json_integer_value(start) : -1;
    const json_int_t n_stop = json_is_integer(stop) ? json_integer_value(stop) : -1;
    if (step->from_bytes == 0 || n_start < 0 || n_start > 1000 || n_stop < 0 || n_stop > 1000)
        return SL_FAIL(SL_ERR_FORMAT,
                       "%s: the decoder Strip takes a character, start and stop of 0 to 1000",
                       where);
    step->n_start = (int)n_start;
    step->n_stop = (int)n_stop;
    return SL_OK;
}

static sl_status read_decoder_step(sl_tokenizer *tok, const json_t *section, const char *where) {
    static const struct {
        const char *type;
        sl_decode_kind kind;
    } kinds[] = {{"ByteLevel", SL_DECODE_BYTE_LEVEL},
                 {"ByteFallback", SL_DECODE_BYTE_FALLBACK},
                 {"Fuse", SL_DECODE_FUSE},
                 {"Replace", SL_DECODE_REPLACE},
                 {"Strip", SL_DECODE_STRIP},
                 {"Metaspace", SL_DECODE_METASPACE}};
    const char *type = type_of(section);
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(tok, section, "decoders", where, read_decoder_step);
    size_t k = 0;
    while (k < sizeof kinds / sizeof kinds[0] && strcmp(type, kinds[k].type) != 0) k++;
    if (k == sizeof kinds / sizeof kinds[0]) return refuse("the decoder", section, where);

    int fused = 0;
    for (int i = 0; i < tok->n_decode; i++)
        fused |=
            tok->decode[i].kind == SL_DECODE_FUSE || tok->decode[i].kind == SL_DECODE_BYTE_LEVEL;
    /* Behind Fuse the text comes in parts, which only Strip can take. */
    if (fused && kinds[k].kind != SL_DECODE_STRIP && kinds[k].kind != SL_DECODE_FUSE)
        return SL_FAIL(SL_ERR_FORMAT, "%s: the decoder \"%s\" after Fuse is not supported", where,
                       type);
    sl_decode_step *step = NULL;
    SL_TRY(sl_tokenizer_new_decode(tok, kinds[k].kind, where, &step));
    step->fused = fused;
    if (kinds[k].kind == SL_DECODE_STRIP) return read_strip(section, where, step);
    if (kinds[k].kind == SL_DECODE_REPLACE) {
        SL_TRY(copy_member(section, "content", where, &step->to, &step->to_bytes));
        return sl_tokenizer_string_pattern(json_object_get(section, "pattern"),
                                           "the decoder Replace", where, &step->from,
                                           &step->from_bytes);
    }
    if (kinds[k].kind == SL_DECODE_METASPACE) {
        sl_prepend prepend = SL_PREPEND_ALWAYS;
        SL_TRY(read_replacement(section, where, &step->from, &step->from_bytes));
        SL_TRY(read_prepend(section, where, &prepend));
        step->keep_first = prepend == SL_PREPEND_NEVER;
    }
    return SL_OK;
}

sl_status sl_tokenizer_read_decoder(sl_tokenizer *tok, const json_t *section, const char *where) {
    sl_decode_step *step = NULL;
    if (section && !json_is_null(section)) return read_decoder_step(tok, section, where);
    return sl_tokenizer_new_decode(tok, SL_DECODE_JOIN, where, &step);
}
