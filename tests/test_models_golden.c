/* SPDX-License-Identifier: MIT */
/* The connectors of public models against numbers of the models' own classes (scripts/make_model_golden.py), at every
 * CPU level: the worst row of each output is at most max(1e-6, 1.25 times the class' own float32 error) from float64,
 * gradients are within 1e-5 of the larger of their own norm and 1e-3 of that of all parameters. */
#include "tests.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tenon/tenon.h>

enum { MOST = 32, MOST_DIMS = 3 };

static json_t *cases;
static char *data;
static size_t data_size;

/* A tensor of a case, with what the file says of it. */
typedef struct tensor {
    const char *name;
    int64_t shape[MOST_DIMS], elements;
    DLTensor dl;
    const double *exact; /* outputs: values; inputs and parameters: gradients */
    const float *given;  /* outputs: dy; inputs and parameters: values */
    float *made;         /* outputs: values; inputs and parameters: gradients */
} tensor;

typedef struct set {
    tensor items[MOST];
    int count;
} set;

static const void *at(const json_t *entry, const char *key, int64_t elements, size_t size)
{
    const json_int_t offset = json_integer_value(json_object_get(entry, key));
    assert_true(offset >= 0 && (size_t)offset + (size_t)elements * size <= data_size);
    return data + offset;
}

static DLTensor dense(const tensor *t, const void *values, int ndim)
{
    return (DLTensor){(void *)(uintptr_t)values,      {kDLCPU, 0}, ndim, {kDLFloat, 32, 1},
                      (int64_t *)(uintptr_t)t->shape, NULL,        0};
}

static void read_set(set *s, const json_t *c, const char *key, const char *exact, const char *given)
{
    size_t index;
    const json_t *entry, *list = json_object_get(c, key);
    assert_true(json_array_size(list) <= MOST);
    s->count = 0;
    json_array_foreach(list, index, entry)
    {
        tensor *t = &s->items[s->count++];
        const json_t *shape = json_object_get(entry, "shape");
        const int ndim = (int)json_array_size(shape);
        assert_true(ndim >= 1 && ndim <= MOST_DIMS);
        t->name = json_string_value(json_object_get(entry, "name"));
        t->elements = 1;
        for (int i = 0; i < ndim; i++)
            t->elements *= t->shape[i] = json_integer_value(json_array_get(shape, (size_t)i));
        t->exact = at(entry, exact, t->elements, sizeof *t->exact);
        t->given = at(entry, given, t->elements, sizeof *t->given);
        t->made = calloc((size_t)t->elements + 1, sizeof *t->made);
        assert_non_null(t->made);
        t->dl = dense(t, t->given, ndim);
    }
}

static void free_set(set *s)
{
    for (int i = 0; i < s->count; i++)
        free(s->items[i].made);
}

static double norm(const double *exact, const float *made, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
        const double d = made != NULL ? made[i] - exact[i] : exact[i];
        sum += d * d;
    }
    return sqrt(sum);
}

static double worst_row(const tensor *t)
{
    const int64_t width = t->shape[t->dl.ndim - 1];
    double worst = 0;
    for (int64_t i = 0; i < t->elements; i += width)
        worst = fmax(worst, norm(t->exact + i, t->made + i, width) / norm(t->exact + i, NULL, width));
    return worst;
}

/* Tensors of a set but the first, by name: their values, or what is made of them. */
static int64_t name_all(tenon_named_tensor *named, DLTensor *tensors, const set *s, bool made)
{
    for (int i = 1; i < s->count; i++) {
        tensors[i] = dense(&s->items[i], made ? s->items[i].made : s->items[i].given, s->items[i].dl.ndim);
        named[i - 1] = (tenon_named_tensor){s->items[i].name, &tensors[i]};
    }
    return s->count - 1;
}

static tenon_adapter *open_case(const json_t *c, const set *parameters)
{
    tenon_error error;
    tenon_config *config;
    tenon_adapter *adapter;
    char *json = json_dumps(json_object_get(c, "config"), 0);
    assert_non_null(json);
    assert_int_equal(tenon_config_from_json(json, strlen(json), &config, &error), TENON_OK);
    free(json);
    if (tenon_adapter_new(config, json_integer_value(json_object_get(c, "in_dim")),
                          json_integer_value(json_object_get(c, "out_dim")), NULL, &adapter, &error) != TENON_OK) {
        fail_msg("%s", error.message);
    }
    tenon_config_free(config);
    assert_int_equal(tenon_adapter_num_parameters(adapter), parameters->count);
    for (int i = 0; i < parameters->count; i++) {
        const tensor *t = &parameters->items[i];
        if (tenon_adapter_set_parameter(adapter, t->name, &t->dl, &error) != TENON_OK) fail_msg("%s", error.message);
    }
    return adapter;
}

/* The grid of all images, or those of a packed batch, which go into `grids`. */
static void read_grids(tenon_call *call, const json_t *c, DLTensor *grids, int64_t *shape, int64_t *values)
{
    const json_t *grid = json_object_get(c, "grid"), *list = json_object_get(c, "grids");
    if (grid != NULL) {
        call->grid_height = json_integer_value(json_array_get(grid, 0));
        call->grid_width = json_integer_value(json_array_get(grid, 1));
    }
    if (list == NULL) return;
    shape[0] = (int64_t)json_array_size(list);
    shape[1] = (int64_t)json_array_size(json_array_get(list, 0));
    assert_true(shape[0] * shape[1] <= MOST);
    for (int64_t i = 0; i < shape[0] * shape[1]; i++) {
        values[i] =
            json_integer_value(json_array_get(json_array_get(list, (size_t)(i / shape[1])), (size_t)(i % shape[1])));
    }
    *grids = (DLTensor){values, {kDLCPU, 0}, 2, {kDLInt, 64, 1}, shape, NULL, 0};
    call->grids = grids;
}

