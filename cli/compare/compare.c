/* SPDX-License-Identifier: MIT */
/* tenon compare: do two files of tokens, or of parameters, hold the same numbers? The verdict follows the worst token,
 * because an average hides it: 575 good tokens of 576 still make a mean cosine of 0.998. */
#include "compare.h"

#include "commands.h"
#include "json.h"
#include "names.h"
#include "report.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_TROUBLE = 2, MAX_AXES = 64 };

typedef struct settings {
    double tolerance;
    const char *tensor;
    bool npy_bfloat16;
    bool json;
} settings;

static const tn_argument arguments[] = {
    {"A", false, "@file", "an .npy file, a .safetensors file, an index of shards or its folder"},
    {"B", false, "@file", "the reference: differences are relative to it"},
    {.name = NULL}};

static const tn_option options[] = {{"tol", 0, TN_REAL, "X", NULL, 0, offsetof(settings, tolerance),
                                     "largest relative difference ||a - b|| / ||b|| allowed for a token; default 1e-5",
                                     "--tol 1e-3"},
                                    {"tensor", 0, TN_STRING, "NAME", NULL, 0, offsetof(settings, tensor),
                                     "compare this tensor only; default all tensors, by name", "--tensor proj1.weight"},
                                    {"npy-bf16", 0, TN_FLAG, NULL, NULL, 0, offsetof(settings, npy_bfloat16),
                                     "read uint16 npy arrays as bfloat16", "--npy-bf16"},
                                    TN_OPTION_JSON(settings),
                                    {.name = NULL}};

static const tn_example examples[] = {
    {"tenon compare tokens.npy reference.npy --tol 1e-3", "tokens against those of another program"},
    {"tenon compare before.safetensors after.safetensors --tol 0", "which parameters did training change?"},
    {.line = NULL}};

typedef struct side {
    const char *path;
    tenon_file *file;
} side;

/* One tensor of both files. */
typedef struct pair {
    int64_t index[2];
    tenon_file_tensor tensors[2];
    tn_comparison result;
} pair;

typedef struct comparing {
    const settings *given;
    side sides[2];
    pair *pairs;
    int64_t num_pairs;
} comparing;

/* ---- which tensors ---- */

static bool get_tensors(const comparing *c, pair *p, tenon_error *error)
{
    for (int s = 0; s < 2; s++) {
        tenon_file_tensor_init(&p->tensors[s]);
        if (tenon_file_get_tensor(c->sides[s].file, p->index[s], &p->tensors[s], error) != TENON_OK) return false;
    }
    const tenon_file_tensor *a = &p->tensors[0], *b = &p->tensors[1];
    bool same = a->ndim == b->ndim;
    for (int i = 0; same && i < a->ndim; i++)
        same = a->shape[i] == b->shape[i];
    if (same && a->ndim <= MAX_AXES) return true;
    return tn_error(error, "%s and %s: shapes differ%s%.200s: %s and %s", c->sides[0].path, c->sides[1].path,
                    a->name[0] ? " for " : "", a->name, tn_shape_text(a->ndim, a->shape),
                    tn_shape_text(b->ndim, b->shape));
}

/* Adds up to a few names of one file's tensors that the other lacks to `text`; returns how many lack. */
static int64_t list_missing(const side *from, const side *in, char *text, size_t size)
{
    int64_t missing = 0;
    int64_t index;
    for (int64_t i = 0; i < tenon_file_num_tensors(from->file); i++) {
        tenon_file_tensor tensor;
        tenon_file_tensor_init(&tensor);
        if (tenon_file_get_tensor(from->file, i, &tensor, NULL) != TENON_OK) continue;
        if (tenon_file_find_tensor(in->file, tensor.name, &index, NULL) == TENON_OK) continue;
        size_t used = strlen(text);
        if (missing++ < 4) snprintf(text + used, size - used, "%s%.100s", used ? ", " : "", tensor.name);
    }
    return missing;
}

static bool check_names(const comparing *c, tenon_error *error)
{
    for (int s = 0; s < 2; s++) {
        char names[512] = "";
        const side *from = &c->sides[s], *in = &c->sides[1 - s];
        int64_t missing = list_missing(from, in, names, sizeof names);
        if (missing)
            return tn_error(error, "%s: lacks %" PRId64 " tensor%s that %s has (%s%s)", in->path, missing,
                            missing == 1 ? "" : "s", from->path, names, missing > 4 ? ", ..." : "");
    }
    return true;
}

