/* Unit tests of the config readers: config_json.c, config_folder.c, config.c.  What HF makes of the
 * same files is in tests/golden/config. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>

#include "model/config.h"

static sl_status parse(const char *text, sl_model_config *out) {
    return sl_config_parse_json(text, strlen(text), "some/config.json", out);
}

static sl_model_config must_parse(const char *text) {
    sl_model_config c;
    memset(&c, 0, sizeof c);
    if (parse(text, &c) != SL_OK) fail_msg("%s: %s", text, sl_error_message());
    return c;
}

static void must_refuse(const char *text, const char *named) {
    sl_model_config c, before;
    memset(&c, 0x5a, sizeof c);
    before = c;
    if (parse(text, &c) != SL_ERR_FORMAT) fail_msg("%s was not refused", text);
    if (!strstr(sl_error_message(), named))
        fail_msg("%s: \"%s\" does not name %s", text, sl_error_message(), named);
    assert_non_null(strstr(sl_error_message(), "config.json"));
    assert_memory_equal(&c, &before, sizeof c); /* outputs are written on success only */
}

typedef struct {
    const char *name;
    double value;
} field;

static void check_fields(const char *name, const sl_model_config *c, const json_t *expected) {
    const field fields[] = {
        {"n_layers", c->n_layers},
        {"hidden", c->hidden},
        {"embed_dim", c->embed_dim},
        {"n_heads", c->n_heads},
        {"n_kv_heads", c->n_kv_heads},
        {"head_dim", c->head_dim},
        {"ffn", c->ffn},
        {"vocab", c->vocab},
        {"max_positions", c->max_positions},
        {"norm", c->norm},
        {"norm_place", c->norm_place},
        {"norm_affine", c->norm_affine},
        {"norm_bias", c->norm_bias},
        {"final_norm", c->final_norm},
        {"positions", c->positions},
        {"position_offset", c->position_offset},
        {"qkv_bias", c->qkv_bias},
        {"o_bias", c->o_bias},
        {"mlp_bias", c->mlp_bias},
        {"qk_norm", c->qk_norm},
        {"gated_mlp", c->gated_mlp},
        {"act", c->act},
        {"tied_head", c->tied_head},
        {"bos_id", c->bos_id},
        {"pad_id", c->pad_id},
        {"sliding_window", c->sliding_window},
        {"norm_eps", c->norm_eps},
        {"rope_theta", c->rope.theta},
        {"rope_scaling", c->rope.scaling},
        {"rope_factor", c->rope.factor},
        {"rope_low_freq_factor", c->rope.low_freq_factor},
        {"rope_high_freq_factor", c->rope.high_freq_factor},
        {"rope_original_max_position_embeddings", c->rope.original_positions},
    };
    size_t n_checked = 1; /* eos_id, below */
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        const json_t *value = json_object_get(expected, fields[i].name);
        if (!value) continue; /* HF has no such thing in this model */
        const double want = json_number_value(value);
        if (fabs(fields[i].value - want) > 1e-7 * fabs(want))
            fail_msg("%s: %s is %.9g, HF has %.9g", name, fields[i].name, fields[i].value, want);
        n_checked++;
    }
    assert_int_equal(n_checked, json_object_size(expected));
    const json_t *eos = json_object_get(expected, "eos_id");
    assert_int_equal((size_t)c->n_eos, json_array_size(eos));
    for (int i = 0; i < c->n_eos; i++)
        assert_int_equal(c->eos_id[i], json_integer_value(json_array_get(eos, (size_t)i)));
}

static void config_of_every_architecture_reads_as_in_hf(void **state) {
    (void)state;
    json_error_t error;
    json_t *golden = json_load_file(SL_TESTS_DIR "/golden/config/config.json", 0, &error);
    assert_non_null(golden);
    assert_true(json_array_size(golden) >= 15);
    for (size_t i = 0; i < json_array_size(golden); i++) {
        const json_t *entry = json_array_get(golden, i);
        const json_t *config = json_object_get(entry, "config");
        char *text = json_dumps(config, 0);
        assert_non_null(text);
        const sl_model_config c = must_parse(text);
        free(text);
        assert_string_equal(c.arch, json_string_value(json_object_get(config, "model_type")));
        check_fields(json_string_value(json_object_get(entry, "name")), &c,
                     json_object_get(entry, "fields"));
    }
    json_decref(golden);
}

