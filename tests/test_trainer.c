/* SPDX-License-Identifier: MIT */
/* The trainer: whole runs against PyTorch in float64 (tests/golden/train.json), and what must hold whatever the values
 * are: threads, processes, freezing, storage, masks, saving and going on, numbers that are not finite. */
#include "counter_rng.h"
#include "scene.h"
#include "scratch.h"
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static json_t *golden;
static tenon_error error;

static int load_golden(void **state)
{
    json_error_t reason;
    (void)state;
    golden = json_load_file(TESTS_DIR "/golden/train.json", JSON_REJECT_DUPLICATES, &reason);
    if (golden == NULL) fail_msg("train.json:%d: %s", reason.line, reason.text);
    return 0;
}

static int free_golden(void **state)
{
    (void)state;
    json_decref(golden);
    return 0;
}

static double number(const json_t *c, const char *key)
{
    const json_t *value = json_object_get(c, key);
    if (!json_is_number(value)) fail_msg("a run has no number \"%s\"", key);
    return json_number_value(value);
}

/* ---- a run of the golden file: its adapter, its options, its images ---- */

typedef struct run {
    const json_t *c;
    tenon_adapter *adapter;
    tenon_trainer *trainer;
    int64_t x_shape[3], t_shape[3];
    float *x, *t; /* of one batch */
} run;

static json_t *run_case(size_t index)
{
    return json_array_get(json_object_get(golden, "runs"), index);
}

static size_t run_count(void)
{
    return json_array_size(json_object_get(golden, "runs"));
}

static tenon_trainer_options options_of(const json_t *c)
{
    tenon_trainer_options o;
    tenon_trainer_options_init(&o);
    expect_ok(tenon_loss_from_name(json_string_value(json_object_get(c, "loss")), &o.loss, &error), &error);
    o.lr = number(c, "lr");
    o.min_lr = number(c, "floor");
    o.warmup = (int64_t)number(c, "warmup");
    o.steps = (int64_t)number(c, "steps");
    o.weight_decay = number(c, "weight_decay");
    o.clip = number(c, "clip");
    o.threads = 1;
    return o;
}

static run run_open(size_t index, tenon_dtype dtype, const tenon_trainer_options *options)
{
    run r = {.c = run_case(index)};
    char *json = json_dumps(json_object_get(r.c, "config"), 0);
    const tenon_trainer_options own = options_of(r.c);
    r.adapter = adapter_from_json(json, (int64_t)number(r.c, "in_dim"), (int64_t)number(r.c, "out_dim"), NULL);
    free(json);
    expect_ok(tenon_adapter_reset_parameters(r.adapter, dtype, (uint64_t)number(r.c, "seed"), &error), &error);
    expect_ok(tenon_trainer_new(r.adapter, options != NULL ? options : &own, &r.trainer, &error), &error);
    const int64_t batch = (int64_t)number(r.c, "batch");
    memcpy(r.x_shape, (int64_t[]){batch, (int64_t)number(r.c, "tokens"), (int64_t)number(r.c, "in_dim")},
           sizeof r.x_shape);
    memcpy(r.t_shape, (int64_t[]){batch, (int64_t)number(r.c, "out_tokens"), (int64_t)number(r.c, "out_dim")},
           sizeof r.t_shape);
    r.x = grab((size_t)(batch * r.x_shape[1] * r.x_shape[2]) * sizeof *r.x);
    r.t = grab((size_t)(batch * r.t_shape[1] * r.t_shape[2]) * sizeof *r.t);
    return r;
}

static void run_close(run *r)
{
    tenon_trainer_free(r->trainer);
    tenon_adapter_free(r->adapter);
    free(r->x);
    free(r->t);
}

/* Images of step `step` into r->x and r->t. */
static void fill(run *r, int64_t step)
{
    const int64_t x = r->x_shape[0] * r->x_shape[1] * r->x_shape[2], t = r->t_shape[0] * r->t_shape[1] * r->t_shape[2];
    const uint64_t seed = (uint64_t)number(r->c, "seed");
    for (int64_t i = 0; i < x; i++)
        r->x[i] = counter_value(seed, (uint64_t)(step * x + i));
    for (int64_t i = 0; i < t; i++)
        r->t[i] = counter_value(seed + 1, (uint64_t)(step * t + i)) / 2;
}

