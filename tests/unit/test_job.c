/* Unit tests of src/job/job.c: whole jobs on one rank, a small random model and a real tokenizer.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "cpu/cpu_backend.h"
#include "job/job.h"
#include "support/files.h"

static const char config_text[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_size\": 32,"
    " \"intermediate_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 2,"
    " \"num_key_value_heads\": 1, \"hidden_act\": \"silu\", \"max_position_embeddings\": 128,"
    " \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"vocab_size\": 1280,"
    " \"bos_token_id\": 1200, \"eos_token_id\": 1200, \"tie_word_embeddings\": false}";

/* One job: its files, engine and results. */
typedef struct {
    char *dir;
    char input[128], output[128];
    sl_model_config config;
    sl_transport *transport;
    sl_backend *backend;
    sl_engine *engine;
    sl_tokenizer *tokenizer;
    sl_job_options options;
    sl_job_counts counts;
    sl_status status;
    int resumes; /* the job goes on with what the output holds */
    char warnings[512];
    int n_results;
    json_t *results[64]; /* in the order of the output */
} fixture;

/* The engine's token callback of jobs opened from here on. */
static sl_token_callback on_token = sl_job_on_token;

static void save_text(const char *path, const char *text) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    assert_int_equal(fclose(f), 0);
}

static void note(void *context, const char *text) {
    char *warnings = context;
    const size_t used = strlen(warnings);
    snprintf(warnings + used, 512 - used, "%s;", text);
}

static void open_job(fixture *f, void **state, const char *lines) {
    char model[192];
    sl_source *source = NULL;
    sl_policy policy;
    *f = (fixture){.dir = *state};
    snprintf(f->input, sizeof f->input, "%s/in", f->dir);
    snprintf(f->output, sizeof f->output, "%s/out", f->dir);
    snprintf(model, sizeof model, "dummy:%s/config.json", f->dir);
    save_text(model + 6, config_text);
    save_text(f->input, lines);
    if (sl_source_open(model, 1, &source) != SL_OK) fail_msg("%s", sl_error_message());
    f->config = *sl_source_config(source);
    const sl_cpu_options cpu = {.n_threads = 1};
    assert_int_equal(sl_cpu_backend_open(&cpu, &f->backend), SL_OK);
    assert_int_equal(sl_transport_open_loopback(&f->transport), SL_OK);
    sl_policy_init(&policy);
    policy.micro_batch = 4;
    policy.cpu_budget_bytes = 64 << 20;
    if (sl_engine_open(source, f->backend, f->transport, &policy, on_token, &f->engine) != SL_OK)
        fail_msg("%s", sl_error_message());
    sl_source_close(source);
    if (sl_tokenizer_open_folder(SL_TESTS_DIR "/golden/tokenizer/gpt2", &f->tokenizer) != SL_OK)
        fail_msg("%s", sl_error_message());

    f->options = (sl_job_options){.engine = f->engine,
                                  .config = &f->config,
                                  .tokenizer = f->tokenizer,
                                  .seed = 7,
                                  .model_name = "m",
                                  .warn = note,
                                  .warn_context = f->warnings};
    sl_params_init(&f->options.defaults);
    f->options.defaults.ignore_eos = 1;
}

/* Opens the output as one that can be gone on with. */
static void open_resume(fixture *f) {
    sl_job_key key = {0};
    const sl_resume_options options = {
        .output = f->output, .writer = f->options.writer, .key = &key, .seed = f->options.seed};
    if (sl_resume_open(&options, &f->options.resume) != SL_OK) fail_msg("%s", sl_error_message());
}

/* Runs the job and reads the results back. */
static void run_job(fixture *f) {
    assert_int_equal(sl_reader_open(f->input, 0, &f->options.reader), SL_OK);
    assert_int_equal(sl_writer_open(f->output, &f->options.writer), SL_OK);
    if (f->resumes) open_resume(f);
    f->status = sl_job_run(&f->options, &f->counts);
    sl_resume_close(f->options.resume);
    f->options.resume = NULL;
    sl_reader_close(f->options.reader);
    sl_writer_close(f->options.writer);
    FILE *file = fopen(f->output, "rb");
    assert_non_null(file);
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, file) > 0) {
        assert_true(f->n_results < 64);
        json_t *root = json_loads(line, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
        assert_non_null(root);
        f->results[f->n_results++] = root;
    }
    free(line);
    fclose(file);
}

