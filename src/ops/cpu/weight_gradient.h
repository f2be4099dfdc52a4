/* SPDX-License-Identifier: MIT */
/* Gradients of a linear map: dw[g n + i, j] += sum_r dy[r, g n + i] x[r, g k + j], and dbias[i] += sum_r dy[r, i].
 *
 * The product dy^T x runs as the engine's own products do, the rows being its depth: a sum is a chain of vf_fma over r
 * ascending, cut into blocks of gradient_depth rows that start from zero and are added in order; their total is added
 * to dw. Nothing else decides the bits.
 *
 * First all threads gather both operands, widened, into what the tiles read from front to back: dy as
 * [group][row block][tile][row][tile_rows], x as [group][row block][panel][row][panel_columns]. No transposition: a
 * tile's step takes tile_rows neighbours of one row of dy. A task is gradient_tiles tiles times a chunk of panels;
 * partial sums stay in a compact buffer of its worker, so dw is read and written once.
 */
#ifndef TN_OPS_CPU_WEIGHT_GRADIENT_H
#define TN_OPS_CPU_WEIGHT_GRADIENT_H

enum { gradient_depth = 256, gradient_tiles = 144 / tile_rows, gradient_panels = 16 }; /* a task: 144 columns */
enum { gradient_sums = tile_rows * panel_columns };

typedef struct gradient_call {
    float *dw, *dbias;
    bool fresh; /* overwrite, do not add */
    tn_rows dy, x;
    const tn_map *map;
    int64_t rows, depths;                  /* depths: row blocks */
    int64_t tiles, tile_chunks;            /* of a group */
    int64_t panels, chunk, panel_chunks;   /* of a group; panels of a chunk */
    int64_t dy_pieces, x_pieces, gathered; /* pieces that a row block of a group is gathered in; pieces in all */
    float *dy_tiles, *x_panels;
    float *totals; /* [depths][groups n], for dbias */
    float *sums;   /* [worker][chunk][gradient_tiles][tile_rows][panel_columns] */
} gradient_call;

static int64_t depth_rows(const gradient_call *c, int64_t d)
{
    return tn_min_i64(gradient_depth, c->rows - d * gradient_depth);
}

static float *tile_of_dy(const gradient_call *c, int64_t group, int64_t d, int64_t tile)
{
    const int64_t before = (group * c->rows + d * gradient_depth) * c->tiles;
    return c->dy_tiles + (before + tile * depth_rows(c, d)) * tile_rows;
}

static float *panel_of_x(const gradient_call *c, int64_t group, int64_t d, int64_t panel)
{
    const int64_t before = (group * c->rows + d * gradient_depth) * c->panels;
    return c->x_panels + (before + panel * depth_rows(c, d)) * panel_columns;
}

/* --- gathering --- */

enum {
    gather_most = gradient_tiles * tile_rows > gradient_panels *panel_columns ? gradient_tiles *tile_rows
                                                                              : gradient_panels *panel_columns
};

/* Columns of a row as f32: where they lie, or widened into `space`. */
static const float *float_columns(float *space, const tn_rows *from, int64_t row, int64_t column, int64_t columns)
{
    const char *at = element_at(from, row, column);
    if (from->dtype == TN_F32 && from->step == 1) return (const float *)(const void *)at;
    widen(space, from->dtype, at, from->step, columns);
    return space;
}

/* The row that comes after the next ones: their columns are too few for the processor to see it coming. */
static void fetch_row(const tn_rows *from, int64_t row, int64_t column, int64_t columns)
{
    const char *at = element_at(from, row, column);
    if (from->step != 1) return;
    for (int64_t byte = 0; byte < columns * element_size(from->dtype); byte += 64)
        __builtin_prefetch(at + byte, 0, 3);
}

/* to[piece][rows][size] = columns column + size * piece ... of rows first ... of `from`; zeros past `columns`. When
 * `total` is not NULL, total[i] becomes the sum of column i over the rows. */
