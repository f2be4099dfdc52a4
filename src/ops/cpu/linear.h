/* The product: y[r, g n + i] = act(sum_j x[r, g k + j] w[g, i, j] + bias[g n + i]).
 *
 * Every sum is a chain of vf_fma over j ascending, cut into blocks of block_depth; each block starts from zero and the
 * blocks are added in order. One chain over k = 4096 would lose a factor of four in accuracy. Nothing else decides the
 * bits: not the tile's height, the task, nor where x and y lie.
 *
 * x is gathered as f32, [row block][k block][tile][k][row], so that a tile reads it from front to back; w was packed
 * before. A task is a row block times a chunk of panels; per k block it adds tiles of tile_rows x panel_columns into a
 * compact buffer of its worker, [panel][row][panel_columns]. After the last block each tile gets its bias and
 * activation while it is in L1, and y is written, once. A k block of a row block (288 KB) stays in L2, with the sums
 * (144 KB).
 *
 * Up to own_workers workers gather each row block that they meet for themselves: to read what another core wrote takes
 * longer than to make it anew, five times as long where the two share no cache. More workers, or rows of more than
 * own_columns, whose blocks are far larger than L2, share all of x, gathered first. With several groups a row block is
 * used by few tasks, and those gather a k block at a time.
 */
#ifndef TN_OPS_CPU_LINEAR_H
#define TN_OPS_CPU_LINEAR_H

enum { block_depth = 256, most_rows = 288, most_tiles = most_rows / tile_rows, most_panels = 8 };
enum { own_workers = 8, own_columns = 5 * block_depth };
enum { few_rows = 4, most_sums = tile_rows * tile_panels * panel_vectors };

/* What a worker has gathered: the first k blocks of a row block. */
typedef struct own_x {
    int64_t block, depths;
} own_x;

typedef struct linear_call {
    tn_rows y, x;
    const char *w;
    const float *bias;
    tn_act act;
    const tn_map *map;
    int64_t rows, tiles, row_blocks, depths; /* depths: k blocks */
    int64_t panels, chunk, chunks;           /* panels of a group, panels and number of its chunks */
    int workers;
    bool shares;     /* whether all workers read the same x, */
    float *x_wide;   /* all of it; else each has a row block, or with several groups a k block of one */
    int64_t x_block; /* floats of those */
    own_x own[own_workers];
    float *sums; /* [worker][worker_floats]: a task's sums and wide weights */
} linear_call;

enum { worker_floats = most_panels * most_rows * panel_columns + tile_panels * block_depth * panel_columns };

/* --- one tile --- */

/* sums[height, panel_columns] = or += x[depth, height]^T w[depth, panel_columns] for one panel or several: their sums
 * lie sums_stride apart, their weights w_stride. Each step of k also fetches a line of the panels to be read next,
 * which begin next_stride bytes after each other. */
typedef struct tile_call {
    float *sums;
    const float *x, *w;
    const char *next;
    int64_t depth, sums_stride, w_stride, next_step, next_stride;
    bool first;
} tile_call;

/* One loop over all sums: of nested ones clang forgets to unroll the outer where the inner is a single step. */
static ALWAYS_INLINE void tile(const tile_call *t, int height, int panels)
{
    const int width = panels * panel_vectors, count = height * width;
    vf sum[tile_rows * tile_panels * panel_vectors];
    const float *x = t->x, *w = t->w;
    const char *next = t->next;
    const int64_t depth = t->depth, w_stride = t->w_stride, next_step = t->next_step;
    UNROLL
    for (int i = 0; i < count; i++)
        sum[i] = vf_set(0.0f);
    UNROLL_STEPS
    for (int64_t k = 0; k < depth; k++) {
        vf b[tile_panels * panel_vectors];
        UNROLL
        for (int v = 0; v < width; v++) {
            if (v % panel_vectors == 0) __builtin_prefetch(next + v / panel_vectors * t->next_stride, 0, 2);
            const float *from = w + v / panel_vectors * w_stride + v % panel_vectors * lanes;
            b[v] = vf_keep(vf_load(from + k * panel_columns));
        }
        UNROLL
        for (int i = 0; i < count; i++)
            sum[i] = vf_fma(vf_set(x[k * height + i / width]), b[i % width], sum[i]);
        next += next_step;
    }
    UNROLL
    for (int i = 0; i < count; i++) {
        float *to = t->sums + i % width / panel_vectors * t->sums_stride + i / width * panel_columns;
        to += i % panel_vectors * lanes;
        vf_store(to, t->first ? sum[i] : vf_load(to) + sum[i]);
    }
}

