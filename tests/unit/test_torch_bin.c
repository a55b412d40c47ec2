/* Unit tests of src/model/torch_bin.c, torch_zip.c and pickle.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "support/checkpoints.h"

/* Pieces of pickles, as torch.save writes them but for the memo, which nobody reads here. */
#define PROTO         "\x80\x02"
#define TENSOR_V2     "ctorch._utils\n_rebuild_tensor_v2\n"
#define STORAGE(type) "ctorch\n" type "Storage\n"

static void put_pickle_text(buffer *b, const char *text) {
    put_text(b, "X");
    put_u32(b, (uint32_t)strlen(text));
    put_text(b, text);
}

static void put_int(buffer *b, int64_t v) {
    put_text(b, "\x8a\x08");
    put_u64(b, (uint64_t)v);
}

static void put_ints(buffer *b, const int64_t *values, int n) {
    put_text(b, "(");
    for (int i = 0; i < n; i++) put_int(b, values[i]);
    put_text(b, "t");
}

typedef struct {
    const char *name, *type, *key;
    int64_t storage_elems, offset;
    int n_dims;
    int64_t dims[6], strides[6];
} tensor_text;

static const tensor_text honest = {"w", "Float", "0", 6, 0, 2, {2, 3}, {3, 1}};

/* A tensor, and its name before it: two values for SETITEMS. */
static void put_tensor(buffer *b, const tensor_text *t) {
    char global[64];
    snprintf(global, sizeof global, "ctorch\n%sStorage\n", t->type);
    put_pickle_text(b, t->name);
    put_text(b, TENSOR_V2 "((");
    put_pickle_text(b, "storage");
    put_text(b, global);
    put_pickle_text(b, t->key);
    put_pickle_text(b, "cpu");
    put_int(b, t->storage_elems);
    put_text(b, "tQ");
    put_int(b, t->offset);
    put_ints(b, t->dims, t->n_dims);
    put_ints(b, t->strides, t->n_dims);
    put_text(b, "\x89"
                "ccollections\nOrderedDict\n)RtR");
}

/* Writes a zip with `pickle` and the storage data/0, six floats 0 to 5.  Frees the pickle. */
static void write_checkpoint(const char *path, buffer *pickle) {
    zip_writer zip = {0};
    const float storage[] = {0, 1, 2, 3, 4, 5};
    zip_add(&zip, "archive/data.pkl", 0, pickle->at, pickle->bytes, pickle->bytes);
    zip_add(&zip, "archive/data/0", 0, storage, sizeof storage, sizeof storage);
    zip_write(path, &zip);
    free(pickle->at);
    *pickle = (buffer){0};
}

static void write_tensors(const char *path, const tensor_text *tensors, int n) {
    buffer b = {0};
    put_text(&b, PROTO "}(");
    for (int i = 0; i < n; i++) put_tensor(&b, &tensors[i]);
    put_text(&b, "u.");
    write_checkpoint(path, &b);
}

static void state_dict_written_by_torch_is_read(void **state) {
    (void)state;
    sl_checkpoint *ckpt = assert_opens(sl_torch_open, SL_TESTS_DIR "/golden/readers/state.bin");
    float y[24];
    assert_int_equal(sl_checkpoint_format(ckpt), SL_CHECKPOINT_TORCH);
    assert_int_equal(sl_checkpoint_n_tensors(ckpt), 9);
    read_tensor(ckpt, "f32", SL_DTYPE_F32, DIMS(3, 5), y);
    assert_ramp(y, 15, 1.0f, 0.25f);
    read_tensor(ckpt, "f16", SL_DTYPE_F16, DIMS(2, 3, 4), y);
    assert_ramp(y, 24, -2.0f, 0.25f);
    read_tensor(ckpt, "bf16", SL_DTYPE_BF16, DIMS(7), y);
    assert_ramp(y, 7, 0.0f, 0.5f);
    read_tensor(ckpt, "scalar", SL_DTYPE_F32, DIMS(1), y);
    assert_true(y[0] == 2.5f);
    const sl_tensor *tied = read_tensor(ckpt, "tied", SL_DTYPE_F32, DIMS(6, 4), y);
    assert_ramp(y, 24, -3.0f, 0.25f);
    const sl_tensor *again = read_tensor(ckpt, "tied_again", SL_DTYPE_F32, DIMS(6, 4), y);
    assert_int_equal(tied->offset, again->offset);
    read_tensor(ckpt, "view", SL_DTYPE_F32, DIMS(2, 4), y);
    assert_ramp(y, 8, -1.0f, 0.25f);
    read_tensor(ckpt, "parameter", SL_DTYPE_F32, DIMS(2, 2), y);
    assert_ramp(y, 4, 8.0f, 0.25f);
    read_tensor(ckpt, "column", SL_DTYPE_F32, DIMS(1, 4), y); /* transposed, still contiguous */
    assert_ramp(y, 4, 0.0f, 0.25f);
    assert_null(sl_checkpoint_find(ckpt, "integers"));
    assert_null(sl_checkpoint_find(ckpt, "flags"));
    sl_checkpoint_close(ckpt);
}