static ALWAYS_INLINE void gather_columns(float *to, float *total, const tn_rows *from, int64_t first, int64_t rows,
                                         int64_t column, int64_t columns, int size)
{
    enum { ahead = 4 };
    const int64_t whole = columns / size, rest = columns % size;
    float space[gather_most] = {0}, sums[gather_most] = {0};
    for (int64_t r = 0; r < rows; r++) {
        const float *values = float_columns(space, from, first + r, column, columns);
        if (r + ahead < rows) fetch_row(from, first + r + ahead, column, columns);
        for (int64_t i = 0; i < whole; i++)
            memcpy(to + (i * rows + r) * size, values + i * size, (size_t)size * sizeof *to);
        if (rest > 0) {
            float *last = to + (whole * rows + r) * size;
            memset(last, 0, (size_t)size * sizeof *to);
            memcpy(last, values + whole * size, (size_t)rest * sizeof *to);
        }
        if (total == NULL) continue;
        int64_t i = 0;
        for (; i + lanes <= columns; i += lanes)
            vf_store(sums + i, vf_load(sums + i) + vf_load(values + i));
        for (; i < columns; i++)
            sums[i] = sums[i] + values[i];
    }
    if (total != NULL) memcpy(total, sums, (size_t)columns * sizeof *total);
}

static void gather_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const gradient_call *c = argument;
    const int64_t pieces = c->dy_pieces + c->x_pieces, piece = index % pieces;
    const int64_t d = index / pieces % c->depths, group = index / pieces / c->depths;
    const int64_t n = c->map->n, k = c->map->k, first = d * gradient_depth, rows = depth_rows(c, d);
    if (piece < c->dy_pieces) {
        const int64_t tile = piece * gradient_tiles, column = tile * tile_rows;
        const int64_t columns = tn_min_i64(gradient_tiles * tile_rows, n - column);
        float *total = c->dbias == NULL ? NULL : c->totals + d * c->map->groups * n + group * n + column;
        gather_columns(tile_of_dy(c, group, d, tile), total, &c->dy, first, rows, group * n + column, columns,
                       tile_rows);
    } else {
        const int64_t panel = (piece - c->dy_pieces) * gradient_panels, column = panel * panel_columns;
        const int64_t columns = tn_min_i64(gradient_panels * panel_columns, k - column);
        gather_columns(panel_of_x(c, group, d, panel), NULL, &c->x, first, rows, group * k + column, columns,
                       panel_columns);
    }
}

/* --- tiles --- */

/* sums[tile_rows, panel_columns] = or += dy[depth, tile_rows]^T x[depth, panel_columns] */
static void gradient_tile(float *sums, const float *dy, const float *x, int64_t depth, bool first)
{
    vf sum[tile_rows][panel_vectors];
    UNROLL
    for (int i = 0; i < tile_rows; i++) {
        UNROLL
        for (int v = 0; v < panel_vectors; v++)
            sum[i][v] = vf_set(0.0f);
    }
    UNROLL_STEPS
    for (int64_t r = 0; r < depth; r++) {
        vf b[panel_vectors];
        UNROLL
        for (int v = 0; v < panel_vectors; v++)
            b[v] = vf_keep(vf_load(x + r * panel_columns + v * lanes));
        UNROLL
        for (int i = 0; i < tile_rows; i++) {
            const vf a = vf_set(dy[r * tile_rows + i]);
            UNROLL
            for (int v = 0; v < panel_vectors; v++)
                sum[i][v] = vf_fma(a, b[v], sum[i][v]);
        }
    }
    UNROLL
    for (int i = 0; i < tile_rows; i++) {
        UNROLL
        for (int v = 0; v < panel_vectors; v++) {
            float *to = sums + i * panel_columns + v * lanes;
            vf_store(to, first ? sum[i][v] : vf_load(to) + sum[i][v]);
        }
    }
}

/* dw[i, 0 : columns] = or += sums[i, :] for i < height, dw's rows `stride` apart. */
static void write_tile(float *dw, int64_t stride, const float *sums, int64_t height, int64_t columns, bool fresh)
{
    for (int64_t i = 0; i < height; i++) {
        float *to = dw + i * stride;
        UNROLL
        for (int v = 0; v < panel_vectors; v++) {
            const int64_t left = columns - v * lanes;
            if (left <= 0) break;
            const vf before = fresh ? vf_set(0.0f) : load_columns(TN_F32, to, 1, v * lanes, left);
            const vf sum = before + vf_load(sums + i * panel_columns + v * lanes);
            store_columns(TN_F32, to, v * lanes, plain_nan(sum), left);
        }
    }
}

