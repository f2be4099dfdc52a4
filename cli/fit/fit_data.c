/* SPDX-License-Identifier: MIT */
/* The images of a folder of shards, in a shuffled order that is computed and not stored.
 *
 * Images are numbered over the shards in order of their names. A permutation of [0, n) is a Feistel network over the
 * smallest even number of bits that holds n, walked until it lands below n; its keys are hashes of the run's seed and
 * the epoch. One permutation says which images are kept back for validation, one each epoch says in which order the
 * others come: no memory, however many images, and the place in the stream is one number in a checkpoint. */
#include "fit.h"
#include "ranks.h"
#include "report.h"
#include "shards.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 8, MOST_OPEN = 64 };

enum { X, TARGET, SIDES };

typedef struct side {
    char *path;
    int64_t tensor; /* its number in the file */
    DLDataType dtype;
    int64_t rows; /* tokens of one image */
    int ndim;     /* 2: one image without a batch axis */
} side;

typedef struct shard {
    side sides[SIDES];
    int64_t first, images;
    tenon_file *files[SIDES]; /* NULL while closed */
    int64_t used;             /* when it was read last */
} shard;

struct tn_fit_data {
    const tn_fit_settings *given;
    const tenon_adapter *adapter;
    const tenon_call *call;
    tn_run_setup setups[SIDES]; /* which tensor is read */
    int64_t widths[SIDES];
    shard *shards;
    size_t num_shards;
    int64_t images, kept;
    json_t *skipped;      /* names in the folder of features that are no shards; NULL: it is no folder */
    pthread_mutex_t lock; /* of the open files */
    int64_t clock;        /* of `used` */
    size_t num_open;
};

/* ---- the order ---- */

/* The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014). */
static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

/* The place of `index` in permutation `number` of [0, count). */
static int64_t permute(uint64_t seed, uint64_t number, int64_t index, int64_t count)
{
    int half = 1;
    while (half < 31 && (INT64_C(1) << 2 * half) < count)
        half++;
    const uint64_t key = mix(mix(seed + UINT64_C(0x9E3779B97F4A7C15)) + number);
    const uint64_t mask = (UINT64_C(1) << half) - 1;
    uint64_t value = (uint64_t)index;
    do {
        uint64_t left = value >> half, right = value & mask;
        for (uint64_t round = 0; round < ROUNDS; round++) {
            const uint64_t next = left ^ (mix(key + round * UINT64_C(0x9E3779B97F4A7C15) + mix(right)) & mask);
            left = right;
            right = next;
        }
        value = left << half | right;
    } while (value >= (uint64_t)count);
    return (int64_t)value;
}

int64_t tn_fit_data_training(const tn_fit_data *data)
{
    return data->images - data->kept;
}

int64_t tn_fit_data_validation(const tn_fit_data *data)
{
    return data->kept;
}

int64_t tn_fit_data_kept(const tn_fit_data *data, int64_t index)
{
    return permute(data->given->seed, 0, index, data->images);
}

int64_t tn_fit_data_next(const tn_fit_data *data, int64_t place)
{
    const int64_t training = tn_fit_data_training(data);
    const int64_t within = permute(data->given->seed, (uint64_t)(place / training) + 1, place % training, training);
    return permute(data->given->seed, 0, data->kept + within, data->images);
}

/* ---- opening ---- */