static void state_dict_of_a_module_is_read(void **state) {
    (void)state;
    sl_checkpoint *ckpt =
        assert_opens(sl_torch_open, SL_TESTS_DIR "/golden/readers/module_state.bin");
    float y[12];
    assert_int_equal(sl_checkpoint_n_tensors(ckpt), 4);
    read_tensor(ckpt, "0.weight", SL_DTYPE_F32, DIMS(3, 4), y);
    assert_ramp(y, 12, 5.0f, 0.25f);
    read_tensor(ckpt, "1.weight", SL_DTYPE_F32, DIMS(3), y);
    assert_ramp(y, 3, 1.0f, 0.0f);
    sl_checkpoint_close(ckpt);
}

static void anything_but_contiguous_tensors_is_refused_by_name(void **state) {
    (void)state;
#define GOLDEN SL_TESTS_DIR "/golden/readers/"
    assert_refused(sl_torch_open, GOLDEN "whole_module.bin", SL_ERR_FORMAT,
                   FRAGMENTS("whole_module.bin", "torch.nn.modules.container.Sequential"));
    assert_refused(sl_torch_open, GOLDEN "double.bin", SL_ERR_FORMAT,
                   FRAGMENTS("double.bin", "torch.DoubleStorage"));
    assert_refused(sl_torch_open, GOLDEN "with_number.bin", SL_ERR_FORMAT,
                   FRAGMENTS("with_number.bin", "\"epoch\" is a number"));
    assert_refused(sl_torch_open, GOLDEN "transposed.bin", SL_ERR_FORMAT,
                   FRAGMENTS("transposed.bin", "\"w\" is not contiguous", "stride 4, expected 1"));
    assert_refused(sl_torch_open, GOLDEN "legacy.bin", SL_ERR_FORMAT,
                   FRAGMENTS("legacy.bin", "before 1.6"));
}

static void tensor_written_byte_by_byte_is_read(void **state) {
    char path[4096];
    const tensor_text tensors[] = {honest, {"v", "Float", "0", 6, 2, 1, {3}, {1}}};
    write_tensors(path_in(*state, "honest.bin", path), tensors, 2);
    sl_checkpoint *ckpt = assert_opens(sl_torch_open, path);
    float y[6];
    read_tensor(ckpt, "w", SL_DTYPE_F32, DIMS(2, 3), y);
    assert_ramp(y, 6, 0.0f, 1.0f);
    read_tensor(ckpt, "v", SL_DTYPE_F32, DIMS(3), y);
    assert_ramp(y, 3, 2.0f, 1.0f);
    sl_checkpoint_close(ckpt);
}

