/* Unit tests of src/job/chat_template.c: conversations as jinja2 renders the published templates
 * (tests/golden/chat/make.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "job/chat_template.h"

enum { MESSAGES_MAX = 16 };

/* A template's text without our note in its first line; the caller frees it. */
static char *read_template(const char *name) {
    char path[512], note[512];
    snprintf(path, sizeof path, SL_TESTS_DIR "/golden/chat/%s", name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    char *text = calloc(1, 1 << 16);
    assert_non_null(text);
    assert_non_null(fgets(note, sizeof note, f));
    assert_int_equal(strncmp(note, "{#", 2), 0);
    assert_true(fread(text, 1, (1 << 16) - 1, f) > 0);
    fclose(f);
    return text;
}

static const char *text_of(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

static int read_messages(const json_t *list, sl_chat_message *out) {
    const int n = (int)json_array_size(list);
    assert_true(n <= MESSAGES_MAX);
    for (int i = 0; i < n; i++) {
        const json_t *m = json_array_get(list, (size_t)i);
        out[i] =
            (sl_chat_message){.role = text_of(m, "role"),
                              .content = text_of(m, "content"),
                              .content_bytes = json_string_length(json_object_get(m, "content"))};
    }
    return n;
}

static void check(const json_t *e) {
    char *source = read_template(text_of(e, "template"));
    sl_chat_message messages[MESSAGES_MAX];
    const int n = read_messages(json_object_get(e, "messages"), messages);
    const sl_chat_setting setting = {
        .bos = text_of(e, "bos"), .eos = text_of(e, "eos"), .date = text_of(e, "date")};
    sl_chat_template tmpl;
    sl_json_text text = {0};
    sl_request_error error = {0};
    assert_int_equal(sl_chat_recognise(source, &tmpl), SL_OK);
    const int ok = sl_chat_render(&tmpl, messages, n, &setting, &text, &error);
    const char *expected = text_of(e, "text");
    if (ok && expected && strcmp(text.data, expected) != 0)
        fail_msg("%s, %s: %s\nexpected: %s", text_of(e, "template"), text_of(e, "name"), text.data,
                 expected);
    if (ok != (expected != NULL))
        fail_msg("%s, %s: %s", text_of(e, "template"), text_of(e, "name"),
                 ok ? "accepted" : error.message);
    sl_json_free(&text);
    free(source);
}

static void conversations_are_those_of_the_published_templates(void **state) {
    (void)state;
    json_t *all = json_load_file(SL_TESTS_DIR "/golden/chat/expected.json", 0, NULL);
    assert_true(json_array_size(all) > 60);
    int n = 0;
    for (size_t i = 0; i < json_array_size(all); i++) {
        const json_t *e = json_array_get(all, i);
        if (strcmp(text_of(e, "template"), "gemma.jinja") == 0) continue;
        check(e);
        n++;
    }
    assert_int_equal(n, 66);
    json_decref(all);
}

static sl_chat_family family_of(const char *name) {
    char *source = read_template(name);
    sl_chat_template tmpl;
    assert_int_equal(sl_chat_recognise(source, &tmpl), SL_OK);
    free(source);
    return tmpl.family;
}

static void families_are_told_apart(void **state) {
    (void)state;
    assert_int_equal(family_of("qwen2.5.jinja"), SL_CHAT_CHATML);
    assert_int_equal(family_of("qwen3.jinja"), SL_CHAT_QWEN3);
    assert_int_equal(family_of("llama-2.jinja"), SL_CHAT_LLAMA2);
    assert_int_equal(family_of("llama-3.jinja"), SL_CHAT_LLAMA3);
    assert_int_equal(family_of("llama-3.1.jinja"), SL_CHAT_LLAMA31);
    assert_int_equal(family_of("mistral-0.2.jinja"), SL_CHAT_MISTRAL);
    assert_int_equal(family_of("mistral-0.3.jinja"), SL_CHAT_MISTRAL_V3);
}

static void refused(const char *text, const char *name) {
    sl_chat_template tmpl;
    assert_int_equal(sl_chat_recognise(text, &tmpl), SL_ERR_FORMAT);
    if (!strstr(sl_error_message(), name)) fail_msg("no %s in: %s", name, sl_error_message());
}

static void other_templates_are_refused_by_name(void **state) {
    (void)state;
    char *gemma = read_template("gemma.jinja");
    refused(gemma, "Gemma");
    free(gemma);
    refused(NULL, "brings no chat template");
    refused("", "not known");
    refused("{{ '<|im_start|>' }}{{ message.content | trim }}<|im_end|>", "variant of ChatML");
    refused("<|im_start|>user<|im_sep|>", "Phi-4");
    refused("[SYSTEM_PROMPT] [INST]", "Mistral v7");
    refused("<<SYS>> [INST]", "variant of Llama 2");
    refused("'[INST]' + message['content'] + '[/INST]'", "variant of Mistral");
    refused("{{ '<|user|>\\n' }}", "Phi-3");
}

static void qwen3_may_be_told_not_to_think(void **state) {
    (void)state;
    char *source = read_template("qwen3.jinja");
    sl_chat_template tmpl;
    sl_json_text text = {0};
    sl_request_error error = {0};
    const sl_chat_setting setting = {.bos = "", .eos = "", .date = "", .no_thinking = 1};
    const sl_chat_message m = {"user", "Hi", 2};
    assert_int_equal(sl_chat_recognise(source, &tmpl), SL_OK);
    assert_int_equal(sl_chat_render(&tmpl, &m, 1, &setting, &text, &error), 1);
    assert_string_equal(text.data, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
                                   "<think>\n\n</think>\n\n");
    sl_json_free(&text);
    free(source);
}

static void conversations_without_an_end_are_refused(void **state) {
    (void)state;
    static const sl_chat_message last[] = {{"user", "Hi", 2}, {"assistant", "Ho", 2}};
    static const sl_chat_message tool = {"tool", "Hi", 2};
    const sl_chat_template tmpl = {.family = SL_CHAT_CHATML};
    const sl_chat_setting setting = {.bos = "", .eos = "", .date = ""};
    sl_json_text text = {0};
    sl_request_error error = {0};
    assert_int_equal(sl_chat_render(&tmpl, last, 2, &setting, &text, &error), 0);
    assert_int_equal(error.status_code, 400);
    assert_non_null(strstr(error.message, "\"assistant\""));
    assert_int_equal(sl_chat_render(&tmpl, &tool, 1, &setting, &text, &error), 0);
    assert_non_null(strstr(error.message, "\"tool\""));
    assert_int_equal(sl_chat_render(&tmpl, last, 0, &setting, &text, &error), 0);
    sl_json_free(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conversations_are_those_of_the_published_templates),
        cmocka_unit_test(families_are_told_apart),
        cmocka_unit_test(other_templates_are_refused_by_name),
        cmocka_unit_test(qwen3_may_be_told_not_to_think),
        cmocka_unit_test(conversations_without_an_end_are_refused),
    };
    return cmocka_run_group_tests_name("chat_template", tests, NULL, NULL);
}