typedef void tile_kernel(const tile_call *t);

#define TILES_OF_HEIGHT(height)                                                                                        \
    static void tile_##height(const tile_call *t)                                                                      \
    {                                                                                                                  \
        tile(t, height, 1);                                                                                            \
    }                                                                                                                  \
    static void wide_tile_##height(const tile_call *t)                                                                 \
    {                                                                                                                  \
        tile(t, height, tile_panels);                                                                                  \
    }
TILE_HEIGHTS(TILES_OF_HEIGHT)
#define NAMES_OF_HEIGHT(height) {tile_##height, wide_tile_##height},
/* [rows - 1][whether there are tile_panels panels, not one] */
static tile_kernel *const tile_kernels[tile_rows][2] = {TILE_HEIGHTS(NAMES_OF_HEIGHT)};
#undef TILES_OF_HEIGHT
#undef NAMES_OF_HEIGHT

/* --- few rows --- */

/* All rows, or two after two where a tile's sums are not enough for two panels beside each other. */
static ALWAYS_INLINE int rows_at_once(int rows)
{
    return most_sums >= 2 * panel_vectors * rows ? rows : 2;
}

static ALWAYS_INLINE int panels_of_few(int rows)
{
    const int fit = few_sums / (rows_at_once(rows) * panel_vectors);
    return fit < few_panels ? fit : few_panels;
}

/* sums[panels, rows, panel_columns] = or += x[depth, rows]^T w[depth, panel_columns] of panels panel_size bytes apart;
 * x and sums have x_rows rows. */
static ALWAYS_INLINE void few_block(float *sums, const float *x, const char *w, int64_t depth, int64_t panel_size,
                                    bool first, int x_rows, int rows, int panels, tn_dtype dtype)
{
    const int width = panels * panel_vectors, count = rows * width;
    vf sum[most_sums];
    UNROLL
    for (int i = 0; i < count; i++)
        sum[i] = vf_set(0.0f);
    UNROLL_STEPS
    for (int64_t j = 0; j < depth; j++) {
        vf b[few_panels * panel_vectors];
        UNROLL
        for (int v = 0; v < width; v++)
            b[v] = vf_keep(
                load_as(dtype, w + v / panel_vectors * panel_size, j * panel_columns + v % panel_vectors * lanes));
        UNROLL
        for (int i = 0; i < count; i++)
            sum[i] = vf_fma(vf_set(x[j * x_rows + i / width]), b[i % width], sum[i]);
    }
    UNROLL
    for (int i = 0; i < count; i++) {
        float *to = sums + (i % width / panel_vectors * x_rows + i / width) * panel_columns;
        to += i % panel_vectors * lanes;
        vf_store(to, first ? sum[i] : vf_load(to) + sum[i]);
    }
}

/* As tiles do, for one to few_rows rows through all of k at once. Here memory is the limit: several panels are read
 * from front to back side by side, which memory serves faster than one. x is [k block][block_depth][rows]. */
static ALWAYS_INLINE void few(float *sums, const float *x, const char *w, int64_t k, int rows, int panels,
                              tn_dtype dtype)
{
    const int64_t row_size = panel_columns * element_size(dtype);
    const int once = rows_at_once(rows);
    for (int64_t from = 0; from == 0 || from < k; from += block_depth) {
        const int64_t depth = tn_min_i64(block_depth, k - from);
        UNROLL
        for (int r = 0; r < rows; r += once)
            few_block(sums + r * panel_columns, x + r, w + from * row_size, depth, k * row_size, from == 0, rows, once,
                      panels, dtype);
        x += rows * block_depth;
    }
}

typedef void few_kernel(float *sums, const float *x, const char *w, int64_t k);

#define FEW(rows, dtype)                                                                                               \
    static void few_##rows##_##dtype(float *sums, const float *x, const char *w, int64_t k)                            \
    {                                                                                                                  \
        few(sums, x, w, k, rows, 1, dtype);                                                                            \
    }                                                                                                                  \
    static void wide_few_##rows##_##dtype(float *sums, const float *x, const char *w, int64_t k)                       \
    {                                                                                                                  \
        few(sums, x, w, k, rows, panels_of_few(rows), dtype);                                                          \
    }
