/* SPDX-License-Identifier: MIT */
#include "train/loss.h"

#include "core/error.h"
#include "core/size.h"
#include <math.h>

/* Below this a vector has no direction: cosine_similarity's eps. */
static const double shortest = 1e-8;

/* One row: the loss of y [dim] against t [dim]; y becomes the gradient times `scale` where `differentiate` says so. */
typedef double (*row_loss)(float *y, const float *t, int64_t dim, bool differentiate, double scale);

static double mse(float *y, const float *t, int64_t dim, bool differentiate, double scale)
{
    const double factor = 2 * scale / (double)dim;
    double sum = 0;
    for (int64_t k = 0; k < dim; k++) {
        const double d = (double)y[k] - t[k];
        sum += d * d;
        if (differentiate) y[k] = (float)(d * factor);
    }
    return sum / (double)dim;
}

static double smooth_l1(float *y, const float *t, int64_t dim, bool differentiate, double scale)
{
    const double factor = scale / (double)dim;
    double sum = 0;
    for (int64_t k = 0; k < dim; k++) {
        const double d = (double)y[k] - t[k], size = fabs(d);
        sum += size < 1 ? d * d / 2 : size - 0.5;
        if (differentiate) y[k] = (float)((size < 1 ? d : d / size) * factor);
    }
    return sum / (double)dim;
}

static double cosine(float *y, const float *t, int64_t dim, bool differentiate, double scale)
{
    double yy = 0, tt = 0, yt = 0;
    for (int64_t k = 0; k < dim; k++) {
        yy += (double)y[k] * y[k];
        tt += (double)t[k] * t[k];
        yt += (double)y[k] * t[k];
    }
    const double y_norm = sqrt(yy), t_norm = sqrt(tt);
    const bool has_direction = !(y_norm < shortest || t_norm < shortest);
    const double similarity = has_direction ? yt / (y_norm * t_norm) : 0;
    const double to_t = has_direction ? -scale / (y_norm * t_norm) : 0;
    const double to_y = has_direction ? scale * similarity / yy : 0;
    for (int64_t k = 0; differentiate && k < dim; k++)
        y[k] = (float)(to_t * t[k] + to_y * y[k]);
    return 1 - similarity;
}

static const struct {
    const char *name;
    row_loss row;
} losses[] = {[TENON_LOSS_MSE] = {"mse", mse},
              [TENON_LOSS_COSINE] = {"cosine", cosine},
              [TENON_LOSS_SMOOTH_L1] = {"smooth_l1", smooth_l1}};
enum { NUM_LOSSES = sizeof losses / sizeof losses[0] };

const char *tenon_loss_name(tenon_loss loss)
{
    return (int)loss >= 0 && (int)loss < NUM_LOSSES ? losses[loss].name : NULL;
}

tenon_status tenon_loss_from_name(const char *name, tenon_loss *loss, tenon_error *error)
{
    for (int i = 1; i < NUM_LOSSES; i++) {
        if (strcmp(name, losses[i].name) != 0) continue;
        *loss = (tenon_loss)i;
        return TENON_OK;
    }
    return tn_fail(error, TENON_INVALID, "unknown loss '%s'; there are mse, cosine and smooth_l1", tn_quote(name).text);
}

typedef struct job {
    float *y;
    double *losses;
    row_loss row;
    bool differentiate;
    const tn_tensor *target;
    float *scratch;
} job;

/* Row (b, m) of the target as dense f32: in place where it is, else widened into `scratch`. */
static const float *target_row(const tn_tensor *target, int64_t b, int64_t m, float *scratch)
{
    const int64_t dim = target->shape[2], step = target->stride[2];
    const int64_t first = b * target->stride[0] + m * target->stride[1];
    if (target->dtype == TN_F32 && step == 1) return (const float *)target->data + first;
    for (int64_t k = 0; k < dim; k++)
        scratch[k] = (float)tn_load(target->data, target->dtype, first + k * step);
    return scratch;
}

/* Rows of one task: enough work to be worth a thread. */
static int64_t rows_of_task(int64_t dim)
{
    return tn_max_i64(1, 16384 / tn_max_i64(1, dim));
}

static void row_task(void *argument, int64_t index, int worker)
{
    const job *j = argument;
    const int64_t tokens = j->target->shape[1], dim = j->target->shape[2], step = rows_of_task(dim);
    const int64_t end = tn_min_i64(j->target->shape[0] * tokens, (index + 1) * step);
    for (int64_t row = index * step; row < end; row++) {
        const float *t = target_row(j->target, row / tokens, row % tokens, j->scratch + worker * dim);
        j->losses[row] = j->row(j->y + row * dim, t, dim, j->differentiate, 1 / (double)tokens);
    }
}

void tn_loss_rows(const tn_parallel *parallel, float *y, double *row_losses, tenon_loss loss, bool differentiate,
                  const tn_tensor *target, float *scratch)
{
    job j = {y, row_losses, losses[loss].row, differentiate, target, scratch};
    const int64_t rows = target->shape[0] * target->shape[1];
    tn_parallel_for(parallel, tn_ceil_div(rows, rows_of_task(target->shape[2])), row_task, &j);
}