static int64_t chunk_start(const gradient_call *c, int64_t chunk)
{
    return chunk * c->tiles / c->tile_chunks;
}

static void gradient_task(void *argument, int64_t index, int worker)
{
    const gradient_call *c = argument;
    const int64_t panel_chunk = index % c->panel_chunks, tile_chunk = index / c->panel_chunks % c->tile_chunks;
    const int64_t group = index / c->panel_chunks / c->tile_chunks, n = c->map->n, k = c->map->k;
    const int64_t first_panel = panel_chunk * c->chunk, last_panel = tn_min_i64(first_panel + c->chunk, c->panels);
    const int64_t first_tile = chunk_start(c, tile_chunk), last_tile = chunk_start(c, tile_chunk + 1);
    float *sums = c->sums + worker * (gradient_panels * gradient_tiles * gradient_sums);
    for (int64_t d = 0; d < c->depths; d++) {
        float *sum = sums;
        for (int64_t p = first_panel; p < last_panel; p++) {
            const float *x = panel_of_x(c, group, d, p);
            for (int64_t t = first_tile; t < last_tile; t++, sum += gradient_sums) {
                const int64_t i = t * tile_rows, height = tn_min_i64(tile_rows, n - i);
                float *dw = c->dw + (group * n + i) * k + p * panel_columns;
                const bool last = d + 1 == c->depths;
                for (int64_t row = 0; last && row < height; row++)
                    prefetch_for_write(dw + row * k);
                gradient_tile(sum, tile_of_dy(c, group, d, t), x, depth_rows(c, d), d == 0);
                if (last) write_tile(dw, k, sum, height, tn_min_i64(panel_columns, k - p * panel_columns), c->fresh);
            }
        }
    }
}

/* --- bias --- */

/* dbias[i] = or += the sum of totals[d][i] over d in order, totals' rows `width` apart, for i < columns. */
static void write_bias(float *dbias, const float *totals, int64_t depths, int64_t width, int64_t columns, bool fresh)
{
    for (int64_t i = 0; i < columns; i += lanes) {
        vf sum = vf_set(0.0f);
        for (int64_t d = 0; d < depths; d++)
            sum = sum + load_columns(TN_F32, totals + d * width, 1, i, columns - i);
        const vf before = fresh ? vf_set(0.0f) : load_columns(TN_F32, dbias, 1, i, columns - i);
        store_columns(TN_F32, dbias, i, plain_nan(before + sum), columns - i);
    }
}

enum { bias_columns = 128 };

typedef struct bias_call {
    float *dbias;
    bool fresh;
    tn_rows dy;
    int64_t rows, width;
} bias_call;

/* The same sums as those that are made while dy is gathered. */
static void bias_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const bias_call *c = argument;
    const int64_t column = index * bias_columns, columns = tn_min_i64(bias_columns, c->width - column);
    float total[bias_columns] = {0}, values[bias_columns] = {0};
    for (int64_t first = 0; first < c->rows; first += gradient_depth) {
        float sum[bias_columns] = {0};
        for (int64_t r = first; r < tn_min_i64(first + gradient_depth, c->rows); r++) {
            widen(values, c->dy.dtype, element_at(&c->dy, r, column), c->dy.step, columns);
            for (int64_t i = 0; i < bias_columns; i += lanes)
                vf_store(sum + i, vf_load(sum + i) + vf_load(values + i));
        }
        for (int64_t i = 0; i < bias_columns; i += lanes)
            vf_store(total + i, vf_load(total + i) + vf_load(sum + i));
    }
    write_bias(c->dbias + column, total, 1, bias_columns, columns, c->fresh);
}

static void bias_gradient(const tn_context *context, float *dbias, tn_rows dy, int64_t rows, int64_t width, bool fresh)
{
    bias_call c = {dbias, fresh, dy, rows, width};
    tn_parallel_for(context->parallel, tn_ceil_div(width, bias_columns), bias_task, &c);
}

