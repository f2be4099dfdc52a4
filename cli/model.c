/* SPDX-License-Identifier: MIT */
#include "model.h"

#include "fields.h"
#include "report.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A config is a few hundred bytes; whatever is larger than this is another file. */
enum { MAX_CONFIG_BYTES = 1 << 20 };

/* The whole text of a small file; the caller frees it. NULL: failed, with the reason in *error. */
static char *read_text(const char *path, tenon_error *error)
{
    FILE *stream = fopen(path, "rb");
    char *text = malloc(MAX_CONFIG_BYTES + 1);
    size_t length = 0;
    bool good = stream && text;
    if (good) {
        length = fread(text, 1, MAX_CONFIG_BYTES + 1, stream);
        good = !ferror(stream);
    }
    if (!good) tn_error(error, "%s: cannot read the config: %s", path, strerror(errno));
    if (stream) fclose(stream);
    if (good && (length > MAX_CONFIG_BYTES || memchr(text, 0, length)))
        good = tn_error(error, "%s: is no JSON config (it is binary or larger than 1 MiB)", path);
    if (good) {
        text[length] = 0;
        return text;
    }
    free(text);
    return NULL;
}

/* The config as the option gives it; the caller frees it. NULL: failed, with the reason in *error. */
static char *read_config(const char *given, tenon_error *error)
{
    char *copy;
    if (given[strspn(given, " \t\r\n")] != '{') return read_text(given, error);
    copy = strdup(given);
    if (!copy) tn_error(error, "out of memory");
    return copy;
}

/* The pairs of --rename as the library takes them. */
typedef struct renames {
    tenon_rename *pairs;
    int64_t count;
    char *text; /* copies of the words, cut at their commas and equals signs */
} renames;

static void drop_renames(renames *r)
{
    free(r->pairs);
    free(r->text);
}

static bool split_renames(renames *r, const tn_mapping *given, tenon_error *error)
{
    size_t bytes = 1, most = 1;
    for (int i = 0; i < given->count; i++) {
        bytes += strlen(given->words[i]) + 1;
        for (const char *c = given->words[i]; c; c = strchr(c + 1, ','))
            most++;
    }
    *r = (renames){.pairs = calloc(most, sizeof *r->pairs), .text = malloc(bytes)};
    if (!r->pairs || !r->text) return tn_error(error, "out of memory for --rename");
    char *end = r->text;
    for (int i = 0; i < given->count; i++) {
        strcpy(end, given->words[i]);
        for (char *pair = end; pair;) {
            char *comma = strchr(pair, ',');
            if (comma) *comma = 0;
            char *equals = strchr(pair, '='); /* there is one, the option was checked */
            *equals = 0;
            r->pairs[r->count++] = (tenon_rename){pair, equals + 1};
            pair = comma ? comma + 1 : NULL;
        }
        end += strlen(given->words[i]) + 1;
    }
    return true;
}

tenon_status tn_model_open(const char *path, const tn_model_settings *settings, bool describe_only,
                           tenon_adapter **adapter, tenon_load_options *found, tenon_error *error)
{
    tenon_load_options load;
    char *config = NULL;
    tenon_load_options_init(&load);
    if (settings->config && !(config = read_config(settings->config, error))) return TENON_IO;
    renames rename;
    tenon_status status = TENON_NO_MEMORY;
    if (split_renames(&rename, &settings->rename, error)) {
        load.prefix = settings->prefix;
        load.rename = rename.pairs;
        load.num_rename = rename.count;
        load.config_json = config;
        load.family = settings->family;
        load.activation = settings->activation;
        load.describe_only = describe_only;
        status = tenon_adapter_open(path, &load, adapter, error);
    }
    load.config_json = NULL;
    load.family = NULL;
    load.activation = NULL;
    load.rename = NULL;
    load.num_rename = 0;
    drop_renames(&rename);
    free(config);
    if (status != TENON_OK) tn_fields_of_json(error);
    if (found) *found = load;
    return status;
}

void tn_call_set_grid(tenon_call *call, tn_pair grid)
{
    if (!grid.height) return;
    call->grid_height = grid.height;
    call->grid_width = grid.width;
}

int64_t tn_count_elements(const tenon_parameter *parameter)
{
    int64_t count = 1;
    for (int d = 0; d < parameter->ndim; d++)
        count *= parameter->shape[d];
    return count;
}

int64_t tn_config_int(const tenon_config *config, const char *name)
{
    int64_t value = 0;
    return tenon_config_get_int(config, name, &value, NULL) == TENON_OK ? value : 0;
}

const char *tn_config_string(const tenon_config *config, const char *name)
{
    const char *value = "";
    return tenon_config_get_string(config, name, &value, NULL) == TENON_OK ? value : "";
}