static void close_job(fixture *f) {
    for (int i = 0; i < f->n_results; i++) json_decref(f->results[i]);
    sl_engine_close(f->engine);
    sl_backend_close(f->backend);
    sl_transport_close(f->transport);
    sl_tokenizer_close(f->tokenizer);
    sl_params_free(&f->options.defaults);
}

static json_t *body_of(const fixture *f, int i) {
    assert_true(i < f->n_results);
    return json_object_get(json_object_get(f->results[i], "response"), "body");
}
static json_t *choice_of(const fixture *f, int i, size_t c) {
    json_t *choice = json_array_get(json_object_get(body_of(f, i), "choices"), c);
    assert_non_null(choice);
    return choice;
}
static const char *text_of(const fixture *f, int i) {
    return json_string_value(json_object_get(choice_of(f, i, 0), "text"));
}
static const char *name_of(const fixture *f, int i) {
    assert_true(i < f->n_results);
    return json_string_value(json_object_get(f->results[i], "custom_id"));
}
static const char *reason_of(const fixture *f, int i) {
    return json_string_value(json_object_get(choice_of(f, i, 0), "finish_reason"));
}
static size_t tokens_of(const fixture *f, int i) {
    return json_array_size(json_object_get(choice_of(f, i, 0), "token_ids"));
}

/* The text that a line's request makes, alone. */
static char *text_alone(void **state, const char *line) {
    fixture f;
    open_job(&f, state, line);
    run_job(&f);
    assert_int_equal(f.status, SL_OK);
    char *text = strdup(text_of(&f, 0));
    assert_non_null(text);
    close_job(&f);
    return text;
}

static void every_line_is_answered_once_in_input_order(void **state) {
    fixture f;
    char lines[8192];
    size_t used = 0;
    for (int i = 0; i < 40; i++) { /* the first ones take longest */
        const char *form = i % 10 == 3
                               ? "{\"id\": %d, oops\n"
                               : "{\"id\": %d, \"prompt\": \"Say it\", \"max_tokens\": %d}\n\n";
        used += (size_t)snprintf(lines + used, sizeof lines - used, form, i, 40 - i);
    }
    open_job(&f, state, lines);
    run_job(&f);
    assert_int_equal(f.status, SL_OK);
    assert_int_equal(f.n_results, 40);
    assert_int_equal(f.counts.n_lines, 40);
    assert_int_equal(f.counts.n_answered, 36);
    assert_int_equal(f.counts.n_refused, 4);
    for (int i = 0; i < 40; i++) {
        char name[16];
        /* A malformed line has no name but its number; each line is followed by a blank one. */
        const int line = 1 + 2 * i - (i > 3) - (i > 13) - (i > 23) - (i > 33);
        snprintf(name, sizeof name, i % 10 == 3 ? "line-%d" : "%d", i % 10 == 3 ? line : i);
        assert_string_equal(name_of(&f, i), name);
    }
    close_job(&f);
}

static void finish_order_writes_short_answers_first(void **state) {
    fixture f;
    open_job(&f, state,
             "{\"id\": \"long\", \"prompt\": \"a b\", \"max_tokens\": 60}\n"
             "{\"id\": \"short\", \"prompt\": \"a b\", \"max_tokens\": 1}\n");
    f.options.order = SL_ORDER_FINISH;
    run_job(&f);
    assert_int_equal(f.n_results, 2);
    assert_string_equal(name_of(&f, 0), "short");
    assert_string_equal(name_of(&f, 1), "long");
    close_job(&f);
}

