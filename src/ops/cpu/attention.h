/* SPDX-License-Identifier: MIT */
/* Attention of the queries of an image over its keys, for each query i and head h with its key head g:
 *
 *   s_j = scale * dot(q[i, h], k[j, g]),  a = softmax(s),  y[i, h] = sum_j a_j v[j, g]
 *
 *   da_j = dot(dy[i, h], v[j, g]),  ds_j = scale a_j (da_j - sum_l a_l da_l),  dq[i, h] = sum_j ds_j k[j, g]
 *   dk[j, g] = sum_ih ds_j q[i, h],  dv[j, g] = sum_ih a_j dy[i, h]
 *
 * Present keys and present queries are listed first and everything runs over the lists, so rows that are absent decide
 * nothing. The heads that share key head g stand one after another: entry u of a key head is query u mod n of its head
 * u / n. Entries run in tiles of attention_tile, with the dots, the softmax and the sums of window attention. dk and dv
 * are sums over the entries in order: a chain from zero for each tile, the tiles added in order.
 */
#ifndef TN_OPS_CPU_ATTENTION_H
#define TN_OPS_CPU_ATTENTION_H

enum { attention_tile = 16 };

typedef struct attention_call {
    tn_rows y, dq, dk, dv; /* forward: y; backward: the others, data NULL: not wanted */
    tn_rows dy, q, k, v;
    const tn_attention *how;
    int64_t tiles; /* of a key head, at most */
    char *scratch;
    size_t scratch_stride; /* of a worker */
} attention_call;

/* The memory of a worker. */
typedef struct attention_space {
    int64_t *query;                /* [queries] rows that are present */
    int64_t *slot, *key, *value;   /* [keys] rows that are present, their offsets in k and v */
    float *score, *dscore;         /* [tile, padded keys] */
    float *queries, *dys, *result; /* [tile, width of a head] */
    float *dkeys, *dvalues;        /* [keys, width of a head] */
} attention_space;

/* A key head of an image. */
typedef struct attention_head {
    const attention_call *call;
    const tn_attention_image *image;
    int64_t group, sharing; /* the key head, and how many heads share it */
    int64_t queries, keys;  /* present */
    int64_t count;          /* entries of the tile at hand */
    attention_space space;
    attend_call key_call, value_call; /* what dots and sums read and write */
    attend_window key, value;         /* score of `key`: a; of `value`: da, then ds */
} attention_head;

static void *attention_take(size_t *used, char *base, int64_t rows, int64_t width, size_t element, bool *fits)
{
    char *taken = base != NULL ? base + *used : NULL;
    *fits = *fits && add_product(used, rows, width, element);
    return taken;
}

/* Lays a worker's memory out from `base` on, NULL: only its size. False when that does not fit. */
static bool attention_place(attention_space *s, char *base, const tn_attention *how, bool backward, size_t *size)
{
    const int64_t keys = how->most_keys, tile = attention_tile, back = backward ? 1 : 0;
    const int64_t widest = tn_max_i64(how->key_dim, how->value_dim);
    bool fits = keys <= INT64_MAX / 2 && widest <= INT64_MAX / 2;
    const int64_t padded = fits ? tn_ceil_div(keys, lanes) * lanes : 0;
    *size = 0;
    s->query = attention_take(size, base, how->most_queries, 1, sizeof(int64_t), &fits);
    s->slot = attention_take(size, base, keys, 1, sizeof(int64_t), &fits);
    s->key = attention_take(size, base, keys, 1, sizeof(int64_t), &fits);
    s->value = attention_take(size, base, keys, 1, sizeof(int64_t), &fits);
    s->score = attention_take(size, base, tile, padded, sizeof(float), &fits);
    s->queries = attention_take(size, base, tile, widest, sizeof(float), &fits);
    s->result = attention_take(size, base, tile, widest, sizeof(float), &fits);
    s->dscore = attention_take(size, base, back * tile, padded, sizeof(float), &fits);
    s->dys = attention_take(size, base, back * tile, widest, sizeof(float), &fits);
    s->dkeys = attention_take(size, base, back * keys, how->key_dim, sizeof(float), &fits);
    s->dvalues = attention_take(size, base, back * keys, how->value_dim, sizeof(float), &fits);
    return fits;
}

/* Present queries and keys of the image. */
static void attention_list(attention_head *h)
{
    const attention_call *c = h->call;
    for (int64_t i = 0; i < h->image->queries; i++) {
        if (row_offset(&c->q, h->image->first_query + i) >= 0) h->space.query[h->queries++] = i;
    }
    for (int64_t j = 0; j < h->image->keys; j++) {
        const int64_t row = h->image->first_key + j;
        const int64_t key = row_offset(&c->k, row), value = row_offset(&c->v, row);
        if (key < 0 || value < 0) continue;
        h->space.slot[h->keys] = j;
        h->space.key[h->keys] = key;
        h->space.value[h->keys++] = value;
    }
}

