/* SPDX-License-Identifier: MIT */
/* The arithmetic of `tenon compare`. Numbers are widened to double, which holds every storage type but 64-bit integers;
 * differences with those are taken in long double, which has 64 bits for the mantissa. So a difference is 0 exactly
 * where two numbers are equal. Sums are of double, scaled where squares would leave its range. */
#include "compare.h"

#include "report.h"

#include <float.h>
#include <math.h>
#include <string.h>

_Static_assert(LDBL_MANT_DIG >= 64, "64-bit integers are compared as long double");

double tn_sums_relative(const tn_sums *sums)
{
    if (sums->dd == 0) return 0;
    if (isinf(sums->dd)) return INFINITY;
    return sqrt(sums->dd) / sqrt(sums->bb);
}

double tn_sums_cosine_difference(const tn_sums *sums)
{
    if (sums->dd == 0) return 0;
    double norms = sqrt(sums->aa) * sqrt(sums->bb);
    if (norms == 0) return 1;
    /* An infinity in one of the two leaves no direction. */
    if (isinf(norms)) return 1;
    double difference = 1 - sums->ab / norms;
    return difference < 0 ? 0 : difference;
}

double tn_sums_ratio(const tn_sums *sums)
{
    if (sums->dd == 0 || (sums->aa == 0 && sums->bb == 0)) return 1;
    return sqrt(sums->aa) / sqrt(sums->bb);
}

bool tn_sums_scaled(const tn_sums *sums, double *factor)
{
    /* ||a - c b||^2 = aa - ab^2 / bb for the best c = ab / bb. */
    if (!(sums->aa > 0 && sums->bb > 0) || !isfinite(sums->dd) || sums->dd == 0) return false;
    *factor = sums->ab / sums->bb;
    double rest = 1 - sums->ab / sums->aa * *factor;
    return rest <= 1e-6 && rest * sums->aa <= 0.01 * sums->dd && fabs(*factor - 1) > 1e-6;
}

void tn_comparison_init(tn_comparison *c, int64_t width)
{
    memset(c, 0, sizeof *c);
    c->width = width;
}

static void scale(tn_sums *sums, int exponent)
{
    int by = 2 * (sums->exponent - exponent);
    sums->aa = ldexp(sums->aa, by);
    sums->bb = ldexp(sums->bb, by);
    sums->ab = ldexp(sums->ab, by);
    sums->dd = ldexp(sums->dd, by);
    sums->exponent = exponent;
}

static bool is_zero(const tn_sums *sums)
{
    return sums->aa == 0 && sums->bb == 0 && sums->dd == 0;
}

static void add_sums(tn_sums *to, tn_sums more)
{
    if (is_zero(&more)) return;
    if (is_zero(to)) to->exponent = more.exponent;
    if (to->exponent < more.exponent) scale(to, more.exponent);
    if (more.exponent < to->exponent) scale(&more, to->exponent);
    to->aa += more.aa;
    to->bb += more.bb;
    to->ab += more.ab;
    to->dd += more.dd;
}

/* Keeps the larger value; the first of equals stays. */
static void keep_worst(tn_worst *worst, double value, int64_t row)
{
    if (value > worst->value) *worst = (tn_worst){value, row};
}

static void finish_row(tn_comparison *c)
{
    double cosine = tn_sums_cosine_difference(&c->row), ratio = tn_sums_ratio(&c->row);
    keep_worst(&c->relative, tn_sums_relative(&c->row), c->rows);
    keep_worst(&c->cosine, cosine, c->rows);
    c->cosine_sum += cosine;
    if (c->rows == 0 || ratio < c->ratio_lowest) c->ratio_lowest = ratio;
    if (c->rows == 0 || ratio > c->ratio_highest) c->ratio_highest = ratio;
    add_sums(&c->all, c->row);
    c->row = (tn_sums){0, 0, 0, 0, 0};
    c->position = 0;
    c->rows++;
}

/* Numbers of both sides as doubles, and the distance of each pair: 0 exactly where they are equal, NaN where one of
 * them is NaN. */
enum { PIECE = 2048 };
typedef struct piece {
    double a[PIECE];
    double b[PIECE];
    double d[PIECE];
} piece;

/* The power of two by which numbers are divided before they are squared; 0 for all but extreme ones. */
static int find_exponent(const piece *p, size_t from, size_t to)
{
    double largest = 0;
    for (size_t i = from; i < to; i++) {
        double size = fabs(p->a[i]) > fabs(p->b[i]) ? fabs(p->a[i]) : fabs(p->b[i]);
        if (size > largest && size <= DBL_MAX) largest = size;
    }
    return largest == 0 || (largest > 0x1p-400 && largest < 0x1p400) ? 0 : ilogb(largest);
}

static void count_nan(tn_comparison *c, double a, double b)
{
    if (c->nan_a + c->nan_b + c->nan_both == 0) c->nan_row = c->rows;
    if (isnan(a) && isnan(b))
        c->nan_both++;
    else if (isnan(a))
        c->nan_a++;
    else
        c->nan_b++;
}

