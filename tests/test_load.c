/* SPDX-License-Identifier: MIT */
/* Adapter files: what is written can be opened, tensors are found under any prefix, and whatever is wrong with a file
 * is said at once and changes nothing. */
#include "scratch.h"
#include <stdio.h>
#include <stdlib.h>

static tenon_error error;

static void assert_ok(tenon_status status)
{
    if (status != TENON_OK) fail_msg("%s", error.message);
}

static tenon_adapter *new_adapter(const char *type, int64_t in_dim, int64_t out_dim)
{
    tenon_config *config = NULL;
    tenon_adapter *adapter = NULL;
    assert_ok(tenon_config_new(type, &config, &error));
    assert_ok(tenon_adapter_new(config, in_dim, out_dim, NULL, &adapter, &error));
    tenon_config_free(config);
    return adapter;
}

static tenon_parameter parameter_at(const tenon_adapter *adapter, int64_t index)
{
    tenon_parameter p;
    tenon_parameter_init(&p);
    assert_ok(tenon_adapter_parameter(adapter, index, &p, &error));
    return p;
}

static size_t bytes_of(const tenon_parameter *p)
{
    return (size_t)p->shape[0] * (size_t)(p->ndim == 2 ? p->shape[1] : 1) * tenon_dtype_size(p->dtype);
}

static void assert_same_parameters(const tenon_adapter *a, const tenon_adapter *b)
{
    assert_int_equal(tenon_adapter_num_parameters(a), tenon_adapter_num_parameters(b));
    for (int64_t i = 0; i < tenon_adapter_num_parameters(a); i++) {
        const tenon_parameter p = parameter_at(a, i), q = parameter_at(b, i);
        assert_string_equal(p.name, q.name);
        assert_int_equal(p.dtype, q.dtype);
        assert_memory_equal(p.data, q.data, bytes_of(&p));
    }
}

/* One tensor of a file under construction; NULL data: zeros. */
typedef struct entry {
    char name[96];
    DLDataType dtype;
    int ndim;
    int64_t shape[2];
    const void *data;
    size_t bytes;
} entry;

typedef struct file_plan {
    int count;
    entry entries[64];
} file_plan;

static void plan_tensor(file_plan *plan, const char *name, DLDataType dtype, int ndim, int64_t rows, int64_t cols)
{
    entry *e = &plan->entries[plan->count++];
    *e = (entry){.dtype = dtype, .ndim = ndim, .shape = {rows, cols}};
    snprintf(e->name, sizeof e->name, "%s", name);
    e->bytes = (size_t)(rows * (ndim == 2 ? cols : 1)) * dtype.bits / 8;
}

/* The adapter's parameters under a prefix, each leading part of the name kept. */
static void plan_adapter(file_plan *plan, const tenon_adapter *adapter, const char *prefix)
{
    for (int64_t i = 0; i < tenon_adapter_num_parameters(adapter); i++) {
        const tenon_parameter p = parameter_at(adapter, i);
        char name[96];
        snprintf(name, sizeof name, "%s%s", prefix, p.name);
        plan_tensor(plan, name, tenon_dtype_to_dlpack(p.dtype), p.ndim, p.shape[0], p.shape[1]);
        plan->entries[plan->count - 1].data = p.data;
    }
}

static const char *write_plan(const file_plan *plan, const char *name)
{
    const char *path = scratch_path(name);
    tenon_writer *writer;
    void *zeros = calloc(1, 1 << 16);
    assert_ok(tenon_writer_new(path, &writer, &error));
    for (int i = 0; i < plan->count; i++) {
        const entry *e = &plan->entries[i];
        assert_ok(tenon_writer_add(writer, e->name, e->dtype, e->ndim, e->shape, NULL, &error));
    }
    for (int i = 0; i < plan->count; i++) {
        const entry *e = &plan->entries[i];
        assert_ok(tenon_writer_write(writer, i, e->data != NULL ? e->data : zeros, e->bytes, &error));
    }
    assert_ok(tenon_writer_commit(writer, &error));
    tenon_writer_free(writer);
    free(zeros);
    return path;
}

