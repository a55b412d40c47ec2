/* Unit tests of src/job/service.c, api.c and stream.c: calls from other threads into one engine, a
 * small random model and a real tokenizer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>
#include <pthread.h>

#include "cpu/cpu_backend.h"
#include "job/service.h"
#include "support/files.h"

static const char config_text[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"hidden_size\": 32,"
    " \"intermediate_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 2,"
    " \"num_key_value_heads\": 1, \"hidden_act\": \"silu\", \"max_position_embeddings\": 4096,"
    " \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"vocab_size\": 1280,"
    " \"bos_token_id\": 1200, \"eos_token_id\": 1200, \"tie_word_embeddings\": false}";

/* The waiting side of one call, as an HTTP connection would be. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t woken;
    int is_parked, is_gone;
    sl_call *call;
} client;

typedef struct {
    sl_model_config config;
    sl_transport *transport;
    sl_backend *backend;
    sl_engine *engine;
    sl_tokenizer *tokenizer;
    sl_api api;
    sl_service *service;
    pthread_t thread;
    sl_status status;
} fixture;

static void wake(void *user) {
    client *c = user;
    pthread_mutex_lock(&c->lock);
    c->is_parked = 0;
    pthread_cond_signal(&c->woken);
    pthread_mutex_unlock(&c->lock);
}

static void park(void *user) {
    client *c = user;
    pthread_mutex_lock(&c->lock);
    c->is_parked = 1;
    pthread_mutex_unlock(&c->lock);
}

static int is_gone(void *user) {
    client *c = user;
    pthread_mutex_lock(&c->lock);
    const int gone = c->is_gone;
    pthread_mutex_unlock(&c->lock);
    return gone;
}

static void wait_woken(client *c) {
    pthread_mutex_lock(&c->lock);
    while (c->is_parked) pthread_cond_wait(&c->woken, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

static void *run(void *user) {
    fixture *f = user;
    int engine_failed;
    f->status = sl_service_run(f->service, &engine_failed);
    return NULL;
}

static void open_service(fixture *f, void **state, const sl_service_options *limits) {
    char model[192];
    sl_source *source = NULL;
    sl_policy policy;
    memset(f, 0, sizeof *f);
    snprintf(model, sizeof model, "dummy:%s/config.json", (const char *)*state);
    FILE *file = fopen(model + 6, "wb");
    assert_non_null(file);
    assert_true(fputs(config_text, file) >= 0);
    fclose(file);
    assert_int_equal(sl_source_open(model, 1, &source), SL_OK);
    f->config = *sl_source_config(source);
    const sl_cpu_options cpu = {.n_threads = 1};
    assert_int_equal(sl_cpu_backend_open(&cpu, &f->backend), SL_OK);
    assert_int_equal(sl_transport_open_loopback(&f->transport), SL_OK);
    sl_policy_init(&policy);
    policy.micro_batch = 4;
    policy.cpu_budget_bytes = 64 << 20;
    assert_int_equal(
        sl_engine_open(source, f->backend, f->transport, &policy, sl_service_on_token, &f->engine),
        SL_OK);
    sl_source_close(source);
    assert_int_equal(sl_tokenizer_open_folder(SL_TESTS_DIR "/golden/tokenizer/gpt2", &f->tokenizer),
                     SL_OK);
    sl_api_init(f->tokenizer, &f->api);
    f->api.model_name = "m";
    f->api.model_path = "/models/m";
    f->api.max_context = 4096;
    f->api.defaults.ignore_eos = 1;
    sl_service_options options = *limits;
    options.engine = f->engine;
    options.config = &f->config;
    options.api = &f->api;
    options.wake = wake;
    options.is_gone = is_gone;
    assert_int_equal(sl_service_open(&options, &f->service), SL_OK);
}

static void start_service(fixture *f) {
    assert_int_equal(pthread_create(&f->thread, NULL, run, f), 0);
}

static void stop_service(fixture *f) {
    sl_service_stop(f->service);
    pthread_join(f->thread, NULL);
    assert_int_equal(f->status, SL_OK);
}

static void close_service(fixture *f) {
    sl_service_close(f->service);
    sl_engine_close(f->engine);
    sl_backend_close(f->backend);
    sl_transport_close(f->transport);
    sl_tokenizer_close(f->tokenizer);
    sl_params_free(&f->api.defaults);
}

static void submit(fixture *f, client *c, const char *body) {
    memset(c, 0, sizeof *c);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->woken, NULL);
    assert_int_equal(
        sl_service_submit(f->service, SL_ANSWER_COMPLETION, body, strlen(body), c, &c->call),
        SL_OK);
}

/* Waits for the whole answer and ends the call.  The caller frees the text. */
static char *finish(client *c, int *status_out) {
    char *text = calloc(1, 1 << 20);
    size_t used = 0, n = 0;
    int is_stream;
    assert_non_null(text);
    while (sl_call_await(c->call, park, status_out, &is_stream) == SL_CALL_PARKED) wait_woken(c);
    for (;;) {
        const sl_call_state state = sl_call_read(c->call, park, text + used, 100, &n);
        assert_int_not_equal(state, SL_CALL_GONE);
        if (state == SL_CALL_PARKED) {
            wait_woken(c);
        } else if (n == 0) {
            break;
        } else {
            used += n;
        }
    }
    sl_call_release(c->call);
    return text;
}

