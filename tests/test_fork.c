/* SPDX-License-Identifier: MIT */
/* C26: forks while other threads compute, prepare, train and register. The child has the parent's memory but only the
 * thread that forked: whatever the others were in the middle of, the child must neither wait for them nor see half of
 * it. TENON_FORKS says how many (scripts/test_long.sh: 3000). */
#include "tests.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <tenon/tenon.h>
#include <time.h>
#include <unistd.h>

enum { IMAGES = 2, PATCHES = 36, TOKENS = 9, IN = 64, OUT = 96 };
enum { X_COUNT = IMAGES * PATCHES * IN, Y_COUNT = IMAGES * TOKENS * OUT };
enum { MOST_TYPES = 1000 }; /* that a parent registers */

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define BESIDE_THREAD_SANITIZER
#endif
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define WITH_LARGE_FRAMES
#endif
#endif
#if defined(WITH_LARGE_FRAMES) || !defined(NDEBUG)
enum { SMALL_STACK = 512 << 10 };
#else
enum { SMALL_STACK = 32 << 10 };
#endif
#ifdef BESIDE_THREAD_SANITIZER
/* Its allocator hangs in a child if another thread was in it at the fork; the C library's does not. */
enum { CHILD_MAY_ALLOCATE = 0 };
#else
enum { CHILD_MAY_ALLOCATE = 1 };
#endif

static tenon_error error;

/* The thread's own memory for any call of this test, so that what computes does not allocate. */
static const tenon_workspace *workspace(void)
{
    enum { BYTES = 16 << 20 };
    static atomic_int threads;
    static unsigned char memory[16][BYTES];
    static _Thread_local tenon_workspace own;
    if (own.data == NULL) own = (tenon_workspace){memory[threads++ % 16], BYTES};
    return &own;
}

/* What all threads of the parent share, and what each child must find. */
static struct {
    tenon_adapter *served;   /* prepared once; runs on many threads */
    tenon_adapter *repacked; /* prepared for training again and again, in place, from the same parameters */
    float x[X_COUNT], target[Y_COUNT];
    float y[Y_COUNT];        /* the tokens of both */
    float y_folded[Y_COUNT]; /* the tokens of a pack for inference, where two layers are one */
    float dx[X_COUNT];       /* the gradient of x where dy is `target` */
    double loss;             /* of a first training step */
    atomic_bool stopped;
    atomic_int wrong;
} shared;

static DLTensor tensor_of(float *data, int64_t shape[3], int64_t rows, int64_t width)
{
    shape[0] = IMAGES;
    shape[1] = rows;
    shape[2] = width;
    return (DLTensor){
        .data = data, .device = {kDLCPU, 0}, .ndim = 3, .dtype = tenon_dtype_to_dlpack(TENON_F32), .shape = shape};
}

static tenon_adapter *make_adapter(tenon_error *why)
{
    static const char json[] = "{\"type\": \"attentional_pool\", \"pool_window\": 2, \"pool_heads\": 4}";
    tenon_config *config;
    tenon_adapter *adapter = NULL;
    if (tenon_config_from_json(json, strlen(json), &config, why) != TENON_OK) return NULL;
    if (tenon_adapter_new(config, IN, OUT, NULL, &adapter, why) == TENON_OK &&
        tenon_adapter_reset_parameters(adapter, TENON_F32, 5, why) != TENON_OK) {
        tenon_adapter_free(adapter);
        adapter = NULL;
    }
    tenon_config_free(config);
    return adapter;
}

static bool prepare(tenon_adapter *adapter, bool train, int threads, tenon_error *why)
{
    tenon_prepare_options options;
    tenon_prepare_options_init(&options);
    options.train = train;
    options.threads = threads;
    return tenon_adapter_prepare(adapter, &options, why) == TENON_OK;
}

