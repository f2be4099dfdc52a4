/* SPDX-License-Identifier: MIT */
#include "compare.h"

#include "report.h"

#include <math.h>
#include <string.h>

double tn_sums_relative(const tn_sums *sums)
{
    if (sums->dd == 0) return 0;
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

void tn_comparison_init(tn_comparison *c, int64_t width)
{
    memset(c, 0, sizeof *c);
    c->width = width;
}

/* Keeps the larger value; NaN is larger than every number, and the first of equals stays. */
static void keep_worst(tn_worst *worst, double value, int64_t token)
{
    if (isnan(worst->value)) return;
    if (isnan(value) || value > worst->value) *worst = (tn_worst){value, token};
}

static void finish_token(tn_comparison *c)
{
    double cosine = tn_sums_cosine_difference(&c->token);
    keep_worst(&c->relative, tn_sums_relative(&c->token), c->tokens);
    keep_worst(&c->cosine, cosine, c->tokens);
    c->cosine_sum += cosine;
    c->all.aa += c->token.aa;
    c->all.bb += c->token.bb;
    c->all.ab += c->token.ab;
    c->all.dd += c->token.dd;
    c->token = (tn_sums){0, 0, 0, 0};
    c->position = 0;
    c->tokens++;
}

static void add_element(tn_comparison *c, double a, double b)
{
    double difference = a == b ? 0 : fabs(a - b);
    if (isnan(difference)) c->nans++;
    if (!(a == b)) c->unequal++;
    keep_worst(&c->absolute, difference, c->tokens);
    c->token.dd += difference * difference;
    if (a == b && isinf(a)) return;
    c->token.aa += a * a;
    c->token.bb += b * b;
    c->token.ab += a * b;
}

void tn_comparison_add(tn_comparison *c, const double *a, const double *b, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        add_element(c, a[i], b[i]);
        if (++c->position == c->width) finish_token(c);
    }
}

/* ---- elements as doubles ---- */

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

static double same_f32(float value)
{
    return (double)value;
}

#define WIDEN(name, type, convert)                                                                                     \
    static void widen_##name(double *out, const void *data, size_t count)                                              \
    {                                                                                                                  \
        const type *in = data;                                                                                         \
        for (size_t i = 0; i < count; i++)                                                                             \
            out[i] = convert(in[i]);                                                                                   \
    }
WIDEN(f32, float, same_f32)
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

static const struct {
    uint8_t code;
    uint8_t bits;
    void (*widen)(double *out, const void *data, size_t count);
} widenings[] = {{kDLFloat, 32, widen_f32}, {kDLFloat, 16, widen_f16}, {kDLBfloat, 16, widen_bf16},
                 {kDLInt, 8, widen_i8},     {kDLInt, 16, widen_i16},   {kDLInt, 32, widen_i32},
                 {kDLInt, 64, widen_i64},   {kDLUInt, 8, widen_u8},    {kDLUInt, 16, widen_u16},
                 {kDLUInt, 32, widen_u32},  {kDLUInt, 64, widen_u64},  {TN_DLPACK_BOOL, 8, widen_u8}};

bool tn_widen(double *out, const void *data, DLDataType dtype, size_t count)
{
    for (size_t i = 0; i < sizeof widenings / sizeof *widenings; i++) {
        if (widenings[i].code != dtype.code || widenings[i].bits != dtype.bits) continue;
        widenings[i].widen(out, data, count);
        return true;
    }
    return false;
}
