/* Fuzz entry of torch_bin.c, torch_zip.c and pickle.c.  An input that begins as a pickle (0x80) is
 * put in a zip with two storages of 64 bytes, so that checksums do not keep it from the reader;
 * others are whole files. */
#include "use_checkpoint.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const unsigned char storage[64];
    if (size == 0 || data[0] != 0x80) {
        use_bytes(data, size, sl_torch_open, use_checkpoint);
        return 0;
    }
    zip_writer zip = {0};
    zip_add(&zip, "a/data.pkl", 0, data, size, size);
    zip_add(&zip, "a/data/0", 0, storage, sizeof storage, sizeof storage);
    zip_add(&zip, "a/data/1", 0, storage, sizeof storage, sizeof storage);
    const buffer whole = zip_finish(&zip);
    use_bytes(whole.at, whole.bytes, sl_torch_open, use_checkpoint);
    free(whole.at);
    return 0;
}