/* `count` of the batch's images from `first` on. */
static void learn(run *r, int64_t first, int64_t count, const tenon_call *call, double *losses)
{
    int64_t x_shape[3] = {count, r->x_shape[1], r->x_shape[2]}, t_shape[3] = {count, r->t_shape[1], r->t_shape[2]};
    const DLDataType f32 = tenon_dtype_to_dlpack(TENON_F32);
    const DLTensor x = {r->x + first * x_shape[1] * x_shape[2], {kDLCPU, 0}, 3, f32, x_shape, NULL, 0};
    const DLTensor t = {r->t + first * t_shape[1] * t_shape[2], {kDLCPU, 0}, 3, f32, t_shape, NULL, 0};
    expect_ok(tenon_trainer_step(r->trainer, &x, &t, call, losses, &error), &error);
}

static tenon_step_info apply(run *r)
{
    tenon_step_info info;
    tenon_step_info_init(&info);
    expect_ok(tenon_trainer_apply(r->trainer, &info, &error), &error);
    return info;
}

/* Steps [first, end) with whole batches. */
static void train(run *r, int64_t first, int64_t end)
{
    for (int64_t step = first; step < end; step++) {
        fill(r, step);
        learn(r, 0, r->x_shape[0], NULL, NULL);
        assert_true(apply(r).applied);
    }
}

static tenon_parameter parameter_at(const tenon_adapter *adapter, int64_t index, size_t *bytes)
{
    tenon_parameter p;
    tenon_parameter_init(&p);
    expect_ok(tenon_adapter_parameter(adapter, index, &p, &error), &error);
    *bytes = (size_t)(p.shape[0] * (p.ndim == 2 ? p.shape[1] : 1)) * tenon_dtype_size(p.dtype);
    return p;
}

/* CRC of all parameters. */
static uint32_t bits_of(const tenon_adapter *adapter)
{
    uint32_t crc = 0;
    for (int64_t i = 0; i < tenon_adapter_num_parameters(adapter); i++) {
        size_t bytes;
        const tenon_parameter p = parameter_at(adapter, i, &bytes);
        crc = crc32_bytes(crc, p.data, bytes);
    }
    return crc;
}

/* ---- against PyTorch ---- */

static void check_after(const run *r)
{
    const json_t *after = json_object_get(r->c, "after");
    for (int64_t i = 0; i < tenon_adapter_num_parameters(r->adapter); i++) {
        size_t bytes;
        const tenon_parameter p = parameter_at(r->adapter, i, &bytes);
        const json_t *want = json_object_get(after, p.name);
        double difference = 0, norm = 0;
        if (want == NULL) continue;
        assert_int_equal(json_array_size(want), bytes / sizeof(float));
        for (size_t k = 0; k < json_array_size(want); k++) {
            const double w = json_number_value(json_array_get(want, k)), d = (double)((const float *)p.data)[k] - w;
            difference += d * d;
            norm += w * w;
        }
        if (!(sqrt(difference / norm) <= 2e-5)) fail_msg("%s: %g", p.name, sqrt(difference / norm));
    }
}

static void runs_equal_pytorch(void **state)
{
    (void)state;
    for (size_t index = 0; index < run_count(); index++) {
        run r = run_open(index, TENON_F32, NULL);
        for (int64_t step = 0; step < (int64_t)number(r.c, "steps"); step++) {
            double losses[2];
            fill(&r, step);
            learn(&r, 0, 2, NULL, losses);
            const tenon_step_info info = apply(&r);
            const double want = json_number_value(json_array_get(json_object_get(r.c, "losses"), (size_t)step));
            assert_true(info.applied && info.step == step + 1 && info.images == 2);
            assert_true(fabs(info.loss - want) <= 1e-5 * want);
            assert_true(fabs(info.loss - (losses[0] + losses[1]) / 2) <= 1e-12);
        }
        check_after(&r);
        run_close(&r);
    }
}