static bool find_named(const comparing *c, const char *name, pair *p, tenon_error *error)
{
    for (int s = 0; s < 2; s++)
        if (strcmp(tenon_file_kind(c->sides[s].file), "npy") != 0 &&
            tenon_file_find_tensor(c->sides[s].file, name, &p->index[s], error) != TENON_OK)
            return false;
    return true;
}

static bool pair_all(comparing *c, tenon_error *error)
{
    if (!check_names(c, error)) return false;
    for (int64_t i = 0; i < c->num_pairs; i++) {
        tenon_file_tensor tensor;
        tenon_file_tensor_init(&tensor);
        c->pairs[i].index[0] = i;
        if (tenon_file_get_tensor(c->sides[0].file, i, &tensor, error) != TENON_OK ||
            tenon_file_find_tensor(c->sides[1].file, tensor.name, &c->pairs[i].index[1], error) != TENON_OK)
            return false;
    }
    return true;
}

static bool make_pairs(comparing *c, tenon_error *error)
{
    const char *name = c->given->tensor;
    int64_t count = tenon_file_num_tensors(c->sides[0].file);
    bool are_single = count == 1 && tenon_file_num_tensors(c->sides[1].file) == 1;
    c->num_pairs = name ? 1 : count;
    c->pairs = calloc((size_t)c->num_pairs + 1, sizeof *c->pairs);
    if (!c->pairs) return tn_error(error, "out of memory");
    if (name && !find_named(c, name, &c->pairs[0], error)) return false;
    if (!name && !are_single && !pair_all(c, error)) return false;
    for (int64_t i = 0; i < c->num_pairs; i++)
        if (!get_tensors(c, &c->pairs[i], error)) return false;
    return true;
}

/* ---- the numbers ---- */

enum { PIECE = 4096 }; /* elements widened at a time */
static const size_t block_bytes = (size_t)4 << 20;

/* The same slices of both tensors, read into `data`. */
static bool compare_block(const comparing *c, pair *p, int64_t first, int64_t count, size_t slice, void *const data[2],
                          tenon_error *error)
{
    double wide[2][PIECE];
    size_t elements = slice * (size_t)count;
    for (int s = 0; s < 2; s++)
        if (tenon_file_read(c->sides[s].file, p->index[s], first, count, data[s],
                            elements * (p->tensors[s].dtype.bits / 8u), error) != TENON_OK)
            return false;
    for (size_t done = 0; done < elements; done += PIECE) {
        size_t piece = elements - done < PIECE ? elements - done : PIECE;
        for (int s = 0; s < 2; s++) {
            DLDataType dtype = p->tensors[s].dtype;
            const char *at = (const char *)data[s] + done * (dtype.bits / 8u);
            if (!tn_widen(wide[s], at, dtype, piece))
                return tn_error(error, "%s: cannot compare numbers of type %s", c->sides[s].path, tn_dtype_text(dtype));
        }
        tn_comparison_add(&p->result, wide[0], wide[1], piece);
    }
    return true;
}

static bool compare_pair(const comparing *c, pair *p, tenon_error *error)
{
    const tenon_file_tensor *tensor = &p->tensors[0];
    int64_t slices = tensor->ndim ? tensor->shape[0] : 1;
    size_t slice = 1;
    for (int i = 1; i < tensor->ndim; i++)
        slice *= (size_t)tensor->shape[i];
    tn_comparison_init(&p->result, tensor->ndim ? tensor->shape[tensor->ndim - 1] : 1);
    if (slices == 0 || slice == 0) return true;
    size_t widest = p->tensors[0].dtype.bits > p->tensors[1].dtype.bits ? p->tensors[0].dtype.bits / 8u
                                                                        : p->tensors[1].dtype.bits / 8u;
    int64_t step = slice * widest < block_bytes ? (int64_t)(block_bytes / (slice * widest)) : 1;
    if (step > slices) step = slices;
    void *data[2] = {malloc(slice * widest * (size_t)step), malloc(slice * widest * (size_t)step)};
    bool good = (data[0] && data[1]) || tn_error(error, "out of memory");
    for (int64_t first = 0; good && first < slices; first += step)
        good = compare_block(c, p, first, slices - first < step ? slices - first : step, slice, data, error);
    free(data[0]);
    free(data[1]);
    return good;
}

/* ---- the report ---- */

static bool is_beyond(const comparing *c, const pair *p)
{
    /* Not "greater": NaN is beyond every tolerance. */
    return p->result.nans || !(p->result.relative.value <= c->given->tolerance);
}