static bool forward(const tenon_adapter *adapter, float *y, int threads, tenon_error *why)
{
    int64_t x_shape[3], y_shape[3];
    const DLTensor x = tensor_of(shared.x, x_shape, PATCHES, IN);
    DLTensor tokens = tensor_of(y, y_shape, TOKENS, OUT);
    tenon_call call;
    tenon_call_init(&call);
    call.threads = threads;
    return tenon_adapter_forward(adapter, &x, &tokens, &call, workspace(), why) == TENON_OK;
}

static bool backward(const tenon_adapter *adapter, float *dx, int threads, tenon_error *why)
{
    int64_t x_shape[3], dy_shape[3], dx_shape[3];
    const DLTensor x = tensor_of(shared.x, x_shape, PATCHES, IN), dy = tensor_of(shared.target, dy_shape, TOKENS, OUT);
    DLTensor gradient = tensor_of(dx, dx_shape, PATCHES, IN);
    tenon_gradients gradients;
    tenon_gradients_init(&gradients);
    gradients.x = &gradient;
    tenon_call call;
    tenon_call_init(&call);
    call.threads = threads;
    return tenon_adapter_backward(adapter, &dy, &x, &gradients, &call, workspace(), why) == TENON_OK;
}

/* One step: prepares in place, forward, backward, AdamW. */
static bool train(tenon_trainer *trainer, double *loss, tenon_error *why)
{
    int64_t x_shape[3], t_shape[3];
    const DLTensor x = tensor_of(shared.x, x_shape, PATCHES, IN), t = tensor_of(shared.target, t_shape, TOKENS, OUT);
    tenon_step_info info;
    tenon_step_info_init(&info);
    if (tenon_trainer_step(trainer, &x, &t, NULL, NULL, why) != TENON_OK ||
        tenon_trainer_apply(trainer, &info, why) != TENON_OK)
        return false;
    *loss = info.loss;
    return true;
}

static tenon_trainer *make_trainer(tenon_adapter *adapter, int threads, tenon_error *why)
{
    tenon_trainer_options options;
    tenon_trainer *trainer;
    tenon_trainer_options_init(&options);
    options.threads = threads;
    return tenon_trainer_new(adapter, &options, &trainer, why) == TENON_OK ? trainer : NULL;
}

static void build(tenon_builder *builder)
{
    tenon_linear(builder, "p", tenon_builder_out_dim(builder), TENON_BIAS);
}

/* Registers a type and finds it in its place in a list that is sorted. */
static bool register_type(const char *name, tenon_error *why)
{
    enum { room = MOST_TYPES + 100 }; /* for tenon's own too */
    const char *names[room];
    bool listed = false;
    if (tenon_register_adapter(name, build, NULL, why) != TENON_OK) return false;
    const size_t count = tenon_list_adapters(names, room);
    if (count > room) return false;
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && strcmp(names[i - 1], names[i]) >= 0) return false;
        listed = listed || strcmp(names[i], name) == 0;
    }
    return listed && tenon_find_adapter("linear", why) == TENON_OK && tenon_find_adapter(name, why) == TENON_OK;
}

/* ---- the parent's threads ---- */

static void nap(long microseconds)
{
    nanosleep(&(struct timespec){0, 1000 * microseconds}, NULL);
}

static void *serve(void *unused)
{
    float y[Y_COUNT], dx[X_COUNT];
    while (!shared.stopped) {
        if (!forward(shared.served, y, 2, NULL) || memcmp(y, shared.y, sizeof y) != 0) shared.wrong++;
        if (!backward(shared.served, dx, 2, NULL) || memcmp(dx, shared.dx, sizeof dx) != 0) shared.wrong++;
    }
    return unused;
}

static void *repack(void *unused)
{
    while (!shared.stopped) {
        if (!prepare(shared.repacked, true, 2, NULL)) shared.wrong++;
    }
    return unused;
}

/* A call that begins while the pack is written over waits for it. */
static void *use_repacked(void *unused)
{
    float y[Y_COUNT];
    while (!shared.stopped) {
        if (!forward(shared.repacked, y, 1, NULL) || memcmp(y, shared.y, sizeof y) != 0) shared.wrong++;
        nap(200);
    }
    return unused;
}

