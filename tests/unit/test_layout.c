/* Unit tests of src/model/layout.c with dummy models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"
#include "model/layout.h"
#include "model/pack.h"
#include "model/pack_search.h"
#include "model/quant.h"

static sl_source *must_open(const char *model) {
    sl_source *s = NULL;
    if (sl_source_open(model, 3, &s) != SL_OK) fail_msg("%s: %s", model, sl_error_message());
    return s;
}

/* Everything that layout.h promises of any layer. */
static void check_layout(const sl_source *s, const sl_layout *l) {
    size_t end = 0;
    sl_role last_role = SL_ROLE_COUNT;
    int64_t next_row = 0, rows = 0, cols = 0;
    assert_int_equal(l->bytes % SL_PACK_ALIGN, 0);
    for (int i = 0; i < l->n_pieces; i++) {
        const sl_piece *p = &l->pieces[i];
        const int is_vector = sl_role_is_vector(p->role);
        assert_int_equal(is_vector, i < l->n_vectors);
        assert_int_equal(p->offset_bytes % (is_vector ? SL_VECTOR_ALIGN : SL_PACK_ALIGN), 0);
        assert_true(p->offset_bytes >= end); /* none overlap */
        assert_int_equal(p->bytes, (size_t)p->n_rows * p->row_bytes);
        end = p->offset_bytes + p->bytes;

        if (p->role != last_role) { /* the tensor before was packed whole */
            sl_dtype dtype = SL_DTYPE_COUNT;
            assert_int_equal(next_row, rows);
            assert_int_equal(sl_source_shape(s, l->layer, p->role, &rows, &cols, &dtype), SL_OK);
            assert_int_equal(p->dtype, is_vector ? SL_DTYPE_F32 : dtype);
            next_row = 0;
            last_role = p->role;
        }
        assert_int_equal(p->row0, next_row);
        assert_int_equal(p->cols, cols);
        next_row += p->n_rows;

        const size_t whole = (size_t)rows * p->row_bytes;
        const size_t slack = (size_t)SL_PIECE_ROWS * p->row_bytes;
        assert_int_equal(p->row0 % SL_PIECE_ROWS, 0);
        if (!is_vector && whole < (size_t)SL_PIECE_BYTES) assert_int_equal(p->bytes, whole);
        if (!is_vector && whole >= 2 * ((size_t)SL_PIECE_BYTES + slack)) {
            assert_true(p->bytes >= (size_t)SL_PIECE_BYTES);
            assert_true(p->bytes <= 2 * ((size_t)SL_PIECE_BYTES + slack) + slack);
        }
    }
    assert_int_equal(next_row, rows);
    assert_true(end <= l->bytes && l->bytes - end < SL_PACK_ALIGN);
}

static void layout_of_named_models_keeps_its_promises(void **state) {
    (void)state;
    static const char *const models[] = {"dummy:opt-125m", "dummy:opt-350m", "dummy:opt-13b",
                                         "dummy:opt-175b", "dummy:galactica-1.3b"};
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        sl_source *s = must_open(models[i]);
        const int n_layers = sl_source_config(s)->n_layers;
        const int layers[] = {SL_LAYER_EMBED, 0, n_layers - 1, n_layers};
        for (int j = 0; j < 4; j++) {
            for (int with_head = 0; with_head < 2; with_head++) {
                sl_layout l = {0};
                assert_int_equal(sl_layout_make(s, layers[j], with_head, &l), SL_OK);
                assert_int_equal(l.layer, layers[j]);
                check_layout(s, &l);
                sl_layout_free(&l);
            }
        }
        sl_source_close(s);
    }
}

/* The roles of a layer, each once, in order. */
static void check_roles(const sl_source *s, int layer, int with_head, const char *expected) {
    sl_layout l = {0};
    char found[512] = "";
    sl_role last = SL_ROLE_COUNT;
    assert_int_equal(sl_layout_make(s, layer, with_head, &l), SL_OK);
    for (int i = 0; i < l.n_pieces; i++) {
        if (l.pieces[i].role == last) continue;
        last = l.pieces[i].role;
        if (found[0]) strcat(found, " ");
        strcat(found, sl_role_name(last));
    }
    assert_string_equal(found, expected);
    sl_layout_free(&l);
}