static void stop_string_ends_a_choice_before_it(void **state) {
    static const char start[] = "\"prompt\": \"Hello\", \"temperature\": 0, \"max_tokens\": 30";
    char line[512];
    snprintf(line, sizeof line, "{%s}\n", start);
    char *whole = text_alone(state, line);
    assert_true(strlen(whole) > 12);
    /* A piece of what it says becomes the stop string: from there on the text is gone. */
    size_t at = 6;
    while ((whole[at] & 0xc0) == 0x80) at++;
    size_t length = 3;
    while ((whole[at + length] & 0xc0) == 0x80) length++;
    char stop[16] = "";
    memcpy(stop, whole + at, length);
    json_t *request = json_pack("{s:s, s:i, s:i, s:s, s:b}", "prompt", "Hello", "temperature", 0,
                                "max_tokens", 30, "stop", stop, "return_token_ids", 1);
    assert_non_null(request);
    char *text = json_dumps(request, 0);
    fixture f;
    open_job(&f, state, text);
    run_job(&f);
    assert_int_equal(f.status, SL_OK);
    assert_string_equal(reason_of(&f, 0), "stop");
    assert_true(strncmp(text_of(&f, 0), whole, strlen(text_of(&f, 0))) == 0);
    assert_true(strstr(whole, stop) == whole + strlen(text_of(&f, 0)));
    assert_true(tokens_of(&f, 0) < 30);
    close_job(&f);
    free(text);
    json_decref(request);
    free(whole);
}

static void echo_gives_the_prompt_as_it_was_and_scores_it(void **state) {
    fixture f;
    open_job(&f, state,
             "{\"prompt\": \"Caf\\u00e9 one\", \"echo\": true, \"logprobs\": 1, "
             "\"max_tokens\": 0}\n");
    run_job(&f);
    assert_int_equal(f.status, SL_OK);
    assert_string_equal(text_of(&f, 0), "Caf\xc3\xa9 one");
    json_t *logprobs = json_object_get(choice_of(&f, 0, 0), "logprobs");
    json_t *tokens = json_object_get(logprobs, "tokens");
    json_t *offsets = json_object_get(logprobs, "text_offset");
    const size_t n = json_array_size(tokens);
    assert_true(n > 2 && n == json_array_size(offsets));
    assert_true(json_is_null(json_array_get(json_object_get(logprobs, "token_logprobs"), 0)));
    for (size_t i = 1; i < n; i++) {
        assert_true(json_is_real(json_array_get(json_object_get(logprobs, "token_logprobs"), i)));
        assert_true(json_integer_value(json_array_get(offsets, i)) <= 8);
    }
    close_job(&f);
}

static void choices_of_one_request_differ_and_repeat(void **state) {
    static const char line[] = "{\"prompt\": \"Hello\", \"n\": 3, \"max_tokens\": 12, \"seed\": 9, "
                               "\"return_token_ids\": true}\n";
    fixture f, g;
    open_job(&f, state, line);
    run_job(&f);
    /* Elsewhere in another job with another seed: the request's own seed is what counts. */
    char other[512];
    snprintf(other, sizeof other, "{\"prompt\": \"x\"}\n{\"prompt\": \"y\"}\n%s", line);
    open_job(&g, state, other);
    g.options.seed = 1234;
    run_job(&g);
    for (size_t c = 0; c < 3; c++) {
        json_t *mine = json_object_get(choice_of(&f, 0, c), "token_ids");
        assert_true(json_equal(mine, json_object_get(choice_of(&g, 2, c), "token_ids")));
        json_t *next = json_object_get(choice_of(&f, 0, (c + 1) % 3), "token_ids");
        assert_false(json_equal(mine, next));
    }
    close_job(&f);
    close_job(&g);
}

