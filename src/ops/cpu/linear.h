/* SPDX-License-Identifier: MIT */
/* The product: y[r, g n + i] = act(sum_j x[r, g k + j] w[g, i, j] + bias[g n + i]).
 *
 * Every sum is a chain of vf_fma over j ascending, cut into blocks of block_depth; each block starts from zero and the
 * blocks are added in order. One chain over k = 4096 would lose a factor of four in accuracy. Nothing else decides the
 * bits: not the tile's height, the task, nor where x and y lie.
 *
 * x is gathered as f32, [row block][k block][tile][k][row], so that a tile reads it from front to back; w was packed
 * before. A task is a row block times a chunk of panels; per k block it adds tiles of tile_rows x panel_columns into a
 * compact buffer of its worker, [panel][row][panel_columns]. A tile of the last block adds the bias and writes y from
 * its registers where y is f32 and there is no activation; else the tile's sums get theirs while they are in L1.
 * Weights that are not f32 are widened by the first tile of a block, for itself and the others. A k block of a row
 * block (288 KB) stays in L2, with the sums (144 KB).
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
enum { wide_panel = block_depth * panel_columns };
enum { few_rows = 4, most_sums = tile_rows * tile_panels * panel_vectors };

/* The memory of a worker. What it has gathered of x: of a row block and group the k blocks before `depths`, or with
 * several groups the last one of these. */
typedef struct linear_worker {
    _Alignas(TN_ALIGN) int64_t block;
    int64_t group, depths;
    _Alignas(TN_ALIGN) float sums[most_panels * most_rows * panel_columns];
    float w_wide[tile_panels * wide_panel];
} linear_worker;

typedef struct linear_call {
    tn_rows y, x;
    const char *w;
    const float *bias;
    tn_act act;
    const tn_map *map;
    int64_t rows, tiles, row_blocks, depths; /* depths: k blocks */
    int64_t panels, chunk, chunks;           /* panels of a group, panels and number of its chunks */
    int workers;
    linear_worker *memory; /* [workers] */
    bool shares;           /* whether all workers read the same x, */
    float *x_wide;         /* all of it; else each has a row block, or with several groups a k block of one */
    int64_t x_block;       /* floats of those */
} linear_call;

/* --- one tile --- */

/* sums[height, panel_columns] = or += x[depth, height]^T w[depth, panel_columns] for one panel or several: their sums
 * lie sums_stride apart, their weights w_stride. Weights that are not f32 are also written to w_wide as f32, for the
 * tiles that follow: [panels][block_depth][panel_columns]. With y, the sums and bias[panels * panel_columns] are
 * written there instead, to y[row][panels * panel_columns]. Each step of k also fetches a line of the panels to be read
 * next, which begin next_stride bytes after each other. */
typedef struct tile_call {
    float *sums;
    float *w_wide;
    const float *x, *bias;
    const char *w, *next;
    int64_t depth, sums_stride, w_stride, next_step, next_stride;
    tn_dtype dtype; /* of w */
    char *const *y; /* [height] rows of f32, or NULL */
    bool first;
} tile_call;

/* Where sum i of a tile of `width` vectors is kept. */
static ALWAYS_INLINE float *sum_at(const tile_call *t, int i, int width)
{
    const int vector = i % width;
    return t->sums + vector / panel_vectors * t->sums_stride + i / width * panel_columns +
           vector % panel_vectors * lanes;
}