#define FEW_OF_DTYPE(dtype) FEW(1, dtype) FEW(2, dtype) FEW(3, dtype) FEW(4, dtype)
FEW_OF_DTYPE(TN_F32)
FEW_OF_DTYPE(TN_BF16)
FEW_OF_DTYPE(TN_F16)
#define FEW_NAMES(dtype)                                                                                               \
    {                                                                                                                  \
        {few_1_##dtype, wide_few_1_##dtype}, {few_2_##dtype, wide_few_2_##dtype}, {few_3_##dtype, wide_few_3_##dtype}, \
        {                                                                                                              \
            few_4_##dtype, wide_few_4_##dtype                                                                          \
        }                                                                                                              \
    }
/* [dtype][rows - 1][whether there are panels_of_few(rows) panels, not one] */
static few_kernel *const few_kernels[][few_rows][2] = {
    [TN_F32] = FEW_NAMES(TN_F32), [TN_BF16] = FEW_NAMES(TN_BF16), [TN_F16] = FEW_NAMES(TN_F16)};
#undef FEW
#undef FEW_OF_DTYPE
#undef FEW_NAMES

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

/* tile[k, r - from] = x[r, column + k] for rows [from, to) of a tile and k < depth: four rows at a time, the last four
 * over some that are there already. */
static void gather_tile(float *tile, const tn_rows *x, int64_t from, int64_t to, int64_t column, int64_t depth)
{
    enum { once = 4, deep = 16 };
    const int64_t height = to - from, whole = height < once ? 0 : depth - depth % deep;
    const bool dense = x->dtype == TN_F32 && x->step == 1;
    float wide[once][block_depth];
    for (int64_t next = 0; next < height; next += once) {
        const int64_t r = tn_max_i64(tn_min_i64(next, height - once), 0), rows = tn_min_i64(once, height);
        const void *row[once];
        for (int64_t i = 0; i < rows; i++) {
            row[i] = element_at(x, from + r + i, column);
            if (dense) continue;
            widen(wide[i], x->dtype, row[i], x->step, depth);
            row[i] = wide[i];
        }
        for (int64_t k = 0; k < whole; k += deep)
            transpose_quads(tile + k * height + r, height, row, k);
        for (int64_t k = whole; k < depth; k++) {
            for (int64_t i = 0; i < rows; i++)
                tile[k * height + r + i] = ((const float *)row[i])[k];
        }
    }
}

/* Neighbouring tiles, one after another: `depth` columns of x from `column` on. */
static void gather_tiles(float *to, const linear_call *c, int64_t first_tile, int64_t tiles, int64_t column,
                         int64_t depth)
{
    const int64_t first_row = tile_start(c, first_tile);
    for (int64_t i = first_tile; i < first_tile + tiles; i++) {
        const int64_t from = tile_start(c, i);
        gather_tile(to + (from - first_row) * block_depth, &c->x, from, tile_start(c, i + 1), column, depth);
    }
}

/* Of x that all workers share, k block d of the rows [first, first + rows) of a row block. */
static float *shared_x(const linear_call *c, int64_t first, int64_t rows, int64_t d)
{
    return c->x_wide + (first * c->depths + rows * d) * block_depth;
}

static void gather_x_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const linear_call *c = argument;
    const int64_t b = block_of_tile(c, index);
    const int64_t first = tile_start(c, block_start(c, b)), end = tile_start(c, block_start(c, b + 1));
    for (int64_t d = 0; d < c->depths; d++) {
        const int64_t depth = tn_min_i64(block_depth, c->map->k - d * block_depth);
        float *x = shared_x(c, first, end - first, d) + (tile_start(c, index) - first) * block_depth;
        gather_tiles(x, c, index, 1, d * block_depth, depth);
    }
}

/* --- one task --- */

typedef struct linear_task {
    const linear_call *call;
    float *sums;   /* [panels][rows][panel_columns] */
    float *w_wide; /* [tile_panels][block_depth][panel_columns], for weights that are not f32 */
    int64_t group, first_panel, panels;
    int64_t block, first_tile, tiles, first_row, rows;
    int64_t index;
    float *x; /* where the worker gathers for itself */
    own_x *own;
} linear_task;

/* Columns [from, to) of y that a panel of this task makes. */
static int64_t panel_column(const linear_task *t, int64_t panel)
{
    return t->group * t->call->map->n + (t->first_panel + panel) * panel_columns;
}

