/* SPDX-License-Identifier: MIT */
/* AdamW, clipping, schedule and losses against PyTorch (tests/golden/train.json, described at the head of
 * scripts/make_train_golden.py), for any number of threads. */
#include "counter_rng.h"
#include "tests.h"
#include "train/loss.h"
#include "train/optimizer.h"
#include "train/schedule.h"
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static json_t *golden;

static int load_golden(void **state)
{
    char path[512];
    json_error_t error;
    (void)state;
    snprintf(path, sizeof path, "%s/golden/train.json", TESTS_DIR);
    golden = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (golden == NULL) fail_msg("%s:%d: %s", path, error.line, error.text);
    return 0;
}

static int free_golden(void **state)
{
    (void)state;
    json_decref(golden);
    return 0;
}

static json_t *list(const char *name)
{
    json_t *found = json_object_get(golden, name);
    assert_true(json_array_size(found) > 0);
    return found;
}

static double number(const json_t *c, const char *key)
{
    const json_t *value = json_object_get(c, key);
    if (!json_is_number(value)) fail_msg("a case has no number \"%s\"", key);
    return json_number_value(value);
}

static tenon_dtype dtype_of(const json_t *c, const char *key)
{
    tenon_dtype dtype;
    assert_int_equal(tenon_dtype_from_name(json_string_value(json_object_get(c, key)), &dtype, NULL), TENON_OK);
    return dtype;
}

static tn_parallel threads(int count)
{
    tn_parallel parallel;
    assert_int_equal(tn_parallel_init(&parallel, count, NULL, NULL), TENON_OK);
    return parallel;
}

/* ||got - want|| / ||want|| */
static double relative(const double *got, const json_t *want)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < json_array_size(want); i++) {
        const double w = json_number_value(json_array_get(want, i));
        difference += (got[i] - w) * (got[i] - w);
        norm += w * w;
    }
    return sqrt(difference / norm);
}

/* ---- AdamW ---- */

enum { WEIGHT = 54, BIAS = 6, STEPS = 100 };
static const int64_t counts[2] = {WEIGHT, BIAS};

typedef struct module {
    float full[2][WEIGHT]; /* the parameters where they are f32, else their masters */
    uint16_t half[2][WEIGHT];
    float m[2][WEIGHT], v[2][WEIGHT], gradient[WEIGHT + BIAS];
    tn_dtype dtype;
    bool master;
} module;

static tn_adamw_arrays arrays_of(module *net, int i)
{
    const bool is_full = net->dtype == TN_F32;
    return (tn_adamw_arrays){.parameter = is_full ? (void *)net->full[i] : net->half[i],
                             .dtype = net->dtype,
                             .master = net->master ? net->full[i] : NULL,
                             .m = net->m[i],
                             .v = net->v[i],
                             .gradient = net->gradient + (i == 0 ? 0 : WEIGHT),
                             .count = counts[i]};
}

static void start(module *net, const json_t *c)
{
    memset(net, 0, sizeof *net);
    net->dtype = (tn_dtype)dtype_of(c, "dtype");
    net->master = json_is_true(json_object_get(c, "master"));
    for (int i = 0; i < 2; i++) {
        for (int64_t k = 0; k < counts[i]; k++) {
            const float value = counter_value((uint64_t)number(c, "seed") + (uint64_t)i, (uint64_t)k) / 4;
            if (net->dtype != TN_F32) tn_store(net->half[i], net->dtype, k, value);
            net->full[i][k] = net->dtype == TN_F32 ? value : (float)tn_load(net->half[i], net->dtype, k);
        }
    }
}

static void step(module *net, const json_t *c, int64_t t, const tn_parallel *parallel)
{
    double partial[1];
    for (int i = 0; i < 2; i++) {
        for (int64_t k = 0; k < counts[i]; k++) {
            net->gradient[k + (i == 0 ? 0 : WEIGHT)] =
                counter_value(1000 * (uint64_t)t + (uint64_t)i, (uint64_t)k) * (float)(1 + t % 7) / 8;
        }
    }
    const double norm = sqrt(tn_sum_of_squares(parallel, partial, net->gradient, WEIGHT + BIAS));
    for (int i = 0; i < 2; i++) {
        const bool decays = i == 0 || json_is_true(json_object_get(c, "decay_biases"));
        const tn_adamw settings = {.lr = number(c, "lr"),
                                   .beta1 = number(c, "beta1"),
                                   .beta2 = number(c, "beta2"),
                                   .eps = number(c, "eps"),
                                   .weight_decay = decays ? number(c, "weight_decay") : 0,
                                   .scale = tn_clip_factor(norm, number(c, "clip")),
                                   .step = t};
        const tn_adamw_arrays arrays = arrays_of(net, i);
        tn_adamw_step(parallel, &arrays, &settings);
    }
}

