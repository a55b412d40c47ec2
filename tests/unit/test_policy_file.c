/* Policies as files: what is written is read back, anything else is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "policy_file.h"

static sl_policy example(void) {
    sl_policy p;
    sl_policy_init(&p);
    p.micro_batch = 124;
    p.num_micro_batches = 2;
    p.max_rows = 2048;
    p.blocks_in_flight = 1;
    p.max_context = 544;
    p.weights_dtype = SL_DTYPE_Q4G64;
    p.cache_dtype = SL_DTYPE_Q8G64;
    p.weights = (sl_shares){{0.8125, 0.125, 0.0625}};
    p.cache = (sl_shares){{0.05, 0.95, 0}};
    p.host_attends = 0.6;
    return p;
}

static void assert_same_decisions(const sl_policy *a, const sl_policy *b) {
    assert_int_equal(a->micro_batch, b->micro_batch);
    assert_int_equal(a->num_micro_batches, b->num_micro_batches);
    assert_int_equal(a->max_rows, b->max_rows);
    assert_int_equal(a->blocks_in_flight, b->blocks_in_flight);
    assert_int_equal(a->max_context, b->max_context);
    assert_int_equal(a->weights_dtype, b->weights_dtype);
    assert_int_equal(a->cache_dtype, b->cache_dtype);
    assert_memory_equal(&a->weights, &b->weights, sizeof a->weights);
    assert_memory_equal(&a->cache, &b->cache, sizeof a->cache);
    assert_memory_equal(&a->hidden, &b->hidden, sizeof a->hidden);
    assert_true(a->host_attends == b->host_attends);
}

static void written_policies_are_read_back(void **state) {
    (void)state;
    char path[] = "/tmp/sl-policy-XXXXXX";
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    sl_policy p = example(), read;
    sl_policy_init(&read);
    read.cpu_budget_bytes = 77;
    assert_int_equal(sl_policy_write(&p, "a \"model\"", "a machine", path), SL_OK);
    assert_int_equal(sl_policy_read(path, &read), SL_OK);
    assert_same_decisions(&p, &read);
    assert_int_equal(read.cpu_budget_bytes, 77); /* no decision */
    p.hidden = (sl_shares){{0.25, 0.5, 0.25}};
    p.weights_dtype = SL_DTYPE_AS_STORED;
    assert_int_equal(sl_policy_write(&p, NULL, NULL, path), SL_OK);
    assert_int_equal(sl_policy_read(path, &read), SL_OK);
    assert_same_decisions(&p, &read);
    unlink(path);
    assert_int_equal(sl_policy_read(path, &read), SL_ERR_IO);
    assert_non_null(strstr(sl_error_message(), path));
}

/* The example with `from` replaced by `to` is refused, and the message holds `words`. */
static void refused(const char *from, const char *to, const char *words) {
    char text[2048];
    const sl_policy p = example();
    sl_policy read, before;
    sl_json_text whole = {0};
    sl_policy_init(&read);
    memcpy(&before, &read, sizeof read);
    sl_policy_print(&p, NULL, NULL, &whole);
    assert_int_equal(sl_json_status(&whole), SL_OK);
    const char *at = strstr(whole.data, from);
    if (!at) fail_msg("no %s in %s", from, whole.data);
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - whole.data), whole.data, to,
             at + strlen(from));
    assert_int_equal(sl_policy_parse(text, strlen(text), "p.json", &read), SL_ERR_FORMAT);
    if (!strstr(sl_error_message(), words))
        fail_msg("\"%s\" does not say \"%s\"", sl_error_message(), words);
    assert_non_null(strstr(sl_error_message(), "p.json"));
    assert_memory_equal(&before, &read, sizeof read);
    sl_json_free(&whole);
}

static void what_is_no_policy_is_refused_by_name(void **state) {
    (void)state;
    refused("{", "[", "line");
    refused("\"policy_version\": 1", "\"policy_version\": 2", "policy_version");
    refused("\"max_rows\"", "\"max_row\"", "max_row");
    refused("\"max_rows\": 2048,", "", "max_rows is missing");
    refused("124", "-1", "micro_batch");
    refused("124", "1.5", "micro_batch");
    refused("\"q4\"", "\"q5\"", "weights");
    refused("\"q8\"", "\"stored\"", "cache");
    refused("0.8125", "0.9", "sum to 1");
    refused("0.8125", "2", "0 to 1");
    refused("\"gpu\"", "\"tpu\"", "gpu, cpu and disk");
    refused("0.6", "1.01", "cpu_attention");
    refused("0.6", "\"all\"", "cpu_attention");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(written_policies_are_read_back),
        cmocka_unit_test(what_is_no_policy_is_refused_by_name),
    };
    return cmocka_run_group_tests_name("policy_file", tests, NULL, NULL);
}
