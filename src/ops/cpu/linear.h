/* The product: y[r, g n + i] = act(sum_j x[r, g k + j] w[g, i, j] + bias[g n + i]).
 *
 * Every sum is a chain of vf_fma over j ascending, cut into blocks of block_depth; each block starts from zero and the
 * blocks are added in order. One chain over k = 4096 would lose a factor of four in accuracy. Nothing else decides the
 * bits: not the tile's height, the task, nor where x and y lie.
 *
 * x is widened to f32 once per call, [row block][k block][row][block_depth]; w was packed before. A task is a row block
 * times a chunk of panels; per k block it adds tiles of tile_rows x panel_columns into a compact buffer of its worker,
 * [panel][row][panel_columns]. After the last block each tile gets its bias and activation while it is in L1, and y is
 * written, once. A k block of a panel (16 KB) stays in L1, that of a row block (144 KB) in L2. With several groups a
 * row block of x is used by few tasks, so they widen it themselves, a k block at a time.
 */
#ifndef TN_OPS_CPU_LINEAR_H
#define TN_OPS_CPU_LINEAR_H

enum { block_depth = 256, most_tiles = 24, most_rows = most_tiles * tile_rows, most_panels = 16 };

typedef struct linear_call {
    tn_rows y, x;
    const char *w;
    const float *bias;
    tn_act act;
    const tn_map *map;
    int64_t rows, tiles, row_blocks, depths; /* depths: k blocks */
    int64_t panels, chunk, chunks;           /* panels of a group, panels and number of its chunks */
    int workers;
    float *x_wide; /* all of x, or one k block per worker */
    float *sums;   /* [worker][chunk][rows of a block][panel_columns] */
} linear_call;

/* --- one tile --- */

/* sums[height, panel_columns] = or += x[height, depth] w[depth, panel_columns]; x's rows lie block_depth apart. With
 * `stream`, each step of k also fetches a line of what is to be read next. */
static ALWAYS_INLINE void tile(float *sums, const float *x, const void *w, int64_t depth, bool first, const char *next,
                               int height, tn_dtype dtype, bool stream)
{
    vf sum[tile_rows][panel_vectors];
    UNROLL
    for (int r = 0; r < height; r++) {
        UNROLL
        for (int v = 0; v < panel_vectors; v++)
            sum[r][v] = vf_set(0.0f);
    }
    UNROLL_STEPS
    for (int64_t k = 0; k < depth; k++) {
        if (stream) __builtin_prefetch(next + k * 64, 0, 2);
        vf b[panel_vectors];
        UNROLL
        for (int v = 0; v < panel_vectors; v++)
            b[v] = vf_keep(load_as(dtype, w, k * panel_columns + v * lanes));
        UNROLL
        for (int r = 0; r < height; r++) {
            const vf a = vf_set(x[r * block_depth + k]);
            UNROLL
            for (int v = 0; v < panel_vectors; v++)
                sum[r][v] = vf_fma(a, b[v], sum[r][v]);
        }
    }
    UNROLL
    for (int r = 0; r < height; r++) {
        UNROLL
        for (int v = 0; v < panel_vectors; v++) {
            float *to = sums + r * panel_columns + v * lanes;
            vf_store(to, first ? sum[r][v] : vf_load(to) + sum[r][v]);
        }
    }
}

typedef void tile_kernel(float *sums, const float *x, const void *w, int64_t depth, bool first, const char *next);

#define TILE(height, dtype, stream)                                                                                    \
    static void tile_##height##_##dtype##_##stream(float *sums, const float *x, const void *w, int64_t depth,          \
                                                   bool first, const char *next)                                       \
    {                                                                                                                  \
        tile(sums, x, w, depth, first, next, height, dtype, stream);                                                   \
    }
#define TILES_OF(dtype, stream)                                                                                        \
    TILE(1, dtype, stream)                                                                                             \
    TILE(2, dtype, stream)                                                                                             \
    TILE(3, dtype, stream) TILE(4, dtype, stream) TILE(5, dtype, stream) TILE(6, dtype, stream)