static json_t *answer(fixture *f, const char *body, int *status_out) {
    client c;
    submit(f, &c, body);
    char *text = finish(&c, status_out);
    json_t *root = json_loads(text, 0, NULL);
    if (!root) fail_msg("no JSON: %s", text);
    free(text);
    return root;
}

static const char *text_of(const json_t *root) {
    const json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
    return json_string_value(json_object_get(choice, "text"));
}

static const char *const LONG_BODY =
    "{\"prompt\": [1, 2, 3], \"max_tokens\": 4000, \"temperature\": 0}";

static const sl_service_options usual = {.max_queue = 64, .drain_s = 60};

static void many_calls_are_answered_each_as_if_alone(void **state) {
    enum { N = 40 };
    fixture f;
    client clients[N];
    open_service(&f, state, &usual);
    start_service(&f);
    char body[256];
    for (int i = 0; i < N; i++) {
        snprintf(body, sizeof body,
                 "{\"prompt\": [%d, 2, 3], \"max_tokens\": %d, \"temperature\": 0}", i % 7,
                 5 + i % 3);
        submit(&f, &clients[i], body);
    }
    char *texts[N];
    for (int i = 0; i < N; i++) {
        int status = 0;
        texts[i] = finish(&clients[i], &status);
        assert_int_equal(status, 200);
    }
    for (int i = 21; i < N; i++) { /* the same prompt and length 21 calls before */
        json_t *a = json_loads(texts[i], 0, NULL), *b = json_loads(texts[i - 21], 0, NULL);
        assert_string_equal(text_of(a), text_of(b));
        json_decref(a);
        json_decref(b);
    }
    for (int i = 0; i < N; i++) free(texts[i]);
    sl_metrics m;
    stop_service(&f);
    sl_service_metrics(f.service, &m);
    assert_int_equal(m.n_cut, N);
    close_service(&f);
}