/* Loading fails, says each of the strings, and leaves the adapter's parameters alone. */
static void expect_misfit(tenon_adapter *adapter, const char *path, tenon_load_options *options,
                          const char *const *parts)
{
    const tenon_parameter before = parameter_at(adapter, 0);
    assert_int_equal(tenon_adapter_load(adapter, path, options, &error), TENON_MISMATCH);
    for (; *parts != NULL; parts++) {
        if (strstr(error.message, *parts) == NULL) fail_msg("'%s' is not in '%s'", *parts, error.message);
    }
    const tenon_parameter after = parameter_at(adapter, 0);
    assert_ptr_equal(before.data, after.data);
}
#define EXPECT_MISFIT(adapter, path, options, ...)                                                                     \
    expect_misfit(adapter, path, options, (const char *const[]){__VA_ARGS__, NULL})

static const DLDataType f32 = {kDLFloat, 32, 1};

static void expect_failure(tenon_status status, tenon_status expected, const char *part)
{
    assert_int_equal(status, expected);
    expect_message(&error, part, NULL);
}

static void saved_adapters_open(void **state)
{
    (void)state;
    static const tenon_dtype dtypes[] = {TENON_F32, TENON_BF16, TENON_F16};
    for (int i = 0; i < 3; i++) {
        tenon_config *config;
        tenon_adapter *saved, *opened;
        assert_ok(tenon_config_new("attentional_pool", &config, &error));
        assert_ok(tenon_config_set_int(config, "pool_heads", 3, &error));
        assert_ok(tenon_config_set_int(config, "prefix_tokens", 1, &error));
        assert_ok(tenon_config_set_string(config, "ragged", "partial", &error));
        assert_ok(tenon_adapter_new(config, 6, 10, NULL, &saved, &error));
        assert_ok(tenon_adapter_reset_parameters(saved, dtypes[i], 3, &error));
        const char *path = scratch_path("a.safetensors");
        assert_ok(tenon_adapter_save(saved, path, NULL, &error));
        tenon_load_options options;
        tenon_load_options_init(&options);
        assert_ok(tenon_adapter_open(path, &options, &opened, &error));
        assert_string_equal(options.used_prefix, "");
        assert_int_equal(options.num_used, 10);
        assert_int_equal(options.num_unused, 0);
        assert_same_parameters(saved, opened);
        assert_int_equal(tenon_adapter_in_dim(opened), 6);
        assert_int_equal(tenon_adapter_out_dim(opened), 10);
        char a[256], b[256];
        assert_ok(tenon_config_to_json(tenon_adapter_config(saved), a, sizeof a, NULL, &error));
        assert_ok(tenon_config_to_json(tenon_adapter_config(opened), b, sizeof b, NULL, &error));
        assert_string_equal(a, b);
        assert_non_null(strstr(a, "\"prefix_tokens\": 1"));
        assert_non_null(strstr(a, "\"pool_window\": 2")); /* a default, written out */
        tenon_adapter_free(opened);
        options.describe_only = true;
        assert_ok(tenon_adapter_open(path, &options, &opened, &error));
        assert_null(parameter_at(opened, 0).data);
        assert_int_equal(parameter_at(opened, 0).dtype, dtypes[i]);
        assert_int_equal(tenon_adapter_prepare(opened, NULL, &error), TENON_NOT_PREPARED);
        tenon_adapter_free(opened);
        tenon_adapter_free(saved);
        tenon_config_free(config);
    }
}

static void saving_needs_storage(void **state)
{
    (void)state;
    tenon_adapter *adapter = new_adapter("linear", 2, 2);
    assert_int_equal(tenon_adapter_save(adapter, scratch_path("none.safetensors"), NULL, &error), TENON_NOT_PREPARED);
    expect_message(&error, "proj.weight", NULL);
    assert_ok(tenon_adapter_reset_parameters(adapter, TENON_F32, 0, &error));
    assert_int_equal(tenon_adapter_save(adapter, "/dev/full", NULL, &error), TENON_INVALID);
    assert_int_equal(tenon_adapter_save(adapter, "/no/such/folder/a.safetensors", NULL, &error), TENON_NOT_FOUND);
    expect_message(&error, "/no/such/folder", NULL);
    tenon_adapter_free(adapter);
}

