/* SPDX-License-Identifier: MIT */
/* What `tenon compare` says: the tensors that differ, and the verdict. */
#include "compare.h"

#include "json.h"
#include "report.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_TROUBLE = 2, SHOWN = 40 }; /* tensors that are printed */

struct tn_compare_report {
    const tn_compare_settings *given;
    const char *name[2];
    bool is_folder;
    int64_t shards, tensors, changed, beyond;
    double worst;      /* relative difference beyond the tolerance; infinity: NaN */
    char reason[1200]; /* what is said of it */
    bool weights_noted;
    json_t *list; /* of shards or of tensors; NULL without --json */
};

/* ---- the verdict ---- */

static int64_t count_nans(const tn_compare_report *r, const tn_tensor_pair *p)
{
    return p->result.nan_a + p->result.nan_b + (r->given->equal_nan ? 0 : p->result.nan_both);
}

static bool is_changed(const tn_compare_report *r, const tn_tensor_pair *p)
{
    return p->result.unequal || count_nans(r, p);
}

/* Integers are equal or not; a tolerance is for what was rounded. */
static bool are_integers(const tn_tensor_pair *p)
{
    return tn_is_integer(p->tensors[0].dtype) && tn_is_integer(p->tensors[1].dtype);
}

static bool is_beyond(const tn_compare_report *r, const tn_tensor_pair *p)
{
    bool exact = are_integers(p) || r->given->tolerance == 0;
    if (count_nans(r, p) || (exact && p->result.unequal)) return true;
    return !(p->result.relative.value <= r->given->tolerance);
}

/* The indices of a row along the axes before the last, into index[TN_COMPARE_MAX_AXES]; returns how many. An empty
 * tensor has no row to point at. */
static int row_index(const tn_tensor_pair *p, int64_t row, int64_t index[TN_COMPARE_MAX_AXES])
{
    const tenon_file_tensor *tensor = &p->tensors[0];
    int axes = tensor->ndim > 1 && p->result.rows ? tensor->ndim - 1 : 0;
    for (int i = axes - 1; i >= 0; i--) {
        index[i] = row % tensor->shape[i];
        row /= tensor->shape[i];
    }
    return axes;
}

/* " in row [3, 1]"; "" where there is one row only. */
static const char *row_text(const tn_tensor_pair *p, int64_t row, char *text, size_t size)
{
    int64_t index[TN_COMPARE_MAX_AXES];
    int axes = row_index(p, row, index);
    size_t used = (size_t)snprintf(text, size, "%s", axes ? " in row [" : "");
    for (int i = 0; i < axes && used < size - 32; i++)
        used += (size_t)snprintf(text + used, size - used, i ? ", %" PRId64 : "%" PRId64, index[i]);
    snprintf(text + used, size - used, "%s", axes ? "]" : "");
    return text;
}

/* "tokens-01.npy", "proj1.weight", "tokens-01.safetensors: proj1.weight", or "". */
static void name_pair(const tn_file_pair *f, const tn_tensor_pair *p, char *text, size_t size)
{
    const char *tensor = p->tensors[0].name;
    snprintf(text, size, "%s%s%s", f->shard ? tn_name_text(f->shard) : "", f->shard && tensor[0] ? ": " : "",
             tn_name_text(tensor));
}

static void judge(tn_compare_report *r, const tn_file_pair *f, const tn_tensor_pair *p)
{
    const tn_comparison *c = &p->result;
    char name[600], at[256];
    double value = count_nans(r, p) ? INFINITY : c->relative.value;
    r->tensors++;
    r->changed += is_changed(r, p);
    if (!is_beyond(r, p) || (r->beyond++ && value <= r->worst)) return;
    r->worst = value;
    name_pair(f, p, name, sizeof name);
    const char *of = name[0] ? name : tn_name_text(r->name[0]);
    if (count_nans(r, p))
        snprintf(r->reason, sizeof r->reason, "%s has NaN%s", of, row_text(p, c->nan_row, at, sizeof at));
    else if (are_integers(p))
        snprintf(r->reason, sizeof r->reason, "%s of the %s integers of %s are unequal", tn_count_text(c->unequal),
                 tn_count_text(c->rows * c->width), of);
    else
        snprintf(r->reason, sizeof r->reason, "the worst relative difference is %.6g%s of %s, the tolerance is %g",
                 value, row_text(p, c->relative.row, at, sizeof at), of, r->given->tolerance);
}

/* ---- text ---- */

static double mean_cosine_difference(const tn_tensor_pair *p)
{
    return p->result.rows ? p->result.cosine_sum / (double)p->result.rows : 0;
}

