#include "serve_auth.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static int is_equal(const char *given, const char *token) {
    const size_t n = strlen(given), n_token = strlen(token);
    volatile unsigned char differs = n != n_token;
    for (size_t i = 0; i < n; i++)
        differs |= (unsigned char)(given[i] ^ token[n_token ? i % n_token : 0]);
    return !differs;
}

int sl_auth_is_bearer(const char *header, const char *token) {
    static const char scheme[] = "Bearer ";
    if (!header || strncasecmp(header, scheme, sizeof scheme - 1) != 0) return 0;
    const char *given = header + sizeof scheme - 1;
    while (*given == ' ') given++;
    return is_equal(given, token);
}

sl_status sl_auth_read_token(const char *path, char **out) {
    char line[1024] = "";
    FILE *file = fopen(path, "r");
    if (!file) return SL_FAIL(SL_ERR_IO, "--token-file %s: %s", path, strerror(errno));
    const int has_line = fgets(line, sizeof line, file) != NULL;
    fclose(file);
    char *from = line + strspn(line, " \t\r\n");
    from[strcspn(from, " \t\r\n")] = '\0';
    if (!has_line || !*from)
        return SL_FAIL(SL_ERR_ARG, "--token-file %s: found no token in its first line", path);
    *out = strdup(from);
    return *out ? SL_OK : SL_FAIL(SL_ERR_NOMEM, "--token-file: out of host memory");
}