static void config_without_model_type_goes_by_the_class(void **state) {
    (void)state;
    const sl_model_config c = must_parse("{\"architectures\": [\"Qwen3ForCausalLM\"]}");
    assert_string_equal(c.arch, "qwen3");
}

static void config_of_unknown_architecture_is_refused_by_name(void **state) {
    (void)state;
    must_refuse("{\"model_type\": \"gpt2\"}", "\"gpt2\"");
    must_refuse("{\"model_type\": \"gpt2\"}", "opt, llama, mistral, qwen2, qwen3");
    must_refuse("{}", "model_type");
    must_refuse("{\"architectures\": [\"BloomForCausalLM\"]}", "BloomForCausalLM");
    must_refuse("{\"model_type\": \"llama\", \"architectures\": "
                "[\"LlamaForSequenceClassification\"]}",
                "LlamaForSequenceClassification");
    must_refuse(
        "{\"model_type\": \"llama\", \"quantization_config\": {\"quant_method\": \"gptq\"}}",
        "gptq");
}

static void config_that_is_no_json_object_is_refused(void **state) {
    (void)state;
    must_refuse("", "line 1");
    must_refuse("{\"model_type\": \"opt\",\n \"hidden_size\": }", "line 2");
    must_refuse("[1, 2]", "expected an object");
    must_refuse("{\"model_type\": \"opt\"} trailing", "line 1");
}