static double overall_relative(const pair *p)
{
    return tn_sums_relative(&p->result.all);
}

static double mean_cosine_difference(const pair *p)
{
    return p->result.tokens ? p->result.cosine_sum / (double)p->result.tokens : 0;
}

/* The indices of a token along the axes before the last, into index[MAX_AXES]; returns how many. An empty tensor has no
 * token to point at. */
static int token_index(const pair *p, int64_t token, int64_t index[MAX_AXES])
{
    const tenon_file_tensor *tensor = &p->tensors[0];
    int axes = tensor->ndim > 1 && p->result.tokens ? tensor->ndim - 1 : 0;
    for (int i = axes - 1; i >= 0; i--) {
        index[i] = token % tensor->shape[i];
        token /= tensor->shape[i];
    }
    return axes;
}

static const char *token_text(const pair *p, int64_t token, char *text, size_t size)
{
    int64_t index[MAX_AXES];
    int axes = token_index(p, token, index);
    size_t used = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < axes && used < size - 32; i++)
        used += (size_t)snprintf(text + used, size - used, i ? ", %" PRId64 : "%" PRId64, index[i]);
    snprintf(text + used, size - used, "]");
    return text;
}

static void print_pair(const comparing *c, const pair *p)
{
    const tn_comparison *r = &p->result;
    char at[3][256];
    token_text(p, r->absolute.token, at[0], sizeof at[0]);
    token_text(p, r->relative.token, at[1], sizeof at[1]);
    token_text(p, r->cosine.token, at[2], sizeof at[2]);
    printf("%s%s%s %s: %s tokens of width %" PRId64 "\n", tn_name_text(p->tensors[0].name),
           p->tensors[0].name[0] ? ", " : "", tn_dtype_text(p->tensors[0].dtype),
           tn_shape_text(p->tensors[0].ndim, p->tensors[0].shape), tn_count_text(r->tokens), r->width);
    printf("  absolute difference  largest %.6g in token %s\n", r->absolute.value, at[0]);
    printf("  relative difference  overall %.6g, worst %.6g in token %s\n", overall_relative(p), r->relative.value,
           at[1]);
    printf("  cosine difference    mean %.6g, worst %.6g in token %s\n", mean_cosine_difference(p), r->cosine.value,
           at[2]);
    if (r->nans) printf("  %s pairs of numbers have a NaN, which equals nothing\n", tn_count_text(r->nans));
    printf("  %s\n", is_beyond(c, p) ? "beyond the tolerance" : r->unequal ? "within the tolerance" : "equal");
}

typedef struct verdict {
    int64_t changed;
    int64_t beyond;
    const pair *worst;
} verdict;

static verdict judge(const comparing *c)
{
    verdict v = {0, 0, NULL};
    for (int64_t i = 0; i < c->num_pairs; i++) {
        const pair *p = &c->pairs[i];
        if (p->result.unequal) v.changed++;
        if (is_beyond(c, p)) v.beyond++;
        /* Written so that NaN wins. */
        bool worse = !v.worst || (v.worst->result.relative.value == v.worst->result.relative.value &&
                                  !(p->result.relative.value <= v.worst->result.relative.value));
        if (worse) v.worst = p;
    }
    return v;
}

static void print_text(const comparing *c, const verdict *v)
{
    printf("%s against %s\n", tn_name_text(c->sides[0].path), tn_name_text(c->sides[1].path));
    for (int64_t i = 0; i < c->num_pairs; i++)
        if (c->num_pairs == 1 || c->pairs[i].result.unequal) print_pair(c, &c->pairs[i]);
    if (c->num_pairs != 1)
        printf("%" PRId64 " tensors: %" PRId64 " changed, %" PRId64 " beyond the tolerance\n", c->num_pairs, v->changed,
               v->beyond);
    if (v->beyond)
        printf("different: the worst token's relative difference is %.6g, the tolerance %g\n",
               v->worst->result.relative.value, c->given->tolerance);
    else
        printf("the same within %g\n", c->given->tolerance);
}

static json_t *worst_as_json(const pair *p, const tn_worst *worst)
{
    int64_t index[MAX_AXES];
    int axes = token_index(p, worst->token, index);
    json_t *list = json_array();
    for (int i = 0; i < axes; i++)
        json_array_append_new(list, json_integer(index[i]));
    return json_pack("{s:o, s:I, s:o}", "value", tn_json_real(worst->value), "token", (json_int_t)worst->token, "index",
                     list);
}