static void layout_has_vectors_then_matrices_in_order(void **state) {
    (void)state;
    sl_source *s = must_open("dummy:opt-350m");
    check_roles(s, SL_LAYER_EMBED, 0, "token_embed pos_embed project_in");
    check_roles(s, 0, 0,
                "attn_norm_gain attn_norm_bias q_bias k_bias v_bias o_bias mlp_norm_gain "
                "mlp_norm_bias up_bias down_bias q k v o up down");
    check_roles(s, 24, 0, "project_out"); /* post-norm: no final norm; the head is tied */
    check_roles(s, 24, 1, "project_out head");
    sl_source_close(s);

    s = must_open("dummy:galactica-125m");
    check_roles(s, SL_LAYER_EMBED, 0, "token_embed pos_embed");
    check_roles(s, 3, 0,
                "attn_norm_gain attn_norm_bias mlp_norm_gain mlp_norm_bias q k v o up down");
    check_roles(s, 12, 1, "final_norm_gain final_norm_bias head");
    sl_source_close(s);

    static const char *const qwen3 = "{\"model_type\": \"qwen3\", \"num_hidden_layers\": 1, "
                                     "\"hidden_size\": 64, \"vocab_size\": 99, "
                                     "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
                                     "\"intermediate_size\": 32}";
    sl_model_config c;
    assert_int_equal(sl_config_parse_json(qwen3, strlen(qwen3), "qwen3", &c), SL_OK);
    assert_int_equal(sl_source_open_dummy(&c, "qwen3", 1, &s), SL_OK);
    check_roles(s, SL_LAYER_EMBED, 0, "token_embed");
    check_roles(s, 0, 0,
                "attn_norm_gain q_norm_gain k_norm_gain mlp_norm_gain q k v o gate up down");
    check_roles(s, 1, 0, "final_norm_gain head"); /* not tied: always packed */
    sl_source_close(s);
}

static void layout_may_be_empty(void **state) {
    (void)state;
    sl_model_config c;
    sl_source *s = NULL;
    sl_layout l = {.n_pieces = 5};
    assert_int_equal(sl_config_named("opt-125m", &c), SL_OK);
    c.final_norm = 0;
    assert_int_equal(sl_source_open_dummy(&c, "no final norm", 1, &s), SL_OK);
    assert_int_equal(sl_layout_make(s, c.n_layers, 0, &l), SL_OK);
    assert_int_equal(l.n_pieces, 0);
    assert_int_equal(l.bytes, 0);
    sl_layout_free(&l);
    sl_source_close(s);
}

static void layout_read_gives_the_rows_of_the_piece(void **state) {
    (void)state;
    sl_source *s = must_open("dummy:opt-2.7b"); /* MLP of several slabs */
    sl_layout l = {0};
    assert_int_equal(sl_layout_make(s, 1, 0, &l), SL_OK);
    int n_later_slabs = 0;
    for (int i = 0; i < l.n_pieces; i++) {
        const sl_piece *p = &l.pieces[i];
        char *found = malloc(p->bytes), *expected = malloc(p->bytes);
        assert_non_null(found);
        assert_non_null(expected);
        assert_int_equal(sl_layout_read(s, &l, i, found), SL_OK);
        if (sl_role_is_vector(p->role))
            assert_int_equal(
                sl_source_read_vector(s, 1, p->role, (float *)(void *)expected, p->cols), SL_OK);
        else
            assert_int_equal(
                sl_source_read_rows(s, 1, p->role, p->row0, p->n_rows, expected, p->bytes), SL_OK);
        assert_memory_equal(found, expected, p->bytes);
        n_later_slabs += p->row0 > 0;
        free(expected);
        free(found);
    }
    assert_true(n_later_slabs > 4);
    assert_int_equal(sl_layout_read(s, &l, l.n_pieces, NULL), SL_ERR_ARG);
    assert_int_equal(sl_layout_read(s, &l, -1, NULL), SL_ERR_ARG);
    sl_layout_free(&l);
    sl_source_close(s);
}

/* Values of a packed piece against those stored: exact in F32 and F16, within half a step of its
 * group in the low-bit formats. */
static void check_converted(const sl_source *s, const sl_layout *l, int piece) {
    const sl_piece *p = &l->pieces[piece];
    const int bits = sl_dtype_group_bits(p->dtype);
    unsigned char *packed = malloc(p->bytes);
    sl_f16 *stored = malloc((size_t)p->cols * sizeof *stored); /* dummies are F16 */
    float *y = malloc((size_t)p->cols * sizeof *y);
    assert_int_equal(sl_layout_read(s, l, piece, packed), SL_OK);
    for (int64_t r = 0; r < p->n_rows; r += 37) {
        assert_int_equal(sl_source_read_rows(s, l->layer, p->role, p->row0 + r, 1, stored,
                                             (size_t)p->cols * sizeof *stored),
                         SL_OK);
        sl_dequantize_row(y, packed + (size_t)r * p->row_bytes, p->dtype, p->cols);
        for (int64_t c0 = 0; c0 < p->cols; c0 += SL_GROUP_ELEMS) {
            float low = 1e30f, high = -1e30f;
            const int64_t end = c0 + SL_GROUP_ELEMS < p->cols ? c0 + SL_GROUP_ELEMS : p->cols;
            for (int64_t c = c0; c < end; c++) {
                const float x = sl_f16_to_f32(stored[c]);
                low = x < low ? x : low;
                high = x > high ? x : high;
            }
            /* 1.01: step and minimum are rounded to f16, away from the values. */
            const float half = bits ? 1.01f * (high - low) / (float)((1 << bits) - 1) / 2 : 0.0f;
            for (int64_t c = c0; c < end; c++) {
                const float d = y[c] - sl_f16_to_f32(stored[c]);
                assert_true(d <= half + 1e-7f && d >= -half - 1e-7f);
            }
        }
    }
    free(packed);
    free(stored);
    free(y);
}