/* Of an open file: (images, tokens, width) of f32, bf16 or f16, or one image without the first axis. */
static bool read_header(const tn_fit_data *data, int which, side *s, int64_t *images, const tenon_file *file,
                        tenon_error *error)
{
    static const char *const names[SIDES] = {"features", "targets"};
    tenon_file_tensor tensor;
    tenon_file_tensor_init(&tensor);
    if (!tn_job_find_tensor(&data->setups[which], TN_FEATURES, s->path, file, &s->tensor, error) ||
        tenon_file_get_tensor(file, s->tensor, &tensor, error) != TENON_OK)
        return false;
    bool is_float = (tensor.dtype.code == kDLFloat || tensor.dtype.code == kDLBfloat) && tensor.dtype.bits <= 32;
    bool fits = (tensor.ndim == 2 || tensor.ndim == 3) && tensor.shape[tensor.ndim - 1] == data->widths[which];
    const bool is_uint16 = tensor.dtype.code == kDLUInt && tensor.dtype.bits == 16;
    if (!is_float || !fits)
        return tn_error(error,
                        "%s: the %s are %s %s; expected f32, bf16 or f16 of (images, tokens, %" PRId64
                        ") or (tokens, %" PRId64 ")%s",
                        s->path, names[which], tn_dtype_text(tensor.dtype), tn_shape_text(tensor.ndim, tensor.shape),
                        data->widths[which], data->widths[which],
                        is_uint16 ? "; if these are bfloat16 bits, pass --npy-bf16" : "");
    s->dtype = tensor.dtype;
    s->ndim = tensor.ndim;
    s->rows = tensor.shape[tensor.ndim - 2];
    *images = tensor.ndim == 3 ? tensor.shape[0] : 1;
    return true;
}

/* Opens a side's file and fills the side from its header; a failure leaves *file NULL. */
static bool open_side(const tn_fit_data *data, int which, side *s, int64_t *images, tenon_file **file,
                      tenon_error *error)
{
    tenon_file *opened = NULL;
    *file = NULL;
    if (tn_job_open_file(&data->setups[which], TN_FEATURES, s->path, &opened, error) &&
        read_header(data, which, s, images, opened, error)) {
        *file = opened;
        return true;
    }
    if (opened) tenon_file_close(opened);
    return false;
}

static bool check_side(const tn_fit_data *data, int which, side *s, int64_t *images, tenon_error *error)
{
    tenon_file *file;
    if (!open_side(data, which, s, images, &file, error)) return false;
    tenon_file_close(file);
    return true;
}

static bool check_pair(const tn_fit_data *data, const shard *s, int64_t targets, tenon_error *error)
{
    const side *x = &s->sides[X], *t = &s->sides[TARGET];
    tenon_error reason;
    int64_t tokens;
    if (tenon_adapter_output_num_tokens(data->adapter, data->call, x->rows, &tokens, &reason) != TENON_OK)
        return tn_error(error, "%s: %.3000s", x->path, reason.message);
    if (targets != s->images)
        return tn_error(error, "%s: has targets of %" PRId64 " images, but %s has features of %" PRId64, t->path,
                        targets, x->path, s->images);
    if (t->rows == tokens) return true;
    return tn_error(error,
                    "%s: has %" PRId64 " tokens an image, but %s makes %" PRId64 " of the %" PRId64
                    " of %s; make targets with its window and grid",
                    t->path, t->rows, data->given->start, tokens, x->rows, x->path);
}

/* The headers of both files of a shard, and whether they fit each other; fills the shard. */
static bool check_shard(const tn_fit_data *data, shard *s, tenon_error *error)
{
    const char *features = s->sides[X].path, *targets = s->sides[TARGET].path;
    int64_t count;
    if (!features || !targets) return tn_error(error, "out of memory");
    if (!tn_paths_exists(targets))
        return tn_error(error, "%s: there is no such file of targets for the features %s", targets, features);
    return check_side(data, X, &s->sides[X], &s->images, error) &&
           check_side(data, TARGET, &s->sides[TARGET], &count, error) && check_pair(data, s, count, error);
}

static bool add_shard(tn_fit_data *data, char *features, char *targets, tenon_error *error)
{
    shard *s = &data->shards[data->num_shards++];
    s->sides[X].path = features;
    s->sides[TARGET].path = targets;
    s->first = data->images;
    if (!check_shard(data, s, error)) return false;
    if (__builtin_add_overflow(data->images, s->images, &data->images) || data->images > INT64_C(1) << 60)
        return tn_error(error, "%s: more images than this program can count", features);
    return true;
}