static void lies_about_a_tensor_are_refused_by_name(void **state) {
    char path[4096];
    path_in(*state, "lie.bin", path);
    static const struct {
        tensor_text t;
        const char *what, *found;
    } lies[] = {
        {{"w", "Float", "0", 7, 0, 1, {6}, {1}}, "\"w\"", "7 elements"},
        {{"w", "Half", "0", 6, 0, 1, {6}, {1}}, "HalfStorage", "24 bytes"},
        {{"w", "Float", "0", -6, 0, 1, {6}, {1}}, "\"w\"", "-6"},
        {{"w", "Float", "0", INT64_MAX, 0, 1, {6}, {1}}, "\"w\"", "9223372036854775807"},
        {{"w", "Float", "0", 6, 1, 1, {6}, {1}}, "\"w\"", "6 elements from element 1"},
        {{"w", "Float", "0", 6, -1, 1, {6}, {1}}, "\"w\"", "element -1"},
        {{"w", "Float", "0", 6, INT64_MAX, 1, {6}, {1}}, "\"w\"", "9223372036854775807"},
        {{"w", "Float", "0", 6, 0, 1, {7}, {1}}, "\"w\"", "7 elements"},
        {{"w", "Float", "0", 6, 0, 1, {0}, {1}}, "\"w\"", "dimension 0 is 0"},
        {{"w", "Float", "0", 6, 0, 2, {-2, -3}, {3, 1}}, "\"w\"", "-2"},
        {{"w", "Float", "0", 6, 0, 2, {1ll << 32, 1ll << 32}, {1ll << 32, 1}}, "\"w\"", "overflow"},
        {{"w", "Float", "0", 6, 0, 1, {3}, {2}}, "\"w\"", "stride 2, expected 1"},
        {{"w", "Float", "0", 6, 0, 2, {2, 3}, {0, 1}}, "\"w\"", "stride 0, expected 3"},
        {{"w", "Float", "0", 6, 0, 5, {1, 1, 1, 1, 6}, {6, 6, 6, 6, 1}}, "\"w\"", "5 dimensions"},
        {{"w", "Float", "1", 6, 0, 1, {6}, {1}}, "data/1", "no entry"},
        {{"w", "Float", "", 6, 0, 1, {6}, {1}}, "storage", "0 bytes"},
        {{"w", "Double", "0", 3, 0, 1, {3}, {1}}, "torch.DoubleStorage", "calls for"},
        {{"", "Float", "0", 6, 0, 1, {6}, {1}}, "name", "0 bytes"},
        {{"a\nb", "Float", "0", 6, 0, 1, {6}, {1}}, "a?b", "control"},
        {{"\xff", "Float", "0", 6, 0, 1, {6}, {1}}, "pickle byte", "UTF-8"},
    };
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        write_tensors(path, &lies[i].t, 1);
        assert_refused(sl_torch_open, path, SL_ERR_FORMAT,
                       FRAGMENTS(path, lies[i].what, lies[i].found));
    }
    const tensor_text twice[] = {honest, honest};
    write_tensors(path, twice, 2);
    assert_refused(sl_torch_open, path, SL_ERR_FORMAT, FRAGMENTS(path, "\"w\"", "twice"));
}

#define PICKLE(text) text, sizeof(text) - 1

static void programs_are_refused_by_instruction_and_name(void **state) {
    char path[4096];
    path_in(*state, "program.bin", path);
    static const struct {
        const char *bytes;
        size_t n;
        const char *says;
    } programs[] = {
        {PICKLE("cos\nsystem\nX\4\0\0\0trueR."), "\"os.system\""},
        {PICKLE("c__builtin__\neval\n."), "\"__builtin__.eval\""},
        {PICKLE("ccollections\nOrderedDict\0\n)R."), "OrderedDict?"},
        {PICKLE("ctorch.storage\n_load_from_bytes\n."), "_load_from_bytes"},
        {PICKLE("ctorch\nFloatStorage\n)R."), "torch.FloatStorage called"},
        {PICKLE("ccollections\nOrderedDict\nK\1\x85R."), "OrderedDict called with 1"},
        {PICKLE("ctorch._utils\n_rebuild_tensor_v2\n)R."), "0 parts"},
        {PICKLE("ctorch._utils\n_rebuild_parameter\nK\1K\1K\1\x87R."), "a parameter is a number"},
        {PICKLE("ccollections\nOrderedDict\n)\x81."), "NEWOBJ (0x81)"},
        {PICKLE("}]."), "EMPTY_LIST"},
        {PICKLE("(cos\nsystem\no."), "system"},
        {PICKLE("(ios\nsystem\n."), "INST"},
        {PICKLE("\x8c\2os\x8c\6system\x93."), "SHORT_BINUNICODE"},
        {PICKLE("\x93."), "STACK_GLOBAL"},
        {PICKLE("\x95\0\0\0\0\0\0\0\0."), "FRAME"},
        {PICKLE("\x82\1."), "EXT1"},
        {PICKLE("Pid\n."), "PERSID"},
        {PICKLE("\xff."), "unknown (0xff)"},
        {PICKLE("\x80\4}."), "protocol 4"},
        {PICKLE("N."), "None, expected a dict"},
        {PICKLE("}}."), "2 values"},
        {PICKLE("(}."), "1 values"},
        {PICKLE("."), "0 values"},
        {PICKLE("}.}"), "byte 4 of 5"},
        {PICKLE("}"), "needs 1 bytes"},
        {PICKLE("X\xff\xff\xff\xff."), "needs 4294967295 bytes"},
        {PICKLE("ccollections"), "needs 1 bytes"},
        {PICKLE("\x8a\xff."), "255 bytes"},
        {PICKLE("s."), "needs 2 values"},
        {PICKLE("K\1(\x85."), "the stack has 0"},
        {PICKLE("t."), "no mark"},
        {PICKLE("}(K\1u."), "1 keys and values"},
        {PICKLE("K\1K\2K\3s."), "expected a dict"},
        {PICKLE("}K\1b."), "state is a number"},
        {PICKLE("K\1}b."), "object with state is a number"},
        {PICKLE("h\7."), "memo 7"},
        {PICKLE("}r\xff\xff\xff\x7f."), "memo 2147483647"},
        {PICKLE("K\1Q."), "persistent id is a number"},
        {PICKLE(")Q."), "0 items"},
        {PICKLE("K\1)R."), "what is called is a number"},
        {PICKLE("}K\1K\2s."), "key of the state dict is a number"},
        {PICKLE("}X\1\0\0\0a}s."), "\"a\" is a dict"},
        {PICKLE("}."), "no tensor"},
    };
    for (size_t i = 0; i < sizeof programs / sizeof programs[0]; i++) {
        buffer b = {0};
        put_text(&b, PROTO);
        put(&b, programs[i].bytes, programs[i].n);
        write_checkpoint(path, &b);
        assert_refused(sl_torch_open, path, SL_ERR_FORMAT, FRAGMENTS(path, programs[i].says));
    }
}

