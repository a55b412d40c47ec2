/* Fuzz entry of safetensors.c and checkpoint_shards.c.  By its first byte the input is
 *   '{'   a header: its size is put before it and 256 bytes of data behind it
 *   'I'   an index of two shards, one with tensor "a", one with "b"
 *   else  a whole file
 */
#include "use_checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char folder[] = "/dev/shm/sl-fuzz-XXXXXX";

static buffer with_header(const void *header, size_t bytes, size_t data_bytes) {
    buffer b = {0};
    put_u64(&b, bytes);
    put(&b, header, bytes);
    put_zeros(&b, data_bytes);
    return b;
}

static void remove_folder(void) {
    nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static void make_folder(void) {
    static const char *const tensors[] = {"a", "b"};
    static int made;
    if (made) return;
    made = 1;
    REQUIRE(mkdtemp(folder));
    atexit(remove_folder);
    for (int i = 0; i < 2; i++) {
        char path[4096], header[128];
        snprintf(header, sizeof header,
                 "{\"%s\":{\"dtype\":\"F16\",\"shape\":[2,4],\"data_offsets\":[0,16]}}",
                 tensors[i]);
        buffer b = with_header(header, strlen(header), 16);
        write_buffer(path_in(folder, tensors[i], path), &b);
    }
}

static void use_index(const uint8_t *data, size_t size) {
    char path[4096];
    sl_checkpoint *ckpt;
    make_folder();
    write_bytes(path_in(folder, "model.safetensors.index.json", path), data, size);
    if (sl_checkpoint_open(folder, &ckpt) != SL_OK) return;
    REQUIRE(sl_checkpoint_n_tensors(ckpt) <= 2);
    use_checkpoint(ckpt);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size > 0 && data[0] == 'I') {
        use_index(data + 1, size - 1);
    } else if (size > 0 && data[0] == '{') {
        const buffer b = with_header(data, size, 256);
        use_bytes(b.at, b.bytes, sl_safetensors_open, use_checkpoint);
        free(b.at);
    } else {
        use_bytes(data, size, sl_safetensors_open, use_checkpoint);
    }
    return 0;
}