#define TILE_NAMES(dtype, stream)                                                                                      \
    {                                                                                                                  \
        tile_1_##dtype##_##stream, tile_2_##dtype##_##stream, tile_3_##dtype##_##stream, tile_4_##dtype##_##stream,    \
            tile_5_##dtype##_##stream, tile_6_##dtype##_##stream                                                       \
    }
TILES_OF(TN_F32, 0)
TILES_OF(TN_F32, 1)
TILES_OF(TN_BF16, 0)
TILES_OF(TN_BF16, 1)
TILES_OF(TN_F16, 0)
TILES_OF(TN_F16, 1)
static tile_kernel *const tile_kernels[][2][tile_rows] = {
    [TN_F32] = {TILE_NAMES(TN_F32, 0), TILE_NAMES(TN_F32, 1)},
    [TN_BF16] = {TILE_NAMES(TN_BF16, 0), TILE_NAMES(TN_BF16, 1)},
    [TN_F16] = {TILE_NAMES(TN_F16, 0), TILE_NAMES(TN_F16, 1)},
};
#undef TILE
#undef TILES_OF
#undef TILE_NAMES

/* --- rows, tiles and row blocks: tiles of 6 and 5 rows, so that no tile is nearly empty --- */

static int64_t tile_start(const linear_call *c, int64_t t)
{
    return t * c->rows / c->tiles;
}

static int64_t block_start(const linear_call *c, int64_t b)
{
    return b * c->tiles / c->row_blocks;
}

static int64_t block_of_tile(const linear_call *c, int64_t t)
{
    return ((t + 1) * c->row_blocks - 1) / c->tiles;
}

/* --- x --- */

/* wide[r - from, 0 : depth] = x[r, column : column + depth], rows block_depth apart. */
static void widen_rows(float *wide, const tn_rows *x, int64_t from, int64_t to, int64_t column, int64_t depth)
{
    for (int64_t r = from; r < to; r++, wide += block_depth)
        widen(wide, x->dtype, element_at(x, r, column), x->step, depth);
}

static void widen_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const linear_call *c = argument;
    const int64_t b = block_of_tile(c, index);
    const int64_t block_from = tile_start(c, block_start(c, b)), block_to = tile_start(c, block_start(c, b + 1));
    const int64_t from = tile_start(c, index), to = tile_start(c, index + 1);
    for (int64_t d = 0; d < c->depths; d++) {
        const int64_t row = block_from * c->depths + (block_to - block_from) * d + (from - block_from);
        const int64_t depth = tn_min_i64(block_depth, c->map->k - d * block_depth);
        widen_rows(c->x_wide + row * block_depth, &c->x, from, to, d * block_depth, depth);
    }
}

/* A small x is widened by the caller: waking the other threads twice would take longer. */
static void widen_all(const tn_context *context, linear_call *c)
{
    enum { small = 1 << 16 };
    const tn_parallel caller = {1, NULL};
    const bool alone = c->map->k <= small / c->rows;
    tn_parallel_for(alone ? &caller : context->parallel, c->tiles, widen_task, c);
}

/* --- one task --- */

typedef struct linear_task {
    const linear_call *call;
    float *sums;
    int64_t group, first_panel, panels;
    int64_t first_tile, tiles, first_row, rows;
    int64_t index;
} linear_task;

/* Columns [from, to) of y that a panel of this task makes. */
static int64_t panel_column(const linear_task *t, int64_t panel)
{
    return t->group * t->call->map->n + (t->first_panel + panel) * panel_columns;
}