/* What the dots and sums of window attention need: one window, its slots the image's keys, its heads a tile. */
static void attention_windows(attention_head *h)
{
    const attention_call *c = h->call;
    const tn_attention *how = c->how;
    const int64_t padded = tn_ceil_div(h->keys, lanes) * lanes;
    h->key_call = (attend_call){.x = tn_columns_from(c->k, h->group * how->key_dim),
                                .scale = (float)how->scale,
                                .rows = 1,
                                .slots = h->image->keys,
                                .width = how->key_dim};
    h->value_call = (attend_call){.x = tn_columns_from(c->v, h->group * how->value_dim),
                                  .scale = 1.0f,
                                  .rows = 1,
                                  .slots = h->image->keys,
                                  .width = how->value_dim};
    h->key = (attend_window){.present = h->keys, .padded = padded, .slot = h->space.slot};
    h->value = h->key;
    h->key.offset = h->space.key;
    h->key.score = h->space.score;
    h->key.query = h->space.queries;
    h->value.offset = h->space.value;
    h->value.score = h->space.dscore;
    h->value.query = h->space.dys;
}

static void attention_open(attention_head *h, const attention_call *c, int64_t image, int64_t group, bool backward,
                           int worker)
{
    size_t size;
    *h = (attention_head){.call = c, .image = &c->how->image[image], .group = group};
    h->sharing = c->how->heads / c->how->key_heads;
    (void)attention_place(&h->space, c->scratch + (size_t)worker * c->scratch_stride, c->how, backward, &size);
    attention_list(h);
    attention_windows(h);
    h->key.call = &h->key_call;
    h->value.call = &h->value_call;
}

/* Where entry u of the key head lies: a row of the image, and the first column of its head. */
static int64_t entry_row(const attention_head *h, int64_t u)
{
    return h->space.query[u % h->queries];
}

static int64_t entry_column(const attention_head *h, int64_t u, int64_t width)
{
    return (h->group * h->sharing + u / h->queries) * width;
}

/* to[count, width] = entries first ... of `from`, whose rows of the image begin at `begin`. */
static void gather_entries(const attention_head *h, float *to, const tn_rows *from, int64_t begin, int64_t first,
                           int64_t width)
{
    for (int64_t u = 0; u < h->count; u++) {
        const char *at = element_at(from, begin + entry_row(h, first + u), entry_column(h, first + u, width));
        widen(to + u * width, from->dtype, at, from->step, width);
    }
}

static void scatter_entries(const attention_head *h, const tn_rows *to, int64_t begin, int64_t first, int64_t width)
{
    for (int64_t u = 0; u < h->count; u++) {
        char *at = element_at(to, begin + entry_row(h, first + u), entry_column(h, first + u, width));
        narrow(at, to->dtype, h->space.result + u * width, width);
    }
}

/* result[count, width] = sums of the window's rows under `score`. */
static void mix_entries(attention_head *h, attend_window *w, attend_call *c, float *score)
{
    float *kept = w->score;
    c->y = tn_dense_rows(h->space.result, TN_F32, c->width);
    w->score = score;
    mix_windows[c->x.dtype](w, 0, h->count);
    w->score = kept;
}

/* a of the tile whose queries are gathered. */
static void score_entries(attention_head *h, int64_t first)
{
    const attention_call *c = h->call;
    gather_entries(h, h->space.queries, &c->q, h->image->first_query, first, c->how->key_dim);
    if (h->keys == 0) return;
    dot_windows[c->k.dtype](&h->key, 0, h->count);
    for (int64_t u = 0; u < h->count; u++)
        soften(h->space.score + u * h->key.padded, h->keys, h->key.padded);
}

/* ---- forward ---- */

static void attention_task(void *argument, int64_t index, int worker)
{
    const attention_call *c = argument;
    const int64_t first = index % c->tiles * attention_tile, head = index / c->tiles;
    attention_head h;
    attention_open(&h, c, head / c->how->key_heads, head % c->how->key_heads, false, worker);
    h.count = tn_min_i64(attention_tile, h.queries * h.sharing - first);
    if (h.count <= 0) return;
    score_entries(&h, first);
    mix_entries(&h, &h.value, &h.value_call, h.space.score);
    scatter_entries(&h, &c->y, h.image->first_row, first, c->how->value_dim);
}

