/* SPDX-License-Identifier: MIT */
/* Parameter: its rows as a value, one copy for all images; backward, dw += dy. It reads no value. Reach: image, because
 * it is made whole, once a call. */
#include "core/size.h"
#include "layers/types.h"

typedef struct parameter {
    int64_t rows;
} parameter;

int tenon_parameter_rows(tenon_builder *builder, const char *name, int64_t rows, int64_t width, double value,
                         double std, unsigned flags)
{
    tn_layer *layer = tn_builder_append(builder, &(tn_append){.type = &tn_parameter_type,
                                                              .name = name,
                                                              .own_size = sizeof(parameter),
                                                              .num_inputs = TN_NO_INPUTS});
    if (layer == NULL) return -1;
    const bool is_vector = (flags & TENON_VECTOR) != 0, known = tenon_builder_in_dim(builder) > 0;
    tn_builder_flags(builder, flags, TENON_VECTOR);
    if (rows <= 0 || width < 0 || (width == 0 && known) || (is_vector && rows != 1)) {
        tenon_builder_fail(builder,
                           "parameter '%s' has %lld rows of width %lld; both must be positive, and a vector "
                           "has one row",
                           tn_quote(name).text, (long long)rows, (long long)width);
    } else if (!(std >= 0) || (std > 0 && value != 0)) {
        tenon_builder_fail(builder,
                           "parameter '%s' is drawn with value %g and standard deviation %g; one of them must "
                           "be 0, and the standard deviation not negative",
                           tn_quote(name).text, value, std);
    }
    ((parameter *)layer->own)->rows = rows;
    layer->out_dim = width;
    tn_builder_parameter(builder, "",
                         &(tn_parameter_spec){.ndim = is_vector ? 1 : 2,
                                              .shape = {is_vector ? width : rows, width},
                                              .initial = std > 0 ? TN_INITIAL_NORMAL : TN_INITIAL_CONSTANT,
                                              .value = std > 0 ? std : value,
                                              .decays = !is_vector});
    return tn_builder_finish_in(builder, layer, tn_builder_shared(builder, rows));
}

static bool sizes(tn_layer_sizes *bytes, const tn_layer_query *q)
{
    const int64_t shape[] = {((const parameter *)q->layer->own)->rows, q->layer->out_dim};
    *bytes = (tn_layer_sizes){.packed = 0};
    return tn_shape_bytes(2, shape, tn_dtype_size(q->ops->compute), &bytes->packed);
}

static void pack(void *packed, void *packed_backward, const tn_layer *layer, const tn_context *context,
                 const tn_weight *weights)
{
    (void)packed_backward;
    const int64_t width = layer->out_dim;
    context->ops->copy(context, tn_dense_rows(packed, context->ops->compute, width),
                       tn_dense_rows(weights[0].data, weights[0].dtype, width), ((const parameter *)layer->own)->rows,
                       width);
}

static void forward(const tn_layer_call *call)
{
    const int64_t width = call->layer->out_dim;
    call->context->ops->copy(call->context, call->y, tn_dense_rows(call->packed, call->context->ops->compute, width),
                             call->rows, width);
}

static void backward(const tn_layer_call *call)
{
    const int64_t width = call->layer->out_dim;
    const tn_rows dw = tn_dense_rows(call->gradient[0], TN_F32, width);
    if (call->overwrite) {
        call->context->ops->copy(call->context, dw, call->dy, call->rows, width);
    } else {
        call->context->ops->accumulate(call->context, dw, call->dy, call->rows, width);
    }
}

const tn_layer_type tn_parameter_type = {
    .name = "parameter",
    .reach = TN_REACH_IMAGE,
    .sizes = sizes,
    .pack = pack,
    .forward = forward,
    .backward = backward,
};
