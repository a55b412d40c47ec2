/* Unit tests of launch/options.c: parsing, messages and help from one table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "options.c"

/* Values of the table below. */
typedef struct {
    int flag, count, choice, count_given;
    double share;
    uint64_t seed;
    size_t room;
    const char *name;
    sl_option_ints layers;
    sl_option_texts stops;
} values;

static values v;
static const char *const choices[] = {"red", "green", NULL};
static const sl_option table[] = {
    {"flag", 'f', SL_OPTION_FLAG, &v.flag, NULL, "A flag.", 0, 0, NULL, NULL},
    {"count", 'c', SL_OPTION_INT, &v.count, "N", "A count.", 1, 10, NULL, &v.count_given},
    {"", 0, SL_OPTION_FLAG, NULL, NULL, "More:", 0, 0, NULL, NULL},
    {"share", 0, SL_OPTION_REAL, &v.share, "X", "A share.", 0, 1, NULL, NULL},
    {"seed", 0, SL_OPTION_U64, &v.seed, "S", "A seed.", 0, 0, NULL, NULL},
    {"room", 0, SL_OPTION_BYTES, &v.room, "SIZE", "A size.", 0, 0, NULL, NULL},
    {"name", 0, SL_OPTION_TEXT, &v.name, "NAME",
     "A name whose description is so long that the help has to break it into several lines of text "
     "below each other.",
     0, 0, NULL, NULL},
    {"colour", 0, SL_OPTION_CHOICE, &v.choice, "C", "A colour.", 0, 0, choices, NULL},
    {"layers", 0, SL_OPTION_INTS, &v.layers, "A,B", "Numbers.", 1, 100, NULL, NULL},
    {"stop", 0, SL_OPTION_TEXTS, &v.stops, "T", "Texts.", 0, 0, NULL, NULL},
    {NULL, 0, SL_OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL, NULL},
};
static const sl_command command = {.usage = "prog WORD [options]",
                                   .summary = "Does a thing.",
                                   .options = table,
                                   .n_operands_min = 0,
                                   .n_operands_max = 1};

enum { ARGS_MAX = 32 };

static sl_status parse(const char *words, const char **operand, int *help) {
    static char text[512];
    char *argv[ARGS_MAX] = {0};
    int argc = 0, n_operands = 0;
    snprintf(text, sizeof text, "%s", words);
    for (char *word = strtok(text, " "); word && argc < ARGS_MAX; word = strtok(NULL, " "))
        argv[argc++] = word;
    v = (values){0};
    return sl_options_parse(&command, argc, argv, 0, operand, &n_operands, help);
}

static void options_of_every_kind_are_read(void **state) {
    (void)state;
    const char *operand = NULL;
    int help;
    assert_int_equal(parse("--flag -c 3 --share=0.5 word --seed 18446744073709551615 --room 1.5KiB "
                           "--name=a=b --colour green --layers 4,5,6 --stop x --stop y",
                           &operand, &help),
                     SL_OK);
    assert_int_equal(help, 0);
    assert_int_equal(v.flag, 1);
    assert_int_equal(v.count, 3);
    assert_int_equal(v.count_given, 1);
    assert_true(v.share == 0.5);
    assert_true(v.seed == UINT64_MAX);
    assert_int_equal(v.room, 1536);
    assert_string_equal(v.name, "a=b");
    assert_int_equal(v.choice, 1);
    assert_int_equal(v.layers.n, 3);
    assert_int_equal(v.layers.values[2], 6);
    assert_int_equal(v.stops.n, 2);
    assert_string_equal(v.stops.values[1], "y");
    assert_string_equal(operand, "word");
}

static void wrong_values_are_refused_by_option_found_and_expected(void **state) {
    (void)state;
    static const struct {
        const char *words, *message;
    } cases[] = {
        {"--count x", "--count: found \"x\", expected an integer"},
        {"--count 3.5", "--count: found \"3.5\", expected an integer"},
        {"--count 11", "--count: found \"11\", expected 1 to 10"},
        {"--count 99999999999", "--count: found \"99999999999\""},
        {"--count", "--count: found nothing, expected N"},
        {"--share 1.5", "--share: found \"1.5\", expected 0 to 1"},
        {"--share nan", "--share: found \"nan\", expected a number"},
        {"--seed -1", "--seed: found \"-1\", expected an integer of at least 0"},
        {"--room 12parsecs", "--room: found \"12parsecs\", expected a size such as 16GiB"},
        {"--colour blue", "--colour: found \"blue\", expected one of red, green"},
        {"--layers 4,,5", "--layers: found \"4,,5\", expected integers such as 4,4,2"},
        {"--layers 4,0", "--layers: found \"0\", expected 1 to 100"},
        {"--flag=1", "--flag takes no value, found \"1\""},
        {"--cuont 3", "unknown option --cuont; did you mean --count?"},
        {"--zzzzzzzz", "unknown option --zzzzzzzz; see --help"},
        {"-x", "unknown option -x"},
        {"-fc", "unknown option -fc"},
        {"one two", "found \"two\", which is no option"},
    };
    const char *operand;
    int help;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(parse(cases[i].words, &operand, &help), SL_ERR_ARG);
        if (!strstr(sl_error_message(), cases[i].message))
            fail_msg("%s gave \"%s\"", cases[i].words, sl_error_message());
    }
}

static void two_dashes_end_the_options(void **state) {
    (void)state;
    const char *operand;
    int help;
    assert_int_equal(parse("-- --help", &operand, &help), SL_OK);
    assert_int_equal(help, 0);
    assert_string_equal(operand, "--help");
}

static void help_is_known_whatever_else_is_wrong(void **state) {
    (void)state;
    const char *operand;
    int help = 0;
    assert_int_equal(parse("--count x --help", &operand, &help), SL_OK);
    assert_int_equal(help, 1);
}

static void missing_operand_is_refused(void **state) {
    (void)state;
    sl_command strict = command;
    strict.n_operands_min = 1;
    const char *operand;
    int n, help;
    assert_int_equal(sl_options_parse(&strict, 0, NULL, 0, &operand, &n, &help), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "prog WORD [options]"));
}

static void help_names_every_option_within_the_width(void **state) {
    (void)state;
    char *text = NULL;
    size_t n_bytes = 0;
    FILE *stream = open_memstream(&text, &n_bytes);
    assert_non_null(stream);
    sl_options_help(&command, stream);
    fclose(stream);
    for (const sl_option *o = table; o->name; o++) {
        char name[32];
        snprintf(name, sizeof name, "%s%s", o->name[0] ? "--" : "", o->name);
        assert_non_null(strstr(text, name));
    }
    assert_non_null(strstr(text, "\nMore:\n"));
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        assert_true(strlen(line) <= 96);
        assert_true(line[strlen(line) - 1] != ' ');
    }
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_of_every_kind_are_read),
        cmocka_unit_test(wrong_values_are_refused_by_option_found_and_expected),
        cmocka_unit_test(two_dashes_end_the_options),
        cmocka_unit_test(help_is_known_whatever_else_is_wrong),
        cmocka_unit_test(missing_operand_is_refused),
        cmocka_unit_test(help_names_every_option_within_the_width),
    };
    return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