/* Joins the texts of a stream's events; checks the framing. */
static void join_events(char *stream, char *text, size_t room, char reason[16]) {
    char *save = NULL;
    int done = 0;
    text[0] = '\0';
    assert_non_null(strstr(stream, "\n\ndata: [DONE]\n\n"));
    for (char *line = strtok_r(stream, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        assert_int_equal(strncmp(line, "data: ", 6), 0);
        assert_false(done);
        done = strcmp(line, "data: [DONE]") == 0;
        if (done) continue;
        json_t *root = json_loads(line + 6, 0, NULL);
        assert_non_null(root);
        const json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
        if (choice) {
            const char *why = json_string_value(json_object_get(choice, "finish_reason"));
            strncat(text, text_of(root), room - strlen(text) - 1);
            if (why) snprintf(reason, 16, "%s", why);
        }
        json_decref(root);
    }
    assert_true(done);
}

static void check_stream(fixture *f, const char *fields) {
    char body[512], joined[1 << 14], reason[16] = "";
    int status = 0;
    snprintf(body, sizeof body, "{\"prompt\": \"Hello there\", \"temperature\": 0%s}", fields);
    json_t *whole = answer(f, body, &status);
    assert_int_equal(status, 200);
    snprintf(body, sizeof body,
             "{\"prompt\": \"Hello there\", \"temperature\": 0, \"stream\": true%s}", fields);
    client c;
    submit(f, &c, body);
    char *stream = finish(&c, &status);
    assert_int_equal(status, 200);
    join_events(stream, joined, sizeof joined, reason);
    assert_string_equal(joined, text_of(whole));
    const json_t *choice = json_array_get(json_object_get(whole, "choices"), 0);
    assert_string_equal(reason, json_string_value(json_object_get(choice, "finish_reason")));
    free(stream);
    json_decref(whole);
}

static void streams_join_to_the_whole_answer(void **state) {
    fixture f;
    int status = 0;
    char fields[512];
    open_service(&f, state, &usual);
    start_service(&f);
    check_stream(&f, ", \"max_tokens\": 40");
    check_stream(&f, ", \"max_tokens\": 40, \"echo\": true");
    check_stream(&f, ", \"max_tokens\": 0, \"echo\": true");
    check_stream(&f, ", \"max_tokens\": 12, \"logprobs\": 2");
    /* A stop string that begins in one token and ends in another. */
    json_t *whole = answer(
        &f, "{\"prompt\": \"Hello there\", \"temperature\": 0, \"max_tokens\": 40}", &status);
    char stop[8] = "";
    const char *text = text_of(whole);
    for (size_t i = 10, n = 0; text[i] && n < 6; i++)
        if (text[i] > ' ' && text[i] < 127 && text[i] != '"' && text[i] != '\\') {
            stop[n++] = text[i];
        } else {
            n = 0;
            memset(stop, 0, sizeof stop);
        }
    snprintf(fields, sizeof fields, ", \"max_tokens\": 40, \"stop\": [\"%s\", \"%.3s~\"]",
             stop[0] ? stop : "x", stop[0] ? stop : "x");
    check_stream(&f, fields);
    json_decref(whole);
    stop_service(&f);
    close_service(&f);
}

static void refusals_have_status_and_field(void **state) {
    static const struct {
        const char *body, *param;
        int status;
    } cases[] = {
        {"{\"prompt\": 3}", "prompt", 400},
        {"{\"prompt\": [1, 9999]}", NULL, 400},
        {"{\"prompt\": \"x\", \"n\": \"two\"}", "n", 400},
        {"{\"prompt\": \"x\", \"stream\": 1}", "stream", 400},
        {"{\"prompt\": \"x\", \"model\": \"other\"}", "model", 404},
        {"{\"prompt\": [1], \"max_tokens\": 5000}", NULL, 400},
        {"{\"prompt\": [1], \"max_tokens\": 5000, \"stream\": true}", NULL, 400},
        {"{\"prompt\": [[1], [2, 70000]]}", NULL, 400},
        {"{\"prompt\": [[1],[1],[1],[1],[1],[1],[1],[1],[1],[1],[1],[1],[1],[1],[1],[1],[1]],"
         " \"n\": 1024}",
         "prompt", 400},
        {"[]", NULL, 400},
        {"{\"prompt\"", NULL, 400},
        {"", NULL, 400},
    };
    fixture f;
    open_service(&f, state, &usual);
    start_service(&f);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int status = 0;
        json_t *root = answer(&f, cases[i].body, &status);
        const json_t *error = json_object_get(root, "error");
        assert_int_equal(status, cases[i].status);
        assert_null(strstr(json_string_value(json_object_get(error, "message")), "line "));
        const char *param = json_string_value(json_object_get(error, "param"));
        if (cases[i].param) assert_string_equal(param, cases[i].param);
        json_decref(root);
    }
    stop_service(&f);
    close_service(&f);
}

static void a_full_queue_refuses_and_a_stop_answers_all(void **state) {
    const sl_service_options small = {.max_queue = 2, .drain_s = 0};
    fixture f;
    client a, b, c;
    int status = 0;
    open_service(&f, state, &small); /* nothing runs yet */
    submit(&f, &a, LONG_BODY);
    submit(&f, &b, LONG_BODY);
    submit(&f, &c, LONG_BODY);
    free(finish(&c, &status));
    assert_int_equal(status, 429);
    start_service(&f);
    sl_service_stop(f.service);
    assert_false(sl_service_is_open(f.service));
    while (sl_call_await(a.call, park, &status, &(int){0}) == SL_CALL_PARKED) {
        sl_service_tick(f.service);
        wait_woken(&a);
    }
    sl_service_tick(f.service);
    assert_int_equal(status, 503);
    free(finish(&a, &status));
    free(finish(&b, &status));
    assert_int_equal(status, 503);
    stop_service(&f);
    submit(&f, &c, LONG_BODY);
    free(finish(&c, &status));
    assert_int_equal(status, 503);
    close_service(&f);
}