/* ---- the same bits ---- */

static void bits_do_not_depend_on_threads_or_on_what_is_kept(void **state)
{
    (void)state;
    for (size_t index = 0; index < run_count(); index++) {
        uint32_t bits[4];
        for (int i = 0; i < 4; i++) {
            tenon_trainer_options o = options_of(run_case(index));
            o.threads = i < 3 ? 1 + i : 1;
            o.save_activations = i == 3;
            run r = run_open(index, TENON_F32, &o);
            train(&r, 0, 20);
            bits[i] = bits_of(r.adapter);
            run_close(&r);
        }
        assert_true(bits[0] == bits[1] && bits[0] == bits[2] && bits[0] == bits[3]);
    }
}

static void a_restored_run_goes_on_bit_for_bit(void **state)
{
    static const tenon_dtype dtypes[] = {TENON_F32, TENON_BF16, TENON_F16};
    (void)state;
    for (size_t index = 0; index < run_count(); index++) {
        for (int d = 0; d < 6; d++) {
            const char *path = scratch_path("run.safetensors");
            tenon_trainer_options o = options_of(run_case(index));
            o.no_master = d >= 3;
            run whole = run_open(index, dtypes[d % 3], &o), stopped = run_open(index, dtypes[d % 3], &o);
            train(&whole, 0, 20);
            train(&stopped, 0, 7);
            expect_ok(tenon_trainer_save(stopped.trainer, path, "step 7", &error), &error);
            train(&stopped, 7, 11); /* and then it is killed */
            run_close(&stopped);
            stopped = run_open(index, dtypes[d % 3], &o);
            fill(&stopped, 3);
            learn(&stopped, 0, 1, NULL, NULL); /* dropped by the restore */
            expect_ok(tenon_trainer_restore(stopped.trainer, path, &error), &error);
            assert_int_equal(tenon_trainer_steps(stopped.trainer), 7);
            train(&stopped, 7, 20);
            assert_true(bits_of(whole.adapter) == bits_of(stopped.adapter));
            tenon_file *file = open_file(path, NULL);
            assert_string_equal(tenon_file_metadata(file, "tenon.note"), "step 7");
            tenon_file_close(file);
            run_close(&whole);
            run_close(&stopped);
        }
    }
}

static void what_cannot_be_restored_changes_nothing(void **state)
{
    static const char *const freeze[] = {"*.bias"};
    const char *path = scratch_path("run.safetensors");
    (void)state;
    run r = run_open(1, TENON_F32, NULL);
    train(&r, 0, 2);
    expect_ok(tenon_trainer_save(r.trainer, path, NULL, &error), &error);
    fill(&r, 2);
    learn(&r, 0, 2, NULL, NULL);
    assert_int_equal(tenon_trainer_save(r.trainer, path, NULL, &error), TENON_INVALID);
    expect_message(&error, "2 images", NULL);

    tenon_trainer_options o = options_of(r.c);
    o.freeze = freeze;
    o.num_freeze = 1;
    run others[] = {run_open(0, TENON_F32, NULL), run_open(1, TENON_F32, &o), run_open(1, TENON_BF16, NULL)};
    static const char *const said[] = {"mlp_2layer", "frozen", "bf16"};
    for (int i = 0; i < 3; i++) {
        train(&others[i], 0, 1);
        const uint32_t before = bits_of(others[i].adapter);
        assert_int_equal(tenon_trainer_restore(others[i].trainer, path, &error), TENON_MISMATCH);
        expect_message(&error, said[i], "run.safetensors", NULL);
        assert_true(before == bits_of(others[i].adapter) && tenon_trainer_steps(others[i].trainer) == 1);
    }
    expect_ok(tenon_trainer_save(others[1].trainer, path, NULL, &error), &error);
    assert_int_equal(tenon_trainer_restore(r.trainer, path, &error), TENON_MISMATCH);
    expect_message(&error, "has no 'm.proj1.bias'", NULL);
    expect_ok(tenon_adapter_save(r.adapter, path, NULL, &error), &error);
    assert_int_equal(tenon_trainer_restore(r.trainer, path, &error), TENON_BAD_FILE);
    assert_int_equal(tenon_trainer_restore(r.trainer, scratch_path("absent.safetensors"), &error), TENON_NOT_FOUND);
    for (int i = 0; i < 3; i++)
        run_close(&others[i]);
    run_close(&r);
}

