/* Unit tests of src/job/choice_text.c: text of a choice as tokens arrive, stop strings, offsets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "job/choice_text.h"
#include "job/json_text.h"

static sl_tokenizer *open_family(const char *family) {
    sl_tokenizer *tok = NULL;
    char path[4096];
    snprintf(path, sizeof path, SL_TESTS_DIR "/golden/tokenizer/%s", family);
    if (sl_tokenizer_open_folder(path, &tok) != SL_OK) fail_msg("%s", sl_error_message());
    assert_non_null(tok);
    return tok;
}

static size_t encode(const sl_tokenizer *tok, const char *text, int32_t **ids) {
    size_t n;
    assert_int_equal(sl_tokenizer_encode(tok, text, strlen(text), 0, ids, &n), SL_OK);
    return n;
}

/* A choice whose tokens are those of `text`, pushed one by one; gives the text that it makes. */
typedef struct {
    sl_tokenizer *tok;
    sl_params params;
    int32_t end_id; /* -1: none */
    sl_choice_text *text;
    int n_pushed; /* until it ended */
    int n_tokens;
} choice;

static void begin(choice *c, const char *family, const char *prompt) {
    *c = (choice){.tok = open_family(family), .end_id = -1};
    sl_params_init(&c->params);
    int32_t *ids = NULL;
    const size_t n = encode(c->tok, prompt, &ids);
    const sl_choice_text_options options = {.tokenizer = c->tok,
                                            .params = &c->params,
                                            .prompt = ids,
                                            .n_prompt = (int)n,
                                            .end_ids = &c->end_id,
                                            .n_end_ids = 1};
    assert_int_equal(sl_choice_text_open(&options, &c->text), SL_OK);
    free(ids);
}

static void set_stop(choice *c, const char *stop) {
    c->params.stops[c->params.n_stops++] = (sl_string){strdup(stop), strlen(stop)};
}

static void push_text(choice *c, const char *text) {
    int32_t *ids = NULL;
    const size_t n = encode(c->tok, text, &ids);
    int ended = 0;
    for (size_t i = 0; i < n; i++) {
        if (!ended) c->n_pushed++;
        c->n_tokens++;
        assert_int_equal(sl_choice_text_push(c->text, ids[i], &ended), SL_OK);
    }
    free(ids);
}

static void assert_text(choice *c, const char *expected) {
    size_t n_bytes;
    assert_int_equal(sl_choice_text_finish(c->text), SL_OK);
    assert_string_equal(sl_choice_text_get(c->text, &n_bytes), expected);
    assert_int_equal(n_bytes, strlen(expected));
}

static void end(choice *c) {
    sl_choice_text_close(c->text);
    sl_params_free(&c->params);
    sl_tokenizer_close(c->tok);
}

static const char sample[] =
    "The caf\xc3\xa9 said \xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x98\x80, then:\n"
    "  nothing more.";

static void text_is_what_the_tokens_say(void **state) {
    (void)state;
    choice c;
    begin(&c, "gpt2", "Hello");
    push_text(&c, sample);
    assert_text(&c, sample);
    assert_int_equal(sl_choice_text_is_stopped(c.text), 0);
    end(&c);
}

/* Whatever the split, prompt and continuation make the text of all tokens. */
static void text_after_any_prompt_continues_it(void **state) {
    (void)state;
    static const char *const families[] = {"gpt2", "llama2_legacy"};
    for (size_t f = 0; f < 2; f++) {
        sl_tokenizer *tok = open_family(families[f]);
        int32_t *ids = NULL;
        const size_t n = encode(tok, sample, &ids);
        sl_params params;
        sl_params_init(&params);
        for (size_t split = 1; split < n; split++) {
            const sl_choice_text_options options = {
                .tokenizer = tok, .params = &params, .prompt = ids, .n_prompt = (int)split};
            sl_choice_text *text;
            int ended;
            int64_t *offsets = calloc(n, sizeof *offsets);
            sl_string before = {0};
            assert_non_null(offsets);
            assert_int_equal(sl_choice_text_open(&options, &text), SL_OK);
            for (size_t i = split; i < n; i++)
                assert_int_equal(sl_choice_text_push(text, ids[i], &ended), SL_OK);
            assert_int_equal(sl_choice_text_finish(text), SL_OK);
            /* The prompt's own text, an unfinished character left to what follows. */
            assert_int_equal(sl_prompt_decode(tok, ids, (int)split, 1, 0, offsets, &before), SL_OK);
            sl_json_text all = {0};
            size_t n_bytes;
            const char *after = sl_choice_text_get(text, &n_bytes);
            sl_json_bytes(&all, before.bytes, before.n_bytes);
            sl_json_bytes(&all, after, n_bytes);
            assert_string_equal(all.data, sample);
            sl_json_free(&all);
            free(before.bytes);
            free(offsets);
            sl_choice_text_close(text);
        }
        free(ids);
        sl_tokenizer_close(tok);
    }
}