static void print_heading(const tn_file_pair *f, const tn_tensor_pair *p)
{
    const tenon_file_tensor *a = &p->tensors[0], *b = &p->tensors[1];
    bool mixed =
        strcmp(a->stored, b->stored) != 0 && (a->dtype.code != b->dtype.code || a->dtype.bits != b->dtype.bits);
    char name[600];
    name_pair(f, p, name, sizeof name);
    printf("%s%s%s%s%s %s: %s row%s of width %" PRId64 "\n", name, name[0] ? ", " : "", tn_dtype_text(a->dtype),
           mixed ? " against " : "", mixed ? tn_dtype_text(b->dtype) : "", tn_shape_text(a->ndim, a->shape),
           tn_count_text(p->result.rows), p->result.rows == 1 ? "" : "s", p->result.width);
}

static void print_nans(const tn_compare_report *r, const tn_tensor_pair *p)
{
    const tn_comparison *c = &p->result;
    char at[256];
    if (c->nan_a + c->nan_b + c->nan_both == 0) return;
    printf("  NaN                  %s only in A, %s only in B, %s in both; the first%s%s\n", tn_count_text(c->nan_a),
           tn_count_text(c->nan_b), tn_count_text(c->nan_both), row_text(p, c->nan_row, at, sizeof at),
           c->nan_both && !r->given->equal_nan ? "; NaN equals nothing without --equal-nan" : "");
}

static void print_pair(const tn_compare_report *r, const tn_file_pair *f, const tn_tensor_pair *p)
{
    const tn_comparison *c = &p->result;
    char at[3][256];
    double factor;
    row_text(p, c->absolute.row, at[0], sizeof at[0]);
    row_text(p, c->relative.row, at[1], sizeof at[1]);
    row_text(p, c->cosine.row, at[2], sizeof at[2]);
    print_heading(f, p);
    if (c->unequal) {
        printf("  unequal numbers      %s of %s\n", tn_count_text(c->unequal), tn_count_text(c->rows * c->width));
        printf("  absolute difference  largest %.6g%s\n", c->absolute.value, at[0]);
        printf("  relative difference  overall %.6g, worst %.6g%s\n", tn_sums_relative(&c->all), c->relative.value,
               at[1]);
        printf("  cosine difference    mean %.6g, worst %.6g%s\n", mean_cosine_difference(p), c->cosine.value, at[2]);
        printf("  norms, A / B         overall %.9g, rows from %.9g to %.9g\n", tn_sums_ratio(&c->all), c->ratio_lowest,
               c->ratio_highest);
        if (tn_sums_scaled(&c->all, &factor)) printf("  A is about %.6g times B\n", factor);
    }
    print_nans(r, p);
    printf("  %s\n", is_beyond(r, p) ? "beyond the tolerance" : is_changed(r, p) ? "within the tolerance" : "equal");
}

static void print_files(tn_compare_report *r, const tn_file_pair *f)
{
    bool single = !r->is_folder && f->num_pairs == 1;
    for (int64_t i = 0; i < f->num_pairs; i++) {
        const tn_tensor_pair *p = &f->pairs[i];
        if (r->tensors == 0) printf("%s against %s\n", tn_name_text(r->name[0]), tn_name_text(r->name[1]));
        if (single || (is_changed(r, p) && r->changed < SHOWN)) print_pair(r, f, p);
        judge(r, f, p);
    }
}

static void print_verdict(const tn_compare_report *r)
{
    if (r->changed > SHOWN)
        printf("... and %s more that changed (--json lists all)\n", tn_count_text(r->changed - SHOWN));
    if (r->is_folder) printf("%s shard%s, ", tn_count_text(r->shards), r->shards == 1 ? "" : "s");
    if (r->is_folder || r->tensors != 1)
        printf("%s tensor%s: %s changed, %s beyond the tolerance\n", tn_count_text(r->tensors),
               r->tensors == 1 ? "" : "s", tn_count_text(r->changed), tn_count_text(r->beyond));
    if (!r->beyond)
        printf("the same within %g\n", r->given->tolerance);
    else
        printf("different: %s\n", r->reason);
}

/* ---- JSON ---- */

static json_t *worst_as_json(const tn_tensor_pair *p, const tn_worst *worst)
{
    int64_t index[TN_COMPARE_MAX_AXES];
    int axes = row_index(p, worst->row, index);
    json_t *list = json_array();
    for (int i = 0; i < axes; i++)
        json_array_append_new(list, json_integer(index[i]));
    return json_pack("{s:o, s:I, s:o}", "value", tn_json_real(worst->value), "row", (json_int_t)worst->row, "index",
                     list);
}