static void config_with_wrong_types_names_the_key(void **state) {
    (void)state;
    static const struct {
        const char *text, *key;
    } cases[] = {
        {"{\"model_type\": 3}", "model_type"},
        {"{\"model_type\": \"opt\", \"architectures\": \"OPTForCausalLM\"}", "architectures"},
        {"{\"model_type\": \"opt\", \"architectures\": [1]}", "architectures"},
        {"{\"model_type\": \"opt\", \"hidden_size\": \"768\"}", "hidden_size"},
        {"{\"model_type\": \"opt\", \"hidden_size\": 768.0}", "hidden_size"},
        {"{\"model_type\": \"opt\", \"hidden_size\": null}", "hidden_size"},
        {"{\"model_type\": \"opt\", \"hidden_size\": 0}", "hidden_size"},
        {"{\"model_type\": \"opt\", \"hidden_size\": -768}", "hidden_size"},
        {"{\"model_type\": \"opt\", \"hidden_size\": 99999999999}", "hidden_size"},
        {"{\"model_type\": \"opt\", \"enable_bias\": 1}", "enable_bias"},
        {"{\"model_type\": \"opt\", \"activation_function\": 1}", "activation_function"},
        {"{\"model_type\": \"opt\", \"activation_function\": \"mish\"}", "mish"},
        {"{\"model_type\": \"opt\", \"bos_token_id\": [2]}", "bos_token_id"},
        {"{\"model_type\": \"opt\", \"eos_token_id\": \"2\"}", "eos_token_id"},
        {"{\"model_type\": \"opt\", \"eos_token_id\": [2, \"3\"]}", "eos_token_id"},
        {"{\"model_type\": \"opt\", \"eos_token_id\": [1,2,3,4,5,6,7,8,9]}", "eos_token_id"},
        {"{\"model_type\": \"llama\", \"rms_norm_eps\": \"1e-6\"}", "rms_norm_eps"},
        {"{\"model_type\": \"llama\", \"rms_norm_eps\": -1}", "rms_norm_eps"},
        {"{\"model_type\": \"llama\", \"rope_theta\": 0}", "rope_theta"},
        {"{\"model_type\": \"llama\", \"rope_theta\": 1e300}", "rope_theta"},
        {"{\"model_type\": \"llama\", \"rope_theta\": true}", "rope_theta"},
        {"{\"model_type\": \"llama\", \"rope_scaling\": 2}", "rope_scaling"},
        {"{\"model_type\": \"llama\", \"rope_parameters\": []}", "rope_parameters"},
        {"{\"model_type\": \"llama\", \"rope_scaling\": {\"type\": 1}}", "rope_type"},
        {"{\"model_type\": \"llama\", \"rope_scaling\": {\"type\": \"linear\"}}", "factor"},
        {"{\"model_type\": \"llama\", \"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8}}",
         "low_freq_factor"},
        {"{\"model_type\": \"llama\", \"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, "
         "\"low_freq_factor\": 4, \"high_freq_factor\": 4}}",
         "high_freq_factor"},
        {"{\"model_type\": \"mistral\", \"sliding_window\": 0}", "sliding_window"},
        {"{\"model_type\": \"qwen2\", \"use_sliding_window\": \"no\"}", "use_sliding_window"},
        {"{\"model_type\": \"qwen2\", \"max_window_layers\": -1}", "max_window_layers"},
        {"{\"model_type\": \"qwen2\", \"layer_types\": 1}", "layer_types"},
        {"{\"model_type\": \"qwen2\", \"layer_types\": [\"full_attention\"]}", "layer_types"},
        {"{\"model_type\": \"qwen2\", \"num_hidden_layers\": 1, \"layer_types\": [7]}",
         "layer_types"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        must_refuse(cases[i].text, cases[i].key);
}

static void config_with_inconsistent_sizes_is_refused(void **state) {
    (void)state;
    must_refuse("{\"model_type\": \"llama\", \"hidden_size\": 100, \"num_attention_heads\": 3}",
                "100");
    must_refuse("{\"model_type\": \"llama\", \"num_attention_heads\": 32, "
                "\"num_key_value_heads\": 12}",
                "12");
    must_refuse("{\"model_type\": \"llama\", \"num_key_value_heads\": 64}", "64");
    must_refuse("{\"model_type\": \"llama\", \"head_dim\": 33}", "33");
    must_refuse("{\"model_type\": \"llama\", \"head_dim\": 1024}", "1024");
    must_refuse("{\"model_type\": \"llama\", \"hidden_size\": 2000000000}", "2000000000");
    must_refuse("{\"model_type\": \"llama\", \"num_hidden_layers\": 1000000}", "1000000");
}

static void config_with_rope_that_is_not_ours_is_refused_by_name(void **state) {
    (void)state;
    static const char *const types[] = {"yarn", "dynamic", "longrope",
                                        "su",   "mrope",   "proportional"};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        char text[256];
        snprintf(text, sizeof text,
                 "{\"model_type\": \"llama\", \"rope_scaling\": {\"type\": \"%s\", \"factor\": 2}}",
                 types[i]);
        must_refuse(text, types[i]);
        snprintf(text, sizeof text,
                 "{\"model_type\": \"qwen3\", \"rope_parameters\": {\"rope_type\": \"%s\"}}",
                 types[i]);
        must_refuse(text, types[i]);
    }
    must_refuse("{\"model_type\": \"llama\", \"partial_rotary_factor\": 0.5}",
                "partial_rotary_factor");
    must_refuse("{\"model_type\": \"qwen2\", \"rope_scaling\": {\"mrope_section\": [1]}}",
                "mrope_section");
    must_refuse("{\"model_type\": \"qwen3\", \"rope_parameters\": {\"full_attention\": {}}}",
                "full_attention");
}

static void config_with_a_window_in_some_layers_is_refused(void **state) {
    (void)state;
    must_refuse("{\"model_type\": \"qwen2\", \"use_sliding_window\": true, "
                "\"max_window_layers\": 28}",
                "4 of 32");
    must_refuse(
        "{\"model_type\": \"qwen3\", \"num_hidden_layers\": 2, \"use_sliding_window\": true, "
        "\"layer_types\": [\"full_attention\", \"sliding_attention\"]}",
        "1 of 2");
    must_refuse("{\"model_type\": \"qwen3\", \"num_hidden_layers\": 1, "
                "\"layer_types\": [\"sliding_attention\"]}",
                "layer_types");
    must_refuse("{\"model_type\": \"llama\", \"num_hidden_layers\": 1, "
                "\"layer_types\": [\"chunked_attention\"]}",
                "chunked_attention");
    /* A window that is as long as the context hides nothing, wherever it holds. */
    const sl_model_config c =
        must_parse("{\"model_type\": \"qwen2\", \"use_sliding_window\": true, "
                   "\"sliding_window\": 32768, \"max_window_layers\": 28}");
    assert_int_equal(c.sliding_window, 0);
}

static void config_ids_outside_of_the_vocabulary_count_as_none(void **state) {
    (void)state;
    const sl_model_config c =
        must_parse("{\"model_type\": \"llama\", \"vocab_size\": 10, \"bos_token_id\": 10, "
                   "\"pad_token_id\": -1, \"eos_token_id\": [9, 10, 9]}");
    assert_int_equal(c.bos_id, -1);
    assert_int_equal(c.pad_id, -1);
    assert_int_equal(c.n_eos, 1);
    assert_int_equal(c.eos_id[0], 9);
}

static void generation_config_adds_end_ids(void **state) {
    (void)state;
    sl_model_config c = must_parse("{\"model_type\": \"llama\", \"eos_token_id\": 7}");
    const char *text = "{\"eos_token_id\": [7, 9], \"temperature\": 0.6}";
    assert_int_equal(sl_config_merge_generation(text, strlen(text), "g.json", &c), SL_OK);
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.eos_id[1], 9);

    const sl_model_config before = c;
    const char *bad = "{\"eos_token_id\": [8, \"x\"]}";
    assert_int_equal(sl_config_merge_generation(bad, strlen(bad), "g.json", &c), SL_ERR_FORMAT);
    assert_non_null(strstr(sl_error_message(), "g.json: eos_token_id"));
    assert_memory_equal(&c, &before, sizeof c);
}