static void stop_string_across_tokens_ends_the_text_before_it(void **state) {
    (void)state;
    choice c;
    begin(&c, "gpt2", "Hello");
    set_stop(&c, ", then:\n ");
    push_text(&c, sample);
    assert_text(&c, "The caf\xc3\xa9 said \xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x98\x80");
    assert_int_equal(sl_choice_text_is_stopped(c.text), 1);
    assert_true(c.n_pushed < c.n_tokens); /* it was told in time */
    end(&c);
}

static void stop_string_is_kept_when_asked_for(void **state) {
    (void)state;
    choice c;
    begin(&c, "gpt2", "Hello");
    c.params.include_stop = 1;
    set_stop(&c, "said");
    push_text(&c, sample);
    assert_text(&c, "The caf\xc3\xa9 said");
    end(&c);
}

static void text_that_may_become_a_stop_string_is_not_settled(void **state) {
    (void)state;
    choice c;
    begin(&c, "gpt2", "x");
    set_stop(&c, "abca!");
    set_stop(&c, "ca?");
    assert_int_equal(sl_choice_text_settled(c.text), 0);
    push_text(&c, "Nabc");
    assert_int_equal(sl_choice_text_settled(c.text), 1); /* "abc" and "c" are beginnings */
    push_text(&c, "a");
    assert_int_equal(sl_choice_text_settled(c.text), 1);
    push_text(&c, "b");
    assert_int_equal(sl_choice_text_settled(c.text), 4); /* "ab" is left of them */
    push_text(&c, "ca?");
    assert_int_equal(sl_choice_text_is_stopped(c.text), 1);
    assert_int_equal(sl_choice_text_settled(c.text), 6);
    assert_int_equal(sl_choice_text_count(c.text), c.n_tokens);
    assert_text(&c, "Nabcab");
    end(&c);
}

static void first_of_several_stop_strings_counts(void **state) {
    (void)state;
    choice c;
    begin(&c, "gpt2", "Hello");
    set_stop(&c, "nothing");
    set_stop(&c, "absent");
    set_stop(&c, "id \xe4\xbd\xa0");
    set_stop(&c, "\xe4\xbd\xa0");
    push_text(&c, sample);
    assert_text(&c, "The caf\xc3\xa9 sa");
    end(&c);
}

static void stop_string_in_the_prompt_does_not_count(void **state) {
    (void)state;
    choice c;
    begin(&c, "gpt2", "stop st");
    set_stop(&c, "stop");
    push_text(&c, "op it");
    assert_text(&c, "op it");
    end(&c);
}

static void min_tokens_hold_stop_strings_back(void **state) {
    (void)state;
    choice c;
    begin(&c, "gpt2", "Hello");
    set_stop(&c, "a");
    c.params.min_tokens = 6;
    push_text(&c, "a\na\na\na\na\na");
    assert_int_equal(c.n_pushed, 7); /* the 6th token is the third newline */
    assert_text(&c, "a\na\na\n");
    end(&c);
}

static void end_id_is_no_text(void **state) {
    (void)state;
    choice c;
    begin(&c, "gpt2", "Hello");
    int32_t *ids = NULL;
    assert_true(encode(c.tok, "!", &ids) == 1);
    c.end_id = ids[0];
    push_text(&c, "Yes!");
    assert_text(&c, "Yes");
    c.params.include_stop = 1;
    push_text(&c, "!");
    assert_text(&c, "Yes!");
    free(ids);
    end(&c);
}