static void a_prefix_is_saved_for_others(void **state)
{
    (void)state;
    tenon_adapter *saved = new_adapter("mlp_2layer", 3, 5), *opened;
    assert_ok(tenon_adapter_reset_parameters(saved, TENON_BF16, 3, &error));
    const char *path = scratch_path("prefixed.safetensors");
    tenon_save_options options;
    tenon_save_options_init(&options);
    static const char *const prefixes[] = {NULL, "", "model.adapter.", "model.adapter"}; /* the dot may be left out */
    for (int i = 0; i < 4; i++) {
        tenon_load_options found;
        tenon_load_options_init(&found);
        options.prefix = prefixes[i];
        assert_ok(tenon_adapter_save(saved, path, &options, &error));
        assert_ok(tenon_adapter_open(path, &found, &opened, &error));
        assert_string_equal(found.used_prefix, i < 2 ? "" : "model.adapter.");
        assert_same_parameters(saved, opened);
        tenon_adapter_free(opened);
        tenon_file *file = open_file(path, NULL);
        const char *format = tenon_file_metadata(file, "format");
        assert_true(i < 2 ? format == NULL : format != NULL && strcmp(format, "pt") == 0);
        tenon_file_close(file);
    }
    options.prefix = "\xff";
    assert_int_equal(tenon_adapter_save(saved, path, &options, &error), TENON_INVALID);
    expect_message(&error, "UTF-8", NULL);
    tenon_adapter_free(saved);
}

/* C29: a file with infinite numbers or NaN is written only when it is asked for; whatever was there stays. */
static void c29_nothing_nonfinite_is_saved(void **state)
{
    (void)state;
    static const tenon_dtype dtypes[] = {TENON_F32, TENON_BF16, TENON_F16};
    static const uint32_t hostile[][2] = {{0x7f800000, 0xffc00001}, {0xff80, 0x7fc0}, {0x7c00, 0xfe01}};
    static const uint32_t largest[] = {0x7f7fffff, 0xff7f, 0x7bff};
    const char *path = scratch_path("finite.safetensors");
    for (int d = 0; d < 3; d++) {
        tenon_adapter *adapter = new_adapter("linear", 70, 100), *opened;
        assert_int_equal(tenon_adapter_check_finite(adapter, &error), TENON_NOT_PREPARED);
        assert_ok(tenon_adapter_reset_parameters(adapter, dtypes[d], 3, &error));
        const size_t size = tenon_dtype_size(dtypes[d]);
        char *weight = (char *)(uintptr_t)parameter_at(adapter, 0).data; /* the adapter's own */
        char *bias = (char *)(uintptr_t)parameter_at(adapter, 1).data;
        memcpy(weight, &largest[d], size);
        assert_ok(tenon_adapter_check_finite(adapter, &error));
        assert_ok(tenon_adapter_save(adapter, path, NULL, &error));
        memcpy(weight + (97 * 70 + 13) * size, &hostile[d][0], size);
        expect_failure(tenon_adapter_check_finite(adapter, &error), TENON_INVALID,
                       "1 of the parameters' numbers, in 1 of the tensors, is infinite or NaN, the first in "
                       "'proj.weight' at [97, 13]");
        memcpy(weight + 99 * 70 * size, &hostile[d][1], size);
        memcpy(bias + 7 * size, &hostile[d][1], size);
        expect_failure(tenon_adapter_save(adapter, path, NULL, &error), TENON_INVALID,
                       "finite.safetensors: is not written: 3 of the parameters' numbers, in 2 of the tensors, are");
        assert_ok(tenon_adapter_open(path, NULL, &opened, &error));
        assert_ok(tenon_adapter_check_finite(opened, &error)); /* the old file */
        tenon_adapter_free(opened);
        tenon_save_options options;
        tenon_save_options_init(&options);
        options.allow_nonfinite = true;
        assert_ok(tenon_adapter_save(adapter, path, &options, &error));
        assert_ok(tenon_adapter_open(path, NULL, &opened, &error));
        assert_same_parameters(adapter, opened);
        tenon_adapter_free(opened);
        tenon_adapter_free(adapter);
    }
}