static void finish_tile(const linear_task *t, float *sums, int64_t panel, int64_t row, int64_t height,
                        const float *bias)
{
    const linear_call *c = t->call;
    const int64_t column = panel_column(t, panel);
    const int64_t columns = tn_min_i64(panel_columns, c->map->n - (t->first_panel + panel) * panel_columns);
    if (c->bias != NULL) {
        for (int64_t r = 0; r < height; r++) {
            UNROLL
            for (int v = 0; v < panel_vectors; v++) {
                float *to = sums + r * panel_columns + v * lanes;
                vf_store(to, vf_load(to) + vf_load(bias + v * lanes));
            }
        }
    }
    activate(sums, c->act, height * panel_columns);
    for (int64_t r = 0; r < height; r++) {
        char *y = element_at(&c->y, row + r, column);
        UNROLL
        for (int v = 0; v < panel_vectors; v++) {
            const vf out = plain_nan(vf_load(sums + r * panel_columns + v * lanes));
            if (columns > v * lanes) store_columns(c->y.dtype, y, v * lanes, out, columns - v * lanes);
        }
    }
}

static void fetch_y(const linear_task *t, int64_t panel, int64_t row, int64_t height)
{
    for (int64_t r = 0; r < height; r++)
        prefetch_for_write(element_at(&t->call->y, row + r, panel_column(t, panel)));
}

static void load_bias(float *bias, const linear_task *t, int64_t panel)
{
    const linear_call *c = t->call;
    if (c->bias == NULL) return;
    const int64_t columns = tn_min_i64(panel_columns, c->map->n - (t->first_panel + panel) * panel_columns);
    memset(bias, 0, panel_columns * sizeof *bias);
    memcpy(bias, c->bias + panel_column(t, panel), (size_t)columns * sizeof *bias);
}

static const char *weights_at(const linear_call *c, int64_t group, int64_t panel, int64_t d)
{
    const int64_t index = (group * c->panels + panel) * c->map->k + d * block_depth;
    return c->w + index * panel_columns * element_size(c->map->dtype);
}

/* What is read after panel `panel` of k block d: the next panel, the first one of the next block, or the first one of
 * the task that this worker will get if all take turns. */
static const char *weights_after(const linear_task *t, int64_t panel, int64_t d)
{
    const linear_call *c = t->call;
    if (panel + 1 < t->panels) return weights_at(c, t->group, t->first_panel + panel + 1, d);
    if (d + 1 < c->depths) return weights_at(c, t->group, t->first_panel, d + 1);
    const int64_t index = t->index + c->workers, chunk = index % c->chunks;
    return weights_at(c, index / c->chunks % c->map->groups, chunk * c->chunk, 0);
}

/* One panel times all tiles of the task, for k block d. Meanwhile the next panel comes from memory: in bursts between
 * the tiles when they are many, else line by line within them. */
static void run_panel(const linear_task *t, const float *x, int64_t panel, int64_t d)
{
    enum { many = 9, line = 64 };
    const linear_call *c = t->call;
    const int64_t depth = tn_min_i64(block_depth, c->map->k - d * block_depth);
    const char *w = weights_at(c, t->group, t->first_panel + panel, d);
    const char *next = weights_after(t, panel, d);
    const bool last = d + 1 >= c->depths, stream = t->tiles < many;
    const int64_t lines = depth * panel_columns * element_size(c->map->dtype) / line;
    float bias[panel_columns], *sums = t->sums + panel * t->rows * panel_columns;
    if (last) load_bias(bias, t, panel);
    for (int64_t i = 0; i < t->tiles; i++) {
        const int64_t row = tile_start(c, t->first_tile + i), height = tile_start(c, t->first_tile + i + 1) - row;
        float *to = sums + (row - t->first_row) * panel_columns;
        if (last) fetch_y(t, panel, row, height);
        if (!stream) {
            for (int64_t p = i * lines / t->tiles; p < (i + 1) * lines / t->tiles; p++)
                __builtin_prefetch(next + p * line, 0, 2);
        }
        const bool ahead = stream && i * depth < lines;
        tile_kernels[c->map->dtype][ahead][height - 1](to, x + (row - t->first_row) * block_depth, w, depth, d == 0,
                                                       next + i * depth * line);
        if (last) finish_tile(t, to, panel, row, height, bias);
    }
}