static void unfinished_character_becomes_a_mark_at_the_end(void **state) {
    (void)state;
    choice c;
    begin(&c, "gpt2", "Hello");
    int32_t *ids = NULL;
    int ended;
    size_t n_bytes;
    const size_t n = encode(c.tok, "\xf0\x9f\x98\x80", &ids);
    assert_true(n > 1);
    for (size_t i = 0; i + 1 < n; i++)
        assert_int_equal(sl_choice_text_push(c.text, ids[i], &ended), SL_OK);
    sl_choice_text_get(c.text, &n_bytes);
    assert_int_equal(n_bytes, 0); /* never half a character */
    assert_text(&c, "\xef\xbf\xbd");
    free(ids);
    end(&c);
}

static void offsets_count_characters_and_stay_in_the_text(void **state) {
    (void)state;
    choice c;
    begin(&c, "gpt2", "Hello");
    push_text(&c, sample);
    assert_int_equal(sl_choice_text_finish(c.text), SL_OK);
    int32_t *ids = NULL;
    const size_t n = encode(c.tok, sample, &ids);
    const int64_t n_chars = (int64_t)sl_utf8_count(sample, sizeof sample - 1);
    assert_int_equal(sl_choice_text_offset(c.text, 0), 0);
    for (size_t i = 1; i < n; i++) {
        char *head = NULL;
        size_t n_bytes;
        const int64_t at = sl_choice_text_offset(c.text, (int)i);
        assert_true(at >= sl_choice_text_offset(c.text, (int)i - 1) && at <= n_chars);
        /* Where the tokens before it make whole characters, it begins behind them. */
        assert_int_equal(sl_tokenizer_decode(c.tok, ids, i, 1, &head, &n_bytes), SL_OK);
        if (!strstr(head, "\xef\xbf\xbd")) assert_int_equal(at, sl_utf8_count(head, n_bytes));
        free(head);
    }
    free(ids);
    end(&c);

    begin(&c, "gpt2", "Hello");
    set_stop(&c, "said");
    push_text(&c, sample);
    for (int i = 0; i < c.n_tokens; i++) assert_true(sl_choice_text_offset(c.text, i) <= 9);
    end(&c);
}

static void choice_without_a_tokenizer_has_no_text(void **state) {
    (void)state;
    sl_params params;
    sl_params_init(&params);
    const sl_choice_text_options options = {.params = &params};
    sl_choice_text *text;
    int ended = 1;
    size_t n_bytes;
    assert_int_equal(sl_choice_text_open(&options, &text), SL_OK);
    assert_int_equal(sl_choice_text_push(text, 5, &ended), SL_OK);
    assert_int_equal(ended, 0);
    assert_int_equal(sl_choice_text_finish(text), SL_OK);
    assert_string_equal(sl_choice_text_get(text, &n_bytes), "");
    assert_int_equal(sl_choice_text_offset(text, 0), 0);
    sl_choice_text_close(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_what_the_tokens_say),
        cmocka_unit_test(text_after_any_prompt_continues_it),
        cmocka_unit_test(stop_string_across_tokens_ends_the_text_before_it),
        cmocka_unit_test(stop_string_is_kept_when_asked_for),
        cmocka_unit_test(text_that_may_become_a_stop_string_is_not_settled),
        cmocka_unit_test(first_of_several_stop_strings_counts),
        cmocka_unit_test(stop_string_in_the_prompt_does_not_count),
        cmocka_unit_test(min_tokens_hold_stop_strings_back),
        cmocka_unit_test(end_id_is_no_text),
        cmocka_unit_test(unfinished_character_becomes_a_mark_at_the_end),
        cmocka_unit_test(offsets_count_characters_and_stay_in_the_text),
        cmocka_unit_test(choice_without_a_tokenizer_has_no_text),
    };
    return cmocka_run_group_tests_name("choice_text", tests, NULL, NULL);
}