static void vanished_clients_leave_nothing_behind(void **state) {
    fixture f;
    client c, d, e;
    int status = 0, is_stream = 0;
    open_service(&f, state, &usual);
    start_service(&f);
    /* One that waits and hangs up, one that drops its call, and one of a stream half read. */
    submit(&f, &c, LONG_BODY);
    submit(&f, &d, LONG_BODY);
    submit(&f, &e,
           "{\"prompt\": [1, 2, 3], \"max_tokens\": 4000, \"temperature\": 0, \"stream\": true}");
    assert_int_equal(sl_call_await(c.call, park, &status, &is_stream), SL_CALL_PARKED);
    pthread_mutex_lock(&c.lock);
    c.is_gone = 1;
    pthread_mutex_unlock(&c.lock);
    sl_service_tick(f.service);
    wait_woken(&c);
    assert_int_equal(sl_call_await(c.call, park, &status, &is_stream), SL_CALL_GONE);
    sl_call_release(c.call);
    sl_call_release(d.call);
    while (sl_call_await(e.call, park, &status, &is_stream) == SL_CALL_PARKED) wait_woken(&e);
    assert_true(is_stream);
    sl_call_release(e.call);
    /* The engine is free for others at once. */
    json_decref(answer(&f, "{\"prompt\": [5], \"max_tokens\": 3}", &status));
    assert_int_equal(status, 200);
    stop_service(&f);
    sl_metrics m;
    sl_service_metrics(f.service, &m);
    assert_int_equal(m.n_aborted, 3);
    assert_true(m.n_generated_tokens < 4000);
    assert_int_equal(sl_engine_n_running(f.engine), 0);
    close_service(&f);
}

static void overdue_calls_are_answered_with_503(void **state) {
    const sl_service_options hasty = {.max_queue = 8, .timeout_s = 1e-6, .drain_s = 60};
    fixture f;
    client c;
    int status = 0;
    open_service(&f, state, &hasty);
    submit(&f, &c, LONG_BODY);
    sl_service_tick(f.service);
    start_service(&f);
    free(finish(&c, &status));
    assert_int_equal(status, 503);
    stop_service(&f);
    close_service(&f);
}

static void tokens_go_there_and_back(void **state) {
    (void)state;
    sl_tokenizer *tokenizer = NULL;
    sl_api api;
    sl_json_text out = {0};
    int status = 0;
    assert_int_equal(sl_tokenizer_open_folder(SL_TESTS_DIR "/golden/tokenizer/gpt2", &tokenizer),
                     SL_OK);
    sl_api_init(tokenizer, &api);
    api.model_name = api.model_path = "m";
    api.max_context = 99;
    static const char body[] = "{\"prompt\": \"Hi \\u00e9\"}";
    assert_int_equal(sl_api_tokenize(&api, body, sizeof body - 1, &status, &out), SL_OK);
    assert_int_equal(status, 200);
    json_t *root = json_loads(out.data, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(root, "max_model_len")), 99);
    assert_int_equal(json_integer_value(json_object_get(root, "count")),
                     (json_int_t)json_array_size(json_object_get(root, "tokens")));
    char *back = json_dumps(root, 0); /* has "tokens" too */
    sl_json_clear(&out);
    assert_int_equal(sl_api_detokenize(&api, back, strlen(back), &status, &out), SL_OK);
    assert_int_equal(status, 200);
    assert_string_equal(out.data, "{\"prompt\": \"Hi \xc3\xa9\"}");
    sl_json_clear(&out);
    assert_int_equal(sl_api_detokenize(&api, "{\"tokens\": [\"a\"]}", 17, &status, &out), SL_OK);
    assert_int_equal(status, 400);
    free(back);
    json_decref(root);
    sl_json_free(&out);
    sl_params_free(&api.defaults);
    sl_tokenizer_close(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(many_calls_are_answered_each_as_if_alone, make_dir,
                                        remove_dir),
        cmocka_unit_test_setup_teardown(streams_join_to_the_whole_answer, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(refusals_have_status_and_field, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_full_queue_refuses_and_a_stop_answers_all, make_dir,
                                        remove_dir),
        cmocka_unit_test_setup_teardown(vanished_clients_leave_nothing_behind, make_dir,
                                        remove_dir),
        cmocka_unit_test_setup_teardown(overdue_calls_are_answered_with_503, make_dir, remove_dir),
        cmocka_unit_test(tokens_go_there_and_back),
    };
    return cmocka_run_group_tests_name("service", tests, NULL, NULL);
}
