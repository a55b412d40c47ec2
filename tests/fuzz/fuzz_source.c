/* Fuzz entry of source.c and config_gguf.c: any bytes as a GGUF model.  What opens is laid out and
 * read whole; every read must succeed or fail with a message. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model/layout.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_layer(const sl_source *source, int layer) {
    sl_layout layout;
    if (sl_layout_make(source, layer, 0, &layout) != SL_OK) return;
    for (int i = 0; i < layout.n_pieces; i++) {
        /* The file is in memory, so that no piece is larger than it but for vectors' widening. */
        void *dst = malloc(layout.pieces[i].bytes);
        if (!dst) abort();
        (void)sl_layout_read(source, &layout, i, dst);
        free(dst);
    }
    sl_layout_free(&layout);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[64];
    sl_source *source;
    const int fd = memfd_create("model.gguf", MFD_CLOEXEC);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (sl_source_open(path, 0, &source) == SL_OK) {
        const int n_layers = sl_source_config(source)->n_layers;
        if (sl_config_check(sl_source_config(source), path) != SL_OK) abort();
        for (int layer = SL_LAYER_EMBED; layer <= n_layers; layer++) read_layer(source, layer);
        sl_source_close(source);
    }
    close(fd);
    return 0;
}
