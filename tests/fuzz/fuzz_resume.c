/* Fuzz entry: what a run finds beside and in its output.
 *
 * The first byte picks: the journal's first line (job_key.h), which must read back the same once it
 * is written again; or the rest of a journal or an output (answered.h), whose whole lines must lie
 * in the file and be results. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "job/answered.h"
#include "job/job_key.h"

static void require(int condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "%s: %s\n", what, sl_error_message());
    abort();
}

static void check_key(const char *line, size_t n_bytes) {
    sl_job_key key = {0}, again = {0};
    char text[600];
    if (sl_job_key_parse(line, n_bytes, &key) != SL_OK) return;
    require(sl_job_key_same_form(&key, &again) == SL_OK, "does not read back");
    require(sl_job_key_differs(&key, &again, text, sizeof text) == 0, "reads back as another");
    sl_job_key_free(&again);
    require(sl_job_key_add(&again, "--seed", "1") == SL_OK, "add");
    (void)sl_job_key_differs(&key, &again, text, sizeof text);
    require(strlen(text) < sizeof text, "no end");
    sl_job_key_free(&again);
    sl_job_key_free(&key);
}

static void check_lines(int fd, const char *bytes, size_t n_bytes) {
    sl_answered found = {0};
    require(ftruncate(fd, 0) == 0 && pwrite(fd, bytes, n_bytes, 0) == (ssize_t)n_bytes, "write");
    if (sl_answered_scan(fd, 0, "fuzz", &found) != SL_OK) return;
    require(found.whole_bytes <= n_bytes, "ends behind the file");
    require(found.whole_bytes == 0 || bytes[found.whole_bytes - 1] == '\n', "ends inside a line");
    for (size_t i = 0; i < found.n; i++) {
        const sl_answered_line *line = &found.lines[i];
        require(line->offset + line->n_bytes <= found.whole_bytes, "line behind the end");
        require(line->n_bytes > 0 && bytes[line->offset + line->n_bytes - 1] == '\n', "no line");
        require(sl_answered_find(&found, line->key) != NULL, "cannot be found");
    }
    sl_answered_free(&found);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int fd = -1;
    if (fd < 0) {
        FILE *file = tmpfile();
        require(file != NULL, "temporary file");
        fd = fileno(file);
    }
    if (size == 0) return 0;
    if (data[0] % 2) {
        check_lines(fd, (const char *)data + 1, size - 1);
    } else {
        check_key((const char *)data + 1, size - 1);
    }
    return 0;
}