/* One loop over all sums: of nested ones clang forgets to unroll the outer where the inner is a single step. */
static ALWAYS_INLINE void tile(const tile_call *t, int height, int panels, tn_dtype dtype)
{
    const int width = panels * panel_vectors, count = height * width;
    vf sum[tile_rows * tile_panels * panel_vectors];
    const float *x = t->x;
    float *w_wide = t->w_wide;
    const char *w = t->w, *next = t->next;
    const int64_t depth = t->depth, w_stride = t->w_stride, next_step = t->next_step;
    char *const *y = t->y;
    UNROLL
    for (int i = 0; i < count; i++)
        sum[i] = vf_set(0.0f);
    UNROLL_STEPS
    for (int64_t k = 0; k < depth; k++) {
        vf b[tile_panels * panel_vectors];
        UNROLL
        for (int v = 0; v < width; v++) {
            if (v % panel_vectors == 0) __builtin_prefetch(next + v / panel_vectors * t->next_stride, 0, 2);
            const int64_t at = k * panel_columns + v % panel_vectors * lanes;
            b[v] = vf_keep(load_as(dtype, w + v / panel_vectors * w_stride, at));
            if (dtype != TN_F32) vf_store(w_wide + v / panel_vectors * wide_panel + at, b[v]);
        }
        UNROLL
        for (int i = 0; i < count; i++)
            sum[i] = vf_fma(vf_set(x[k * height + i / width]), b[i % width], sum[i]);
        next += next_step;
    }
    if (!t->first) {
        UNROLL
        for (int i = 0; i < count; i++)
            sum[i] = vf_load(sum_at(t, i, width)) + sum[i];
    }
    if (y == NULL) {
        UNROLL
        for (int i = 0; i < count; i++)
            vf_store(sum_at(t, i, width), sum[i]);
        return;
    }
    vf bias[tile_panels * panel_vectors];
    UNROLL
    for (int v = 0; v < width; v++)
        bias[v] = vf_load(t->bias + v * lanes);
    UNROLL
    for (int i = 0; i < count; i++)
        store_as(TN_F32, y[i / width], i % width * lanes, plain_nan(sum[i] + bias[i % width]));
}

typedef void tile_kernel(const tile_call *t);

#define TILE(height, dtype)                                                                                            \
    static void tile_##height##_##dtype(const tile_call *t)                                                            \
    {                                                                                                                  \
        tile(t, height, 1, dtype);                                                                                     \
    }                                                                                                                  \
    static void wide_tile_##height##_##dtype(const tile_call *t)                                                       \
    {                                                                                                                  \
        tile(t, height, tile_panels, dtype);                                                                           \
    }
#define TILES_OF_HEIGHT(height) TILE(height, TN_F32) TILE(height, TN_BF16) TILE(height, TN_F16)
TILE_HEIGHTS(TILES_OF_HEIGHT)
#define TILE_NAMES(height, dtype) [dtype] = {tile_##height##_##dtype, wide_tile_##height##_##dtype}
#define NAMES_OF_HEIGHT(height) {TILE_NAMES(height, TN_F32), TILE_NAMES(height, TN_BF16), TILE_NAMES(height, TN_F16)},
/* [rows - 1][dtype of the weights][whether there are tile_panels panels, not one] */
static tile_kernel *const tile_kernels[tile_rows][TN_F16 + 1][2] = {TILE_HEIGHTS(NAMES_OF_HEIGHT)};
#undef TILE
#undef TILES_OF_HEIGHT
#undef TILE_NAMES
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
    linear_worker *memory; /* its sums: [panels][rows][panel_columns] */
    int64_t group, first_panel, panels;
    int64_t block, first_tile, tiles, first_row, rows;
    int64_t tile_row[most_tiles + 1]; /* where its tiles start, counted from first_row; where the last one ends */
    int64_t index;
    float *x; /* where the worker gathers for itself */
} linear_task;

/* The first column of y that the panel makes. */
static int64_t panel_column(const linear_task *t, int64_t panel)
{
    return t->group * t->call->map->n + (t->first_panel + panel) * panel_columns;
}

/* How many it makes. */
static int64_t panel_width(const linear_task *t, int64_t panel)
{
    return tn_min_i64(panel_columns, t->call->map->n - (t->first_panel + panel) * panel_columns);
}

/* y[row][at : at + panel_columns], or sums where y is NULL, = act(sums + bias) for rows of a panel. */
static ALWAYS_INLINE void activate_rows(char *const *y, int64_t at, float *sums, int64_t rows, const float *bias,
                                        tn_act act)
{
    for (int64_t r = 0; r < rows; r++, sums += panel_columns) {
        float *to = y != NULL ? (float *)(void *)y[r] + at : sums;
        UNROLL
        for (int v = 0; v < panel_columns; v += lanes)
            vf_store(to + v, plain_nan(activated(vf_load(sums + v) + vf_load(bias + v), act)));
    }
}