/* The targets of a shard have its name, with either suffix. */
static char *targets_of(const char *folder, const char *shard_name)
{
    char *path = tn_paths_join(folder, shard_name);
    if (!path || tn_paths_exists(path)) return path;
    bool is_npy = tn_paths_has_suffix(shard_name, ".npy");
    char *other = tn_paths_with_suffix(shard_name, is_npy ? ".safetensors" : ".npy");
    char *second = other ? tn_paths_join(folder, other) : NULL;
    bool found = second && tn_paths_exists(second);
    free(other);
    free(found ? path : second);
    return found ? second : path;
}

/* The first rank looks at every shard and names each bad one; the others have the same data. */
static bool add_shards(tn_fit_data *data, char *const *names, size_t count, tenon_error *error)
{
    const tn_fit_settings *given = data->given;
    json_t *bad = json_object();
    bool good = bad || tn_error(error, "out of memory");
    for (size_t i = 0; good && i < count; i++) {
        char *features = tn_paths_join(given->features, names[i]), *targets = targets_of(given->targets, names[i]);
        tenon_error reason;
        if (add_shard(data, features, targets, &reason)) continue;
        if (tn_ranks_index() == 0)
            good = tn_shards_set_bad(bad, names[i], reason.message, error);
        else
            good = tn_error(error, "%s", reason.message);
    }
    if (good && json_object_size(bad) > 0)
        good = tn_shards_fail(bad, given->features, count, "cannot be used", "", error);
    json_decref(bad);
    return good;
}

static bool add_folder(tn_fit_data *data, tenon_error *error)
{
    const tn_fit_settings *given = data->given;
    char **names;
    size_t count;
    if (!tn_paths_is_folder(given->targets))
        return tn_error(error, "%s: is no folder; features in a folder take a folder of targets with the same names",
                        given->targets);
    if (!tn_paths_list_shards(given->features, &names, &count, error)) return false;
    data->skipped = tn_shards_skipped(given->features, error);
    data->shards = data->skipped ? calloc(count, sizeof *data->shards) : NULL;
    bool good = data->skipped && (data->shards || tn_error(error, "out of memory"));
    if (good && !given->json && tn_ranks_index() == 0) tn_shards_note_skipped(given->features, data->skipped);
    good = good && add_shards(data, names, count, error);
    tn_paths_free_list(names, count);
    return good;
}

const json_t *tn_fit_data_skipped(const tn_fit_data *data)
{
    return data->skipped;
}

static bool add_all(tn_fit_data *data, tenon_error *error)
{
    const tn_fit_settings *given = data->given;
    if (tn_paths_is_folder(given->features)) return add_folder(data, error);
    data->shards = calloc(1, sizeof *data->shards);
    if (!data->shards) return tn_error(error, "out of memory");
    return add_shard(data, strdup(given->features), strdup(given->targets), error);
}

static bool split(tn_fit_data *data, tenon_error *error)
{
    double kept = data->given->val_fraction * (double)data->images;
    data->kept = (int64_t)(kept + 0.5);
    if (data->given->val_fraction > 0 && data->kept == 0) data->kept = 1;
    if (data->images > data->kept) return true;
    return tn_error(
        error,
        "%s: has %" PRId64 " image%s, of which --val-fraction %g holds out %" PRId64 "; nothing is left to train on",
        data->given->features, data->images, data->images == 1 ? "" : "s", data->given->val_fraction, data->kept);
}