static void eos_ends_a_choice_unless_ignored_or_too_early(void **state) {
    static const char form[] = "{\"prompt\": \"Hello\", \"logit_bias\": {\"1200\": 100}, "
                               "\"temperature\": 0, \"max_tokens\": 5, \"ignore_eos\": %s, "
                               "\"min_tokens\": %d, \"return_token_ids\": true}\n";
    char lines[1024];
    size_t used = (size_t)snprintf(lines, sizeof lines, form, "false", 0);
    used += (size_t)snprintf(lines + used, sizeof lines - used, form, "true", 0);
    snprintf(lines + used, sizeof lines - used, form, "false", 3);
    fixture f;
    open_job(&f, state, lines);
    run_job(&f);
    assert_string_equal(reason_of(&f, 0), "stop");
    assert_int_equal(tokens_of(&f, 0), 1);
    assert_string_equal(text_of(&f, 0), "");
    assert_string_equal(reason_of(&f, 1), "length");
    assert_int_equal(tokens_of(&f, 1), 5);
    assert_string_equal(reason_of(&f, 2), "stop");
    assert_int_equal(tokens_of(&f, 2), 4);
    close_job(&f);
}

static void one_bad_prompt_of_several_refuses_the_line_alone(void **state) {
    fixture f;
    open_job(&f, state,
             "{\"prompt\": [\"fine\", \"\"], \"max_tokens\": 30}\n"
             "{\"prompt\": \"fine\", \"max_tokens\": 2}\n"
             "{\"prompt\": [[1], [5000]], \"max_tokens\": 30}\n");
    run_job(&f);
    assert_int_equal(f.status, SL_OK);
    assert_int_equal(f.counts.n_answered, 1);
    assert_int_equal(f.counts.n_refused, 2);
    json_t *error = json_object_get(body_of(&f, 0), "error");
    assert_string_equal(json_string_value(json_object_get(error, "message")),
                        "line 1: prompt: found no tokens");
    error = json_object_get(body_of(&f, 2), "error");
    assert_non_null(strstr(json_string_value(json_object_get(error, "message")), "5000"));
    close_job(&f);
}

static void unknown_field_is_told_once(void **state) {
    fixture f;
    open_job(&f, state,
             "{\"prompt\": \"a\", \"max_tokens\": 1}\n"
             "{\"prompt\": \"a\", \"max_tokens\": 1, \"frob\": 1}\n"
             "{\"prompt\": \"a\", \"max_tokens\": 1, \"frob\": 1}\n");
    run_job(&f);
    assert_string_equal(f.warnings, "line 2: unknown field \"frob\" is ignored, here and below;");
    close_job(&f);
}

static void stop_flag_ends_the_job_and_says_so(void **state) {
    fixture f;
    static volatile sig_atomic_t stop = 1;
    open_job(&f, state,
             "{\"prompt\": \"a\", \"max_tokens\": 100}\n"
             "{\"prompt\": \"b\", \"max_tokens\": 100}\n");
    f.options.stop = &stop;
    run_job(&f);
    assert_int_equal(f.status, SL_ERR_STOPPED);
    assert_non_null(strstr(sl_error_message(), "stopped"));
    assert_int_equal(f.n_results, 0);
    close_job(&f);
}

static const char resumed_lines[] =
    "{\"id\": \"long\", \"prompt\": \"a b\", \"max_tokens\": 60, \"return_token_ids\": true}\n"
    "\n"
    "{\"id\": \"short\", \"prompt\": \"a b\", \"max_tokens\": 2, \"return_token_ids\": true}\n"
    "{\"oops\n"
    "{\"id\": \"late\", \"prompt\": \"c\", \"max_tokens\": 9, \"n\": 2, \"return_token_ids\": "
    "true}\n"
    "{\"id\": \"last\", \"prompt\": \"d\", \"max_tokens\": 60, \"return_token_ids\": true}\n";

static volatile sig_atomic_t stop_now;
static int tokens_until_stop;

static int stop_after_some_tokens(void *user, int choice, const sl_choice *token) {
    if (--tokens_until_stop == 0) stop_now = 1;
    return sl_job_on_token(user, choice, token);
}

/* Runs the lines with a stop after so many tokens, then to the end; the results must be those of
 * an undisturbed run, and no token that was kept may be computed again. */
