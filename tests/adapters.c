/* SPDX-License-Identifier: MIT */
#include "adapters.h"

#include <stdlib.h>

tenon_error error;

atomic_int allocations;
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *data, size_t size);
int __real_posix_memalign(void **data, size_t align, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *data, size_t size);
int __wrap_posix_memalign(void **data, size_t align, size_t size);

void *__wrap_malloc(size_t size)
{
    allocations++;
    return __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    allocations++;
    return __real_calloc(count, size);
}

void *__wrap_realloc(void *data, size_t size)
{
    allocations++;
    return __real_realloc(data, size);
}

int __wrap_posix_memalign(void **data, size_t align, size_t size)
{
    allocations++;
    return __real_posix_memalign(data, align, size);
}

void assert_ok(tenon_status status)
{
    if (status != TENON_OK) fail_msg("%s", error.message);
}

void assert_says(tenon_status status, tenon_status expected, const char *part)
{
    assert_int_equal(status, expected);
    if (strstr(error.message, part) == NULL) fail_msg("'%s' is not in '%s'", part, error.message);
}

tenon_adapter *adapter_of(const char *json, int64_t in_dim, int64_t out_dim)
{
    tenon_config *config;
    tenon_adapter *adapter;
    assert_ok(tenon_config_from_json(json, strlen(json), &config, &error));
    assert_ok(tenon_adapter_new(config, in_dim, out_dim, NULL, &adapter, &error));
    assert_ok(tenon_adapter_reset_parameters(adapter, TENON_F32, 1, &error));
    tenon_config_free(config);
    return adapter;
}

float *random_floats(int64_t count)
{
    static uint32_t state = 12345;
    float *values = malloc((size_t)count * sizeof *values);
    for (int64_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = (float)(int32_t)state * 0x1p-31f;
    }
    return values;
}