static void named_sizes_have_the_published_shapes(void **state) {
    (void)state;
    sl_model_config c;
    assert_int_equal(sl_config_named("opt-30b", &c), SL_OK);
    assert_int_equal(c.n_layers, 48);
    assert_int_equal(c.hidden, 7168);
    assert_int_equal(c.head_dim, 128);
    assert_int_equal(c.ffn, 28672);
    assert_int_equal(c.vocab, 50272);
    assert_int_equal(c.eos_id[0], 2);

    assert_int_equal(sl_config_named("opt-350m", &c), SL_OK);
    const sl_model_config read =
        must_parse("{\"model_type\": \"opt\", \"hidden_size\": 1024, \"word_embed_proj_dim\": 512, "
                   "\"num_hidden_layers\": 24, \"num_attention_heads\": 16, \"ffn_dim\": 4096, "
                   "\"do_layer_norm_before\": false}");
    assert_memory_equal(&c, &read, sizeof c);

    assert_int_equal(sl_config_named("galactica-120b", &c), SL_OK);
    assert_int_equal(c.hidden, 10240);
    assert_int_equal(c.act, SL_ACT_GELU);
    assert_int_equal(c.qkv_bias + c.o_bias + c.mlp_bias, 0);
    assert_int_equal(c.vocab, 50000);
}

static void named_size_that_is_unknown_lists_the_known(void **state) {
    (void)state;
    sl_model_config c;
    assert_int_equal(sl_config_named("opt-31b", &c), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "\"opt-31b\""));
    assert_non_null(strstr(sl_error_message(), "opt-125m, opt-350m"));
    assert_non_null(strstr(sl_error_message(), "galactica-120b"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(config_of_every_architecture_reads_as_in_hf),
        cmocka_unit_test(config_without_model_type_goes_by_the_class),
        cmocka_unit_test(config_of_unknown_architecture_is_refused_by_name),
        cmocka_unit_test(config_that_is_no_json_object_is_refused),
        cmocka_unit_test(config_with_wrong_types_names_the_key),
        cmocka_unit_test(config_with_inconsistent_sizes_is_refused),
        cmocka_unit_test(config_with_rope_that_is_not_ours_is_refused_by_name),
        cmocka_unit_test(config_with_a_window_in_some_layers_is_refused),
        cmocka_unit_test(config_ids_outside_of_the_vocabulary_count_as_none),
        cmocka_unit_test(generation_config_adds_end_ids),
        cmocka_unit_test(named_sizes_have_the_published_shapes),
        cmocka_unit_test(named_size_that_is_unknown_lists_the_known),
    };
    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
