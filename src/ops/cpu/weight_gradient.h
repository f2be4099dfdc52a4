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

enum { gradient_depth = 256, gradient_tiles = 24, gradient_panels = 16, gradient_sums = tile_rows * panel_columns };

typedef struct gradient_call {
    float *dw;
    tn_rows dy, x;
    const tn_map *map;
    int64_t rows, depths;                  /* depths: row blocks */
    int64_t tiles, tile_chunks;            /* of a group */
    int64_t panels, chunk, panel_chunks;   /* of a group; panels of a chunk */
    int64_t dy_pieces, x_pieces, gathered; /* pieces that a row block of a group is gathered in; pieces in all */
    float *dy_tiles, *x_panels;
    float *sums; /* [worker][chunk][gradient_tiles][tile_rows][panel_columns] */
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

/* to[piece][rows][size] = columns column + size * piece ... of rows first ... of `from`; zeros past `columns`. */
static ALWAYS_INLINE void gather_columns(float *to, const tn_rows *from, int64_t first, int64_t rows, int64_t column,
                                         int64_t columns, int size)
{
    enum {
        most = gradient_tiles * tile_rows > gradient_panels * panel_columns ? gradient_tiles * tile_rows
                                                                            : gradient_panels * panel_columns
    };
    float values[most] = {0};
    for (int64_t r = 0; r < rows; r++) {
        widen(values, from->dtype, element_at(from, first + r, column), from->step, columns);
        for (int64_t i = 0; i * size < columns; i++)
            memcpy(to + (i * rows + r) * size, values + i * size, (size_t)size * sizeof *to);
    }
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
        gather_columns(tile_of_dy(c, group, d, tile), &c->dy, first, rows, group * n + column, columns, tile_rows);
    } else {
        const int64_t panel = (piece - c->dy_pieces) * gradient_panels, column = panel * panel_columns;
        const int64_t columns = tn_min_i64(gradient_panels * panel_columns, k - column);
        gather_columns(panel_of_x(c, group, d, panel), &c->x, first, rows, group * k + column, columns, panel_columns);
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

/* dw[i, 0 : columns] += sums[i, :] for i < height, dw's rows `stride` apart. */
static void add_tile(float *dw, int64_t stride, const float *sums, int64_t height, int64_t columns)
{
    for (int64_t i = 0; i < height; i++) {
        float *to = dw + i * stride;
        UNROLL
        for (int v = 0; v < panel_vectors; v++) {
            const int64_t left = columns - v * lanes;
            if (left <= 0) break;
            const vf sum = load_columns(TN_F32, to, 1, v * lanes, left) + vf_load(sums + i * panel_columns + v * lanes);
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
                if (last) add_tile(dw, k, sum, height, tn_min_i64(panel_columns, k - p * panel_columns));
            }
        }
    }
}

/* --- the ops --- */

static int64_t padded(int64_t size, int64_t unit)
{
    return tn_ceil_div(size, unit) * unit;
}

/* SIZE_MAX, which nobody can allocate, when the size does not fit. */
static size_t weight_gradient_scratch(const tn_map *map, int64_t rows, int workers)
{
    size_t bytes = 0;
    int64_t dy, x;
    if (!tn_mul_i64(padded(map->n, tile_rows), map->groups, &dy) ||
        !tn_mul_i64(padded(map->k, panel_columns), map->groups, &x) || !add_product(&bytes, rows, dy, sizeof(float)) ||
        !add_product(&bytes, rows, x, sizeof(float)) ||
        !add_product(&bytes, workers, gradient_panels * gradient_tiles * gradient_sums, sizeof(float)))
        return SIZE_MAX;
    return bytes;
}

static void weight_gradient(const tn_context *context, float *dw, tn_rows dy, tn_rows x, const tn_map *map,
                            int64_t rows)
{
    if (rows <= 0 || map->n <= 0 || map->k <= 0 || map->groups <= 0) return;
    gradient_call c = {.dw = dw, .dy = dy, .x = x, .map = map, .rows = rows};
    c.depths = tn_ceil_div(rows, gradient_depth);
    c.tiles = tn_ceil_div(map->n, tile_rows);
    c.tile_chunks = c.dy_pieces = tn_ceil_div(c.tiles, gradient_tiles);
    c.panels = tn_ceil_div(map->k, panel_columns);
    c.x_pieces = tn_ceil_div(c.panels, gradient_panels);
    c.chunk = tn_min_i64(gradient_panels, c.panels);
    while (c.chunk > 1 &&
           map->groups * c.tile_chunks * tn_ceil_div(c.panels, c.chunk) < 8 * (int64_t)context->parallel->workers)
        c.chunk = (c.chunk + 1) / 2;
    c.panel_chunks = tn_ceil_div(c.panels, c.chunk);
    c.dy_tiles = context->scratch;
    c.x_panels = c.dy_tiles + padded(rows * padded(map->n, tile_rows) * map->groups, TN_ALIGN / sizeof(float));
    c.sums = c.x_panels + padded(rows * padded(map->k, panel_columns) * map->groups, TN_ALIGN / sizeof(float));
    tn_parallel_for(context->parallel, map->groups * c.depths * (c.dy_pieces + c.x_pieces), gather_task, &c);
    tn_parallel_for(context->parallel, map->groups * c.tile_chunks * c.panel_chunks, gradient_task, &c);
}

/* --- bias --- */

enum { bias_columns = 128 };

typedef struct bias_call {
    float *dbias;
    tn_rows dy;
    int64_t rows, width;
} bias_call;

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
    for (int64_t i = 0; i < columns; i += lanes) {
        const vf sum = load_columns(TN_F32, c->dbias + column, 1, i, columns - i) + vf_load(total + i);
        store_columns(TN_F32, c->dbias + column, i, plain_nan(sum), columns - i);
    }
}

static void bias_gradient(const tn_context *context, float *dbias, tn_rows dy, int64_t rows, int64_t width)
{
    bias_call c = {dbias, dy, rows, width};
    if (rows > 0) tn_parallel_for(context->parallel, tn_ceil_div(width, bias_columns), bias_task, &c);
}

#endif