static json_t *pair_as_json(const comparing *c, const pair *p)
{
    const tn_comparison *r = &p->result;
    json_t *shape = json_array();
    for (int i = 0; i < p->tensors[0].ndim; i++)
        json_array_append_new(shape, json_integer(p->tensors[0].shape[i]));
    return json_pack("{s:s, s:o, s:I, s:I, s:I, s:b, s:o, s:o, s:o, s:o, s:o}", "name", p->tensors[0].name, "shape",
                     shape, "tokens", (json_int_t)r->tokens, "unequal", (json_int_t)r->unequal, "nans",
                     (json_int_t)r->nans, "within", !is_beyond(c, p), "absolute", worst_as_json(p, &r->absolute),
                     "relative", worst_as_json(p, &r->relative), "relative_overall", tn_json_real(overall_relative(p)),
                     "cosine", worst_as_json(p, &r->cosine), "cosine_mean", tn_json_real(mean_cosine_difference(p)));
}

static int print_as_json(const comparing *c, const verdict *v)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < c->num_pairs; i++)
        json_array_append_new(list, pair_as_json(c, &c->pairs[i]));
    return tn_print_json(json_pack("{s:o, s:o, s:o, s:b, s:I, s:I, s:o}", "a", tn_json_text(c->sides[0].path), "b",
                                   tn_json_text(c->sides[1].path), "tolerance", tn_json_real(c->given->tolerance),
                                   "within", v->beyond == 0, "changed", (json_int_t)v->changed, "beyond",
                                   (json_int_t)v->beyond, "tensors", list));
}

/* Tokens files say which weights made them. */
static void note_weights(const comparing *c)
{
    const char *a = tenon_file_metadata(c->sides[0].file, "tenon.weights");
    const char *b = tenon_file_metadata(c->sides[1].file, "tenon.weights");
    if (a && b && strcmp(a, b) != 0)
        tn_note("%s and %s were made with different weights (%s and %s)", c->sides[0].path, c->sides[1].path, a, b);
}

/* ---- the command ---- */

static bool open_sides(comparing *c, tenon_error *error)
{
    tenon_file_options file_options;
    tenon_file_options_init(&file_options);
    file_options.npy_bfloat16 = c->given->npy_bfloat16;
    for (int s = 0; s < 2; s++)
        if (tenon_file_open(c->sides[s].path, &file_options, &c->sides[s].file, error) != TENON_OK) return false;
    return true;
}

static bool compare_all(comparing *c, tenon_error *error)
{
    if (!open_sides(c, error) || !make_pairs(c, error)) return false;
    for (int64_t i = 0; i < c->num_pairs; i++)
        if (!compare_pair(c, &c->pairs[i], error)) return false;
    return true;
}

static int report(const comparing *c)
{
    verdict v = judge(c);
    note_weights(c);
    if (!c->given->json)
        print_text(c, &v);
    else if (print_as_json(c, &v) != TN_EXIT_OK)
        return EXIT_TROUBLE;
    return v.beyond ? TN_EXIT_FAILURE : TN_EXIT_OK;
}

static int run(const tn_command *command, int argc, char **argv)
{
    settings given = {.tolerance = 1e-5};
    const char *words[TN_MAX_ARGUMENTS];
    tenon_error error;
    int code = tn_options_parse(command, argc, argv, &given, words);
    if (code < 0) code = tn_names_check_command(command, &given, words);
    if (code >= 0) return code;
    comparing c = {.given = &given, .sides = {{words[0], NULL}, {words[1], NULL}}};
    if (compare_all(&c, &error)) {
        code = report(&c);
    } else {
        tn_failed_error(&error);
        code = EXIT_TROUBLE;
    }
    free(c.pairs);
    for (int s = 0; s < 2; s++)
        if (c.sides[s].file) tenon_file_close(c.sides[s].file);
    return code;
}

const tn_command tn_command_compare = {
    "compare",
    "compare two files of tokens or parameters",
    "Compares the tensors of two files, which may differ in format and dtype: the largest absolute difference, the "
    "relative difference ||a - b|| / ||b|| and the cosine difference 1 - cos, over everything and for the worst token. "
    "A token is a vector along the last axis. The verdict follows the worst token's relative difference. NaN equals "
    "nothing, NaN included.",
    arguments,
    options,
    examples,
    "0: the same within the tolerance. 1: different. 2: trouble: invalid command line, a file cannot be read, names or "
    "shapes do not match.",
    run};