static void steps_equal_pytorch(void **state)
{
    size_t index;
    json_t *c;
    const tn_parallel parallel = threads(1);
    (void)state;
    json_array_foreach(list("optimizers"), index, c)
    {
        module net;
        start(&net, c);
        for (int64_t t = 1; t <= STEPS; t++) {
            char key[8];
            step(&net, c, t, &parallel);
            snprintf(key, sizeof key, "%d", (int)t);
            const json_t *after = json_object_get(json_object_get(c, "after"), key);
            for (int i = 0; after != NULL && i < 2; i++) {
                double got[WEIGHT];
                const tn_adamw_arrays arrays = arrays_of(&net, i);
                for (int64_t k = 0; k < counts[i]; k++)
                    got[k] = tn_load(arrays.parameter, net.dtype, k);
                const double error = relative(got, json_array_get(after, (size_t)i));
                if (!(error <= 1e-6)) fail_msg("case %d, step %d, parameter %d: %g", (int)index, (int)t, i, error);
            }
        }
    }
}

/* A large array in one go, and cut anywhere: the same bits, whatever the threads. */
static void bits_do_not_depend_on_threads(void **state)
{
    enum { COUNT = 3 * 65536 + 777, ARRAYS = 4 };
    float *data[2][ARRAYS];
    double sum[2];
    (void)state;
    for (int run = 0; run < 2; run++) {
        double partial[4];
        const tn_parallel parallel = threads(run == 0 ? 1 : 5);
        for (int a = 0; a < ARRAYS; a++) {
            data[run][a] = malloc(COUNT * sizeof(float));
            for (uint64_t k = 0; k < COUNT; k++)
                data[run][a][k] = fabsf(counter_value((uint64_t)a, k));
        }
        assert_int_equal(tn_square_parts(COUNT), 4);
        sum[run] = tn_sum_of_squares(&parallel, partial, data[run][3], COUNT);
        const tn_adamw settings = {.lr = 1e-2, .beta1 = .9, .beta2 = .99, .eps = 1e-8, .scale = .5, .step = 3};
        for (int64_t first = 0; first < COUNT; first += run == 0 ? COUNT : 65521) {
            const int64_t left = COUNT - first;
            const tn_adamw_arrays arrays = {.parameter = data[run][0] + first,
                                            .dtype = TN_F32,
                                            .m = data[run][1] + first,
                                            .v = data[run][2] + first,
                                            .gradient = data[run][3] + first,
                                            .count = run == 0 || left < 65521 ? left : 65521};
            tn_adamw_step(&parallel, &arrays, &settings);
        }
    }
    assert_true(sum[0] == sum[1]);
    for (int a = 0; a < ARRAYS; a++)
        assert_memory_equal(data[0][a], data[1][a], COUNT * sizeof(float));
    for (int i = 0; i < 2 * ARRAYS; i++)
        free(data[i % 2][i / 2]);
}

static void the_norm_shows_what_is_not_finite(void **state)
{
    enum { COUNT = 70000 };
    double partial[2];
    float *x = calloc(COUNT, sizeof *x);
    const tn_parallel parallel = threads(2);
    (void)state;
    x[COUNT - 1] = 3e38f;
    x[0] = -3e38f;
    assert_true(isfinite(tn_sum_of_squares(&parallel, partial, x, COUNT)));
    x[COUNT - 1] = (float)INFINITY;
    assert_true(isinf(tn_sum_of_squares(&parallel, partial, x, COUNT)));
    x[5] = (float)NAN;
    assert_true(isnan(tn_sum_of_squares(&parallel, partial, x, COUNT)));
    assert_true(tn_sum_of_squares(&parallel, partial, x, 0) == 0);
    free(x);
}

/* ---- schedule ---- */

static void schedules_equal_pytorch(void **state)
{
    size_t index, s;
    json_t *c, *rate;
    (void)state;
    json_array_foreach(list("schedules"), index, c)
    {
        const tn_schedule schedule = {number(c, "lr"), number(c, "floor"), (int64_t)number(c, "warmup"),
                                      (int64_t)number(c, "steps")};
        json_array_foreach(json_object_get(c, "rates"), s, rate)
        {
            const double got = tn_schedule_rate(&schedule, (int64_t)s);
            assert_true(fabs(got - json_number_value(rate)) <= 1e-12 * schedule.lr);
        }
        assert_true(tn_schedule_rate(&schedule, schedule.steps + 1000) == schedule.floor);
    }
    const tn_schedule flat = {.lr = 0.25, .floor = 0.1, .warmup = 2};
    assert_true(tn_schedule_rate(&flat, 0) == 0.125 && tn_schedule_rate(&flat, 1000000) == 0.25);
}

