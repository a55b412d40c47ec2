/* Unit tests of src/job/request.c and params.c: lines of a job and their fields. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "job/request.h"

static sl_request parse(sl_job_format format, const char *line) {
    sl_request request;
    assert_int_equal(sl_request_parse(line, strlen(line), 7, format, NULL, NULL, NULL, &request),
                     SL_OK);
    return request;
}

/* The message of a line that must be refused. */
static void assert_refused(sl_job_format format, const char *line, const char *param,
                           const char *part) {
    sl_request request = parse(format, line);
    if (request.error.status_code != 400 || strcmp(request.error.param, param) != 0 ||
        !strstr(request.error.message, part) || !strstr(request.error.message, "line 7: "))
        fail_msg("%s\ngave %d, param \"%s\", message \"%s\"", line, request.error.status_code,
                 request.error.param, request.error.message);
    assert_int_equal(request.n_prompts, 0);
    sl_request_free(&request);
}

static void batch_line_gives_prompt_parameters_and_custom_id(void **state) {
    (void)state;
    sl_request r = parse(SL_FORMAT_OPENAI,
                         "{\"custom_id\": \"a-1\", \"method\": \"POST\", \"url\": "
                         "\"/v1/completions\", \"body\": {\"model\": \"m\", \"prompt\": \"Hello\", "
                         "\"max_tokens\": 5, \"temperature\": 0, \"n\": 2, \"logprobs\": 3, "
                         "\"echo\": true, \"seed\": 1234, \"top_p\": 0.5, \"stop\": [\"\\n\", "
                         "\"##\"], \"user\": \"u\", \"stream\": false, \"suffix\": null}}");
    assert_int_equal(r.error.status_code, 0);
    assert_string_equal(r.custom_id.bytes, "a-1");
    assert_int_equal(r.line, 7);
    assert_int_equal(r.n_prompts, 1);
    assert_string_equal(r.prompts[0].text.bytes, "Hello");
    assert_int_equal(r.params.max_tokens, 5);
    assert_true(r.params.temperature == 0.0);
    assert_int_equal(r.params.n, 2);
    assert_int_equal(r.params.logprobs, 3);
    assert_int_equal(r.params.echo, 1);
    assert_int_equal(r.params.has_seed, 1);
    assert_int_equal(r.params.seed, 1234);
    assert_true(r.params.top_p == 0.5);
    assert_int_equal(r.params.n_stops, 2);
    assert_string_equal(r.params.stops[0].bytes, "\n");
    assert_string_equal(r.params.stops[1].bytes, "##");
    sl_request_free(&r);
}

static void missing_fields_take_the_defaults_of_the_interface(void **state) {
    (void)state;
    sl_request r = parse(SL_FORMAT_JSONL, "{\"prompt\": \"x\"}");
    assert_int_equal(r.params.max_tokens, 16);
    assert_true(r.params.temperature == 1.0);
    assert_true(r.params.top_p == 1.0);
    assert_int_equal(r.params.n, 1);
    assert_int_equal(r.params.logprobs, -1);
    assert_int_equal(r.params.has_seed, 0);
    assert_int_equal(r.params.add_special_tokens, 1);
    assert_int_equal(r.params.skip_special_tokens, 1);
    assert_string_equal(r.custom_id.bytes, "line-7");
    sl_request_free(&r);
}

static void fields_override_the_defaults_of_the_job(void **state) {
    (void)state;
    static const char line[] = "{\"prompt\": \"x\", \"max_tokens\": 3, \"stop\": \"z\"}";
    static char stop[] = "given";
    sl_params defaults;
    sl_params_init(&defaults);
    defaults.max_tokens = 99;
    defaults.temperature = 0.25;
    defaults.n_stops = 1;
    defaults.stops[0] = (sl_string){stop, 5};
    sl_request r, plain;
    assert_int_equal(
        sl_request_parse(line, sizeof line - 1, 1, SL_FORMAT_JSONL, &defaults, NULL, NULL, &r),
        SL_OK);
    assert_int_equal(r.params.max_tokens, 3);
    assert_true(r.params.temperature == 0.25);
    assert_int_equal(r.params.n_stops, 1);
    assert_string_equal(r.params.stops[0].bytes, "z");
    sl_request_free(&r);
    assert_int_equal(sl_request_parse("hi", 2, 1, SL_FORMAT_TEXT, &defaults, NULL, NULL, &plain),
                     SL_OK);
    assert_string_equal(plain.params.stops[0].bytes, "given");
    assert_ptr_not_equal(plain.params.stops[0].bytes, stop);
    sl_request_free(&plain);
}

