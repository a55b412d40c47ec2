/* options.h - long options from a table: parsing, checking, and the help text.
 *
 * A subcommand describes its options once; parsing, `--help` and error messages come from the same
 * table.  "--name value" and "--name=value" mean the same; "--" ends the options.
 * Layer: launch.  May include: all.  Thread safety: pure functions over the caller's table.
 */
#ifndef SL_LAUNCH_OPTIONS_H
#define SL_LAUNCH_OPTIONS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

typedef enum {
    SL_OPTION_FLAG,   /* int *: set to 1; takes no value */
    SL_OPTION_INT,    /* int *: within [least, most] */
    SL_OPTION_REAL,   /* double *: within [least, most] */
    SL_OPTION_U64,    /* uint64_t * */
    SL_OPTION_BYTES,  /* size_t *: "16GiB" */
    SL_OPTION_TEXT,   /* const char **: points into argv */
    SL_OPTION_CHOICE, /* int *: index of the value in `choices` */
    SL_OPTION_INTS,   /* sl_option_ints *: "4,4,2"; each within [least, most] */
    SL_OPTION_TEXTS,  /* sl_option_texts *: may be given several times */
} sl_option_kind;

enum { SL_OPTION_INTS_MAX = 4096, SL_OPTION_TEXTS_MAX = 16 };

typedef struct {
    int n;
    int values[SL_OPTION_INTS_MAX];
} sl_option_ints;

typedef struct {
    int n;
    const char *values[SL_OPTION_TEXTS_MAX];
} sl_option_texts;

typedef struct {
    const char *name; /* without the dashes; NULL ends a table; "" is a heading, its text in help */
    char letter;      /* short form, 0: none */
    sl_option_kind kind;
    void *target;               /* what `kind` says; keeps its value when the option is not given */
    const char *value;          /* name of the value in the help; NULL for flags */
    const char *help;           /* one or more sentences; wrapped when printed */
    double least, most;         /* INT, REAL, INTS; both 0: any */
    const char *const *choices; /* CHOICE: NULL-terminated */
    int *given;                 /* set to 1 when the option is given; may be NULL */
} sl_option;

typedef struct {
    const char *usage;   /* "sluice run --model MODEL [options]" */
    const char *summary; /* what the subcommand does */
    const sl_option *options;
    int n_operands_min, n_operands_max; /* words that are no options */
    const char *epilogue;               /* after the options; may be NULL */
} sl_command;

/* Parses argv[first..argc).  "--help" and "-h" are always known: *help_out = 1, and nothing else is
 * checked then.
 *   operands  [command->n_operands_max], those that are given; may be NULL if there are none
 * Errors: SL_ERR_ARG naming option, value found and value expected; for an unknown option also the
 * known one that is nearest. */
sl_status sl_options_parse(const sl_command *command, int argc, char **argv, int first,
                           const char **operands, int *n_operands_out, int *help_out);

/* Writes usage, summary and every option. */
void sl_options_help(const sl_command *command, FILE *stream);

/* The entry of `names` (NULL-terminated) that `word` most likely means, or NULL. */
const char *sl_options_nearest(const char *word, const char *const *names);

#endif