bool tn_fit_data_open(const tn_fit_settings *given, const tenon_adapter *adapter, const tenon_call *call,
                      tn_fit_data **data, tenon_error *error)
{
    tn_fit_data *made = calloc(1, sizeof *made);
    if (!made) return tn_error(error, "out of memory");
    pthread_mutex_init(&made->lock, NULL);
    made->given = given;
    made->adapter = adapter;
    made->call = call;
    made->widths[X] = tenon_adapter_in_dim(adapter);
    made->widths[TARGET] = tenon_adapter_out_dim(adapter);
    for (int i = 0; i < SIDES; i++)
        made->setups[i].npy_bfloat16 = given->npy_bfloat16;
    made->setups[X].tensor = given->tensor;
    made->setups[TARGET].tensor = given->target_tensor;
    made->setups[TARGET].reads_targets = true;
    if (add_all(made, error) && split(made, error)) {
        *data = made;
        return true;
    }
    tn_fit_data_close(made);
    return false;
}

static void close_files(tn_fit_data *data, shard *s)
{
    data->num_open -= s->files[X] != NULL;
    for (int i = 0; i < SIDES; i++) {
        if (s->files[i]) tenon_file_close(s->files[i]);
        s->files[i] = NULL;
    }
}

void tn_fit_data_close(tn_fit_data *data)
{
    if (!data) return;
    for (size_t i = 0; i < data->num_shards; i++) {
        close_files(data, &data->shards[i]);
        free(data->shards[i].sides[X].path);
        free(data->shards[i].sides[TARGET].path);
    }
    pthread_mutex_destroy(&data->lock);
    json_decref(data->skipped);
    free(data->shards);
    free(data);
}

/* ---- identity ---- */

bool tn_fit_data_hash(const tn_fit_data *data, char hash[TN_HASH_SIZE], tenon_error *error)
{
    tn_hasher *hasher = tn_hasher_new(0, NULL);
    bool good = hasher || tn_error(error, "out of memory while hashing the data");
    for (size_t i = 0; i < data->num_shards; i++) {
        for (int which = 0; good && which < SIDES; which++) {
            const shard *s = &data->shards[i];
            const side *part = &s->sides[which];
            char text[128];
            const char *name = tn_paths_base(part->path);
            snprintf(text, sizeof text, " %s %" PRId64 " %" PRId64 "\n", tn_dtype_text(part->dtype), s->images,
                     part->rows);
            tn_hasher_add(hasher, name, strlen(name));
            tn_hasher_add(hasher, text, strlen(text));
            good = tn_hash_sample(hasher, part->path, error);
        }
    }
    tn_hasher_finish(hasher, hash);
    return good;
}

/* The shard that holds an image: the last that begins at or before it, empty ones aside. */
static shard *shard_of(const tn_fit_data *data, int64_t image)
{
    size_t low = 0, high = data->num_shards;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (data->shards[middle].first <= image)
            low = middle;
        else
            high = middle;
    }
    return &data->shards[low];
}

bool tn_fit_data_say(const tn_fit_data *data, int64_t image, char *text, size_t size)
{
    const shard *s = shard_of(data, image);
    return snprintf(text, size, "%.2000s, image %" PRId64, s->sides[X].path, image - s->first) > 0;
}

/* ---- reading ---- */

static void close_least_used(tn_fit_data *data)
{
    shard *oldest = NULL;
    for (size_t i = 0; i < data->num_shards; i++) {
        shard *s = &data->shards[i];
        if (s->files[X] && (!oldest || s->used < oldest->used)) oldest = s;
    }
    if (oldest) close_files(data, oldest);
}

/* Opens a side again: is it the same file as when the headers were checked? Its reads notice a change later on. */
static bool reopen_side(const tn_fit_data *data, shard *s, int which, tenon_error *error)
{
    side *then = &s->sides[which], now = {.path = then->path};
    int64_t images;
    if (!open_side(data, which, &now, &images, &s->files[which], error)) return false;
    if (images != s->images || now.rows != then->rows || now.ndim != then->ndim || now.dtype.code != then->dtype.code ||
        now.dtype.bits != then->dtype.bits)
        return tn_error(error, "%s: has changed since the run began", then->path);
    then->tensor = now.tensor;
    return true;
}