static void prompt_may_be_ids_or_lists_of_either(void **state) {
    (void)state;
    sl_request r = parse(SL_FORMAT_JSONL, "{\"prompt\": [5, 6, 7]}");
    assert_int_equal(r.n_prompts, 1);
    assert_null(r.prompts[0].text.bytes);
    assert_int_equal(r.prompts[0].n_ids, 3);
    assert_int_equal(r.prompts[0].ids[2], 7);
    sl_request_free(&r);

    r = parse(SL_FORMAT_JSONL, "{\"prompt\": [[1], [2, 3]]}");
    assert_int_equal(r.n_prompts, 2);
    assert_int_equal(r.prompts[1].n_ids, 2);
    assert_int_equal(r.prompts[1].ids[1], 3);
    sl_request_free(&r);

    r = parse(SL_FORMAT_JSONL, "{\"prompt\": [\"a\", \"\", \"c\"]}");
    assert_int_equal(r.n_prompts, 3);
    assert_int_equal(r.prompts[1].text.n_bytes, 0);
    assert_string_equal(r.prompts[2].text.bytes, "c");
    sl_request_free(&r);
}

static void zero_byte_in_a_prompt_is_kept(void **state) {
    (void)state;
    sl_request r = parse(SL_FORMAT_JSONL, "{\"prompt\": \"a\\u0000b\"}");
    assert_int_equal(r.prompts[0].text.n_bytes, 3);
    assert_memory_equal(r.prompts[0].text.bytes, "a\0b", 3);
    sl_request_free(&r);
}

static void whole_numbers_with_a_point_count_as_integers(void **state) {
    (void)state;
    sl_request r = parse(SL_FORMAT_JSONL, "{\"prompt\": \"x\", \"max_tokens\": 20.0}");
    assert_int_equal(r.error.status_code, 0);
    assert_int_equal(r.params.max_tokens, 20);
    sl_request_free(&r);
    assert_refused(SL_FORMAT_JSONL, "{\"prompt\": \"x\", \"max_tokens\": 20.5}", "max_tokens",
                   "found 20.5, expected an integer");
}

static void null_counts_as_not_given(void **state) {
    (void)state;
    sl_request r = parse(SL_FORMAT_JSONL, "{\"prompt\": \"x\", \"max_tokens\": null, \"stop\": "
                                          "null, \"seed\": null, \"logit_bias\": null}");
    assert_int_equal(r.error.status_code, 0);
    assert_int_equal(r.params.max_tokens, 16);
    assert_int_equal(r.params.has_seed, 0);
    sl_request_free(&r);
}