/* ---- processes ---- */

/* What another process has summed up; `sum` of a process that only sends fails after it has handed it over. */
typedef struct partner {
    float *data;
    size_t count;
    bool sends;
} partner;

static int add_partner(void *context, float *data, size_t count)
{
    partner *p = context;
    if (p->sends) {
        p->data = grab(count * sizeof *data);
        p->count = count;
        memcpy(p->data, data, count * sizeof *data);
        return 7;
    }
    assert_int_equal(count, p->count);
    for (size_t i = 0; i < count; i++)
        data[i] += p->data[i];
    return 0;
}

/* Steps of a run at a rate or with gradients beyond reason, and what saving says then: the file of before stays. */
static void refuse_to_save(tenon_trainer_options o, float target, const char *said)
{
    const char *path = scratch_path("refused.safetensors");
    run r = run_open(1, TENON_F32, &o);
    expect_ok(tenon_trainer_save(r.trainer, path, "before", &error), &error);
    fill(&r, 0);
    for (int64_t i = 0; i < r.t_shape[0] * r.t_shape[1] * r.t_shape[2]; i++)
        r.t[i] = target;
    learn(&r, 0, r.x_shape[0], NULL, NULL);
    assert_true(apply(&r).applied);
    assert_int_equal(tenon_trainer_save(r.trainer, path, "after", &error), TENON_INVALID);
    expect_message(&error, "refused.safetensors: is not written: ", said, NULL);
    expect_ok(tenon_trainer_restore(r.trainer, path, &error), &error);
    assert_int_equal(tenon_trainer_steps(r.trainer), 0);
    run_close(&r);
}

static void test_C29_what_is_not_finite_is_not_saved(void **state)
{
    tenon_trainer_options o;
    (void)state;
    tenon_trainer_options_init(&o);
    o.lr = 1e39; /* the parameters themselves */
    refuse_to_save(o, 1, "of the parameters' numbers");
    tenon_trainer_options_init(&o);
    o.clip = 0; /* the squares of the gradients, while the parameters are finite */
    refuse_to_save(o, 1e28f, "`clip`");
}

static void two_processes_are_one_with_both_batches(void **state)
{
    (void)state;
    for (size_t index = 0; index < run_count(); index++) {
        partner p = {.sends = true};
        tenon_trainer_options o = options_of(run_case(index));
        o.sum = add_partner;
        o.sum_context = &p;
        run one = run_open(index, TENON_F32, NULL), sender = run_open(index, TENON_F32, &o);
        run receiver = run_open(index, TENON_F32, &o);
        fill(&one, 0), fill(&sender, 0), fill(&receiver, 0);
        learn(&one, 0, 2, NULL, NULL);
        learn(&sender, 1, 1, NULL, NULL);
        learn(&receiver, 0, 1, NULL, NULL);
        assert_int_equal(tenon_trainer_apply(sender.trainer, NULL, &error), TENON_IO);
        expect_message(&error, "failed with 7", NULL);
        p.sends = false;
        const tenon_step_info a = apply(&one), b = apply(&receiver);
        assert_true(b.images == 2 && fabs(a.loss - b.loss) <= 1e-6 * a.loss);
        assert_true(fabs(a.gradient_norm - b.gradient_norm) <= 1e-6 * a.gradient_norm);
        free(p.data);
        run_close(&one), run_close(&sender), run_close(&receiver);
    }
}

/* ---- freezing ---- */

