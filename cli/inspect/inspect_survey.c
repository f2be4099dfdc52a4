/* SPDX-License-Identifier: MIT */
/* What is in a file that describes no connector: what looks like one and how to open it, then all tensors by prefix. */
#include "inspect.h"

#include "fields.h"
#include "json.h"
#include "report.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ROWS = 24, DEEPEST = 4, MOST_LISTED = 12 };

/* ---- by prefix ---- */

/* The tensors of one prefix, in which numbers are one: "model.layers.*.mlp.". */
typedef struct row {
    char prefix[128];
    int64_t tensors;
    double parameters;
    int64_t absent;     /* of them, in shards that were not downloaded */
    const char *stored; /* of all of them; NULL: they differ */
} row;

/* The first `depth` parts of a name before its last, with '*' for those that are numbers. */
static void make_prefix(char prefix[128], const char *name, int depth)
{
    size_t used = 0;
    prefix[0] = 0;
    for (int i = 0; i < depth; i++) {
        size_t part = strcspn(name, ".");
        if (!name[part] || used + part + 2 > 127) break;
        bool number = part > 0 && strspn(name, "0123456789") == part;
        used += (size_t)snprintf(prefix + used, 128 - used, "%.*s.", number ? 1 : (int)part, number ? "*" : name);
        name += part + 1;
    }
}

static double count_elements(const tenon_file_tensor *tensor)
{
    double count = 1;
    for (int i = 0; i < tensor->ndim; i++)
        count *= (double)tensor->shape[i];
    return count;
}

static int by_prefix(const void *a, const void *b)
{
    return strcmp(((const row *)a)->prefix, ((const row *)b)->prefix);
}

static int by_parameters(const void *a, const void *b)
{
    const row *x = a, *y = b;
    if (x->parameters != y->parameters) return x->parameters > y->parameters ? -1 : 1;
    return by_prefix(a, b);
}

static void fill_row(row *r, const tenon_file *file, const tn_named_tensor *named, int depth)
{
    tenon_file_tensor tensor;
    tenon_file_tensor_init(&tensor);
    *r = (row){.tensors = 1, .stored = ""};
    make_prefix(r->prefix, named->name, depth);
    if (tenon_file_get_tensor(file, named->index, &tensor, NULL) != TENON_OK) return;
    r->absent = tensor.absent_shard != NULL;
    r->parameters = r->absent ? 0 : count_elements(&tensor);
    r->stored = tensor.stored;
}

/* Joins rows of one prefix; returns how many are left. */
static int64_t join_rows(row *rows, int64_t count)
{
    int64_t kept = 0;
    qsort(rows, (size_t)count, sizeof *rows, by_prefix);
    for (int64_t i = 0; i < count; i++) {
        row *last = kept ? &rows[kept - 1] : NULL;
        if (!last || strcmp(last->prefix, rows[i].prefix) != 0) {
            rows[kept++] = rows[i];
            continue;
        }
        last->tensors += rows[i].tensors;
        last->parameters += rows[i].parameters;
        last->absent += rows[i].absent;
        if (last->stored && (!rows[i].stored || strcmp(last->stored, rows[i].stored) != 0)) last->stored = NULL;
    }
    return kept;
}

/* As deep as gives few rows, the largest first; the caller frees them. NULL: out of memory. */
static row *make_rows(const tenon_file *file, const tn_named_tensor *tensors, int64_t *num_rows)
{
    int64_t count = tenon_file_num_tensors(file);
    row *rows = malloc(((size_t)count + 1) * sizeof *rows);
    for (int depth = DEEPEST; rows && depth > 0; depth--) {
        for (int64_t i = 0; i < count; i++)
            fill_row(&rows[i], file, &tensors[i], depth);
        *num_rows = join_rows(rows, count);
        if (*num_rows <= MOST_ROWS) break;
    }
    if (rows) qsort(rows, (size_t)*num_rows, sizeof *rows, by_parameters);
    return rows;
}

static void print_rows(const row *rows, int64_t count)
{
    printf("\n%-48s %9s %17s  stored\n", "prefix", "tensors", "parameters");
    for (int64_t i = 0; i < count && i < MOST_ROWS; i++) {
        const row *r = &rows[i];
        printf("%-48s %9s %17s  %s", r->prefix[0] ? tn_name_text(r->prefix) : "(no prefix)", tn_count_text(r->tensors),
               tn_count_text((int64_t)r->parameters), r->stored ? tn_name_text(r->stored) : "various");
        if (r->absent) printf("%s%s not here", r->stored && !r->stored[0] ? "" : ", ", tn_count_text(r->absent));
        printf("\n");
    }
    if (count > MOST_ROWS) printf("... and %s more prefixes\n", tn_count_text(count - MOST_ROWS));
}

/* ---- what looks like a connector ---- */