static void stop_and_go_on(void **state, sl_job_order order, int n_tokens, const fixture *whole) {
    fixture f, g;
    on_token = stop_after_some_tokens;
    tokens_until_stop = n_tokens;
    stop_now = 0;
    open_job(&f, state, resumed_lines);
    on_token = sl_job_on_token;
    remove(f.output);
    f.options.order = order;
    f.options.stop = &stop_now;
    f.resumes = 1;
    run_job(&f);
    assert_int_equal(f.status, SL_ERR_STOPPED);
    assert_non_null(strstr(sl_error_message(), "run the same command again to go on"));
    for (int i = 0; order == SL_ORDER_INPUT && i < f.n_results; i++)
        assert_string_equal(name_of(&f, i), name_of(whole, i));
    close_job(&f);

    open_job(&g, state, resumed_lines);
    g.options.order = order;
    g.resumes = 1;
    run_job(&g);
    assert_int_equal(g.status, SL_OK);
    assert_int_equal(g.n_results, whole->n_results);
    assert_int_equal(g.counts.n_before, f.counts.n_answered + f.counts.n_refused);
    assert_int_equal(g.counts.n_before + g.counts.n_lines, whole->counts.n_lines);
    assert_int_equal(f.counts.n_refused + g.counts.n_refused, 1);
    /* What either run completed, written or kept, is in the sum once. */
    assert_int_equal(f.counts.n_prompt_tokens + g.counts.n_prompt_tokens,
                     whole->counts.n_prompt_tokens);
    for (int i = 0; i < g.n_results; i++) {
        int k = 0;
        while (strcmp(name_of(whole, k), name_of(&g, i)) != 0) k++;
        assert_true(order == SL_ORDER_FINISH || k == i);
        const char *what = json_object_get(body_of(whole, k), "error") ? "error" : "choices";
        json_t *mine = json_object_get(body_of(&g, i), what);
        assert_true(json_equal(mine, json_object_get(body_of(whole, k), what)));
    }
    close_job(&g);
}

static void stopped_job_goes_on_without_doing_anything_twice(void **state) {
    fixture whole;
    open_job(&whole, state, resumed_lines);
    run_job(&whole);
    assert_int_equal(whole.status, SL_OK);
    assert_int_equal(whole.n_results, 5);
    for (int n_tokens = 1; n_tokens < 120; n_tokens += 7) {
        stop_and_go_on(state, SL_ORDER_INPUT, n_tokens, &whole);
        stop_and_go_on(state, SL_ORDER_FINISH, n_tokens, &whole);
    }
    close_job(&whole);
}

static void full_output_ends_the_job_with_the_reason(void **state) {
    fixture f;
    if (access("/dev/full", W_OK) != 0) skip();
    open_job(&f, state, "{\"prompt\": \"a\", \"max_tokens\": 3}\n");
    assert_int_equal(sl_reader_open(f.input, 0, &f.options.reader), SL_OK);
    assert_int_equal(sl_writer_open("/dev/full", &f.options.writer), SL_OK);
    assert_int_equal(sl_job_run(&f.options, &f.counts), SL_ERR_IO);
    assert_non_null(strstr(sl_error_message(), "/dev/full"));
    assert_int_equal(f.counts.engine_failed, 0);
    sl_reader_close(f.options.reader);
    sl_writer_close(f.options.writer);
    close_job(&f);
}

#define JOB_TEST(name) cmocka_unit_test_setup_teardown(name, make_dir, remove_dir)

int main(void) {
    const struct CMUnitTest tests[] = {
        JOB_TEST(every_line_is_answered_once_in_input_order),
        JOB_TEST(finish_order_writes_short_answers_first),
        JOB_TEST(stop_string_ends_a_choice_before_it),
        JOB_TEST(echo_gives_the_prompt_as_it_was_and_scores_it),
        JOB_TEST(choices_of_one_request_differ_and_repeat),
        JOB_TEST(eos_ends_a_choice_unless_ignored_or_too_early),
        JOB_TEST(one_bad_prompt_of_several_refuses_the_line_alone),
        JOB_TEST(unknown_field_is_told_once),
        JOB_TEST(stop_flag_ends_the_job_and_says_so),
        JOB_TEST(stopped_job_goes_on_without_doing_anything_twice),
        JOB_TEST(full_output_ends_the_job_with_the_reason),
    };
    return cmocka_run_group_tests_name("job", tests, NULL, NULL);
}