static void frozen_parameters_do_not_change_by_a_bit(void **state)
{
    static const char *const freeze[] = {"proj1.*", "?_proj.weight", "*.bias"};
    (void)state;
    for (size_t index = 1; index < run_count(); index += 2) {
        tenon_trainer_options o = options_of(run_case(index));
        o.freeze = index == 1 ? freeze : freeze + 1;
        o.num_freeze = index == 1 ? 1 : 2;
        run r = run_open(index, TENON_F32, &o), fresh = run_open(index, TENON_F32, NULL);
        train(&r, 0, 5);
        int64_t frozen = 0;
        for (int64_t i = 0; i < tenon_adapter_num_parameters(r.adapter); i++) {
            size_t bytes;
            const tenon_parameter before = parameter_at(fresh.adapter, i, &bytes);
            const tenon_parameter after = parameter_at(r.adapter, i, &bytes);
            bool keeps = false;
            for (int64_t k = 0; k < o.num_freeze; k++)
                keeps = keeps || tenon_name_matches(o.freeze[k], before.name);
            frozen += keeps;
            assert_true(keeps == (memcmp(before.data, after.data, bytes) == 0));
        }
        assert_int_equal(frozen, index == 1 ? 2 : 9);
        run_close(&r), run_close(&fresh);
    }
}

/* ---- what is refused ---- */

static void expect_no_trainer(tenon_adapter *adapter, tenon_trainer_options o, tenon_status status, const char *said)
{
    tenon_trainer *trainer = NULL;
    assert_int_equal(tenon_trainer_new(adapter, &o, &trainer, &error), status);
    assert_null(trainer);
    expect_message(&error, said, NULL);
}

static void bad_options_are_refused(void **state)
{
    static const char *const patterns[] = {"proj3.*", "*"};
    tenon_trainer_options o;
    (void)state;
    tenon_trainer_options_init(&o);
    run r = run_open(1, TENON_F32, NULL);
#define REFUSE(field, value, said)                                                                                     \
    do {                                                                                                               \
        tenon_trainer_options bad = o;                                                                                 \
        bad.field = value;                                                                                             \
        expect_no_trainer(r.adapter, bad, TENON_INVALID, said);                                                        \
    } while (0)
    REFUSE(lr, -1, "`lr` must be");
    REFUSE(lr, (double)NAN, "`lr` must be");
    REFUSE(min_lr, 2, "`min_lr` (2), at which the schedule ends, is above `lr`");
    REFUSE(beta1, 1, "beta1");
    REFUSE(beta2, -0.1, "beta2");
    REFUSE(eps, -1, "eps");
    REFUSE(clip, (double)INFINITY, "clip");
    REFUSE(weight_decay, -1, "weight_decay");
    REFUSE(warmup, -1, "`warmup`");
    REFUSE(loss, (tenon_loss)9, "loss number 9");
    REFUSE(cpu, "z80", "'z80'");
    REFUSE(threads, -1, "threads");
    REFUSE(size, 8, "tenon_trainer_options_init");
    o.freeze = patterns;
    o.num_freeze = 1;
    expect_no_trainer(r.adapter, o, TENON_NOT_FOUND, "'proj3.*', so nothing would be frozen; there are proj1.weight");
    o.freeze = patterns + 1;
    expect_no_trainer(r.adapter, o, TENON_INVALID, "nothing is left to train");
    tenon_adapter_release_parameters(r.adapter);
    tenon_trainer_options_init(&o);
    expect_no_trainer(r.adapter, o, TENON_NOT_PREPARED, "proj1.weight");
    run_close(&r);
}

static void bad_batches_are_refused(void **state)
{
    (void)state;
    run r = run_open(2, TENON_F32, NULL);
    fill(&r, 0);
    int64_t wrong[3] = {2, 9, 5};
    const DLDataType f32 = tenon_dtype_to_dlpack(TENON_F32);
    const DLTensor x = {r.x, {kDLCPU, 0}, 3, f32, r.x_shape, NULL, 0};
    const DLTensor t = {r.t, {kDLCPU, 0}, 3, f32, wrong, NULL, 0};
    assert_int_equal(tenon_trainer_step(r.trainer, &x, &t, NULL, NULL, &error), TENON_MISMATCH);
    expect_message(&error, "[2, 9, 5]", "[2, 4, 5]", NULL);
    assert_int_equal(tenon_trainer_step(r.trainer, &x, &x, NULL, NULL, &error), TENON_MISMATCH);
    const tenon_step_info info = apply(&r);
    assert_true(!info.applied && info.images == 0 && info.step == 0);
    run_close(&r);
}