static void layout_converts_matrices_as_asked(void **state) {
    (void)state;
    static const sl_dtype wanted[] = {SL_DTYPE_F32, SL_DTYPE_F16, SL_DTYPE_Q8G64, SL_DTYPE_Q4G64};
    sl_source *s = must_open("dummy:opt-125m");
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        for (int layer = SL_LAYER_EMBED; layer <= 12; layer += layer == 1 ? 11 : 1) {
            sl_layout l;
            assert_int_equal(sl_layout_make_as(s, layer, 1, wanted[i], &l), SL_OK);
            for (int p = 0; p < l.n_pieces; p++) {
                const int is_decoder = layer >= 0 && layer < 12;
                if (p < l.n_vectors) {
                    assert_int_equal(l.pieces[p].dtype, SL_DTYPE_F32);
                    continue;
                }
                /* Embeddings and head stay in 16 bits beside low-bit layers. */
                assert_int_equal(l.pieces[p].dtype,
                                 !is_decoder && i >= 2 ? SL_DTYPE_F16 : wanted[i]);
                if (p == l.n_vectors || is_decoder) check_converted(s, &l, p);
            }
            sl_layout_free(&l);
        }
    }
    sl_layout l = {.n_pieces = 5};
    assert_int_equal(sl_layout_make_as(s, 0, 1, SL_DTYPE_Q4_K, &l), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "Q4_K"));
    sl_source_close(s);
}

/* The rows of layer 0's first matrix in 4 bits, packed by the search or by range. */
static void check_packing(const char *model, int by_search) {
    sl_source *s = must_open(model);
    sl_layout l = {0};
    assert_int_equal(sl_layout_make_as(s, 0, 0, SL_DTYPE_Q4G64, &l), SL_OK);
    const sl_piece *p = &l.pieces[l.n_vectors];
    int64_t rows, cols;
    sl_dtype stored;
    size_t stored_bytes;
    assert_int_equal(sl_source_shape(s, 0, p->role, &rows, &cols, &stored), SL_OK);
    assert_int_equal(sl_dtype_row_bytes(stored, cols, &stored_bytes), SL_OK);
    unsigned char *packed = malloc(p->bytes), *row = malloc(stored_bytes),
                  *expected = malloc(p->row_bytes);
    float *x = malloc((size_t)cols * sizeof *x);
    assert_int_equal(sl_layout_read(s, &l, l.n_vectors, packed), SL_OK);
    for (int64_t r = 0; r < p->n_rows; r++) {
        assert_int_equal(sl_source_read_rows(s, 0, p->role, p->row0 + r, 1, row, stored_bytes),
                         SL_OK);
        sl_dequantize_row(x, row, stored, cols);
        if (by_search)
            sl_pack_row_search(expected, x, cols);
        else
            sl_pack_row(expected, x, SL_DTYPE_Q4G64, cols);
        assert_memory_equal(packed + (size_t)r * p->row_bytes, expected, p->row_bytes);
    }
    free(packed);
    free(row);
    free(expected);
    free(x);
    sl_layout_free(&l);
    sl_source_close(s);
}

static void four_bits_are_searched_for_in_checkpoints_alone(void **state) {
    (void)state;
    check_packing(SL_TESTS_DIR "/golden/models/llama-gqa", 1);
    check_packing("dummy:opt-125m", 0);
}

static void layout_of_a_layer_that_is_not_there_is_refused(void **state) {
    (void)state;
    sl_source *s = must_open("dummy:opt-125m");
    sl_layout l = {.n_pieces = 5};
    assert_int_equal(sl_layout_make(s, 13, 0, &l), SL_ERR_ARG);
    assert_non_null(strstr(sl_error_message(), "13"));
    assert_int_equal(sl_layout_make(s, -2, 0, &l), SL_ERR_ARG);
    assert_int_equal(l.n_pieces, 5);
    sl_source_close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layout_of_named_models_keeps_its_promises),
        cmocka_unit_test(layout_has_vectors_then_matrices_in_order),
        cmocka_unit_test(layout_may_be_empty),
        cmocka_unit_test(layout_read_gives_the_rows_of_the_piece),
        cmocka_unit_test(layout_converts_matrices_as_asked),
        cmocka_unit_test(four_bits_are_searched_for_in_checkpoints_alone),
        cmocka_unit_test(layout_of_a_layer_that_is_not_there_is_refused),
    };
    return cmocka_run_group_tests_name("layout", tests, NULL, NULL);
}
