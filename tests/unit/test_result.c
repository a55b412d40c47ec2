/* Unit tests of src/job/result.c and json_text.c: result lines and their numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <jansson.h>
#include <math.h>

#include "base/rng.h"
#include "job/result.h"

/* ---- json_text ---- */

static const char *float_text(float value) {
    static char copy[64];
    sl_json_text text = {0};
    sl_json_float(&text, value);
    snprintf(copy, sizeof copy, "%s", text.data);
    sl_json_free(&text);
    return copy;
}

static void float_digits_read_back_as_the_same_float(void **state) {
    (void)state;
    sl_rng rng = {.key = 5};
    for (int i = 0; i < 20000; i++) {
        const uint32_t bits = (uint32_t)sl_rng_next(&rng);
        float value;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value)) continue;
        const char *text = float_text(value);
        assert_true(strtof(text, NULL) == value);
        assert_true((float)strtod(text, NULL) == value); /* readers know doubles only */
        assert_non_null(strpbrk(text, ".e"));
    }
}

static void float_text_is_short_and_always_a_json_number(void **state) {
    (void)state;
    assert_string_equal(float_text(-0.5f), "-0.5");
    assert_string_equal(float_text(0.1f), "0.1");
    assert_string_equal(float_text(-0.0f), "0.0");
    assert_string_equal(float_text(-2.0f), "-2.0");
    assert_string_equal(float_text(-INFINITY), "-9999.0");
    assert_string_equal(float_text(NAN), "-9999.0");
}