/* ---- losses ---- */

enum { BATCH = 2, TOKENS = 3, DIM = 17, ROWS = BATCH * TOKENS, SIZE = ROWS * DIM };

/* The target of a case in its dtype; with a step of 2 between its numbers where `strided`. */
static tn_tensor make_target(const json_t *c, void *data, bool strided)
{
    const int64_t step = strided ? 2 : 1;
    const tn_tensor view = {.data = data,
                            .dtype = (tn_dtype)dtype_of(c, "targets"),
                            .ndim = 3,
                            .shape = {BATCH, TOKENS, DIM},
                            .stride = {TOKENS * DIM * step, DIM * step, step}};
    for (int64_t k = 0; k < SIZE; k++) {
        const float value = counter_value((uint64_t)number(c, "seed") + 1, (uint64_t)k) * (float)number(c, "scale");
        tn_store(data, view.dtype, k * step, value);
    }
    return view;
}

static void losses_equal_pytorch(void **state)
{
    size_t index;
    json_t *c;
    (void)state;
    json_array_foreach(list("losses"), index, c)
    {
        tenon_loss loss;
        const char *name = json_string_value(json_object_get(c, "loss"));
        assert_int_equal(tenon_loss_from_name(name, &loss, NULL), TENON_OK);
        assert_string_equal(tenon_loss_name(loss), name);
        for (int run = 0; run < 3; run++) {
            float y[SIZE], memory[2 * SIZE], scratch[5 * DIM];
            double losses[ROWS], got[SIZE], sum = 0;
            const tn_parallel parallel = threads(run == 1 ? 5 : 1);
            const tn_tensor target = make_target(c, memory, run == 1);
            for (int64_t k = 0; k < SIZE; k++)
                y[k] = counter_value((uint64_t)number(c, "seed"), (uint64_t)k) * (float)number(c, "scale");
            tn_loss_rows(&parallel, y, losses, loss, run < 2, &target, scratch);
            for (int r = 0; r < ROWS; r++)
                sum += losses[r] / ROWS;
            assert_true(fabs(sum - number(c, "value")) <= 1e-12);
            for (int k = 0; k < SIZE; k++)
                got[k] = (double)y[k] / BATCH; /* ours is an image's, PyTorch's the batch's */
            if (run < 2) assert_true(relative(got, json_object_get(c, "gradient")) <= 1e-6);
        }
    }
    tenon_error error;
    tenon_loss loss;
    assert_int_equal(tenon_loss_from_name("l2", &loss, &error), TENON_INVALID);
    assert_non_null(strstr(error.message, "smooth_l1"));
    assert_null(tenon_loss_name((tenon_loss)0));
    assert_null(tenon_loss_name((tenon_loss)4));
}

static void a_vector_without_direction_has_no_cosine_gradient(void **state)
{
    float y[4] = {0, 0, 1, 2}, t[4] = {1, 2, 0, 0}, scratch[2];
    double losses[2];
    const tn_parallel parallel = threads(1);
    const tn_tensor target = {.data = t, .dtype = TN_F32, .ndim = 3, .shape = {1, 2, 2}, .stride = {4, 2, 1}};
    (void)state;
    tn_loss_rows(&parallel, y, losses, TENON_LOSS_COSINE, true, &target, scratch);
    assert_true(losses[0] == 1 && losses[1] == 1);
    for (int k = 0; k < 4; k++)
        assert_true(y[k] == 0);
}

static void a_loss_that_is_not_finite_stays_in_its_row(void **state)
{
    for (int loss = TENON_LOSS_MSE; loss <= TENON_LOSS_SMOOTH_L1; loss++) {
        float y[4] = {1, (float)NAN, 1, 2}, t[4] = {1, 2, 3, 4}, scratch[2];
        double losses[2];
        const tn_parallel parallel = threads(1);
        const tn_tensor target = {.data = t, .dtype = TN_F32, .ndim = 3, .shape = {1, 2, 2}, .stride = {4, 2, 1}};
        (void)state;
        tn_loss_rows(&parallel, y, losses, (tenon_loss)loss, true, &target, scratch);
        assert_true(isnan(losses[0]) && isfinite(losses[1]) && isfinite(y[2]) && isfinite(y[3]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_equal_pytorch),
        cmocka_unit_test(bits_do_not_depend_on_threads),
        cmocka_unit_test(the_norm_shows_what_is_not_finite),
        cmocka_unit_test(schedules_equal_pytorch),
        cmocka_unit_test(losses_equal_pytorch),
        cmocka_unit_test(a_vector_without_direction_has_no_cosine_gradient),
        cmocka_unit_test(a_loss_that_is_not_finite_stays_in_its_row),
    };
    return cmocka_run_group_tests(tests, load_golden, free_golden);
}