static void judge(const json_t *c, const set *inputs, const set *outputs, const set *parameters)
{
    double whole = 0;
    for (int i = 0; i < outputs->count; i++) {
        const double own =
            json_real_value(json_object_get(json_array_get(json_object_get(c, "outputs"), (size_t)i), "error"));
        const double worst = worst_row(&outputs->items[i]);
        if (!(worst <= fmax(1e-6, 1.25 * own)))
            fail_msg("%s: error %g, the class' %g", outputs->items[i].name, worst, own);
    }
    for (int i = 0; i < parameters->count; i++) {
        const double n = norm(parameters->items[i].exact, NULL, parameters->items[i].elements);
        whole += n * n;
    }
    const double least = 1e-3 * sqrt(whole);
    for (int i = 0; i < parameters->count + inputs->count; i++) {
        const bool input = i >= parameters->count;
        const tensor *t = input ? &inputs->items[i - parameters->count] : &parameters->items[i];
        const double scale = fmax(norm(t->exact, NULL, t->elements), input ? 0 : least);
        const double error = norm(t->exact, t->made, t->elements);
        if (!(error <= 1e-5 * scale)) fail_msg("gradient of %s: error %g of %g", t->name, error, scale);
    }
}

static void check_case(const json_t *c, const char *level)
{
    tenon_error error;
    set inputs, outputs, parameters;
    read_set(&inputs, c, "inputs", "gradient", "data");
    read_set(&outputs, c, "outputs", "data", "dy");
    read_set(&parameters, c, "parameters", "gradient", "data");
    tenon_adapter *adapter = open_case(c, &parameters);
    tenon_prepare_options options;
    tenon_prepare_options_init(&options);
    options.cpu = level;
    options.train = true;
    assert_int_equal(tenon_adapter_prepare(adapter, &options, &error), TENON_OK);

    tenon_call call;
    tenon_call_init(&call);
    tenon_named_tensor in[MOST], out[MOST], dx[MOST], dy[MOST];
    DLTensor grids, tensors[4][MOST], gradient_tensors[MOST];
    const DLTensor *gradient_list[MOST];
    int64_t shape[2], values[MOST];
    read_grids(&call, c, &grids, shape, values);
    call.inputs = in;
    call.num_inputs = name_all(in, tensors[0], &inputs, false);
    call.outputs = out;
    call.num_outputs = name_all(out, tensors[1], &outputs, true);
    DLTensor y = dense(&outputs.items[0], outputs.items[0].made, outputs.items[0].dl.ndim);
    if (tenon_adapter_forward(adapter, &inputs.items[0].dl, &y, &call, NULL, &error) != TENON_OK) {
        fail_msg("%s", error.message);
    }
    call.num_outputs = 0;
    tenon_gradients gradients;
    tenon_gradients_init(&gradients);
    DLTensor first = dense(&inputs.items[0], inputs.items[0].made, inputs.items[0].dl.ndim);
    for (int i = 0; i < parameters.count; i++) {
        gradient_tensors[i] = dense(&parameters.items[i], parameters.items[i].made, parameters.items[i].dl.ndim);
        int64_t index; /* the file has the class' order */
        assert_int_equal(tenon_adapter_find_parameter(adapter, parameters.items[i].name, &index, &error), TENON_OK);
        gradient_list[index] = &gradient_tensors[i];
    }
    gradients.x = &first;
    gradients.parameters = gradient_list;
    gradients.inputs = dx;
    gradients.num_inputs = name_all(dx, tensors[2], &inputs, true);
    gradients.outputs = dy;
    gradients.num_outputs = name_all(dy, tensors[3], &outputs, false);
    if (tenon_adapter_backward(adapter, &outputs.items[0].dl, &inputs.items[0].dl, &gradients, &call, NULL, &error) !=
        TENON_OK) {
        fail_msg("%s", error.message);
    }
    judge(c, &inputs, &outputs, &parameters);
    tenon_adapter_free(adapter);
    free_set(&inputs);
    free_set(&outputs);
    free_set(&parameters);
}

static void the_models_own_numbers(void **state)
{
    (void)state;
    size_t index;
    const json_t *c;
    json_array_foreach(cases, index, c)
    {
        char levels[128];
        snprintf(levels, sizeof levels, "%s", tenon_cpu_levels());
        for (char *level = strtok(levels, ","); level != NULL; level = strtok(NULL, ",")) {
            print_message("%s, %s\n", json_string_value(json_object_get(c, "name")), level);
            check_case(c, level);
        }
    }
    assert_true(index >= 18);
}

static int load(void **state)
{
    (void)state;
    json_error_t error;
    cases = json_load_file(TESTS_DIR "/golden/models.json", JSON_REJECT_DUPLICATES, &error);
    FILE *file = fopen(TESTS_DIR "/golden/models.bin", "rb");
    if (cases == NULL || file == NULL || fseek(file, 0, SEEK_END) != 0) return -1;
    data_size = (size_t)ftell(file);
    rewind(file);
    data = malloc(data_size + 1);
    const bool read = data != NULL && fread(data, 1, data_size, file) == data_size;
    fclose(file);
    return read ? 0 : -1;
}

static int unload(void **state)
{
    (void)state;
    json_decref(cases);
    free(data);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_models_own_numbers)};
    return cmocka_run_group_tests(tests, load, unload);
}