/* y[row : row + height, panel] = act(sums + bias) */
static ALWAYS_INLINE void finish_rows(const linear_task *t, const float *sums, int64_t panel, int64_t row,
                                      int64_t height, const float *bias, tn_act act)
{
    const linear_call *c = t->call;
    const int64_t columns = tn_min_i64(panel_columns, c->map->n - (t->first_panel + panel) * panel_columns);
    vf add[panel_vectors];
    UNROLL
    for (int v = 0; v < panel_vectors; v++)
        add[v] = vf_load(bias + v * lanes);
    for (int64_t r = 0; r < height; r++, sums += panel_columns) {
        char *y = element_at(&c->y, row + r, panel_column(t, panel));
        UNROLL
        for (int v = 0; v < panel_vectors; v++) {
            const vf out = plain_nan(activated(vf_load(sums + v * lanes) + add[v], act));
            if (columns > v * lanes) store_columns(c->y.dtype, y, v * lanes, out, columns - v * lanes);
        }
    }
}

static void finish_tile(const linear_task *t, const float *sums, int64_t panel, int64_t row, int64_t height,
                        const float *bias)
{
#define FINISH(act)                                                                                                    \
    case act:                                                                                                          \
        finish_rows(t, sums, panel, row, height, bias, act);                                                           \
        break
    switch (t->call->act) {
        FINISH(TN_ACT_GELU);
        FINISH(TN_ACT_GELU_TANH);
        FINISH(TN_ACT_QUICK_GELU);
        FINISH(TN_ACT_SILU);
        FINISH(TN_ACT_RELU);
        FINISH(TN_ACT_NONE);
    case TN_ACT_COUNT:
        break;
    }
#undef FINISH
}

static void fetch_y(const linear_task *t, int64_t panel, int64_t row, int64_t height)
{
    for (int64_t r = 0; r < height; r++)
        prefetch_for_write(element_at(&t->call->y, row + r, panel_column(t, panel)));
}

/* Zeros where there is no bias. */
static void load_bias(float *bias, const linear_task *t, int64_t panel)
{
    const linear_call *c = t->call;
    const int64_t columns = tn_min_i64(panel_columns, c->map->n - (t->first_panel + panel) * panel_columns);
    memset(bias, 0, panel_columns * sizeof *bias);
    if (c->bias != NULL) memcpy(bias, c->bias + panel_column(t, panel), (size_t)columns * sizeof *bias);
}

static const char *weights_at(const linear_call *c, int64_t group, int64_t panel, int64_t d)
{
    const int64_t index = (group * c->panels + panel) * c->map->k + d * block_depth;
    return c->w + index * panel_columns * element_size(c->map->dtype);
}

typedef struct place {
    int64_t block, group, chunk;
} place;

/* Neighbours, which one worker gets, are chunks of one row block where it gathers for itself. Where x is shared they
 * are the worker's part of the chunks, of one row block after another: so all of them read the same rows at a time. */
static place place_of_task(const linear_call *c, int64_t index)
{
    if (!c->shares) {
        const int64_t row = index / c->chunks;
        return (place){row / c->map->groups, row % c->map->groups, index % c->chunks};
    }
    const int64_t part = tn_min_i64(((index / c->row_blocks + 1) * c->workers - 1) / c->chunks, c->workers - 1);
    const int64_t first = part * c->chunks / c->workers, end = (part + 1) * c->chunks / c->workers;
    const int64_t i = index - first * c->row_blocks;
    return (place){i / (end - first), 0, first + i % (end - first)};
}

/* What is read after the panels before `panel` of k block d: it, the first one of the next block, or the first one of
 * the task that this worker will most likely get. */
static const char *weights_next(const linear_task *t, int64_t panel, int64_t d)
{
    const linear_call *c = t->call;
    if (panel < t->panels) return weights_at(c, t->group, t->first_panel + panel, d);
    if (d + 1 < c->depths) return weights_at(c, t->group, t->first_panel, d + 1);
    const place after = place_of_task(c, t->index + 1);
    return weights_at(c, after.group, after.chunk * c->chunk, 0);
}

/* Weights of the panels for k block d as f32, panels *stride apart: as they are, or widened into `space`. */
static const float *widen_panels(const linear_task *t, float *space, int64_t panel, int64_t panels, int64_t d,
                                 int64_t depth, int64_t *stride)
{
    const linear_call *c = t->call;
    const int64_t first = t->first_panel + panel;
    *stride = c->map->k * panel_columns;
    if (c->map->dtype == TN_F32) return (const float *)(const void *)weights_at(c, t->group, first, d);
    *stride = block_depth * panel_columns;
    for (int64_t p = 0; p < panels; p++)
        widen(space + p * *stride, c->map->dtype, weights_at(c, t->group, first + p, d), 1, depth * panel_columns);
    return space;
}