/* A dict that holds itself, and one shared by many, are legal pickles; they must end as errors. */
static void circles_and_sharing_do_no_harm(void **state) {
    char path[4096];
    buffer b = {0};
    path_in(*state, "circle.bin", path);
    put_text(&b, PROTO "}q");
    put_u8(&b, 0);
    put_pickle_text(&b, "self");
    put_text(&b, "h");
    put_u8(&b, 0);
    put_text(&b, "s.");
    write_checkpoint(path, &b);
    assert_refused(sl_torch_open, path, SL_ERR_FORMAT, FRAGMENTS(path, "\"self\" is a dict"));

    /* Sixty-four doublings: 2^64 values if anything walked them. */
    put_text(&b, PROTO "}");
    put_pickle_text(&b, "bomb");
    put_text(&b, ")");
    for (int i = 0; i < 64; i++) {
        put_text(&b, "q");
        put_u8(&b, 0);
        put_text(&b, "h");
        put_u8(&b, 0);
        put_text(&b, "\x86");
    }
    put_text(&b, "s.");
    write_checkpoint(path, &b);
    assert_refused(sl_torch_open, path, SL_ERR_FORMAT, FRAGMENTS(path, "\"bomb\" is a tuple"));
}

static void zips_that_torch_would_not_write_are_refused(void **state) {
    char path[4096];
    const float storage[6] = {0};
    zip_writer zip = {0};
    buffer b = {0};
    path_in(*state, "zip.bin", path);
    put_text(&b, PROTO "}(");
    put_tensor(&b, &honest);
    put_text(&b, "u.");

    zip_add(&zip, "a/data.pkl", 0, b.at, b.bytes, b.bytes);
    zip_add(&zip, "a/data/0", 8, storage, 24, 24); /* deflated */
    zip_write(path, &zip);
    assert_refused(sl_torch_open, path, SL_ERR_FORMAT, FRAGMENTS(path, "a/data/0", "method 8"));

    zip_add(&zip, "a/data.pkl", 8, b.at, b.bytes, b.bytes);
    zip_write(path, &zip);
    assert_refused(sl_torch_open, path, SL_ERR_FORMAT, FRAGMENTS(path, "a/data.pkl", "method 8"));

    zip_add(&zip, "a/other", 0, b.at, b.bytes, b.bytes);
    zip_write(path, &zip);
    assert_refused(sl_torch_open, path, SL_ERR_FORMAT, FRAGMENTS(path, "no data.pkl"));

    zip_add(&zip, "a/data.pkl", 0, b.at, b.bytes, b.bytes);
    zip_add(&zip, "b/data.pkl", 0, b.at, b.bytes, b.bytes);
    zip_write(path, &zip);
    assert_refused(sl_torch_open, path, SL_ERR_FORMAT, FRAGMENTS(path, "b/data.pkl"));

    zip_add(&zip, "a/data.pkl", 0, b.at, b.bytes, b.bytes);
    zip_add(&zip, "a/data/0", 0, storage, 24, 24);
    zip_add(&zip, "a/data/0", 0, storage, 24, 24);
    zip_write(path, &zip);
    assert_refused(sl_torch_open, path, SL_ERR_FORMAT, FRAGMENTS(path, "a/data/0", "twice"));

    zip_add(&zip, "a/data.pkl", 0, b.at, b.bytes, b.bytes);
    zip_add(&zip, "a/byteorder", 0, "big", 3, 3);
    zip_add(&zip, "a/data/0", 0, storage, 24, 24);
    zip_write(path, &zip);
    assert_refused(sl_torch_open, path, SL_ERR_FORMAT, FRAGMENTS(path, "byte order", "\"big\""));

    zip_add(&zip, "a/data.pkl", 0, b.at, b.bytes, b.bytes);
    zip_add(&zip, "a/data/0", 0, storage, 24, 240); /* claims to be larger than its bytes */
    zip_write(path, &zip);
    assert_refused(sl_torch_open, path, SL_ERR_FORMAT, FRAGMENTS(path));
    free(b.at);
}