static size_t attention_scratch(const tn_attention *how, bool backward, int workers)
{
    attention_space space;
    size_t each, bytes;
    if (!attention_place(&space, NULL, how, backward, &each) || !tn_mul_size(each, (size_t)workers, &bytes)) {
        return SIZE_MAX;
    }
    return bytes;
}

static attention_call attention_of(const tn_context *context, const tn_attention *how, bool backward)
{
    attention_call c = {.how = how, .scratch = context->scratch};
    c.scratch_stride = attention_scratch(how, backward, 1);
    c.tiles = tn_ceil_div(how->most_queries * (how->heads / how->key_heads), attention_tile);
    return c;
}

static void attention(const tn_context *context, tn_rows y, tn_rows q, tn_rows k, tn_rows v, const tn_attention *how)
{
    attention_call c = attention_of(context, how, false);
    c.y = y, c.q = q, c.k = k, c.v = v;
    tn_parallel_for(context->parallel, how->images * how->key_heads * c.tiles, attention_task, &c);
}

/* ---- backward ---- */

/* sum[j, :] += sum_u weight[u, j] from[u, :] for the present keys j. */
static void spread_entries(const attention_head *h, float *sum, const float *weight, const float *from, int64_t width)
{
    for (int64_t j = 0; j < h->keys; j++) {
        float *to = sum + j * width;
        for (int64_t i = 0; i < width; i += lanes) {
            const int64_t left = width - i;
            vf part = vf_set(0.0f);
            for (int64_t u = 0; u < h->count; u++) {
                const vf w = vf_set(weight[u * h->key.padded + j]);
                part = vf_fma(w, load_columns(TN_F32, from + u * width, 1, i, left), part);
            }
            store_columns(TN_F32, to, i, plain_nan(load_columns(TN_F32, to, 1, i, left) + part), left);
        }
    }
}

/* Writes what was summed up for the present keys. */
static void write_keys(const attention_head *h, const tn_rows *to, const float *sum, int64_t width)
{
    for (int64_t j = 0; j < h->keys && to->data != NULL; j++) {
        char *at = element_at(to, h->image->first_key + h->space.slot[j], h->group * width);
        narrow(at, to->dtype, sum + j * width, width);
    }
}

static void attention_backward_tile(attention_head *h, int64_t first)
{
    const attention_call *c = h->call;
    const int64_t padded = h->key.padded;
    score_entries(h, first);
    gather_entries(h, h->space.dys, &c->dy, h->image->first_row, first, c->how->value_dim);
    if (c->dv.data != NULL) spread_entries(h, h->space.dvalues, h->space.score, h->space.dys, c->how->value_dim);
    if (c->dq.data == NULL && c->dk.data == NULL) return;
    if (h->keys > 0) dot_windows[c->v.dtype](&h->value, 0, h->count);
    for (int64_t u = 0; u < h->count && h->keys > 0; u++)
        soften_backward(h->space.dscore + u * padded, h->space.score + u * padded, (float)c->how->scale, h->keys,
                        padded);
    if (c->dk.data != NULL) spread_entries(h, h->space.dkeys, h->space.dscore, h->space.queries, c->how->key_dim);
    if (c->dq.data == NULL) return;
    mix_entries(h, &h->key, &h->key_call, h->space.dscore);
    scatter_entries(h, &c->dq, h->image->first_row, first, c->how->key_dim);
}

static void attention_backward_task(void *argument, int64_t index, int worker)
{
    const attention_call *c = argument;
    attention_head h;
    attention_open(&h, c, index / c->how->key_heads, index % c->how->key_heads, true, worker);
    memset(h.space.dkeys, 0, (size_t)(h.keys * c->how->key_dim) * sizeof(float));
    memset(h.space.dvalues, 0, (size_t)(h.keys * c->how->value_dim) * sizeof(float));
    for (int64_t first = 0; first < h.queries * h.sharing; first += attention_tile) {
        h.count = tn_min_i64(attention_tile, h.queries * h.sharing - first);
        attention_backward_tile(&h, first);
    }
    write_keys(&h, &c->dk, h.space.dkeys, c->how->key_dim);
    write_keys(&h, &c->dv, h.space.dvalues, c->how->value_dim);
}

static void attention_backward(const tn_context *context, tn_rows dq, tn_rows dk, tn_rows dv, tn_rows dy, tn_rows q,
                               tn_rows k, tn_rows v, const tn_attention *how)
{
    attention_call c = attention_of(context, how, true);
    c.dq = dq, c.dk = dk, c.dv = dv, c.dy = dy, c.q = q, c.k = k, c.v = v;
    tn_parallel_for(context->parallel, how->images * how->key_heads, attention_backward_task, &c);
}

#endif