/* B24, B27: one set of tensors, whatever stands before the names. */
static void b24_prefixes_are_found(void **state)
{
    (void)state;
    static const char *const prefixes[] = {"", "adapter.", "model.adapter.", "base_model.model.model.adapter."};
    tenon_adapter *source = new_adapter("mlp_2layer", 3, 5);
    assert_ok(tenon_adapter_reset_parameters(source, TENON_F32, 9, &error));
    for (int i = 0; i < 4; i++) {
        file_plan plan = {0};
        plan_adapter(&plan, source, prefixes[i]);
        if (i > 0) plan_tensor(&plan, "model.layers.0.weight", f32, 1, 7, 0);
        tenon_adapter *loaded = new_adapter("mlp_2layer", 3, 5);
        tenon_load_options options;
        tenon_load_options_init(&options);
        assert_ok(tenon_adapter_load(loaded, write_plan(&plan, "p.safetensors"), &options, &error));
        assert_string_equal(options.used_prefix, prefixes[i]);
        assert_int_equal(options.num_unused, i > 0 ? 1 : 0);
        assert_same_parameters(source, loaded);
        tenon_adapter_free(loaded);
    }
    /* Two candidates: nobody guesses. */
    file_plan plan = {0};
    plan_adapter(&plan, source, "adapter.");
    plan_adapter(&plan, source, "ema.adapter.");
    const char *path = write_plan(&plan, "two.safetensors");
    tenon_adapter *loaded = new_adapter("mlp_2layer", 3, 5);
    EXPECT_MISFIT(loaded, path, NULL, "2 prefixes: 'adapter.', 'ema.adapter.'", "choose one with `prefix`");
    tenon_load_options options;
    tenon_load_options_init(&options);
    options.prefix = "ema.adapter"; /* the dot may be left out */
    assert_ok(tenon_adapter_load(loaded, path, &options, &error));
    assert_string_equal(options.used_prefix, "ema.adapter.");
    options.prefix = "model";
    EXPECT_MISFIT(loaded, path, &options, "missing: proj1.weight, proj1.bias, proj2.weight, proj2.bias",
                  "'ema.adapter.' (4 tensors)");
    tenon_adapter_free(loaded);
    tenon_adapter_free(source);
}

/* Many half candidates do not hide the whole one, and shapes decide between several. */
static void shapes_decide_between_prefixes(void **state)
{
    (void)state;
    tenon_adapter *source = new_adapter("linear", 3, 5), *loaded = new_adapter("linear", 3, 5);
    assert_ok(tenon_adapter_reset_parameters(source, TENON_F32, 9, &error));
    file_plan plan = {0};
    for (int i = 0; i < 61; i++) {
        char name[64];
        snprintf(name, sizeof name, "blocks.%d.attn.proj.weight", i);
        plan_tensor(&plan, name, f32, 2, 3, 3);
    }
    plan_tensor(&plan, "blocks.0.attn.proj.bias", f32, 1, 3, 0);
    plan_adapter(&plan, source, "zadapter.");
    assert_true(plan.count == 64);
    tenon_load_options options;
    tenon_load_options_init(&options);
    options.describe_only = true; /* of tenon_adapter_open alone */
    assert_ok(tenon_adapter_load(loaded, write_plan(&plan, "vit.safetensors"), &options, &error));
    assert_string_equal(options.used_prefix, "zadapter.");
    assert_int_equal(options.num_unused, 62);
    assert_same_parameters(source, loaded);
    tenon_adapter_free(source);
    tenon_adapter_free(loaded);
}

static void b25_missing_tensors_are_named(void **state)
{
    (void)state;
    tenon_adapter *adapter = new_adapter("mlp_2layer", 3, 5);
    assert_ok(tenon_adapter_reset_parameters(adapter, TENON_F32, 9, &error));
    file_plan plan = {0};
    plan_adapter(&plan, adapter, "adapter.");
    plan.count--; /* the second bias */
    plan_tensor(&plan, "adapter.extra.scale", f32, 1, 5, 0);
    plan.entries[0].shape[0] = 3, plan.entries[0].shape[1] = 5;
    EXPECT_MISFIT(adapter, write_plan(&plan, "m.safetensors"), NULL, "missing: proj2.bias;",
                  "misshapen: proj1.weight is [3, 5], expected [5, 3] (looks transposed);",
                  "unexpected: adapter.extra.scale;", "prefixes seen: 'adapter.proj1.' (2 tensors)", "mlp_2layer");
    tenon_adapter_free(adapter);
}