/* Two axes are one image, here as in forward and backward. */
static void an_image_without_a_batch_axis(void **state)
{
    (void)state;
    uint32_t bits[2];
    double losses[2];
    for (int one = 0; one < 2; one++) {
        run r = run_open(2, TENON_F32, NULL);
        const DLDataType f32 = tenon_dtype_to_dlpack(TENON_F32);
        fill(&r, 0);
        r.x_shape[0] = r.t_shape[0] = 1;
        const DLTensor x = {r.x, {kDLCPU, 0}, 3 - one, f32, r.x_shape + one, NULL, 0};
        const DLTensor t = {r.t, {kDLCPU, 0}, 3 - one, f32, r.t_shape + one, NULL, 0};
        expect_ok(tenon_trainer_step(r.trainer, &x, &t, NULL, &losses[one], &error), &error);
        assert_true(apply(&r).applied);
        bits[one] = bits_of(r.adapter);
        expect_ok(tenon_trainer_evaluate(r.trainer, &x, &t, NULL, NULL, &error), &error);
        const DLTensor batch = {r.t, {kDLCPU, 0}, 2 + one, f32, r.t_shape + 1 - one, NULL, 0};
        assert_int_equal(tenon_trainer_step(r.trainer, &x, &batch, NULL, NULL, &error), TENON_MISMATCH);
        run_close(&r);
    }
    assert_int_equal(bits[0], bits[1]);
    assert_true(losses[0] == losses[1]);
}

/* ---- what is not finite, masked or empty ---- */

static void a_step_that_is_not_finite_is_not_applied(void **state)
{
    (void)state;
    for (size_t index = 0; index < run_count(); index++) {
        run r = run_open(index, TENON_F32, NULL);
        double losses[2];
        train(&r, 0, 2);
        const uint32_t before = bits_of(r.adapter);
        fill(&r, 2);
        r.x[r.x_shape[1] * r.x_shape[2]] = (float)NAN; /* in the second image */
        learn(&r, 0, 2, NULL, losses);
        assert_true(isfinite(losses[0]) && isnan(losses[1]));
        tenon_step_info info = apply(&r);
        assert_true(!info.applied && isnan(info.loss) && info.step == 2 && tenon_trainer_steps(r.trainer) == 2);
        assert_true(before == bits_of(r.adapter));
        run never = run_open(index, TENON_F32, NULL); /* saw the batch, and it is as if it had not */
        train(&never, 0, 2);
        train(&r, 3, 6);
        train(&never, 3, 6);
        assert_true(bits_of(r.adapter) == bits_of(never.adapter));
        run_close(&r), run_close(&never);
    }
}

static void the_norm_finds_a_gradient_that_is_not_finite(void **state)
{
    (void)state;
    run r = run_open(0, TENON_F32, NULL);
    fill(&r, 0);
    learn(&r, 0, 2, NULL, NULL);
    const double norm = tenon_trainer_gradient_norm(r.trainer);
    assert_true(isfinite(norm) && norm > 0 && fabs(apply(&r).gradient_norm - norm) == 0);
    /* With zero weights the tokens are zero, so that the loss is finite; a gradient is the product of these two. */
    size_t bytes;
    for (int64_t i = 0; i < 7; i++)
        r.x[i] = 1e25f;
    for (int64_t i = 0; i < 5; i++)
        r.t[i] = 1e16f;
    memset((void *)(uintptr_t)parameter_at(r.adapter, 0, &bytes).data, 0, 7 * 5 * sizeof(float));
    tenon_trainer *again; /* reads the zeros */
    const tenon_trainer_options o = options_of(r.c);
    expect_ok(tenon_trainer_new(r.adapter, &o, &again, &error), &error);
    tenon_trainer_free(r.trainer);
    r.trainer = again;
    learn(&r, 0, 2, NULL, NULL);
    assert_false(isfinite(tenon_trainer_gradient_norm(r.trainer)));
    tenon_trainer_clear(r.trainer);
    assert_true(tenon_trainer_gradient_norm(r.trainer) == 0);
    run_close(&r);
}