static void *fit(void *unused)
{
    tenon_adapter *adapter = make_adapter(NULL);
    tenon_trainer *trainer = make_trainer(adapter, 2, NULL);
    double loss;
    while (!shared.stopped) {
        if (!train(trainer, &loss, NULL)) shared.wrong++;
    }
    tenon_trainer_free(trainer);
    tenon_adapter_free(adapter);
    return unused;
}

static void *register_types(void *unused)
{
    char name[32];
    for (int i = 0; !shared.stopped; i++) {
        snprintf(name, sizeof name, "type_%d", i * 7919 % MOST_TYPES);
        if (i < MOST_TYPES && !register_type(name, NULL)) shared.wrong++;
        if (tenon_find_adapter(name, NULL) != TENON_OK) shared.wrong++;
        if (i >= 100) nap(1000); /* the rest of the list is for long runs */
    }
    return unused;
}

/* ---- the child ---- */

/* 0, or the number of what went wrong. */
static int compute(tenon_adapter *adapter, tenon_error *why)
{
    float y[Y_COUNT], dx[X_COUNT];
    if (!forward(adapter, y, 2, why)) return 1;
    if (memcmp(y, shared.y, sizeof y) != 0) return 2;
    if (!backward(adapter, dx, 2, why)) return 3;
    return memcmp(dx, shared.dx, sizeof dx) != 0 ? 4 : 0;
}

static int compute_all(tenon_error *why)
{
    int code = compute(shared.served, why);
    if (code != 0) return code;
    /* The first call may find the pack half written; or prepare does. */
    code = getpid() % 2 == 0 || !CHILD_MAY_ALLOCATE ? compute(shared.repacked, why) : 0;
    if (code != 0) return 10 + code;
    if (!CHILD_MAY_ALLOCATE) return 0;
    if (!prepare(shared.repacked, true, 2, why)) return 20;
    code = compute(shared.repacked, why);
    if (code != 0) return 20 + code;
    float y[Y_COUNT];
    if (!prepare(shared.repacked, false, 2, why) || !forward(shared.repacked, y, 2, why)) return 30;
    return memcmp(y, shared.y_folded, sizeof y) != 0 ? 31 : 0;
}

static int begin_anew(tenon_error *why)
{
    if (!register_type("a_child", why) || !register_type("z_child", why)) return 40;
    tenon_adapter *adapter = make_adapter(why);
    tenon_trainer *trainer = adapter != NULL ? make_trainer(adapter, 2, why) : NULL;
    double loss;
    if (trainer == NULL || !train(trainer, &loss, why)) return 41;
    tenon_trainer_free(trainer);
    tenon_adapter_free(adapter);
    return loss == shared.loss && tenon_cpu_levels()[0] != 0 && tenon_build_info()[0] != 0 ? 0 : 42;
}

static void run_child(void)
{
    tenon_error why = {.message = ""};
    alarm(60);
    int code = compute_all(&why);
    if (code == 0 && CHILD_MAY_ALLOCATE) code = begin_anew(&why);
    if (CHILD_MAY_ALLOCATE) {
        tenon_adapter_free(shared.served);
        tenon_adapter_free(shared.repacked);
    }
    if (code != 0) dprintf(STDERR_FILENO, "child: step %d: %s\n", code, why.message);
    _exit(code);
}

/* A fork of a fork. */
static void run_child_and_grandchild(void)
{
    const pid_t grandchild = fork();
    if (grandchild == 0) run_child();
    int status = -1;
    if (grandchild < 0 || waitpid(grandchild, &status, 0) != grandchild || status != 0) {
        dprintf(STDERR_FILENO, "grandchild: status %d\n", status);
        _exit(50);
    }
    run_child();
}

/* ---- the test ---- */