static void b21_b23_shapes_are_explained(void **state)
{
    (void)state;
    tenon_adapter *adapter = new_adapter("linear", 8, 4);
    assert_ok(tenon_adapter_reset_parameters(adapter, TENON_F32, 9, &error));
    file_plan plan = {0};
    plan_tensor(&plan, "proj.weight", (DLDataType){kDLUInt, 8, 1}, 2, 16, 1);
    plan_tensor(&plan, "proj.bias", f32, 1, 4, 0);
    EXPECT_MISFIT(adapter, write_plan(&plan, "q.safetensors"), NULL,
                  "proj.weight is [16, 1], expected [4, 8] (looks packed, 4 bits)");
    plan = (file_plan){0};
    plan_tensor(&plan, "proj.weight", f32, 1, 0, 0);
    plan_tensor(&plan, "proj.bias", f32, 1, 4, 0);
    EXPECT_MISFIT(adapter, write_plan(&plan, "e.safetensors"), NULL,
                  "proj.weight is [0], expected [4, 8] (empty: saved from a sharded run?)");
    plan = (file_plan){0};
    plan_tensor(&plan, "proj.weight", (DLDataType){kDLInt, 32, 1}, 2, 4, 8);
    plan_tensor(&plan, "proj.bias", f32, 1, 4, 0);
    EXPECT_MISFIT(adapter, write_plan(&plan, "i.safetensors"), NULL, "proj.weight is I32, expected F32, BF16 or F16");
    tenon_adapter_free(adapter);
}

/* B22: another encoder's width. */
static void b22_widths_are_named(void **state)
{
    (void)state;
    tenon_adapter *adapter = new_adapter("mlp_2layer", 1024, 8), *other = new_adapter("mlp_2layer", 1664, 8);
    assert_ok(tenon_adapter_reset_parameters(adapter, TENON_F16, 9, &error));
    assert_ok(tenon_adapter_reset_parameters(other, TENON_F16, 9, &error));
    const char *path = scratch_path("w.safetensors");
    assert_ok(tenon_adapter_save(other, path, NULL, &error));
    EXPECT_MISFIT(adapter, path, NULL, "proj1.weight is [8, 1664], expected [8, 1024]");
    tenon_adapter_free(adapter);
    tenon_adapter_free(other);
}

static void b26_other_types_are_recognised(void **state)
{
    (void)state;
    tenon_adapter *mlp = new_adapter("mlp_2layer", 3, 5), *linear = new_adapter("linear", 3, 5);
    assert_ok(tenon_adapter_reset_parameters(mlp, TENON_F32, 9, &error));
    const char *path = scratch_path("mlp.safetensors");
    assert_ok(tenon_adapter_save(mlp, path, NULL, &error));
    EXPECT_MISFIT(linear, path, NULL, "missing: proj.weight, proj.bias",
                  "the file holds tensors of adapter type 'mlp_2layer' under prefix ''");
    tenon_adapter_free(mlp);
    tenon_adapter_free(linear);
}

static void b28_no_connector_at_all(void **state)
{
    (void)state;
    file_plan plan = {0};
    for (int i = 0; i < 50; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.layers.%d.weight", i < 40 ? "model" : "lm_head", i);
        plan_tensor(&plan, name, f32, 1, 2, 0);
    }
    tenon_adapter *adapter = new_adapter("linear", 3, 5);
    EXPECT_MISFIT(adapter, write_plan(&plan, "lm.safetensors"), NULL, "missing: proj.weight, proj.bias",
                  "prefixes seen: 'model.layers.' (40 tensors), 'lm_head.layers.' (10 tensors)");
    tenon_adapter_free(adapter);
}

static void expect_closed(const char *path, const char *json, tenon_status status, const char *part)
{
    tenon_load_options options;
    tenon_load_options_init(&options);
    options.config_json = json;
    tenon_adapter *adapter = NULL;
    assert_int_equal(tenon_adapter_open(path, &options, &adapter, &error), status);
    assert_null(adapter);
    if (strstr(error.message, part) == NULL) fail_msg("'%s' is not in '%s'", part, error.message);
}

