/* SPDX-License-Identifier: MIT */
/* reset_parameters against PyTorch, bit for bit: tests/golden/init.json (scripts/make_golden.py) and the values that
 * the specification names.
 */
#include "scene.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

static tenon_parameter parameter(const tenon_adapter *adapter, int64_t index)
{
    tenon_parameter p;
    tenon_error error;
    tenon_parameter_init(&p);
    expect_ok(tenon_adapter_parameter(adapter, index, &p, &error), &error);
    return p;
}

static double value(const tenon_parameter *p, int64_t index)
{
    if (p->dtype == TENON_F32) return (double)((const float *)p->data)[index];
    return (double)half_value(p->dtype, ((const uint16_t *)p->data)[index]);
}

static int64_t size(const tenon_parameter *p)
{
    return p->shape[0] * (p->ndim == 2 ? p->shape[1] : 1);
}

static void linear_5_to_3_with_seed_7(void **state)
{
    (void)state;
    tenon_adapter *adapter = adapter_from_json("{\"type\": \"linear\"}", 5, 3, NULL);
    tenon_error error;
    expect_ok(tenon_adapter_reset_parameters(adapter, TENON_F32, 7, &error), &error);
    const tenon_parameter weight = parameter(adapter, 0), bias = parameter(adapter, 1);
    assert_string_equal(weight.name, "proj.weight");
    assert_string_equal(bias.name, "proj.bias");
    assert_true(value(&weight, 0) == 0.031235668808221817);
    assert_true(value(&weight, 1) == -0.26939862966537476);
    assert_true(value(&weight, 2) == 0.1424032747745514);
    assert_true(value(&bias, 0) == -0.12585847079753876);
    assert_true(value(&bias, 1) == 0.1971142441034317);
    tenon_adapter_free(adapter);
}

/* First values by name, so that a failure tells where the order went wrong; then all bytes. */
static void check_case(const json_t *c)
{
    char *config = json_dumps(json_object_get(c, "config"), 0);
    const int64_t in = json_integer_value(json_object_get(c, "in_dim"));
    const int64_t out = json_integer_value(json_object_get(c, "out_dim"));
    const uint64_t seed = (uint64_t)json_integer_value(json_object_get(c, "seed"));
    const char *name = json_string_value(json_object_get(c, "dtype"));
    const json_t *names = json_object_get(c, "parameters"), *first = json_object_get(c, "first");
    tenon_adapter *adapter = adapter_from_json(config, in, out, NULL);
    tenon_dtype dtype;
    tenon_error error;
    uint32_t crc = 0;
    expect_ok(tenon_dtype_from_name(name, &dtype, &error), &error);
    expect_ok(tenon_adapter_reset_parameters(adapter, dtype, seed, &error), &error);
    assert_int_equal(tenon_adapter_num_parameters(adapter), json_array_size(names));
    for (size_t i = 0; i < json_array_size(names); i++) {
        const tenon_parameter p = parameter(adapter, (int64_t)i);
        const json_t *expected = json_array_get(first, i);
        assert_string_equal(p.name, json_string_value(json_array_get(names, i)));
        assert_int_equal(p.dtype, dtype);
        for (size_t j = 0; j < json_array_size(expected); j++)
            if (value(&p, (int64_t)j) != json_number_value(json_array_get(expected, j)))
                fail_msg("%s %s seed %d: %s[%d] is %.9g", config, name, (int)seed, p.name, (int)j,
                         value(&p, (int64_t)j));
        crc = crc32_bytes(crc, p.data, (size_t)size(&p) * tenon_dtype_size(dtype));
    }
    if (crc != json_integer_value(json_object_get(c, "crc32")))
        fail_msg("%s %d -> %d, %s, seed %llu: first values agree, later ones do not", config, (int)in, (int)out, name,
                 (unsigned long long)seed);
    tenon_adapter_free(adapter);
    free(config);
}

static void parameters_are_pytorchs(void **state)
{
    (void)state;
    json_t *cases = json_load_file(TESTS_DIR "/golden/init.json", 0, NULL), *c;
    size_t i;
    assert_true(json_array_size(cases) > 50);
    json_array_foreach(cases, i, c) check_case(c);
    json_decref(cases);
}

/* No value is the upper bound, in any dtype, and the same seed gives the same again after another dtype. */
static void draws_stay_below_the_bound(void **state)
{
    (void)state;
    tenon_adapter *adapter = adapter_from_json("{\"type\": \"mlp_2layer\", \"hidden_dim\": 200}", 100, 50, NULL);
    tenon_error error;
    for (tenon_dtype dtype = TENON_F32; dtype <= TENON_F16; dtype++) {
        expect_ok(tenon_adapter_reset_parameters(adapter, dtype, 3, &error), &error);
        for (int64_t i = 0; i < tenon_adapter_num_parameters(adapter); i++) {
            const tenon_parameter p = parameter(adapter, i);
            const float bound = round_to(dtype, 1 / sqrtf(i < 2 ? 100.0f : 200.0f));
            for (int64_t j = 0; j < size(&p); j++)
                assert_true(value(&p, j) >= -(double)bound && value(&p, j) < (double)bound);
        }
    }
    tenon_adapter_free(adapter);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_5_to_3_with_seed_7),
        cmocka_unit_test(parameters_are_pytorchs),
        cmocka_unit_test(draws_stay_below_the_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
