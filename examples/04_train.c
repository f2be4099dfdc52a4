/* SPDX-License-Identifier: MIT */
/* Fits a small connector to the tokens of another one, and writes it to a file where one is named.
 *
 *     04_train [fitted.safetensors]
 *
 * The loop is yours: what a batch is, where it comes from and when to stop. `tenon fit` is such a loop with shards,
 * checkpoints and a progress bar.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tenon/tenon.h>

enum { IMAGES = 4, PATCHES = 16, IN_DIM = 12, TOKENS = 4, OUT_DIM = 8, STEPS = 400 };

static tenon_error error;

static void check(tenon_status status)
{
    if (status == TENON_OK) return;
    fprintf(stderr, "%s: %s\n", tenon_status_name(status), error.message);
    exit(1);
}

/* A connector that averages windows of 2 x 2 patches, with fresh parameters. */
static tenon_adapter *make_connector(uint64_t seed)
{
    static const char json[] = "{\"type\": \"avgpool\", \"pool_window\": 2}";
    tenon_config *config;
    tenon_adapter *adapter;
    check(tenon_config_from_json(json, strlen(json), &config, &error));
    check(tenon_adapter_new(config, IN_DIM, OUT_DIM, NULL, &adapter, &error));
    check(tenon_adapter_reset_parameters(adapter, TENON_F32, seed, &error));
    tenon_config_free(config);
    return adapter;
}

static float features[IMAGES * PATCHES * IN_DIM], targets[IMAGES * TOKENS * OUT_DIM];
static int64_t features_shape[] = {IMAGES, PATCHES, IN_DIM}, targets_shape[] = {IMAGES, TOKENS, OUT_DIM};

static void next_batch(void)
{
    for (int i = 0; i < IMAGES * PATCHES * IN_DIM; i++)
        features[i] = (float)rand() / (float)RAND_MAX - 0.5f;
}

int main(int argc, char **argv)
{
    if (argc > 2) return fprintf(stderr, "usage: 04_train [FITTED]\n"), 2;
    printf("each step: %d images of %d tokens\n", IMAGES, TOKENS);
    const DLDataType f32 = tenon_dtype_to_dlpack(TENON_F32);
    DLTensor x = {features, {kDLCPU, 0}, 3, f32, features_shape, NULL, 0};
    DLTensor y = {targets, {kDLCPU, 0}, 3, f32, targets_shape, NULL, 0};
    tenon_adapter *teacher = make_connector(1), *student = make_connector(2);
    check(tenon_adapter_prepare(teacher, NULL, &error));

    tenon_trainer *trainer;
    tenon_step_info info;
    tenon_trainer_options options;
    tenon_step_info_init(&info);
    tenon_trainer_options_init(&options);
    options.lr = 0.03;
    options.steps = STEPS;
    check(tenon_trainer_new(student, &options, &trainer, &error));
    while (tenon_trainer_steps(trainer) < STEPS) {
        next_batch();
        check(tenon_adapter_forward(teacher, &x, &y, NULL, NULL, &error));
        check(tenon_trainer_step(trainer, &x, &y, NULL, NULL, &error));
        check(tenon_trainer_apply(trainer, &info, &error));
        if (!info.applied)
            return fprintf(stderr, "step %lld: the loss is %g\n", (long long)info.step + 1, info.loss), 1;
        if (info.step == 1 || info.step % 100 == 0)
            printf("step %3lld: loss %.2e, gradient %.2e, rate %.2e\n", (long long)info.step, info.loss,
                   info.gradient_norm, info.lr);
    }
    if (argc == 2) check(tenon_adapter_save(student, argv[1], NULL, &error));

    tenon_trainer_free(trainer);
    tenon_adapter_free(student);
    tenon_adapter_free(teacher);
    return 0;
}