/* A word of a shell, in quotes where it needs them; false where it cannot be shown. */
static bool add_word(char *line, size_t size, const char *word)
{
    size_t used = strlen(line), length = strlen(word);
    bool plain = strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=:@+,") == length;
    char shown[1024];
    if (length >= sizeof shown || used + length + 4 > size || strchr(word, '\'')) return false;
    tenon_quote(shown, sizeof shown, word, length);
    if (strcmp(shown, word) != 0) return false;
    snprintf(line + used, size - used, plain && length ? " %s" : " '%s'", word);
    return true;
}

/* "tenon inspect FILE --prefix mm. --config '{...}'", which opens the guess; false when no options can. */
static bool make_command(char *line, size_t size, const tn_command *command, const char *path, const tn_guess *g)
{
    char word[512];
    if (!g->num_types || (g->num_renamed && !tn_field_option(command, "rename"))) return false;
    snprintf(line, size, "tenon inspect");
    bool good = add_word(line, size, path);
    for (int i = 0; i < g->num_renamed && good; i++) {
        int length = snprintf(word, sizeof word, "%.*s%s=%s", (int)g->prefix, g->tensors[0].name, g->renamed[i].from,
                              g->renamed[i].to);
        good = length < (int)sizeof word && add_word(line, size, "--rename") && add_word(line, size, word);
    }
    if (!g->num_renamed && g->prefix) {
        int length = snprintf(word, sizeof word, "%.*s", (int)g->prefix, g->tensors[0].name);
        good = good && length < (int)sizeof word && add_word(line, size, "--prefix") && add_word(line, size, word);
    }
    char *config = tn_guess_config(g);
    good = good && config && add_word(line, size, "--config") && add_word(line, size, config);
    free(config);
    return good;
}

static void print_tensor(const tenon_file *file, int64_t index, const char *indent)
{
    tenon_file_tensor tensor;
    tenon_file_tensor_init(&tensor);
    if (tenon_file_get_tensor(file, index, &tensor, NULL) != TENON_OK) return;
    printf("%s%-46s ", indent, tn_name_text(tensor.name));
    if (tensor.absent_shard)
        printf("in %s, which is not here\n", tn_name_text(tensor.absent_shard));
    else
        printf("%-6s %s\n", tn_name_text(tensor.stored), tn_shape_text(tensor.ndim, tensor.shape));
}

static void print_guess(const tn_command *command, const char *path, const tenon_file *file, const tn_guess *g)
{
    char prefix[256], line[2048];
    tenon_quote(prefix, sizeof prefix, g->tensors[0].name, g->prefix);
    printf("  %s%s", prefix, prefix[0] ? ": " : "");
    for (int i = 0; i < g->num_types; i++)
        printf("%s%s", i == 0 ? "" : " or ", g->types[i]);
    if (g->num_types)
        printf(", %" PRId64 " -> %" PRId64 "\n", g->in_dim, g->out_dim);
    else
        printf("%s tensors, of no type that this version has\n", tn_count_text(g->count));
    for (int64_t i = 0; i < g->count && i < MOST_LISTED; i++)
        print_tensor(file, g->tensors[i].index, "    ");
    if (g->count > MOST_LISTED) printf("    ... and %s more\n", tn_count_text(g->count - MOST_LISTED));
    for (int i = 0; i < g->num_renamed; i++)
        printf("    %s is %s here\n", g->renamed[i].from[0] ? tn_name_text(g->renamed[i].from) : "it",
               tn_name_text(g->renamed[i].to));
    if (make_command(line, sizeof line, command, path, g)) printf("    %s\n", line);
}

/* Returns how many tensors were listed. */
static int64_t print_guesses(const tn_command *command, const char *path, const tenon_file *file,
                             const tn_named_tensor *tensors)
{
    tn_guess guesses[TN_GUESSES];
    int64_t more, listed = 0;
    int count = tn_guess_connectors(file, tensors, guesses, &more);
    if (!count) return 0;
    printf("\nlooks like a connector (activation, window and heads are not in the tensors):\n");
    for (int i = 0; i < count; i++) {
        print_guess(command, path, file, &guesses[i]);
        listed += guesses[i].count < MOST_LISTED ? guesses[i].count : MOST_LISTED;
    }
    if (more) printf("  ... and %s more\n", tn_count_text(more));
    return listed;
}

/* ---- the whole ---- */

void tn_list_tensors(const tenon_file *file)
{
    printf("\n");
    for (int64_t i = 0; i < tenon_file_num_tensors(file); i++)
        print_tensor(file, i, "  ");
}

void tn_survey_text(const tn_command *command, const char *path, const tenon_file *file, bool all)
{
    int64_t count = tenon_file_num_tensors(file), num_rows = 0, listed = 0;
    tn_named_tensor *tensors = tn_sort_tensors(file);
    row *rows = tensors ? make_rows(file, tensors, &num_rows) : NULL;
    printf("%s: %s, %s tensor%s, no connector is described\n", tn_name_text(path), tenon_file_kind(file),
           tn_count_text(count), count == 1 ? "" : "s");
    if (rows) listed = print_guesses(command, path, file, tensors);
    if (rows && !all && count > MOST_LISTED) print_rows(rows, num_rows);
    if (all || (count <= MOST_LISTED && listed < count)) tn_list_tensors(file);
    if (!rows) tn_note("out of memory: the tensors are not summarised");
    tn_metadata_text(file);
    free(rows);
    free(tensors);
}