static void string_is_escaped_and_made_valid_utf8(void **state) {
    (void)state;
    static const char bytes[] = "a\"\\\n\x01\0\xc3\xa9\xff\xe2\x82\xed\xa0\x80z";
    sl_json_text text = {0};
    sl_json_string(&text, bytes, sizeof bytes - 1);
    assert_int_equal(sl_json_status(&text), SL_OK);
    /* A stray byte, an unfinished character and a surrogate: one mark for each byte. */
    assert_string_equal(text.data, "\"a\\\"\\\\\\n\\u0001\\u0000\xc3\xa9"
                                   "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
                                   "\xef\xbf\xbdz\"");
    json_t *back = json_loads(text.data, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    assert_non_null(back);
    json_decref(back);
    sl_json_free(&text);
}

static void characters_are_counted(void **state) {
    (void)state;
    assert_int_equal(sl_utf8_count("", 0), 0);
    assert_int_equal(sl_utf8_count("a\xc3\xa9\xe4\xbd\xa0\xf0\x9f\x98\x80", 10), 4);
    assert_int_equal(sl_utf8_count("\xff\xc0\x80", 3), 3);
}

/* ---- results ---- */

/* A request of one prompt of two ids with one choice of two tokens, as the engine gives it back. */
typedef struct {
    sl_request request;
    int32_t ids[2];
    sl_choice prompt_scores[2], tokens[2];
    sl_engine_choice choices[2];
    sl_engine_result result;
    sl_choice_text *texts[2];
    sl_result_part part;
} answer;

static const sl_result_job job = {.model = "m \"q\"", .tokenizer = NULL, .seed = 3};

static void make_answer(answer *a, const char *fields) {
    char line[256];
    snprintf(line, sizeof line, "{\"id\": \"r\", \"prompt\": [11, 12]%s}", fields);
    *a = (answer){.ids = {11, 12}};
    assert_int_equal(
        sl_request_parse(line, strlen(line), 4, SL_FORMAT_JSONL, NULL, NULL, NULL, &a->request),
        SL_OK);
    assert_int_equal(a->request.error.status_code, 0);
    a->prompt_scores[1] =
        (sl_choice){.id = 12, .logprob = -0.25f, .n_top = 2, .top = {{99, -0.125f}, {12, -0.25f}}};
    a->tokens[0] = (sl_choice){.id = 13, .logprob = -0.1f, .n_top = 1, .top = {{13, -0.1f}}};
    a->tokens[1] = (sl_choice){
        .id = 14, .logprob = -3.3333333f, .n_top = 2, .top = {{21, -0.5f}, {22, -0.75f}}};
    a->choices[0] = (sl_engine_choice){SL_FINISH_LENGTH, 2, a->tokens};
    a->choices[1] = (sl_engine_choice){SL_FINISH_STOP, 1, a->tokens};
    a->result = (sl_engine_result){.n_prompt = 2,
                                   .prompt = a->ids,
                                   .prompt_scores = a->prompt_scores,
                                   .n_choices = 1,
                                   .choices = a->choices};
    a->part = (sl_result_part){&a->result, a->texts};
}

/* Builds the line, checks that it is one line of JSON, and gives the parsed root. */
static json_t *build(answer *a, char *copy, size_t copy_bytes) {
    sl_json_text out = {0};
    assert_int_equal(sl_result_answer(&job, &a->request, &a->part, 1700000000, &out), SL_OK);
    assert_int_equal(out.data[out.n_bytes - 1], '\n');
    assert_ptr_equal(strchr(out.data, '\n'), out.data + out.n_bytes - 1);
    json_t *root = json_loads(out.data, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    if (copy) snprintf(copy, copy_bytes, "%s", out.data);
    sl_json_free(&out);
    sl_request_free(&a->request);
    return root;
}

static json_t *first_choice(json_t *root) {
    json_t *body = json_object_get(json_object_get(root, "response"), "body");
    return json_array_get(json_object_get(body, "choices"), 0);
}

static void answer_has_the_shape_of_a_batch_result(void **state) {
    (void)state;
    answer a;
    make_answer(&a, "");
    char line[2048];
    json_t *root = build(&a, line, sizeof line);
    assert_string_equal(json_string_value(json_object_get(root, "custom_id")), "r");
    assert_true(json_is_null(json_object_get(root, "error")));
    assert_memory_equal(json_string_value(json_object_get(root, "id")), "batch_req_", 10);
    json_t *response = json_object_get(root, "response");
    assert_int_equal(json_integer_value(json_object_get(response, "status_code")), 200);
    assert_true(json_is_string(json_object_get(response, "request_id")));
    json_t *body = json_object_get(response, "body");
    assert_memory_equal(json_string_value(json_object_get(body, "id")), "cmpl-", 5);
    assert_string_equal(json_string_value(json_object_get(body, "object")), "text_completion");
    assert_int_equal(json_integer_value(json_object_get(body, "created")), 1700000000);
    assert_string_equal(json_string_value(json_object_get(body, "model")), "m \"q\"");
    json_t *usage = json_object_get(body, "usage");
    assert_int_equal(json_integer_value(json_object_get(usage, "prompt_tokens")), 2);
    assert_int_equal(json_integer_value(json_object_get(usage, "completion_tokens")), 2);
    assert_int_equal(json_integer_value(json_object_get(usage, "total_tokens")), 4);
    json_t *choice = first_choice(root);
    assert_int_equal(json_integer_value(json_object_get(choice, "index")), 0);
    assert_string_equal(json_string_value(json_object_get(choice, "text")), "");
    assert_string_equal(json_string_value(json_object_get(choice, "finish_reason")), "length");
    assert_true(json_is_null(json_object_get(choice, "logprobs")));
    /* No tokenizer: the ids are given unasked. */
    assert_non_null(strstr(line, "\"prompt_token_ids\": [11, 12], \"token_ids\": [13, 14]"));
    json_decref(root);
}

static void same_answer_gives_the_same_bytes(void **state) {
    (void)state;
    char first[2048], second[2048];
    answer a;
    make_answer(&a, ", \"logprobs\": 2");
    json_decref(build(&a, first, sizeof first));
    make_answer(&a, ", \"logprobs\": 2");
    json_decref(build(&a, second, sizeof second));
    assert_string_equal(first, second);
}

static void logprobs_give_the_same_number_in_both_places(void **state) {
    (void)state;
    answer a;
    make_answer(&a, ", \"logprobs\": 2");
    json_t *root = build(&a, NULL, 0);
    json_t *logprobs = json_object_get(first_choice(root), "logprobs");
    json_t *tokens = json_object_get(logprobs, "tokens");
    json_t *chosen = json_object_get(logprobs, "token_logprobs");
    json_t *top = json_object_get(logprobs, "top_logprobs");
    assert_int_equal(json_array_size(tokens), 2);
    assert_int_equal(json_array_size(json_object_get(logprobs, "text_offset")), 2);
    for (size_t i = 0; i < 2; i++) {
        const char *name = json_string_value(json_array_get(tokens, i));
        const double number = json_real_value(json_array_get(chosen, i));
        json_t *entry = json_array_get(top, i);
        assert_true((float)number == a.tokens[i].logprob);
        assert_true(json_real_value(json_object_get(entry, name)) == number);
    }
    /* The chosen token is there although it is not among the two most likely. */
    assert_int_equal(json_object_size(json_array_get(top, 1)), 3);
    assert_true(json_real_value(json_object_get(json_array_get(top, 1), "token_id:21")) == -0.5);
    json_decref(root);
}

static void no_alternatives_still_gives_the_chosen_token(void **state) {
    (void)state;
    answer a;
    make_answer(&a, ", \"logprobs\": 0");
    json_t *root = build(&a, NULL, 0);
    json_t *top = json_object_get(json_object_get(first_choice(root), "logprobs"), "top_logprobs");
    assert_int_equal(json_object_size(json_array_get(top, 1)), 1);
    assert_non_null(json_object_get(json_array_get(top, 1), "token_id:14"));
    json_decref(root);
}

static void echo_puts_the_prompt_first_and_scores_all_but_its_first_token(void **state) {
    (void)state;
    answer a;
    make_answer(&a, ", \"logprobs\": 1, \"echo\": true");
    json_t *root = build(&a, NULL, 0);
    json_t *logprobs = json_object_get(first_choice(root), "logprobs");
    json_t *tokens = json_object_get(logprobs, "tokens");
    assert_int_equal(json_array_size(tokens), 4);
    assert_string_equal(json_string_value(json_array_get(tokens, 0)), "token_id:11");
    json_t *chosen = json_object_get(logprobs, "token_logprobs");
    assert_true(json_is_null(json_array_get(chosen, 0)));
    assert_true(json_real_value(json_array_get(chosen, 1)) == -0.25);
    json_t *top = json_object_get(logprobs, "top_logprobs");
    assert_true(json_is_null(json_array_get(top, 0)));
    /* One alternative was asked for: the best, and the prompt's own token. */
    assert_int_equal(json_object_size(json_array_get(top, 1)), 2);
    assert_true(json_real_value(json_object_get(json_array_get(top, 1), "token_id:99")) == -0.125);
    json_decref(root);
}

static void echo_of_nothing_generated_gives_the_prompt_alone(void **state) {
    (void)state;
    answer a;
    make_answer(&a, ", \"logprobs\": 1, \"echo\": true, \"max_tokens\": 0");
    a.choices[0].n_tokens = 0;
    json_t *root = build(&a, NULL, 0);
    json_t *choice = first_choice(root);
    json_t *logprobs = json_object_get(choice, "logprobs");
    assert_int_equal(json_array_size(json_object_get(logprobs, "tokens")), 2);
    assert_string_equal(json_string_value(json_object_get(choice, "finish_reason")), "length");
    json_decref(root);
}

static void best_of_keeps_the_likeliest_choice_and_counts_all(void **state) {
    (void)state;
    answer a;
    make_answer(&a, ", \"best_of\": 2");
    a.result.n_choices = 2; /* means: -1.7 for the first, -0.1 for the second */
    json_t *root = build(&a, NULL, 0);
    json_t *body = json_object_get(json_object_get(root, "response"), "body");
    assert_int_equal(json_array_size(json_object_get(body, "choices")), 1);
    json_t *choice = first_choice(root);
    assert_string_equal(json_string_value(json_object_get(choice, "finish_reason")), "stop");
    assert_int_equal(json_integer_value(json_object_get(choice, "index")), 0);
    json_t *usage = json_object_get(body, "usage");
    assert_int_equal(json_integer_value(json_object_get(usage, "completion_tokens")), 3);
    json_decref(root);
}

static void choices_of_several_prompts_are_numbered_through(void **state) {
    (void)state;
    answer a;
    make_answer(&a, "");
    sl_request request;
    static const char line[] = "{\"prompt\": [[11, 12], [11, 12]], \"n\": 2}";
    assert_int_equal(
        sl_request_parse(line, sizeof line - 1, 4, SL_FORMAT_JSONL, NULL, NULL, NULL, &request),
        SL_OK);
    a.result.n_choices = 2;
    const sl_result_part parts[2] = {a.part, a.part};
    sl_json_text out = {0};
    assert_int_equal(sl_result_answer(&job, &request, parts, 0, &out), SL_OK);
    json_t *root = json_loads(out.data, 0, NULL);
    json_t *body = json_object_get(json_object_get(root, "response"), "body");
    json_t *choices = json_object_get(body, "choices");
    assert_int_equal(json_array_size(choices), 4);
    for (int i = 0; i < 4; i++) {
        json_t *choice = json_array_get(choices, (size_t)i);
        assert_int_equal(json_integer_value(json_object_get(choice, "index")), i);
        assert_string_equal(json_string_value(json_object_get(choice, "finish_reason")),
                            i % 2 ? "stop" : "length");
    }
    json_decref(root);
    sl_json_free(&out);
    sl_request_free(&request);
    sl_request_free(&a.request);
}

static void refusal_is_a_400_with_the_message_and_the_field(void **state) {
    (void)state;
    sl_request request;
    static const char line[] = "{\"prompt\": \"x\", \"n\": 0}";
    assert_int_equal(
        sl_request_parse(line, sizeof line - 1, 4, SL_FORMAT_JSONL, NULL, NULL, NULL, &request),
        SL_OK);
    sl_json_text out = {0};
    assert_int_equal(sl_result_refusal(&job, &request, &out), SL_OK);
    json_t *root = json_loads(out.data, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(root);
    assert_string_equal(json_string_value(json_object_get(root, "custom_id")), "line-4");
    assert_true(json_is_null(json_object_get(root, "error")));
    json_t *response = json_object_get(root, "response");
    assert_int_equal(json_integer_value(json_object_get(response, "status_code")), 400);
    json_t *error = json_object_get(json_object_get(response, "body"), "error");
    assert_string_equal(json_string_value(json_object_get(error, "message")),
                        "line 4: n: found 0, expected an integer from 1 to 1024");
    assert_string_equal(json_string_value(json_object_get(error, "type")), "invalid_request_error");
    assert_string_equal(json_string_value(json_object_get(error, "param")), "n");
    assert_true(json_is_null(json_object_get(error, "code")));
    json_decref(root);
    sl_json_free(&out);
    sl_request_free(&request);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float_digits_read_back_as_the_same_float),
        cmocka_unit_test(float_text_is_short_and_always_a_json_number),
        cmocka_unit_test(string_is_escaped_and_made_valid_utf8),
        cmocka_unit_test(characters_are_counted),
        cmocka_unit_test(answer_has_the_shape_of_a_batch_result),
        cmocka_unit_test(same_answer_gives_the_same_bytes),
        cmocka_unit_test(logprobs_give_the_same_number_in_both_places),
        cmocka_unit_test(no_alternatives_still_gives_the_chosen_token),
        cmocka_unit_test(echo_puts_the_prompt_first_and_scores_all_but_its_first_token),
        cmocka_unit_test(echo_of_nothing_generated_gives_the_prompt_alone),
        cmocka_unit_test(best_of_keeps_the_likeliest_choice_and_counts_all),
        cmocka_unit_test(choices_of_several_prompts_are_numbered_through),
        cmocka_unit_test(refusal_is_a_400_with_the_message_and_the_field),
    };
    return cmocka_run_group_tests_name("result", tests, NULL, NULL);
}