static void set_up(void)
{
    for (int i = 0; i < X_COUNT; i++)
        shared.x[i] = (float)(i * 37 % 101) * 0.02f - 1;
    for (int i = 0; i < Y_COUNT; i++)
        shared.target[i] = (float)(i * 53 % 97) * 0.01f;
    shared.served = make_adapter(&error);
    shared.repacked = make_adapter(&error);
    tenon_adapter *fresh = make_adapter(&error);
    assert_true(shared.served != NULL && shared.repacked != NULL && fresh != NULL);
    assert_true(prepare(shared.served, true, 1, &error) && prepare(shared.repacked, true, 1, &error));
    assert_true(forward(shared.served, shared.y, 1, &error) && backward(shared.served, shared.dx, 1, &error));
    assert_true(prepare(fresh, false, 1, &error) && forward(fresh, shared.y_folded, 1, &error));
    tenon_trainer *trainer = make_trainer(fresh, 1, &error);
    assert_non_null(trainer);
    assert_true(train(trainer, &shared.loss, &error));
    tenon_trainer_free(trainer);
    tenon_adapter_free(fresh);
}

static void test_C26_children_of_a_busy_parent_compute(void **state)
{
    (void)state;
    void *(*const jobs[])(void *) = {serve, repack, use_repacked, fit, register_types};
    enum { JOBS = sizeof jobs / sizeof *jobs };
    pthread_t threads[JOBS];
    const char *text = getenv("TENON_FORKS");
    const int forks = text != NULL ? atoi(text) : 200;
    set_up();
    for (int i = 0; i < JOBS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, jobs[i], NULL), 0);
    int failed = 0;
    for (int i = 0; i < forks && failed == 0; i++) {
        const pid_t child = fork();
        if (child == 0 && i % 10 == 9) run_child_and_grandchild();
        if (child == 0) run_child();
        assert_true(child > 0);
        assert_int_equal(waitpid(child, &failed, 0), child);
        if (failed != 0) print_error("fork %d: status %#x (signal 14: it hung)\n", i, (unsigned)failed);
    }
    shared.stopped = true;
    for (int i = 0; i < JOBS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(failed, 0);
    assert_int_equal(shared.wrong, 0);
    tenon_adapter_free(shared.served);
    tenon_adapter_free(shared.repacked);
}

/* ---- a fork at a known place ---- */

/* Runs the first job of a loop, then waits, once, until the test has forked. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    atomic_int stage; /* 0: running; 1: in the middle of packing; 2: forked */
} middle = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0};

static void reach(int from, int to)
{
    pthread_mutex_lock(&middle.lock);
    while (middle.stage < from)
        pthread_cond_wait(&middle.changed, &middle.lock);
    if (middle.stage == from) middle.stage = to;
    pthread_cond_broadcast(&middle.changed);
    pthread_mutex_unlock(&middle.lock);
}

static void run_with_a_stop(void *context, int count, void (*job)(void *argument, int index), void *argument)
{
    (void)context;
    const bool stops = middle.stage == 0 && count > 1;
    for (int i = 0; i < count; i++) {
        if (stops && i == 0) {
            reach(0, 1);
            reach(2, 2);
        }
        job(argument, i);
    }
}

static void *repack_with_a_stop(void *unused)
{
    const tenon_executor executor = {sizeof executor, 2, run_with_a_stop, NULL};
    tenon_prepare_options options;
    tenon_prepare_options_init(&options);
    options.train = true;
    options.executor = &executor;
    if (tenon_adapter_prepare(shared.repacked, &options, NULL) != TENON_OK) shared.wrong++;
    return unused;
}

/* The child begins with one of these while a thread of its parent is in the middle of packing other weights. */
static int begin_with_forward(tenon_error *why)
{
    return compute(shared.repacked, why);
}

static int begin_with_prepare(tenon_error *why)
{
    return prepare(shared.repacked, true, 1, why) ? compute(shared.repacked, why) : 5;
}

static int begin_with_another_pack(tenon_error *why)
{
    float y[Y_COUNT];
    if (!prepare(shared.repacked, false, 1, why) || !forward(shared.repacked, y, 1, why)) return 6;
    return memcmp(y, shared.y_folded, sizeof y) != 0 ? 7 : begin_with_prepare(why);
}