/* Numbers [from, to) of the piece, which belong to one row. */
static void add_numbers(tn_comparison *c, const piece *p, size_t from, size_t to)
{
    tn_sums sums = {0, 0, 0, 0, find_exponent(p, from, to)};
    double by = ldexp(1, -sums.exponent);
    for (size_t i = from; i < to; i++) {
        double a = p->a[i], b = p->b[i], d = p->d[i];
        if (isnan(d)) {
            count_nan(c, a, b);
            continue;
        }
        if (d != 0) {
            c->unequal++;
            keep_worst(&c->absolute, d, c->rows);
            sums.dd += (d * by) * (d * by);
        } else if (isinf(a)) {
            continue;
        }
        sums.aa += (a * by) * (a * by);
        sums.bb += (b * by) * (b * by);
        sums.ab += (a * by) * (b * by);
    }
    add_sums(&c->row, sums);
}

/* ---- numbers of a file ---- */

static double from_f16(uint16_t bits)
{
    int exponent = bits >> 10 & 31;
    double fraction = bits & 1023;
    double value;
    if (exponent == 31)
        value = fraction != 0 ? (double)NAN : (double)INFINITY;
    else if (exponent == 0)
        value = ldexp(fraction, -24);
    else
        value = ldexp(fraction + 1024, exponent - 25);
    return bits & 0x8000 ? -value : value;
}

static double from_bf16(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return (double)value;
}

#define WIDEN(name, type, convert)                                                                                     \
    static void widen_##name(double *out, const void *data, size_t count)                                              \
    {                                                                                                                  \
        const type *in = data;                                                                                         \
        for (size_t i = 0; i < count; i++)                                                                             \
            out[i] = convert(in[i]);                                                                                   \
    }
WIDEN(f64, double, (double))
WIDEN(f32, float, (double))
WIDEN(f16, uint16_t, from_f16)
WIDEN(bf16, uint16_t, from_bf16)
WIDEN(i8, int8_t, (double))
WIDEN(i16, int16_t, (double))
WIDEN(i32, int32_t, (double))
WIDEN(i64, int64_t, (double))
WIDEN(u8, uint8_t, (double))
WIDEN(u16, uint16_t, (double))
WIDEN(u32, uint32_t, (double))
WIDEN(u64, uint64_t, (double))

static const struct number {
    uint8_t code;
    uint8_t bits;
    void (*widen)(double *out, const void *data, size_t count);
} numbers[] = {{kDLFloat, 64, widen_f64},    {kDLFloat, 32, widen_f32}, {kDLFloat, 16, widen_f16},
               {kDLBfloat, 16, widen_bf16},  {kDLInt, 8, widen_i8},     {kDLInt, 16, widen_i16},
               {kDLInt, 32, widen_i32},      {kDLInt, 64, widen_i64},   {kDLUInt, 8, widen_u8},
               {kDLUInt, 16, widen_u16},     {kDLUInt, 32, widen_u32},  {kDLUInt, 64, widen_u64},
               {TN_DLPACK_BOOL, 8, widen_u8}};

static const struct number *find_number(DLDataType dtype)
{
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i].code == dtype.code && numbers[i].bits == dtype.bits) return &numbers[i];
    return NULL;
}

bool tn_is_number(DLDataType dtype)
{
    return find_number(dtype) != NULL;
}

bool tn_is_integer(DLDataType dtype)
{
    return dtype.code == kDLInt || dtype.code == kDLUInt || dtype.code == TN_DLPACK_BOOL;
}

/* double does not hold all of its values. */
static bool is_wide(DLDataType dtype)
{
    return tn_is_integer(dtype) && dtype.bits == 64;
}

static long double exactly(const void *data, DLDataType dtype, size_t i, double wide)
{
    if (!is_wide(dtype)) return (long double)wide;
    return dtype.code == kDLInt ? (long double)((const int64_t *)data)[i] : (long double)((const uint64_t *)data)[i];
}

static void take_distances(piece *p, const void *a, DLDataType a_type, const void *b, DLDataType b_type, size_t count)
{
    if (is_wide(a_type) || is_wide(b_type)) {
        for (size_t i = 0; i < count; i++) {
            long double x = exactly(a, a_type, i, p->a[i]), y = exactly(b, b_type, i, p->b[i]);
            p->d[i] = x == y ? 0 : (double)fabsl(x - y);
        }
        return;
    }
    for (size_t i = 0; i < count; i++)
        p->d[i] = p->a[i] == p->b[i] ? 0 : fabs(p->a[i] - p->b[i]);
}

bool tn_comparison_add(tn_comparison *c, const void *a, DLDataType a_type, const void *b, DLDataType b_type,
                       size_t count)
{
    const struct number *number_a = find_number(a_type), *number_b = find_number(b_type);
    piece p;
    if (!number_a || !number_b) return false;
    for (size_t done = 0; done < count;) {
        size_t now = count - done < PIECE ? count - done : PIECE;
        const char *at_a = (const char *)a + done * (a_type.bits / 8u);
        const char *at_b = (const char *)b + done * (b_type.bits / 8u);
        number_a->widen(p.a, at_a, now);
        number_b->widen(p.b, at_b, now);
        take_distances(&p, at_a, a_type, at_b, b_type, now);
        for (size_t from = 0; from < now;) {
            size_t left = (size_t)(c->width - c->position);
            size_t to = now - from < left ? now : from + left;
            add_numbers(c, &p, from, to);
            c->position += (int64_t)(to - from);
            if (c->position == c->width) finish_row(c);
            from = to;
        }
        done += now;
    }
    return true;
}