/* One or tile_panels panels times all tiles of the task, for k block d. Meanwhile the next ones come from memory, a
 * part in each of the first tiles: all in one would fill the queue of misses. */
static void run_panels(const linear_task *t, const float *x, int64_t panel, int64_t panels, int64_t d)
{
    enum { most_parts = 8 };
    const linear_call *c = t->call;
    const int64_t depth = tn_min_i64(block_depth, c->map->k - d * block_depth);
    const int64_t row_size = panel_columns * element_size(c->map->dtype), next_stride = c->map->k * row_size;
    const bool last = d + 1 >= c->depths;
    const int64_t parts = tn_min_i64(t->tiles, most_parts);
    const char *next = weights_next(t, panel + panels, d);
    float bias[tile_panels][panel_columns];
    tile_call call = {.depth = depth, .sums_stride = t->rows * panel_columns, .first = d == 0};
    call.w = widen_panels(t, t->w_wide, panel, panels, d, depth, &call.w_stride);
    for (int64_t p = 0; p < panels && last; p++)
        load_bias(bias[p], t, panel + p);
    for (int64_t i = 0; i < t->tiles; i++) {
        const int64_t row = tile_start(c, t->first_tile + i), height = tile_start(c, t->first_tile + i + 1) - row;
        const bool fetches = i < parts;
        for (int64_t p = 0; p < panels && last; p++)
            fetch_y(t, panel + p, row, height);
        call.next = fetches ? next + i * depth * row_size / parts : (const char *)call.w;
        call.next_step = fetches ? tn_ceil_div(row_size, parts) : 0;
        call.next_stride = fetches ? next_stride : 0;
        call.sums = t->sums + (panel * t->rows + row - t->first_row) * panel_columns;
        call.x = x + (row - t->first_row) * block_depth;
        tile_kernels[height - 1][panels > 1](&call);
        for (int64_t p = 0; p < panels && last; p++)
            finish_tile(t, call.sums + p * call.sums_stride, panel + p, row, height, bias[p]);
    }
}

static bool is_few(const tn_map *map, int64_t rows)
{
    return rows <= few_rows && map->groups == 1;
}

/* k block d of the task's rows, gathered unless it was. */
static const float *gathered(const linear_task *t, int64_t d)
{
    const linear_call *c = t->call;
    const int64_t depth = tn_min_i64(block_depth, c->map->k - d * block_depth);
    if (c->shares) return shared_x(c, t->first_row, t->rows, d);
    if (c->map->groups > 1) {
        gather_tiles(t->x, c, t->first_tile, t->tiles, t->group * c->map->k + d * block_depth, depth);
        return t->x;
    }
    float *x = t->x + t->rows * d * block_depth;
    if (t->own->block != t->block) *t->own = (own_x){t->block, 0};
    if (t->own->depths <= d) {
        gather_tiles(x, c, t->first_tile, t->tiles, d * block_depth, depth);
        t->own->depths = d + 1;
    }
    return x;
}

/* Tasks of few rows have all of them. */
static void run_few(const linear_task *t)
{
    const linear_call *c = t->call;
    const int64_t rows = c->rows, wide = panels_of_few((int)rows);
    const float *x = gathered(t, 0); /* the other k blocks follow it */
    float bias[panel_columns];
    for (int64_t d = 1; d < c->depths; d++)
        (void)gathered(t, d);
    for (int64_t p = 0; p < t->panels;) {
        const int64_t panels = t->panels - p >= wide ? wide : 1;
        const char *w = weights_at(c, t->group, t->first_panel + p, 0);
        few_kernels[c->map->dtype][rows - 1][panels > 1](t->sums, x, w, c->map->k);
        for (int64_t i = 0; i < panels; i++) {
            load_bias(bias, t, p + i);
            finish_tile(t, t->sums + i * rows * panel_columns, p + i, 0, rows, bias);
        }
        p += panels;
    }
}

static void run_many(const linear_task *t)
{
    const linear_call *c = t->call;
    for (int64_t d = 0; d < tn_max_i64(c->depths, 1); d++) {
        const float *x = gathered(t, d);
        for (int64_t p = 0; p < t->panels;) {
            const int64_t panels = t->panels - p >= tile_panels ? tile_panels : 1;
            run_panels(t, x, p, panels, d);
            p += panels;
        }
    }
}

