#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

/* ---- nearest name ---- */

/* Edit distance (insert, delete, replace) by rows; names longer than the row count as far. */
static int distance(const char *a, const char *b) {
    enum { LONGEST = 48 };
    const size_t n = strlen(b);
    int row[LONGEST + 1];
    if (n > LONGEST) return INT_MAX;
    for (size_t k = 0; k <= n; k++) row[k] = (int)k;
    for (int i = 1; *a; a++, i++) {
        int diagonal = row[0];
        row[0] = i;
        for (size_t k = 1; k <= n; k++) {
            const int above = row[k];
            int best = diagonal + (*a != b[k - 1]);
            if (above + 1 < best) best = above + 1;
            if (row[k - 1] + 1 < best) best = row[k - 1] + 1;
            diagonal = above;
            row[k] = best;
        }
    }
    return row[n];
}

const char *sl_options_nearest(const char *word, const char *const *names) {
    const char *nearest = NULL;
    int least = INT_MAX;
    for (; *names; names++) {
        const int d = distance(word, *names);
        if (d < least) {
            least = d;
            nearest = *names;
        }
    }
    /* Beyond a third of the word it is more likely another word than a slip. */
    return least <= 1 + (int)strlen(word) / 3 ? nearest : NULL;
}

static sl_status refuse_unknown(const sl_command *command, const char *name) {
    enum { NAMES_MAX = 128 };
    const char *names[NAMES_MAX + 1];
    int n = 0;
    for (const sl_option *o = command->options; o->name && n < NAMES_MAX - 1; o++) {
        if (o->name[0]) names[n++] = o->name;
    }
    names[n++] = "help";
    names[n] = NULL;
    const char *nearest = sl_options_nearest(name, names);
    return nearest ? SL_FAIL(SL_ERR_ARG, "unknown option --%s; did you mean --%s?", name, nearest)
                   : SL_FAIL(SL_ERR_ARG, "unknown option --%s; see --help", name);
}

/* ---- values ---- */

static int has_range(const sl_option *o) {
    return o->least != 0 || o->most != 0;
}

static sl_status refuse_range(const sl_option *o, const char *value) {
    if (o->most >= INT_MAX)
        return SL_FAIL(SL_ERR_ARG, "--%s: found \"%s\", expected at least %g", o->name, value,
                       o->least);
    return SL_FAIL(SL_ERR_ARG, "--%s: found \"%s\", expected %g to %g", o->name, value, o->least,
                   o->most);
}

static sl_status parse_int(const sl_option *o, const char *value, int *out) {
    char *end = NULL;
    errno = 0;
    const long long number = strtoll(value, &end, 10);
    if (end == value || *end || errno || number < INT_MIN || number > INT_MAX)
        return SL_FAIL(SL_ERR_ARG, "--%s: found \"%s\", expected an integer", o->name, value);
    if (has_range(o) && ((double)number < o->least || (double)number > o->most))
        return refuse_range(o, value);
    *out = (int)number;
    return SL_OK;
}

static sl_status parse_real(const sl_option *o, const char *value, double *out) {
    char *end = NULL;
    errno = 0;
    const double number = strtod(value, &end);
    if (end == value || *end || !isfinite(number))
        return SL_FAIL(SL_ERR_ARG, "--%s: found \"%s\", expected a number", o->name, value);
    if (has_range(o) && (number < o->least || number > o->most)) return refuse_range(o, value);
    *out = number;
    return SL_OK;
}

static sl_status parse_u64(const sl_option *o, const char *value, uint64_t *out) {
    char *end = NULL;
    errno = 0;
    const unsigned long long number = strtoull(value, &end, 10);
    if (!isdigit((unsigned char)value[0]) || *end || errno)
        return SL_FAIL(SL_ERR_ARG, "--%s: found \"%s\", expected an integer of at least 0", o->name,
                       value);
    *out = number;
    return SL_OK;
}

static sl_status parse_choice(const sl_option *o, const char *value, int *out) {
    char known[256] = "";
    for (int i = 0; o->choices[i]; i++) {
        if (strcmp(o->choices[i], value) == 0) {
            *out = i;
            return SL_OK;
        }
        const size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", o->choices[i]);
    }
    return SL_FAIL(SL_ERR_ARG, "--%s: found \"%s\", expected one of %s", o->name, value, known);
}

static sl_status parse_ints(const sl_option *o, const char *value, sl_option_ints *out) {
    int n = 0;
    for (const char *at = value;; at++) {
        char word[24];
        const size_t length = strcspn(at, ",");
        if (length == 0 || length >= sizeof word || n == SL_OPTION_INTS_MAX)
            return SL_FAIL(SL_ERR_ARG, "--%s: found \"%s\", expected integers such as 4,4,2",
                           o->name, value);
        memcpy(word, at, length);
        word[length] = '\0';
        SL_TRY(parse_int(o, word, &out->values[n++]));
        at += length;
        if (!*at) break;
    }
    out->n = n;
    return SL_OK;
}