static void foreign_files_need_a_config(void **state)
{
    (void)state;
    tenon_adapter *source = new_adapter("avgpool", 3, 5), *opened;
    assert_ok(tenon_adapter_reset_parameters(source, TENON_F32, 9, &error));
    file_plan plan = {0};
    plan_adapter(&plan, source, "model.adapter.");
    const char *path = write_plan(&plan, "foreign.safetensors");
    expect_closed(path, NULL, TENON_NOT_FOUND, "carries no adapter config");
    expect_closed(path, "{\"type\": \"avgpool\", \"in_dim\": 4}", TENON_MISMATCH,
                  "proj.weight is [5, 3], expected [5, 4]");
    expect_closed(path, "{\"type\": \"avgpool\", \"in_dim\": 3, \"out_dim\": 5.5}", TENON_BAD_FILE, "no integer");
    expect_closed(path, "{\"type\": \"gemma4uv\", \"in_dim\": 3, \"out_dim\": 5}", TENON_NOT_FOUND,
                  "'gemma4uv'"); /* B32 */
    expect_closed(path, "{\"type\": \"avgpool\", \"in_dim\": 0, \"out_dim\": 5}", TENON_INVALID, "must be positive");
    expect_closed(path, "{\"type\": \"avgpool\", \"in_dim\": 4611686018427387904, \"out_dim\": 4611686018427387904}",
                  TENON_INVALID, "64 bits");
    tenon_load_options options;
    tenon_load_options_init(&options);
    options.config_json = "{\"type\": \"avgpool\", \"pool_window\": 3, \"in_dim\": 3, \"out_dim\": 5}";
    assert_ok(tenon_adapter_open(path, &options, &opened, &error));
    assert_string_equal(options.used_prefix, "model.adapter.");
    assert_same_parameters(source, opened);
    tenon_adapter_free(opened);
    tenon_adapter_free(source);
}

static void versions_are_checked(void **state)
{
    (void)state;
    tenon_writer *writer;
    const char *path = scratch_path("future.safetensors");
    assert_ok(tenon_writer_new(path, &writer, &error));
    assert_ok(tenon_writer_set_metadata(writer, "tenon.format", "2", &error));
    assert_ok(tenon_writer_set_metadata(writer, "tenon.config", "{}", &error));
    assert_ok(tenon_writer_commit(writer, &error));
    tenon_writer_free(writer);
    expect_closed(path, NULL, TENON_UNSUPPORTED, "format '2'; this version of tenon reads '1'");
}

/* B45: names carry no meaning; the content is told by the content. */
static void b45_file_names_mean_nothing(void **state)
{
    (void)state;
    tenon_adapter *adapter = new_adapter("linear", 3, 5), *opened;
    assert_ok(tenon_adapter_reset_parameters(adapter, TENON_F32, 9, &error));
    const char *path = scratch_path("llava-lora.safetensors"), *other = scratch_path("mlp_2layer.npy");
    assert_ok(tenon_adapter_save(adapter, path, NULL, &error));
    assert_int_equal(rename(path, other), 0);
    assert_ok(tenon_adapter_open(other, NULL, &opened, &error));
    assert_same_parameters(adapter, opened);
    tenon_adapter_free(opened);
    tenon_adapter_free(adapter);
}

/* B141: what fails leaves nothing behind (run under a leak checker). */
static void b141_failures_do_not_leak(void **state)
{
    (void)state;
    tenon_adapter *adapter = new_adapter("linear", 3, 5);
    file_plan plan = {0};
    plan_tensor(&plan, "proj.weight", f32, 2, 5, 4);
    const char *path = write_plan(&plan, "bad.safetensors");
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(tenon_adapter_load(adapter, path, NULL, NULL), TENON_MISMATCH);
        tenon_adapter *none = NULL;
        assert_int_equal(tenon_adapter_open(path, NULL, &none, NULL), TENON_NOT_FOUND);
    }
    tenon_adapter_free(adapter);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(saved_adapters_open),           cmocka_unit_test(saving_needs_storage),
        cmocka_unit_test(a_prefix_is_saved_for_others),  cmocka_unit_test(c29_nothing_nonfinite_is_saved),
        cmocka_unit_test(b24_prefixes_are_found),        cmocka_unit_test(shapes_decide_between_prefixes),
        cmocka_unit_test(b25_missing_tensors_are_named), cmocka_unit_test(b21_b23_shapes_are_explained),
        cmocka_unit_test(b22_widths_are_named),          cmocka_unit_test(b26_other_types_are_recognised),
        cmocka_unit_test(b28_no_connector_at_all),       cmocka_unit_test(foreign_files_need_a_config),
        cmocka_unit_test(versions_are_checked),          cmocka_unit_test(b45_file_names_mean_nothing),
        cmocka_unit_test(b141_failures_do_not_leak),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