static void linear_task_run(void *argument, int64_t index, int worker)
{
    const linear_call *c = argument;
    const int64_t chunk = index % c->chunks, group = index / c->chunks % c->map->groups;
    const int64_t b = index / c->chunks / c->map->groups;
    linear_task t = {
        .call = c, .index = index, .group = group, .first_panel = chunk * c->chunk, .first_tile = block_start(c, b)};
    t.panels = tn_min_i64(c->chunk, c->panels - t.first_panel);
    t.tiles = block_start(c, b + 1) - t.first_tile;
    t.first_row = tile_start(c, t.first_tile);
    t.rows = tile_start(c, t.first_tile + t.tiles) - t.first_row;
    t.sums = c->sums + worker * (most_panels * most_rows * panel_columns);
    for (int64_t d = 0; d < tn_max_i64(c->depths, 1); d++) {
        const float *x = c->x_wide + (t.first_row * c->depths + t.rows * d) * block_depth;
        if (c->map->groups > 1) {
            float *own = c->x_wide + worker * (most_rows * block_depth);
            const int64_t depth = tn_min_i64(block_depth, c->map->k - d * block_depth);
            widen_rows(own, &c->x, t.first_row, t.first_row + t.rows, group * c->map->k + d * block_depth, depth);
            x = own;
        }
        for (int64_t p = 0; p < t.panels; p++)
            run_panel(&t, x, p, d);
    }
}

/* --- the op --- */

static bool add_product(size_t *bytes, int64_t a, int64_t b, size_t element)
{
    size_t more;
    return tn_shape_bytes(2, (int64_t[]){a, b}, element, &more) && more <= SIZE_MAX - TN_ALIGN &&
           tn_add_size(*bytes, tn_align_up(more, TN_ALIGN), bytes);
}

static int64_t wide_rows(const tn_map *map, int64_t rows, int workers)
{
    return map->groups > 1 ? (int64_t)workers * most_rows : rows;
}

static int64_t wide_columns(const tn_map *map)
{
    return map->groups > 1 ? block_depth : tn_ceil_div(map->k, block_depth) * block_depth;
}

/* SIZE_MAX, which nobody can allocate, when the size does not fit. */
static size_t linear_scratch(const tn_map *map, int64_t rows, int workers)
{
    size_t bytes = 0;
    if (!add_product(&bytes, wide_rows(map, rows, workers), wide_columns(map), sizeof(float)) ||
        !add_product(&bytes, workers, most_panels * most_rows * panel_columns, sizeof(float)))
        return SIZE_MAX;
    return bytes;
}

/* Large chunks reuse x in L2; small ones leave no thread idle at the end. One row has nothing to reuse. */
static void choose_chunks(linear_call *c, int workers)
{
    c->chunk = tn_min_i64(most_panels, tn_max_i64(c->panels, 1));
    while (c->chunk > 1 && c->row_blocks * c->map->groups * tn_ceil_div(c->panels, c->chunk) < 8 * (int64_t)workers)
        c->chunk = (c->chunk + 1) / 2;
    c->chunks = tn_ceil_div(c->panels, c->chunk);
}

static void linear(const tn_context *context, tn_rows y, tn_rows x, const void *packed, const void *bias, tn_act act,
                   const tn_map *map, int64_t rows)
{
    if (rows <= 0 || map->n <= 0 || map->groups <= 0) return;
    const int workers = context->parallel->workers;
    linear_call c = {.y = y, .x = x, .w = packed, .bias = bias, .act = act, .map = map, .rows = rows};
    c.tiles = tn_ceil_div(rows, tile_rows);
    c.row_blocks = tn_ceil_div(c.tiles, most_tiles);
    c.depths = tn_ceil_div(map->k, block_depth);
    c.panels = tn_ceil_div(map->n, panel_columns);
    c.workers = workers;
    choose_chunks(&c, workers);
    c.x_wide = context->scratch;
    c.sums = c.x_wide + wide_rows(map, rows, workers) * wide_columns(map);
    if (map->groups == 1) widen_all(context, &c);
    tn_parallel_for(context->parallel, c.row_blocks * map->groups * c.chunks, linear_task_run, &c);
}

#endif