static void wrong_types_are_refused_by_field_found_and_expected(void **state) {
    (void)state;
    static const struct {
        const char *line, *param, *part;
    } cases[] = {
        {"{\"prompt\": \"x\", \"temperature\": \"hot\"}", "temperature",
         "found a string, expected a number from 0"},
        {"{\"prompt\": \"x\", \"echo\": 1}", "echo", "found 1, expected true or false"},
        {"{\"prompt\": \"x\", \"n\": [2]}", "n", "found a list, expected an integer"},
        {"{\"prompt\": \"x\", \"stop\": 4}", "stop", "found an integer, expected a string"},
        {"{\"prompt\": \"x\", \"stop\": [\"a\", 4]}", "stop", "found an integer"},
        {"{\"prompt\": \"x\", \"stop\": \"\"}", "stop", "empty"},
        {"{\"prompt\": \"x\", \"seed\": \"1\"}", "seed", "found a string, expected an integer"},
        {"{\"prompt\": \"x\", \"stop_token_ids\": 5}", "stop_token_ids", "expected a list"},
        {"{\"prompt\": \"x\", \"stop_token_ids\": [-5]}", "stop_token_ids", "found -5"},
        {"{\"prompt\": \"x\", \"logit_bias\": [1]}", "logit_bias", "found a list"},
        {"{\"prompt\": \"x\", \"logit_bias\": {\"a\": 1}}", "logit_bias", "found key \"a\""},
        {"{\"prompt\": \"x\", \"logit_bias\": {\"1\": 101}}", "logit_bias", "found 101"},
        {"{\"prompt\": \"x\", \"user\": 5}", "user", "expected a string"},
        {"{\"prompt\": \"x\", \"stream\": true}", "stream", "expected false"},
        {"{\"prompt\": \"x\", \"suffix\": \"y\"}", "suffix", "not served"},
        {"{\"prompt\": 5}", "prompt", "found an integer, expected a string"},
        {"{\"prompt\": null}", "prompt", "found null"},
        {"{\"prompt\": []}", "prompt", "found an empty list"},
        {"{\"prompt\": [[]]}", "prompt", "found an empty list"},
        {"{\"prompt\": [1, \"a\"]}", "prompt", "found a string at place 1"},
        {"{\"prompt\": [\"a\", 1]}", "prompt", "found an integer at place 1"},
        {"{\"prompt\": [1, -2]}", "prompt", "found token id -2 at place 1"},
        {"{\"prompt\": [1, 3000000000]}", "prompt", "found token id 3000000000"},
        {"{\"max_tokens\": 5}", "prompt", "not given"},
        {"{\"prompt\": \"x\", \"id\": [1]}", "id", "found a list, expected a string"},
        {"[1, 2]", "", "found a list, expected an object"},
        {"{\"prompt\": \"x\"", "", "no valid JSON"},
        {"", "", "no valid JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_refused(SL_FORMAT_JSONL, cases[i].line, cases[i].param, cases[i].part);
}

static void values_out_of_range_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *field, *value;
    } cases[] = {
        {"max_tokens", "-1"},
        {"temperature", "-0.1"},
        {"temperature", "101"},
        {"top_p", "0"},
        {"top_p", "1.1"},
        {"min_p", "-0.5"},
        {"min_p", "1.5"},
        {"top_k", "-2"},
        {"repetition_penalty", "0"},
        {"frequency_penalty", "2.5"},
        {"presence_penalty", "-3"},
        {"n", "0"},
        {"n", "1025"},
        {"logprobs", "21"},
        {"logprobs", "-1"},
        {"best_of", "0"},
        {"min_tokens", "17"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char line[160], found[48];
        snprintf(line, sizeof line, "{\"prompt\": \"x\", \"%s\": %s}", cases[i].field,
                 cases[i].value);
        snprintf(found, sizeof found, "%s: found %s", cases[i].field, cases[i].value);
        assert_refused(SL_FORMAT_JSONL, line, cases[i].field, found);
    }
    assert_refused(SL_FORMAT_JSONL, "{\"prompt\": \"x\", \"n\": 3, \"best_of\": 2}", "best_of",
                   "expected at least n, 3");
}

static void logit_bias_is_sorted_by_id(void **state) {
    (void)state;
    sl_request r =
        parse(SL_FORMAT_JSONL, "{\"prompt\": \"x\", \"logit_bias\": {\"30\": -100, \"4\": 2.5}}");
    assert_int_equal(r.params.n_bias, 2);
    assert_int_equal(r.params.bias[0].id, 4);
    assert_true(r.params.bias[0].bias == 2.5f);
    assert_int_equal(r.params.bias[1].id, 30);
    assert_true(r.params.bias[1].bias == -100.0f);
    sl_request_free(&r);
}

static void batch_lines_of_other_endpoints_are_refused_with_their_custom_id(void **state) {
    (void)state;
    sl_request r =
        parse(SL_FORMAT_OPENAI, "{\"custom_id\": \"c\", \"url\": "
                                "\"/v1/chat/completions\", \"body\": {\"messages\": []}}");
    assert_int_equal(r.error.status_code, 400);
    assert_non_null(strstr(r.error.message, "not served by this version"));
    assert_string_equal(r.custom_id.bytes, "c");
    sl_request_free(&r);
    assert_refused(SL_FORMAT_OPENAI, "{\"body\": {\"messages\": []}}", "url", "not served");
    assert_refused(SL_FORMAT_OPENAI, "{\"url\": \"/v1/embeddings\", \"body\": {}}", "url",
                   "found \"/v1/embeddings\"");
    assert_refused(SL_FORMAT_OPENAI, "{\"method\": \"GET\", \"body\": {\"prompt\": \"x\"}}",
                   "method", "found \"GET\"");
    assert_refused(SL_FORMAT_OPENAI, "{\"prompt\": \"x\"}", "body", "not given");
    assert_refused(SL_FORMAT_OPENAI, "{\"body\": \"x\"}", "body", "found a string");
}

static void simple_lines_are_named_by_id_or_number(void **state) {
    (void)state;
    sl_request r = parse(SL_FORMAT_JSONL, "{\"prompt\": \"x\", \"id\": 17}");
    assert_string_equal(r.custom_id.bytes, "17");
    sl_request_free(&r);
    r = parse(SL_FORMAT_JSONL, "{\"prompt\": \"x\", \"id\": \"q\"}");
    assert_string_equal(r.custom_id.bytes, "q");
    sl_request_free(&r);
}

static void text_line_is_the_prompt_without_its_line_end(void **state) {
    (void)state;
    sl_request r = parse(SL_FORMAT_TEXT, "\xef\xbb\xbf{not json \r");
    assert_string_equal(r.prompts[0].text.bytes, "{not json ");
    sl_request_free(&r);
}

static void format_is_told_from_the_first_line(void **state) {
    (void)state;
    static const struct {
        const char *line;
        sl_job_format format;
    } cases[] = {
        {"{\"custom_id\": \"a\", \"body\": {}}", SL_FORMAT_OPENAI},
        {"  {\"method\": \"POST\"}", SL_FORMAT_OPENAI},
        {"\xef\xbb\xbf{\"prompt\": 1}\r", SL_FORMAT_JSONL},
        {"{\"custom_id\": \"a\", \"body\": {", SL_FORMAT_OPENAI},
        {"{broken", SL_FORMAT_JSONL},
        {"Once upon a time", SL_FORMAT_TEXT},
        {"\"quoted\"", SL_FORMAT_TEXT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(sl_request_detect(cases[i].line, strlen(cases[i].line)), cases[i].format);
}

static void blank_lines_are_blank(void **state) {
    (void)state;
    assert_true(sl_request_is_blank("", 0));
    assert_true(sl_request_is_blank(" \t\r", 3));
    assert_true(sl_request_is_blank("\xef\xbb\xbf", 3));
    assert_false(sl_request_is_blank(" x", 2));
}

static void count_unknown(void *context, const char *field) {
    char *names = context;
    strcat(names, field);
    strcat(names, ";");
}

static void unknown_fields_are_told_and_ignored(void **state) {
    (void)state;
    static const char line[] = "{\"prompt\": \"x\", \"frobnicate\": 1, \"metadata\": {}, "
                               "\"id\": \"i\", \"best_off\": 2}";
    char names[128] = "";
    sl_request r;
    assert_int_equal(
        sl_request_parse(line, sizeof line - 1, 1, SL_FORMAT_JSONL, NULL, count_unknown, names, &r),
        SL_OK);
    assert_int_equal(r.error.status_code, 0);
    assert_string_equal(names, "frobnicate;best_off;");
    sl_request_free(&r);
}

static void refused_line_names_itself(void **state) {
    (void)state;
    sl_request r;
    assert_int_equal(sl_request_refused_line(12, "longer than 64 MiB", &r), SL_OK);
    assert_string_equal(r.custom_id.bytes, "line-12");
    assert_string_equal(r.error.message, "line 12: longer than 64 MiB");
    sl_request_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batch_line_gives_prompt_parameters_and_custom_id),
        cmocka_unit_test(missing_fields_take_the_defaults_of_the_interface),
        cmocka_unit_test(fields_override_the_defaults_of_the_job),
        cmocka_unit_test(prompt_may_be_ids_or_lists_of_either),
        cmocka_unit_test(zero_byte_in_a_prompt_is_kept),
        cmocka_unit_test(whole_numbers_with_a_point_count_as_integers),
        cmocka_unit_test(null_counts_as_not_given),
        cmocka_unit_test(wrong_types_are_refused_by_field_found_and_expected),
        cmocka_unit_test(values_out_of_range_are_refused),
        cmocka_unit_test(logit_bias_is_sorted_by_id),
        cmocka_unit_test(batch_lines_of_other_endpoints_are_refused_with_their_custom_id),
        cmocka_unit_test(simple_lines_are_named_by_id_or_number),
        cmocka_unit_test(text_line_is_the_prompt_without_its_line_end),
        cmocka_unit_test(format_is_told_from_the_first_line),
        cmocka_unit_test(blank_lines_are_blank),
        cmocka_unit_test(unknown_fields_are_told_and_ignored),
        cmocka_unit_test(refused_line_names_itself),
    };
    return cmocka_run_group_tests_name("request", tests, NULL, NULL);
}