/* --- the ops --- */

/* Floats of each part of the scratch, in whole cache lines; false when they do not fit. */
typedef struct gradient_parts {
    int64_t dy_tiles, x_panels, totals, sums;
} gradient_parts;

static bool add_part(int64_t *part, size_t *bytes, int64_t a, int64_t b, int64_t c)
{
    enum { line = TN_ALIGN / sizeof(float) };
    int64_t count;
    size_t size;
    if (!tn_mul_i64(a, b, &count) || !tn_mul_i64(count, c, &count) || count > INT64_MAX - line) return false;
    *part = tn_ceil_div(count, line) * line;
    return tn_shape_bytes(1, part, sizeof(float), &size) && tn_add_size(*bytes, size, bytes);
}

static bool plan_gradient(gradient_parts *p, size_t *bytes, const tn_map *map, int64_t rows, int workers)
{
    const int64_t n = tn_ceil_div(map->n, tile_rows) * tile_rows;
    const int64_t k = tn_ceil_div(map->k, panel_columns) * panel_columns;
    *bytes = 0;
    return add_part(&p->dy_tiles, bytes, rows, map->groups, n) && add_part(&p->x_panels, bytes, rows, map->groups, k) &&
           add_part(&p->totals, bytes, tn_ceil_div(rows, gradient_depth), map->groups, map->n) &&
           add_part(&p->sums, bytes, workers, gradient_panels * gradient_tiles, gradient_sums);
}

/* SIZE_MAX, which nobody can allocate, when the size does not fit. */
static size_t weight_gradient_scratch(const tn_map *map, int64_t rows, int workers)
{
    gradient_parts p;
    size_t bytes;
    return plan_gradient(&p, &bytes, map, rows, workers) ? bytes : SIZE_MAX;
}

/* Large chunks reuse dy in L2; small ones leave no thread idle at the end. */
static void choose_gradient_chunks(gradient_call *c, int workers)
{
    const int64_t tasks = c->map->groups * c->tile_chunks;
    c->chunk = tn_max_i64(1, tn_min_i64(gradient_panels, c->panels));
    while (c->chunk > 1 && tasks * tn_ceil_div(c->panels, c->chunk) < 16 * (int64_t)workers)
        c->chunk = (c->chunk + 1) / 2;
    c->panel_chunks = tn_ceil_div(c->panels, c->chunk);
}

static void weight_gradient(const tn_context *context, float *dw, float *dbias, tn_rows dy, tn_rows x,
                            const tn_map *map, int64_t rows, bool fresh)
{
    gradient_call c = {.dw = dw, .dbias = dbias, .fresh = fresh, .dy = dy, .x = x, .map = map, .rows = rows};
    gradient_parts parts;
    size_t bytes;
    const int64_t width = map->groups * map->n;
    if (!plan_gradient(&parts, &bytes, map, rows, context->parallel->workers)) return; /* the scratch is that large */
    if (rows == 0 && fresh) memset(dw, 0, (size_t)(width * map->k) * sizeof *dw);
    c.depths = tn_ceil_div(rows, gradient_depth);
    c.tiles = tn_ceil_div(map->n, tile_rows);
    c.tile_chunks = c.dy_pieces = tn_ceil_div(c.tiles, gradient_tiles);
    c.panels = tn_ceil_div(map->k, panel_columns);
    c.x_pieces = tn_ceil_div(c.panels, gradient_panels);
    choose_gradient_chunks(&c, context->parallel->workers);
    c.dy_tiles = context->scratch;
    c.x_panels = c.dy_tiles + parts.dy_tiles;
    c.totals = c.x_panels + parts.x_panels;
    c.sums = c.totals + parts.totals;
    tn_parallel_for(context->parallel, map->groups * c.depths * (c.dy_pieces + c.x_pieces), gather_task, &c);
    tn_parallel_for(context->parallel, map->groups * c.tile_chunks * c.panel_chunks, gradient_task, &c);
    if (dbias != NULL) write_bias(dbias, c.totals, c.depths, width, width, fresh);
}

#endif