static bool open_files(tn_fit_data *data, shard *s, tenon_error *error)
{
    s->used = ++data->clock;
    if (s->files[X]) return true;
    if (data->num_open >= MOST_OPEN) close_least_used(data);
    data->num_open++;
    for (int which = 0; which < SIDES; which++) {
        if (reopen_side(data, s, which, error)) continue;
        if (!s->files[X]) data->num_open--;
        close_files(data, s);
        return false;
    }
    return true;
}

static size_t image_bytes(const tn_fit_data *data, const shard *s, int which)
{
    const side *part = &s->sides[which];
    return (size_t)part->rows * (size_t)data->widths[which] * (part->dtype.bits / 8u);
}

static bool same_layout(const shard *a, const shard *b)
{
    for (int which = 0; which < SIDES; which++) {
        const side *p = &a->sides[which], *q = &b->sides[which];
        if (p->rows != q->rows || p->dtype.code != q->dtype.code || p->dtype.bits != q->dtype.bits) return false;
    }
    return true;
}

static bool reserve(const tn_fit_data *data, const shard *like, tn_fit_batch *batch, tenon_error *error)
{
    size_t x, target;
    bool past = __builtin_mul_overflow(image_bytes(data, like, X), (size_t)batch->count, &x) ||
                __builtin_mul_overflow(image_bytes(data, like, TARGET), (size_t)batch->count, &target);
    if (past) return tn_error(error, "a batch of %" PRId64 " images does not fit this machine", batch->count);
    return tn_buffer_grow(&batch->memory[X], x, error) && tn_buffer_grow(&batch->memory[TARGET], target, error);
}

static DLTensor tensor_of(void *data, DLDataType dtype, int64_t *shape)
{
    return (DLTensor){.data = data, .device = {kDLCPU, 0}, .ndim = 3, .dtype = dtype, .shape = shape};
}

static void describe(const tn_fit_data *data, const shard *like, tn_fit_batch *batch)
{
    int64_t *shapes[SIDES] = {batch->x_shape, batch->target_shape};
    for (int which = 0; which < SIDES; which++) {
        shapes[which][0] = batch->count;
        shapes[which][1] = like->sides[which].rows;
        shapes[which][2] = data->widths[which];
    }
    batch->x = tensor_of(batch->memory[X].data, like->sides[X].dtype, batch->x_shape);
    batch->target = tensor_of(batch->memory[TARGET].data, like->sides[TARGET].dtype, batch->target_shape);
}

static bool read_image(tn_fit_data *data, int64_t image, int64_t at, tn_fit_batch *batch, tenon_error *error)
{
    shard *s = shard_of(data, image);
    if (!open_files(data, s, error)) return false;
    for (int which = 0; which < SIDES; which++) {
        const side *part = &s->sides[which];
        size_t bytes = image_bytes(data, s, which);
        bool whole = part->ndim == 2; /* its slices are the tokens */
        if (bytes == 0) continue;
        if (tenon_file_read(s->files[which], part->tensor, whole ? 0 : image - s->first, whole ? part->rows : 1,
                            (char *)batch->memory[which].data + (size_t)at * bytes, bytes, error) != TENON_OK)
            return false;
    }
    return true;
}

bool tn_fit_data_read(tn_fit_data *data, const int64_t *images, int64_t count, tn_fit_batch *batch, tenon_error *error)
{
    const shard *like = shard_of(data, images[0]);
    batch->count = 1;
    while (batch->count < count && same_layout(like, shard_of(data, images[batch->count])))
        batch->count++;
    batch->images = images;
    if (!reserve(data, like, batch, error)) return false;
    bool good = true;
    pthread_mutex_lock(&data->lock);
    for (int64_t i = 0; good && i < batch->count; i++)
        good = read_image(data, images[i], i, batch, error);
    pthread_mutex_unlock(&data->lock);
    describe(data, like, batch);
    return good;
}

void tn_fit_batch_free(tn_fit_batch *batch)
{
    for (int which = 0; which < SIDES; which++)
        tn_buffer_free(&batch->memory[which]);
    memset(batch, 0, sizeof *batch);
}