static void damaged_pickle_is_found_by_its_checksum(void **state) {
    char path[4096];
    write_tensors(path_in(*state, "damaged.bin", path), &honest, 1);
    buffer b = read_whole(path);
    unsigned char *name = memmem(b.at, b.bytes, "_rebuild", 8);
    assert_non_null(name);
    name[1] ^= 1;
    write_buffer(path, &b);
    assert_refused(sl_torch_open, path, SL_ERR_FORMAT, FRAGMENTS(path, "data.pkl", "CRC"));
}

static void every_truncation_is_refused(void **state) {
    char path[4096];
    write_tensors(path_in(*state, "cut.bin", path), &honest, 1);
    buffer b = read_whole(path);
    for (size_t n = 0; n < b.bytes; n++) {
        write_bytes(path, b.at, n);
        assert_refused(sl_torch_open, path, SL_ERR_FORMAT, FRAGMENTS(path));
    }
    free(b.at);
}

static void shards_are_read_through_their_index(void **state) {
    char dir[4096], path[4096];
    path_in(*state, "shards", dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    const tensor_text v = {"v", "Float", "0", 6, 0, 1, {6}, {1}};
    write_tensors(path_in(dir, "pytorch_model-00001-of-00002.bin", path), &honest, 1);
    write_tensors(path_in(dir, "pytorch_model-00002-of-00002.bin", path), &v, 1);
    static const char index[] = "{\"weight_map\":{\"w\":\"pytorch_model-00001-of-00002.bin\","
                                "\"v\":\"pytorch_model-00002-of-00002.bin\"}}";
    write_bytes(path_in(dir, "pytorch_model.bin.index.json", path), index, sizeof index - 1);
    sl_checkpoint *ckpt = assert_opens(sl_checkpoint_open, dir);
    float y[6];
    assert_int_equal(sl_checkpoint_format(ckpt), SL_CHECKPOINT_TORCH);
    read_tensor(ckpt, "w", SL_DTYPE_F32, DIMS(2, 3), y);
    read_tensor(ckpt, "v", SL_DTYPE_F32, DIMS(6), y);
    assert_ramp(y, 6, 0.0f, 1.0f);
    sl_checkpoint_close(ckpt);

    write_tensors(path_in(dir, "pytorch_model-00002-of-00002.bin", path), &honest, 1);
    assert_refused(sl_torch_open, dir, SL_ERR_FORMAT, FRAGMENTS(dir, "\"w\"", "found in"));
}

/* The zip64 extra field: sizes, and the offset in the directory's. */
static void put_zip64_extra(buffer *b, uint64_t bytes, const uint64_t *offset) {
    put_u16(b, 1);
    put_u16(b, offset ? 24 : 16);
    put_u64(b, bytes);
    put_u64(b, bytes);
    if (offset) put_u64(b, *offset);
}

static void put_zip64_header(buffer *b, const char *name, uint32_t crc, uint64_t bytes,
                             const uint64_t *offset) {
    put_u32(b, offset ? 0x02014b50u : 0x04034b50u);
    if (offset) put_u16(b, 45);
    put_zip_fields(b, 0, crc, UINT32_MAX, UINT32_MAX, name);
    put_u16(b, offset ? 28 : 20);
    if (offset) {
        put_zeros(b, 10); /* comment, disk, attributes */
        put_u32(b, UINT32_MAX);
    }
    put_text(b, name);
    put_zip64_extra(b, bytes, offset);
}

/* A storage of 4 GiB and 32 bytes in a file with a hole; the pickle lies behind it. */
static void storages_beyond_4_gib_are_read(void **state) {
    char path[4096];
    const uint64_t storage_bytes = (1ull << 32) + 32, storage_at = 0;
    const float last[] = {1, 2, 3, 4, 5, 6, 7, 8};
    const tensor_text t = {"w", "Float", "0", (1ll << 30) + 8, 1ll << 30, 1, {8}, {1}};
    buffer pickle = {0}, head = {0}, tail = {0};
    put_text(&pickle, PROTO "}(");
    put_tensor(&pickle, &t);
    put_text(&pickle, "u.");
    const uint32_t crc = crc_of(pickle.at, pickle.bytes);

    put_zip64_header(&head, "a/data/0", 0, storage_bytes, NULL);
    const uint64_t pickle_at = head.bytes + storage_bytes;
    put_zip64_header(&tail, "a/data.pkl", crc, pickle.bytes, NULL);
    put(&tail, pickle.at, pickle.bytes);
    const uint64_t directory_at = pickle_at + tail.bytes;
    put_zip64_header(&tail, "a/data/0", 0, storage_bytes, &storage_at);
    put_zip64_header(&tail, "a/data.pkl", crc, pickle.bytes, &pickle_at);
    const uint64_t end_at = pickle_at + tail.bytes;
    put_u32(&tail, 0x06064b50u); /* zip64 end: size, versions, disks, entries, directory */
    put_u64(&tail, 44);
    put_u16(&tail, 45), put_u16(&tail, 45);
    put_u64(&tail, 0);
    put_u64(&tail, 2), put_u64(&tail, 2);
    put_u64(&tail, end_at - directory_at);
    put_u64(&tail, directory_at);
    put_u32(&tail, 0x07064b50u); /* its locator */
    put_u32(&tail, 0);
    put_u64(&tail, end_at);
    put_u32(&tail, 1);
    put_u32(&tail, 0x06054b50u); /* the old end, which defers to it */
    put_u32(&tail, 0);
    put_u16(&tail, 0xffff), put_u16(&tail, 0xffff);
    put_u32(&tail, UINT32_MAX), put_u32(&tail, UINT32_MAX);
    put_u16(&tail, 0);

    FILE *f = fopen(path_in(*state, "large.bin", path), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(head.at, 1, head.bytes, f), head.bytes);
    assert_int_equal(fseeko(f, (off_t)(pickle_at - sizeof last), SEEK_SET), 0);
    assert_int_equal(fwrite(last, 1, sizeof last, f), sizeof last);
    assert_int_equal(fwrite(tail.at, 1, tail.bytes, f), tail.bytes);
    assert_int_equal(fclose(f), 0);
    free(pickle.at), free(head.at), free(tail.at);

    sl_checkpoint *ckpt = assert_opens(sl_torch_open, path);
    float y[8];
    read_tensor(ckpt, "w", SL_DTYPE_F32, DIMS(8), y);
    assert_ramp(y, 8, 1.0f, 1.0f);
    sl_checkpoint_close(ckpt);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(state_dict_written_by_torch_is_read),
        cmocka_unit_test(state_dict_of_a_module_is_read),
        cmocka_unit_test(anything_but_contiguous_tensors_is_refused_by_name),
        cmocka_unit_test(tensor_written_byte_by_byte_is_read),
        cmocka_unit_test(lies_about_a_tensor_are_refused_by_name),
        cmocka_unit_test(programs_are_refused_by_instruction_and_name),
        cmocka_unit_test(circles_and_sharing_do_no_harm),
        cmocka_unit_test(zips_that_torch_would_not_write_are_refused),
        cmocka_unit_test(damaged_pickle_is_found_by_its_checksum),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(storages_beyond_4_gib_are_read),
        cmocka_unit_test(shards_are_read_through_their_index),
    };
    return cmocka_run_group_tests_name("torch_bin", tests, make_dir, remove_dir);
}