static sl_status parse_value(const sl_option *o, const char *value) {
    switch (o->kind) {
    case SL_OPTION_FLAG:
        *(int *)o->target = 1;
        return SL_OK;
    case SL_OPTION_INT:
        return parse_int(o, value, o->target);
    case SL_OPTION_REAL:
        return parse_real(o, value, o->target);
    case SL_OPTION_U64:
        return parse_u64(o, value, o->target);
    case SL_OPTION_BYTES:
        if (sl_bytes_parse(value, o->target) != SL_OK)
            return SL_FAIL(SL_ERR_ARG, "--%s: found \"%s\", expected a size such as 16GiB", o->name,
                           value);
        return SL_OK;
    case SL_OPTION_TEXT:
        *(const char **)o->target = value;
        return SL_OK;
    case SL_OPTION_CHOICE:
        return parse_choice(o, value, o->target);
    case SL_OPTION_INTS:
        return parse_ints(o, value, o->target);
    case SL_OPTION_TEXTS: {
        sl_option_texts *texts = o->target;
        if (texts->n == SL_OPTION_TEXTS_MAX)
            return SL_FAIL(SL_ERR_ARG, "--%s: given more than %d times", o->name,
                           SL_OPTION_TEXTS_MAX);
        texts->values[texts->n++] = value;
        return SL_OK;
    }
    }
    return SL_FAIL(SL_ERR_ARG, "--%s: option of kind %d", o->name, (int)o->kind);
}

/* ---- words ---- */

static const sl_option *find_long(const sl_command *command, const char *name, size_t length) {
    for (const sl_option *o = command->options; o->name; o++) {
        if (length && strlen(o->name) == length && memcmp(o->name, name, length) == 0) return o;
    }
    return NULL;
}

static const sl_option *find_letter(const sl_command *command, char letter) {
    for (const sl_option *o = command->options; o->name; o++) {
        if (o->letter == letter) return o;
    }
    return NULL;
}

/* Takes the option at argv[*i], and its value where that is a word of its own. */
static sl_status take_option(const sl_command *command, int argc, char **argv, int *i) {
    const char *word = argv[*i], *value = NULL;
    const sl_option *o;
    if (word[1] == '-') {
        const size_t length = strcspn(word + 2, "=");
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)(length < 60 ? length : 60), word + 2);
        o = find_long(command, word + 2, length);
        if (!o) return refuse_unknown(command, name);
        if (word[2 + length] == '=') value = word + 2 + length + 1;
    } else {
        o = word[2] ? NULL : find_letter(command, word[1]);
        if (!o) return SL_FAIL(SL_ERR_ARG, "unknown option %s; see --help", word);
    }
    if (o->kind == SL_OPTION_FLAG && value)
        return SL_FAIL(SL_ERR_ARG, "--%s takes no value, found \"%s\"", o->name, value);
    if (o->kind != SL_OPTION_FLAG && !value) {
        if (*i + 1 >= argc)
            return SL_FAIL(SL_ERR_ARG, "--%s: found nothing, expected %s", o->name, o->value);
        value = argv[++*i];
    }
    SL_TRY(parse_value(o, value));
    if (o->given) *o->given = 1;
    return SL_OK;
}

static int asks_for_help(int argc, char **argv, int first) {
    for (int i = first; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return 1;
    }
    return 0;
}

sl_status sl_options_parse(const sl_command *command, int argc, char **argv, int first,
                           const char **operands, int *n_operands_out, int *help_out) {
    int n = 0, plain = 0; /* plain: after "--" */
    *help_out = asks_for_help(argc, argv, first);
    if (*help_out) return SL_OK;
    for (int i = first; i < argc; i++) {
        const char *word = argv[i];
        if (!plain && strcmp(word, "--") == 0) {
            plain = 1;
        } else if (!plain && word[0] == '-' && word[1]) {
            SL_TRY(take_option(command, argc, argv, &i));
        } else if (n == command->n_operands_max) {
            return SL_FAIL(SL_ERR_ARG, "found \"%s\", which is no option; usage: %s", word,
                           command->usage);
        } else {
            operands[n++] = word;
        }
    }
    if (n < command->n_operands_min)
        return SL_FAIL(SL_ERR_ARG, "too few words; usage: %s", command->usage);
    if (n_operands_out) *n_operands_out = n;
    return SL_OK;
}

/* ---- help ---- */

/* Prints `text` in lines of at most 96 columns that begin at column `indent`, the first of them at
 * `column`. */
static void print_wrapped(FILE *stream, const char *text, int column, int indent) {
    enum { WIDTH = 96 };
    int begun = 0; /* a word stands on this line */
    for (;; text++) {
        const int length = (int)strcspn(text, " ");
        if (begun && column + 1 + length > WIDTH) {
            fprintf(stream, "\n%*s", indent, "");
            column = indent;
            begun = 0;
        }
        column += fprintf(stream, begun ? " %.*s" : "%.*s", length, text);
        begun = 1;
        text += length;
        if (!*text) break;
    }
    fputc('\n', stream);
}

static void print_option(FILE *stream, char letter, const char *name, const char *value,
                         const char *help) {
    enum { INDENT = 30 };
    char head[96], lead[8] = "      ";
    if (letter) snprintf(lead, sizeof lead, "  -%c, ", letter);
    const int n =
        snprintf(head, sizeof head, "%s--%s%s%s", lead, name, value ? " " : "", value ? value : "");
    if (n < INDENT - 1) {
        fprintf(stream, "%-*s", INDENT, head);
    } else {
        fprintf(stream, "%s\n%*s", head, INDENT, "");
    }
    print_wrapped(stream, help, INDENT, INDENT);
}

void sl_options_help(const sl_command *command, FILE *stream) {
    fprintf(stream, "Usage: %s\n\n", command->usage);
    print_wrapped(stream, command->summary, 0, 0);
    fprintf(stream, "\nOptions:\n");
    for (const sl_option *o = command->options; o->name; o++) {
        if (o->name[0]) {
            print_option(stream, o->letter, o->name, o->value, o->help);
        } else {
            fprintf(stream, "\n%s\n", o->help);
        }
    }
    print_option(stream, 'h', "help", NULL, "Print this text.");
    if (command->epilogue) fprintf(stream, "\n%s", command->epilogue);
}