/* y[row][at : at + columns] = sums */
static ALWAYS_INLINE void write_rows(char *const *y, int64_t at, const float *sums, int64_t rows, int64_t columns,
                                     tn_dtype dtype)
{
    for (int64_t r = 0; r < rows; r++, sums += panel_columns) {
        UNROLL
        for (int v = 0; v < panel_columns; v += lanes) {
            if (v < columns) store_columns(dtype, y[r], at + v, vf_load(sums + v), columns - v);
        }
    }
}

/* y[row][at : at + panel_columns] = act(sums + bias), as many columns as the panel has. */
static void finish_tile(const linear_task *t, char *const *y, int64_t at, float *sums, int64_t rows, int64_t panel,
                        const float *bias)
{
    const tn_dtype dtype = t->call->y.dtype;
    const int64_t columns = panel_width(t, panel);
    char *const *to = dtype == TN_F32 && columns == panel_columns ? y : NULL; /* in one pass */
#define ACTIVATE(act)                                                                                                  \
    case act:                                                                                                          \
        activate_rows(to, at, sums, rows, bias, act);                                                                  \
        break
    switch (t->call->act) {
        ACTIVATE(TN_ACT_GELU);
        ACTIVATE(TN_ACT_GELU_TANH);
        ACTIVATE(TN_ACT_QUICK_GELU);
        ACTIVATE(TN_ACT_SILU);
        ACTIVATE(TN_ACT_RELU);
        ACTIVATE(TN_ACT_NONE);
    case TN_ACT_COUNT:
        break;
    }
#undef ACTIVATE
    if (to != NULL) return;
    if (dtype == TN_F32) {
        write_rows(y, at, sums, rows, columns, TN_F32);
    } else if (dtype == TN_BF16) {
        write_rows(y, at, sums, rows, columns, TN_BF16);
    } else {
        write_rows(y, at, sums, rows, columns, TN_F16);
    }
}

/* Where the panel's columns of some rows of y are. */
static void find_rows(char **y, const linear_task *t, int64_t panel, int64_t row, int64_t rows)
{
    for (int64_t r = 0; r < rows; r++)
        y[r] = element_at(&t->call->y, row + r, panel_column(t, panel));
}

/* Lines of y that will be written. */
static void fetch_rows(char *const *y, int64_t rows, int64_t size)
{
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t at = 0; at < size; at += 64)
            prefetch_for_write(y[r] + at);
    }
}