static json_t *ratio_as_json(const tn_comparison *c)
{
    double factor;
    bool scaled = tn_sums_scaled(&c->all, &factor);
    return json_pack("{s:o, s:o, s:o, s:o}", "overall", tn_json_real(tn_sums_ratio(&c->all)), "lowest",
                     tn_json_real(c->ratio_lowest), "highest", tn_json_real(c->ratio_highest), "factor",
                     scaled ? tn_json_real(factor) : json_null());
}

static json_t *pair_as_json(const tn_compare_report *r, const tn_tensor_pair *p)
{
    const tn_comparison *c = &p->result;
    json_t *shape = json_array();
    for (int i = 0; i < p->tensors[0].ndim; i++)
        json_array_append_new(shape, json_integer(p->tensors[0].shape[i]));
    return json_pack("{s:o, s:[s, s], s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:o, s:o, s:o, s:o, s:o, s:o}",
                     "name", tn_json_text(p->tensors[0].name), "dtypes", tn_dtype_text(p->tensors[0].dtype),
                     tn_dtype_text(p->tensors[1].dtype), "shape", shape, "rows", (json_int_t)c->rows, "unequal",
                     (json_int_t)c->unequal, "nans", (json_int_t)(c->nan_a + c->nan_b + c->nan_both), "nans_only_a",
                     (json_int_t)c->nan_a, "nans_only_b", (json_int_t)c->nan_b, "nans_both", (json_int_t)c->nan_both,
                     "changed", is_changed(r, p), "within", !is_beyond(r, p), "absolute",
                     worst_as_json(p, &c->absolute), "relative", worst_as_json(p, &c->relative), "relative_overall",
                     tn_json_real(tn_sums_relative(&c->all)), "cosine", worst_as_json(p, &c->cosine), "cosine_mean",
                     tn_json_real(mean_cosine_difference(p)), "norm_ratio", ratio_as_json(c));
}

static void collect_files(tn_compare_report *r, const tn_file_pair *f)
{
    json_t *tensors = r->is_folder ? json_array() : r->list;
    for (int64_t i = 0; i < f->num_pairs; i++) {
        judge(r, f, &f->pairs[i]);
        json_array_append_new(tensors, pair_as_json(r, &f->pairs[i]));
    }
    if (r->is_folder)
        json_array_append_new(r->list, json_pack("{s:o, s:o}", "name", tn_json_text(f->shard), "tensors", tensors));
}

static int print_as_json(tn_compare_report *r, const tn_trouble *trouble)
{
    json_t *object = json_pack("{s:o, s:o, s:f, s:b, s:I, s:I, s:O}", "a", tn_json_text(r->name[0]), "b",
                               tn_json_text(r->name[1]), "tolerance", r->given->tolerance, "within",
                               r->beyond == 0 && !trouble->count, "changed", (json_int_t)r->changed, "beyond",
                               (json_int_t)r->beyond, r->is_folder ? "shards" : "tensors", r->list);
    if (object && trouble->count) json_object_set_new(object, "trouble", tn_json_text(trouble->text));
    return tn_print_json(object);
}

/* ---- the whole ---- */

tn_compare_report *tn_compare_report_new(const tn_compare_settings *given, const char *a, const char *b)
{
    tn_compare_report *report = calloc(1, sizeof *report);
    if (!report) return NULL;
    report->given = given;
    report->name[0] = a;
    report->name[1] = b;
    if (given->json) report->list = json_array();
    return report;
}

/* Tokens files say which weights made them. */
static void note_weights(tn_compare_report *r, const tn_file_pair *f)
{
    const char *a = tenon_file_metadata(f->file[0], "tenon.weights");
    const char *b = tenon_file_metadata(f->file[1], "tenon.weights");
    if (!a || !b || !strcmp(a, b) || r->weights_noted) return;
    r->weights_noted = true;
    tn_note("%s and %s were made with different weights (%s and %s)", f->path[0], f->path[1], tn_name_text(a),
            tn_name_text(b));
}

void tn_compare_report_add(tn_compare_report *report, const tn_file_pair *files)
{
    note_weights(report, files);
    report->is_folder = files->shard != NULL;
    report->shards++;
    if (report->given->json)
        collect_files(report, files);
    else
        print_files(report, files);
}

int tn_compare_report_end(tn_compare_report *report, const tn_trouble *trouble)
{
    int code = report->beyond ? TN_EXIT_FAILURE : TN_EXIT_OK;
    bool some = report->tensors || !trouble->count;
    if (some && !report->given->json)
        print_verdict(report);
    else if (some && print_as_json(report, trouble) != TN_EXIT_OK)
        code = EXIT_TROUBLE;
    fflush(stdout);
    if (trouble->count) {
        tn_failed("%s", trouble->text);
        code = EXIT_TROUBLE;
    }
    return code;
}

void tn_compare_report_free(tn_compare_report *report)
{
    if (!report) return;
    json_decref(report->list);
    free(report);
}