static int begin_with_release(tenon_error *why)
{
    tenon_adapter_release_parameters(shared.repacked);
    return compute(shared.repacked, why);
}

static int begin_with_new_parameters(tenon_error *why)
{
    if (tenon_adapter_reset_parameters(shared.repacked, TENON_F32, 5, why) != TENON_OK) return 8;
    return begin_with_prepare(why);
}

static int begin_with_the_end(tenon_error *why)
{
    tenon_adapter_free(shared.repacked);
    shared.repacked = make_adapter(why);
    return shared.repacked != NULL ? begin_with_prepare(why) : 9;
}

/* All parameters times a power of two: other bits everywhere, exactly undone. */
static void scale_parameters(tenon_adapter *adapter, float factor)
{
    for (int64_t i = 0; i < tenon_adapter_num_parameters(adapter); i++) {
        tenon_parameter parameter;
        tenon_parameter_init(&parameter);
        assert_int_equal(tenon_adapter_parameter(adapter, i, &parameter, &error), TENON_OK);
        const int64_t count = parameter.shape[0] * (parameter.ndim == 2 ? parameter.shape[1] : 1);
        float *values = (float *)(uintptr_t)parameter.data;
        for (int64_t k = 0; k < count; k++)
            values[k] *= factor;
    }
}

static void test_C26_a_fork_in_the_middle_of_packing(void **state)
{
    (void)state;
    int (*const beginnings[])(tenon_error *) = {begin_with_forward, begin_with_prepare,        begin_with_another_pack,
                                                begin_with_release, begin_with_new_parameters, begin_with_the_end};
    set_up();
    for (size_t i = 0; i < sizeof beginnings / sizeof *beginnings; i++) {
        pthread_t thread;
        scale_parameters(shared.repacked, 2);
        assert_true(prepare(shared.repacked, true, 1, &error));
        scale_parameters(shared.repacked, 0.5f);
        middle.stage = 0;
        assert_int_equal(pthread_create(&thread, NULL, repack_with_a_stop, NULL), 0);
        reach(1, 1);
        const pid_t child = fork();
        if (child == 0) {
            tenon_error why = {.message = ""};
            alarm(60);
            const int code = beginnings[i](&why);
            if (code != 0) dprintf(STDERR_FILENO, "beginning %zu: step %d: %s\n", i, code, why.message);
            _exit(code);
        }
        reach(1, 2);
        pthread_join(thread, NULL);
        int status = -1;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
        assert_int_equal(compute(shared.repacked, &error), 0); /* the parent's own */
    }
    assert_int_equal(shared.wrong, 0);
    tenon_adapter_free(shared.served);
    tenon_adapter_free(shared.repacked);
}

/* ---- threads with little stack, as a host's may have ---- */

static void *compute_in_a_small_stack(void *argument)
{
    static float y[Y_COUNT], dx[X_COUNT];
    bool *good = argument;
    *good = prepare(shared.repacked, true, 2, NULL) && forward(shared.repacked, y, 2, NULL) &&
            backward(shared.repacked, dx, 2, NULL) && memcmp(y, shared.y, sizeof y) == 0 &&
            memcmp(dx, shared.dx, sizeof dx) == 0;
    return NULL;
}

static void test_C26_threads_of_32_KiB_of_stack(void **state)
{
    (void)state;
    pthread_attr_t attributes;
    pthread_t thread;
    bool good = false;
    set_up();
    pthread_attr_init(&attributes);
    assert_int_equal(pthread_attr_setstacksize(&attributes, SMALL_STACK), 0);
    assert_int_equal(pthread_create(&thread, &attributes, compute_in_a_small_stack, &good), 0);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attributes);
    assert_true(good);
    tenon_adapter_free(shared.served);
    tenon_adapter_free(shared.repacked);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_C26_threads_of_32_KiB_of_stack),
        cmocka_unit_test(test_C26_a_fork_in_the_middle_of_packing),
        cmocka_unit_test(test_C26_children_of_a_busy_parent_compute),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
