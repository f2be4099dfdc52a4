/* SPDX-License-Identifier: MIT */
/* Packing of weights: for each group, panels of panel_columns outputs, [n / panel_columns][k][panel_columns], in their
 * storage dtype; outputs past n are zeros. The product then reads one panel from front to back.
 *
 * Only bits move, so there is one code for 4-byte and one for 2-byte elements.
 */
#ifndef TN_OPS_CPU_PACK_H
#define TN_OPS_CPU_PACK_H

/* The tile of the product, which a level may choose: tile_rows rows of x times tile_panels panels of panel_vectors
 * vectors. Here 12 sums, 2 weights and 1 broadcast fill 15 of 16 registers. Few rows take up to few_panels panels side
 * by side, of up to few_sums sums. */
#define HEIGHTS_TO_6(each) each(1) each(2) each(3) each(4) each(5) each(6)
#ifndef TILE_HEIGHTS
#define TILE_HEIGHTS HEIGHTS_TO_6
enum { tile_rows = 6, tile_panels = 1, panel_vectors = 2, few_panels = 4, few_sums = 12 };
#endif
enum { panel_columns = panel_vectors * lanes };

typedef struct pack_call {
    char *packed;
    const char *w;
    const tn_map *map;
    int64_t group_stride, n_stride, k_stride;
    int64_t panels, chunk, chunks; /* panels of a group; panels of a task; tasks side by side */
    int64_t depth, pieces;         /* k of a task; tasks one below the other */
} pack_call;

typedef uint32_t quad __attribute__((vector_size(16)));
typedef uint16_t octet __attribute__((vector_size(16)));

/* to[k * stride + j] = from[j][at + k] for j < 4, k < 16, of four bytes each: whole cache lines of four rows. */
static ALWAYS_INLINE void transpose_quads(void *to, int64_t stride, const void *const from[4], int64_t at)
{
    const uint32_t *const rows[4] = {from[0], from[1], from[2], from[3]};
    UNROLL
    for (int k = 0; k < 16; k += 4) {
        quad a, b, c, d;
        memcpy(&a, rows[0] + at + k, sizeof a);
        memcpy(&b, rows[1] + at + k, sizeof b);
        memcpy(&c, rows[2] + at + k, sizeof c);
        memcpy(&d, rows[3] + at + k, sizeof d);
        const quad ac_low = __builtin_shufflevector(a, c, 0, 4, 1, 5),
                   ac_high = __builtin_shufflevector(a, c, 2, 6, 3, 7);
        const quad bd_low = __builtin_shufflevector(b, d, 0, 4, 1, 5),
                   bd_high = __builtin_shufflevector(b, d, 2, 6, 3, 7);
        const quad out[4] = {__builtin_shufflevector(ac_low, bd_low, 0, 4, 1, 5),
                             __builtin_shufflevector(ac_low, bd_low, 2, 6, 3, 7),
                             __builtin_shufflevector(ac_high, bd_high, 0, 4, 1, 5),
                             __builtin_shufflevector(ac_high, bd_high, 2, 6, 3, 7)};
        UNROLL
        for (int i = 0; i < 4; i++)
            memcpy((uint32_t *)to + (k + i) * stride, &out[i], sizeof out[i]);
    }
}

static ALWAYS_INLINE octet zip_low(octet a, octet b)
{
    return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
}

static ALWAYS_INLINE octet zip_high(octet a, octet b)
{
    return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}

/* to[k * panel_columns + j] = from[j * n_stride + k] for j < 8, k < 8: three rounds of zipping row j with row j + 4. */
static ALWAYS_INLINE void transpose_octets(uint16_t *to, const uint16_t *from, int64_t n_stride)
{
    octet rows[8], zipped[8];
    UNROLL
    for (int j = 0; j < 8; j++)
        memcpy(&rows[j], from + j * n_stride, sizeof rows[j]);
    UNROLL
    for (int round = 0; round < 3; round++) {
        UNROLL
        for (int j = 0; j < 4; j++) {
            zipped[2 * j] = zip_low(rows[j], rows[j + 4]);
            zipped[2 * j + 1] = zip_high(rows[j], rows[j + 4]);
        }
        UNROLL
        for (int j = 0; j < 8; j++)
            rows[j] = zipped[j];
    }
    UNROLL
    for (int j = 0; j < 8; j++)
        memcpy(to + j * panel_columns, &rows[j], sizeof rows[j]);
}

/* to[k, j] = from[j * n_stride + k * k_stride] for j in [from_column, columns), k in [first, depth). */
static void pack_loop(char *to, const char *from, size_t size, int64_t n_stride, int64_t k_stride, int64_t from_column,
                      int64_t columns, int64_t first, int64_t depth)
{
    for (int64_t k = first; k < depth; k++) {
        for (int64_t j = from_column; j < columns; j++) {
            const char *element = from + (j * n_stride + k * k_stride) * (int64_t)size;
            char *place = to + (k * panel_columns + j) * (int64_t)size;
            if (size == 4) {
                memcpy(place, element, 4);
            } else {
                memcpy(place, element, 2);
            }
        }
    }
}