/* Zeros where there is no bias. */
static void load_bias(float *bias, const linear_task *t, int64_t panel)
{
    const linear_call *c = t->call;
    memset(bias, 0, panel_columns * sizeof *bias);
    if (c->bias != NULL) memcpy(bias, c->bias + panel_column(t, panel), (size_t)panel_width(t, panel) * sizeof *bias);
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

/* What all tiles of some panels have in common. */
static tile_call panel_tiles(const linear_task *t, int64_t panel, int64_t d)
{
    const linear_call *c = t->call;
    return (tile_call){.w = weights_at(c, t->group, t->first_panel + panel, d),
                       .w_stride = c->map->k * panel_columns * element_size(c->map->dtype),
                       .w_wide = t->memory->w_wide,
                       .dtype = c->map->dtype,
                       .depth = tn_min_i64(block_depth, c->map->k - d * block_depth),
                       .sums_stride = t->rows * panel_columns,
                       .first = d == 0};
}

/* The tiles after the first read the weights that it has widened. */
static void read_widened(tile_call *t)
{
    t->dtype = TN_F32;
    t->w = (const char *)t->w_wide;
    t->w_stride = wide_panel * (int64_t)sizeof(float);
}

/* One or tile_panels panels times all tiles of the task, for k block d. Meanwhile the next ones come from memory, a
 * part in each of the first tiles: all in one would fill the queue of misses. */
static void run_panels(const linear_task *t, const float *x, int64_t panel, int64_t panels, int64_t d)
{
    enum { most_parts = 8 };
    const linear_call *c = t->call;
    const int64_t row_size = panel_columns * element_size(c->map->dtype), width = panels * panel_columns;
    const int64_t parts = tn_min_i64(t->tiles, most_parts);
    const bool last = d + 1 >= c->depths, whole = panel_width(t, panel + panels - 1) == panel_columns;
    const char *next = weights_next(t, panel + panels, d);
    char *y[tile_rows];
    float bias[tile_panels * panel_columns];
    tile_call call = panel_tiles(t, panel, d);
    const int64_t next_stride = call.w_stride;
    call.bias = bias;
    if (last && whole && c->act == TN_ACT_NONE && c->y.dtype == TN_F32) call.y = y;
    for (int64_t p = 0; p < panels && last; p++)
        load_bias(bias + p * panel_columns, t, panel + p);
    for (int64_t i = 0; i < t->tiles; i++) {
        const int64_t row = t->tile_row[i], height = t->tile_row[i + 1] - row;
        const bool fetches = i < parts;
        if (last) {
            find_rows(y, t, panel, t->first_row + row, height);
            fetch_rows(y, height, width * element_size(c->y.dtype));
        }
        call.next = fetches ? next + i * call.depth * row_size / parts : call.w;
        call.next_step = fetches ? tn_ceil_div(row_size, parts) : 0;
        call.next_stride = fetches ? next_stride : 0;
        call.sums = t->memory->sums + (panel * t->rows + row) * panel_columns;
        call.x = x + row * block_depth;
        tile_kernels[height - 1][call.dtype][panels > 1](&call);
        if (call.dtype != TN_F32) read_widened(&call);
        for (int64_t at = 0; at < width && last && call.y == NULL; at += panel_columns)
            finish_tile(t, y, at, call.sums + at * t->rows, height, panel + at / panel_columns, bias + at);
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
    const bool keeps_all = c->map->groups == 1;
    float *x = keeps_all ? t->x + t->rows * d * block_depth : t->x;
    linear_worker *has = t->memory;
    if (has->block != t->block || has->group != t->group) {
        has->block = t->block;
        has->group = t->group;
        has->depths = 0;
    }
    if (keeps_all ? has->depths <= d : has->depths != d + 1) {
        gather_tiles(x, c, t->first_tile, t->tiles, t->group * c->map->k + d * block_depth, depth);
        has->depths = d + 1;
    }
    return x;
}

/* Tasks of few rows have all of them. */
static void run_few(const linear_task *t)
{
    const linear_call *c = t->call;
    const int64_t rows = c->rows, wide = panels_of_few((int)rows);
    const float *x = gathered(t, 0); /* the other k blocks follow it */
    float *sums = t->memory->sums;
    float bias[panel_columns];
    char *y[few_rows];
    for (int64_t d = 1; d < c->depths; d++)
        (void)gathered(t, d);
    for (int64_t p = 0; p < t->panels;) {
        const int64_t panels = t->panels - p >= wide ? wide : 1;
        const char *w = weights_at(c, t->group, t->first_panel + p, 0);
        few_kernels[c->map->dtype][rows - 1][panels > 1](sums, x, w, c->map->k);
        for (int64_t i = 0; i < panels; i++) {
            load_bias(bias, t, p + i);
            find_rows(y, t, p + i, 0, rows);
            finish_tile(t, y, 0, sums + i * rows * panel_columns, rows, p + i, bias);
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
    for (int64_t i = 0; i <= t.tiles; i++)
        t.tile_row[i] = tile_start(c, t.first_tile + i) - t.first_row;
    t.rows = t.tile_row[t.tiles];
    t.memory = &c->memory[worker];
    if (!c->shares) t.x = c->x_wide + worker * c->x_block;
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
        !add_product(&bytes, workers, 1, sizeof(linear_worker)))
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
    c.memory = (linear_worker *)(void *)(c.x_wide + wide_rows(map, rows, workers) * wide_columns(map));
    for (int i = 0; i < workers; i++)
        c.memory[i].block = -1;
    if (c.shares) tn_parallel_for(context->parallel, c.tiles, gather_x_task, &c);
    tn_parallel_for(context->parallel, c.row_blocks * map->groups * c.chunks, linear_task_run, &c);
}

#endif