static void linear_task_run(void *argument, int64_t index, int worker)
{
    linear_call *c = argument;
    const place at = place_of_task(c, index);
    linear_task t = {.call = c, .index = index, .block = at.block, .group = at.group};
    t.first_panel = at.chunk * c->chunk;
    t.panels = tn_min_i64(c->chunk, c->panels - t.first_panel);
    t.first_tile = block_start(c, t.block);
    t.tiles = block_start(c, t.block + 1) - t.first_tile;
    t.first_row = tile_start(c, t.first_tile);
    t.rows = tile_start(c, t.first_tile + t.tiles) - t.first_row;
    t.sums = c->sums + worker * worker_floats;
    t.w_wide = t.sums + most_panels * most_rows * panel_columns;
    if (!c->shares) t.x = c->x_wide + worker * c->x_block;
    if (worker < own_workers) t.own = &c->own[worker];
    if (is_few(c->map, c->rows)) {
        run_few(&t);
    } else {
        run_many(&t);
    }
}

/* --- the op --- */

static bool add_product(size_t *bytes, int64_t a, int64_t b, size_t element)
{
    size_t more;
    return tn_shape_bytes(2, (int64_t[]){a, b}, element, &more) && more <= SIZE_MAX - TN_ALIGN &&
           tn_add_size(*bytes, tn_align_up(more, TN_ALIGN), bytes);
}

static int64_t wide_columns(const tn_map *map)
{
    return map->groups > 1 ? block_depth : tn_ceil_div(map->k, block_depth) * block_depth;
}

static bool shares_x(const tn_map *map, int workers)
{
    return map->groups == 1 && workers > 1 && (workers > own_workers || wide_columns(map) > own_columns);
}

static int64_t wide_rows(const tn_map *map, int64_t rows, int workers)
{
    return shares_x(map, workers) ? rows : workers * tn_min_i64(rows, most_rows);
}

/* SIZE_MAX, which nobody can allocate, when the size does not fit. */
static size_t linear_scratch(const tn_map *map, int64_t rows, int workers)
{
    size_t bytes = 0;
    if (!add_product(&bytes, wide_rows(map, rows, workers), wide_columns(map), sizeof(float)) ||
        !add_product(&bytes, workers, worker_floats, sizeof(float)))
        return SIZE_MAX;
    return bytes;
}

static int64_t count_tasks(const linear_call *c, int64_t chunk)
{
    return c->row_blocks * c->map->groups * tn_ceil_div(c->panels, chunk);
}

/* Panels of the worker that gets the most, if all tasks take as long. */
static int64_t most_work(const linear_call *c, int64_t chunk)
{
    return tn_ceil_div(count_tasks(c, chunk), c->workers) * chunk;
}

/* Large chunks reuse x in L2, small ones leave no thread idle at the end: of those that make eight tasks for each
 * worker the largest, or one down to its half that shares the work better. Few rows have nothing to reuse. */
static void choose_chunks(linear_call *c)
{
    const int64_t most = is_few(c->map, c->rows) ? few_panels : most_panels, enough = 8 * (int64_t)c->workers;
    c->chunk = tn_min_i64(most, tn_max_i64(c->panels, 1));
    if (c->workers > 1) {
        while (c->chunk > 1 && count_tasks(c, c->chunk) < enough)
            c->chunk = tn_max_i64(c->chunk - tile_panels, 1);
        for (int64_t less = c->chunk - tile_panels, half = c->chunk / 2; less >= tn_max_i64(half, 1);
             less -= tile_panels) {
            if (most_work(c, less) < most_work(c, c->chunk)) c->chunk = less;
        }
    }
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
    choose_chunks(&c);
    c.shares = shares_x(map, workers);
    c.x_wide = context->scratch;
    c.x_block = tn_min_i64(rows, most_rows) * wide_columns(map);
    c.sums = c.x_wide + wide_rows(map, rows, workers) * wide_columns(map);
    for (int i = 0; i < own_workers; i++)
        c.own[i].block = -1;
    if (c.shares) tn_parallel_for(context->parallel, c.tiles, gather_x_task, &c);
    tn_parallel_for(context->parallel, c.row_blocks * map->groups * c.chunks, linear_task_run, &c);
}

#endif