/* The k-contiguous case: whole blocks by transposition, edges one by one. */
static void pack_transposed(char *to, const char *from, size_t size, int64_t n_stride, int64_t columns, int64_t depth)
{
    const int64_t wide = size == 4 ? 4 : 8, deep = size == 4 ? 16 : 8;
    const int64_t whole_columns = columns - columns % wide, whole_depth = depth - depth % deep;
    for (int64_t k = 0; k < whole_depth; k += deep) {
        for (int64_t j = 0; j < whole_columns; j += wide) {
            const int64_t source = j * n_stride + k, target = k * panel_columns + j;
            if (size == 4) {
                const char *row = from + source * 4;
                const void *rows[4] = {row, row + n_stride * 4, row + n_stride * 8, row + n_stride * 12};
                transpose_quads(to + target * 4, panel_columns, rows, 0);
            } else {
                transpose_octets((uint16_t *)(void *)to + target, (const uint16_t *)(const void *)from + source,
                                 n_stride);
            }
        }
    }
    pack_loop(to, from, size, n_stride, 1, whole_columns, columns, 0, whole_depth);
    pack_loop(to, from, size, n_stride, 1, 0, columns, whole_depth, depth);
}

/* The n-contiguous case, panels panel_size bytes apart. A row's columns are read for several panels at once: memory
 * gives long pieces faster. */
static ALWAYS_INLINE void pack_rows_of(char *to, const char *from, size_t size, int64_t k_stride, int64_t columns,
                                       int64_t depth, int64_t panel_size)
{
    enum { ahead = 8 };
    const size_t line = panel_columns * size;
    const int64_t whole = columns / panel_columns, rest = columns % panel_columns;
    for (int64_t k = 0; k < depth; k++) {
        const char *row = from + k * k_stride * (int64_t)size;
        char *place = to + k * (int64_t)line;
        for (int64_t p = 0; p < whole; p++, row += line, place += panel_size) {
            if (k + ahead < depth) __builtin_prefetch(row + ahead * k_stride * (int64_t)size);
            memcpy(place, row, line);
        }
        memcpy(place, row, (size_t)rest * size);
    }
}

static void pack_rows(char *to, const char *from, size_t size, int64_t k_stride, int64_t columns, int64_t depth,
                      int64_t panel_size)
{
    if (size == 4) {
        pack_rows_of(to, from, 4, k_stride, columns, depth, panel_size);
    } else {
        pack_rows_of(to, from, 2, k_stride, columns, depth, panel_size);
    }
}

static void pack_task(void *argument, int64_t index, int worker)
{
    (void)worker;
    const pack_call *c = argument;
    const tn_map *map = c->map;
    const int64_t panel = index / c->pieces % c->chunks * c->chunk, group = index / c->pieces / c->chunks;
    const int64_t first = index % c->pieces * c->depth, depth = tn_min_i64(c->depth, map->k - first);
    const int64_t column = panel * panel_columns, columns = tn_min_i64(c->chunk * panel_columns, map->n - column);
    const int64_t size = element_size(map->dtype), panel_size = map->k * panel_columns * size;
    char *to = c->packed + ((group * c->panels + panel) * map->k + first) * panel_columns * size;
    const char *from = c->w + (group * c->group_stride + column * c->n_stride + first * c->k_stride) * size;
    if (columns % panel_columns != 0) {
        memset(to + columns / panel_columns * panel_size, 0, (size_t)(depth * panel_columns * size));
    }
    if (c->k_stride == 1) {
        pack_transposed(to, from, (size_t)size, c->n_stride, columns, depth);
    } else if (c->n_stride == 1) {
        pack_rows(to, from, (size_t)size, c->k_stride, columns, depth, panel_size);
    } else {
        pack_loop(to, from, (size_t)size, c->n_stride, c->k_stride, 0, columns, 0, depth);
    }
}

static bool packed_size(const tn_map *map, size_t *bytes)
{
    int64_t columns;
    if (map->n < 0 || !tn_mul_i64(tn_ceil_div(map->n, panel_columns), panel_columns, &columns)) return false;
    return tn_shape_bytes(3, (int64_t[]){map->groups, columns, map->k}, (size_t)element_size(map->dtype), bytes);
}

static void pack(const tn_context *context, void *packed, const void *w, const tn_map *map, int64_t group_stride,
                 int64_t n_stride, int64_t k_stride)
{
    const bool by_rows = k_stride != 1 && n_stride == 1;
    pack_call c = {.packed = packed, .w = w, .map = map};
    c.group_stride = group_stride;
    c.n_stride = n_stride;
    c.k_stride = k_stride;
    c.panels = tn_ceil_div(map->n, panel_columns);
    c.chunk = by_rows ? 8 : 1;
    c.chunks = tn_ceil_div(c.panels, c.chunk);
    c.depth = by_rows ? 256 : 2048;
    c.pieces = tn_ceil_div(map->k, c.depth);
    tn_parallel_for(context->parallel, map->groups * c.chunks * c.pieces, pack_task, &c);
}

#endif