static json_t *tensor_as_json(const tenon_file *file, int64_t index)
{
    tenon_file_tensor tensor;
    tenon_file_tensor_init(&tensor);
    if (tenon_file_get_tensor(file, index, &tensor, NULL) != TENON_OK) return NULL;
    if (tensor.absent_shard)
        return json_pack("{s:o, s:o}", "name", tn_json_text(tensor.name), "absent_shard",
                         tn_json_text(tensor.absent_shard));
    json_t *shape = json_array();
    for (int i = 0; i < tensor.ndim; i++)
        json_array_append_new(shape, json_integer(tensor.shape[i]));
    return json_pack("{s:o, s:o, s:o}", "name", tn_json_text(tensor.name), "stored", tn_json_text(tensor.stored),
                     "shape", shape);
}

static json_t *guess_as_json(const tn_command *command, const char *path, const tn_guess *g)
{
    char line[2048];
    char *config = g->num_types ? tn_guess_config(g) : NULL;
    json_t *types = json_array(), *names = json_object();
    for (int i = 0; i < g->num_types; i++)
        json_array_append_new(types, json_string(g->types[i]));
    for (int i = 0; i < g->num_renamed; i++)
        json_object_set_new(names, g->renamed[i].from, json_string(g->renamed[i].to));
    json_t *object = json_pack("{s:s%, s:I, s:o, s:o, s:o}", "prefix", g->tensors[0].name, g->prefix, "tensors",
                               (json_int_t)g->count, "types", types, "config",
                               config ? json_loads(config, 0, NULL) : json_null(), "names", names);
    if (object && make_command(line, sizeof line, command, path, g))
        json_object_set_new(object, "command", tn_json_text(line));
    free(config);
    return object;
}

static json_t *guesses_as_json(const tn_command *command, const char *path, const tenon_file *file,
                               const tn_named_tensor *tensors)
{
    tn_guess guesses[TN_GUESSES];
    int64_t more;
    json_t *list = json_array();
    int count = tn_guess_connectors(file, tensors, guesses, &more);
    for (int i = 0; i < count; i++)
        json_array_append_new(list, guess_as_json(command, path, &guesses[i]));
    return list;
}

static json_t *rows_as_json(const row *rows, int64_t count)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < count; i++)
        json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:I, s:s?}", "prefix", rows[i].prefix, "tensors",
                                              (json_int_t)rows[i].tensors, "absent", (json_int_t)rows[i].absent,
                                              "parameters", (json_int_t)rows[i].parameters, "stored", rows[i].stored));
    return list;
}

json_t *tn_survey_json(const tn_command *command, const char *path, const tenon_file *file)
{
    int64_t num_rows = 0;
    tn_named_tensor *tensors = tn_sort_tensors(file);
    row *rows = tensors ? make_rows(file, tensors, &num_rows) : NULL;
    json_t *list = json_array(), *object = NULL;
    for (int64_t i = 0; i < tenon_file_num_tensors(file); i++)
        json_array_append_new(list, tensor_as_json(file, i));
    if (rows)
        object = json_pack("{s:o, s:s, s:o, s:o, s:O}", "file", tn_json_text(path), "kind", tenon_file_kind(file),
                           "connectors", guesses_as_json(command, path, file, tensors), "prefixes",
                           rows_as_json(rows, num_rows), "tensors", list);
    json_decref(list);
    free(rows);
    free(tensors);
    return object ? tn_json_joined(object, tn_gguf_json(file, NULL)) : NULL;
}

/* ---- shards that are not there ---- */

json_t *tn_absent_shards(const tenon_file *file)
{
    json_t *shards = json_object();
    for (int64_t i = 0; i < tenon_file_num_tensors(file); i++) {
        tenon_file_tensor tensor;
        tenon_file_tensor_init(&tensor);
        if (tenon_file_get_tensor(file, i, &tensor, NULL) != TENON_OK || !tensor.absent_shard) continue;
        json_int_t count = json_integer_value(json_object_get(shards, tensor.absent_shard));
        json_object_set_new(shards, tensor.absent_shard, json_integer(count + 1));
    }
    return shards;
}

void tn_print_absent_shards(const tenon_file *file)
{
    json_t *shards = tn_absent_shards(file), *count;
    const char *name;
    json_object_foreach(shards, name, count)
    {
        printf("absent      shard %s, of %" JSON_INTEGER_FORMAT " tensor%s\n", tn_name_text(name),
               json_integer_value(count), json_integer_value(count) == 1 ? "" : "s");
    }
    json_decref(shards);
}
