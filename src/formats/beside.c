/* SPDX-License-Identifier: MIT */
/* Files that another file mentions by name, as an index mentions its shards. */
#include "formats/format.h"

#include "core/error.h"
#include <stdlib.h>
#include <string.h>

const char *tn_name_fault(const char *name)
{
    if (name[0] == 0) return "is empty";
    if (name[0] == '/') return "is an absolute path";
    if (strchr(name, '\\') != NULL) return "holds a backslash";
    if (name[1] == ':') return "begins with a drive letter";
    for (const char *c = name; *c != 0; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f) return "holds a control character";
    }
    for (const char *part = name; part != NULL;) {
        const char *slash = strchr(part, '/');
        const size_t length = slash != NULL ? (size_t)(slash - part) : strlen(part);
        if (length == 0) return "has an empty part";
        if (strncmp(part, ".", length) == 0) return "has '.' as a part";
        if (length == 2 && part[0] == '.' && part[1] == '.') return "leads out of the folder by '..'";
        part = slash != NULL ? slash + 1 : NULL;
    }
    return NULL;
}

tenon_status tenon_file_beside(const char *path, const char *name, char *found, size_t capacity, tenon_error *error)
{
    if (path == NULL || name == NULL || found == NULL) {
        return tn_fail(error, TENON_INVALID, "tenon_file_beside: an argument is NULL");
    }
    const char *fault = tn_name_fault(name);
    if (fault != NULL) {
        return tn_fail(error, TENON_BAD_FILE,
                       "%s: mentions the file '%s', whose name %s; only plain names inside the folder are opened",
                       tn_quote(path).text, tn_quote(name).text, fault);
    }
    tn_input *input;
    TN_TRY(tn_input_open_beside(path, name, &input, error));
    const size_t length = strlen(tn_input_path(input));
    if (length < capacity) memcpy(found, tn_input_path(input), length + 1);
    tn_input_close(input);
    if (length < capacity) return TENON_OK;
    return tn_fail(error, TENON_INVALID, "%s: the path of '%s' has %zu bytes, the buffer holds %zu",
                   tn_quote(path).text, tn_quote(name).text, length + 1, capacity);
}