static void masks_and_empty_batches(void **state)
{
    (void)state;
    for (size_t index = 0; index < run_count(); index++) {
        unsigned char seen[2] = {1, 0};
        int64_t two = 2;
        double losses[2];
        tenon_call call;
        tenon_call_init(&call);
        const DLTensor mask = {seen, {kDLCPU, 0}, 1, {kDLUInt, 8, 1}, &two, NULL, 0};
        call.frame_mask = &mask;
        run masked = run_open(index, TENON_F32, NULL), alone = run_open(index, TENON_F32, NULL);
        fill(&masked, 0), fill(&alone, 0);
        for (int64_t i = 0; i < masked.x_shape[1] * masked.x_shape[2]; i++)
            masked.x[masked.x_shape[1] * masked.x_shape[2] + i] = (float)NAN; /* never read */
        learn(&masked, 0, 2, &call, losses);
        assert_true(isfinite(losses[1]));
        learn(&alone, 0, 1, NULL, NULL); /* leaves gradients that are not zero, and the empty batch is the first */
        tenon_trainer_clear(alone.trainer);
        learn(&alone, 0, 0, NULL, NULL);
        assert_true(tenon_trainer_gradient_norm(alone.trainer) == 0);
        learn(&alone, 0, 1, NULL, losses);
        learn(&alone, 0, 0, NULL, NULL);
        /* The masked image gives no gradient, but it is one of two in the mean. */
        const double a = tenon_trainer_gradient_norm(masked.trainer), b = tenon_trainer_gradient_norm(alone.trainer);
        assert_true(fabs(2 * a - b) <= 1e-6 * b);
        run_close(&masked), run_close(&alone);
    }
}

/* Steps of a thousandth of a bf16's last place add up in a master copy, and are lost without one. */
static void master_copies_keep_small_steps(void **state)
{
    (void)state;
    for (int no_master = 0; no_master < 2; no_master++) {
        tenon_trainer_options o = options_of(run_case(0));
        o.lr = 1e-6;
        o.min_lr = o.weight_decay = 0;
        o.steps = o.warmup = 0;
        o.no_master = no_master == 1;
        run r = run_open(0, TENON_BF16, &o);
        size_t bytes;
        const uint16_t *weight = parameter_at(r.adapter, 0, &bytes).data;
        const float before = half_value(TENON_BF16, weight[0]);
        fill(&r, 0);
        for (int step = 0; step < 2000; step++) {
            learn(&r, 0, 2, NULL, NULL);
            assert_true(apply(&r).applied);
        }
        const float moved = fabsf(half_value(TENON_BF16, weight[0]) - before);
        assert_true(no_master ? moved == 0 : moved > 1e-3f);
        run_close(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_equal_pytorch),
        cmocka_unit_test(bits_do_not_depend_on_threads_or_on_what_is_kept),
        cmocka_unit_test(a_restored_run_goes_on_bit_for_bit),
        cmocka_unit_test(what_cannot_be_restored_changes_nothing),
        cmocka_unit_test(test_C29_what_is_not_finite_is_not_saved),
        cmocka_unit_test(two_processes_are_one_with_both_batches),
        cmocka_unit_test(frozen_parameters_do_not_change_by_a_bit),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(bad_batches_are_refused),
        cmocka_unit_test(an_image_without_a_batch_axis),
        cmocka_unit_test(a_step_that_is_not_finite_is_not_applied),
        cmocka_unit_test(the_norm_finds_a_gradient_that_is_not_finite),
        cmocka_unit_test(masks_and_empty_batches),
        cmocka_unit_test(master_copies_keep_small_steps),
    };
    return cmocka_run_group_tests(tests, load_golden, free_golden);
}
