/* SPDX-License-Identifier: MIT */
/* What rows of several lineages share. */
#ifndef TN_FAMILIES_ROWS_H
#define TN_FAMILIES_ROWS_H

#include "families/family.h"

/* A width, which the tensors tell: compared with them, never set. */
#define TN_ROW_WIDTH(option_, key_)                                                                                    \
    {                                                                                                                  \
        .option = option_, .key = key_, .kind = TN_KEY_INT, .least = 1, .most = 1 << 24                                \
    }

/* The width of the features, of several layers side by side. */
#define TN_ROW_LAYERS_WIDTH(key_, layers_)                                                                             \
    {                                                                                                                  \
        .option = "in_dim", .key = key_, .kind = TN_KEY_INT, .least = 1, .most = 1 << 24, .times = layers_             \
    }

/* Numbers of encoder layers; negative ones count from the end, as in Python. */
#define TN_ROW_LAYERS(key_, fallback_)                                                                                 \
    {                                                                                                                  \
        .key = key_, .kind = TN_KEY_LAYERS, .fallback = fallback_, .least = -1000, .most = 1000                        \
    }
#define TN_ROW_ACTIVATION(key_)                                                                                        \
    {                                                                                                                  \
        .option = "activation", .key = key_, .kind = TN_KEY_CHOICE, .fallback = "\"gelu\"",                            \
        .choices = tn_activation_choices                                                                               \
    }
#define TN_ROW_BIAS(key_, fallback_)                                                                                   \
    {                                                                                                                  \
        .option = "bias", .key = key_, .kind = TN_KEY_BOOL, .fallback = fallback_                                      \
    }
#define TN_ROW_EPS(key_, fallback_)                                                                                    \
    {                                                                                                                  \
        .option = "eps", .key = key_, .kind = TN_KEY_REAL, .fallback = fallback_, .least = 0, .most = 1                \
    }

/* The side of a merge. */
#define TN_ROW_SIDE(option_, key_, fallback_)                                                                          \
    {                                                                                                                  \
        .option = option_, .key = key_, .kind = TN_KEY_INT, .fallback = fallback_, .least = 1, .most = 64              \
    }

/* 0.5 -> 2. */
#define TN_ROW_RATIO(option_, key_, fallback_)                                                                         \
    {                                                                                                                  \
        .option = option_, .key = key_, .kind = TN_KEY_INVERSE, .fallback = fallback_, .least = 1, .most = 64          \
    }

/* transformers drops the first row of every image with "default", whatever the encoder is. */
#define TN_ROW_STRATEGY(fallback_)                                                                                     \
    {                                                                                                                  \
        .option = "prefix_tokens", .key = "vision_feature_select_strategy", .kind = TN_KEY_CHOICE,                     \
        .fallback = fallback_, .choices = tn_strategy_choices                                                          \
    }

/* An option that no key decides. */
#define TN_ROW_CONSTANT(option_, value_)                                                                               \
    {                                                                                                                  \
        .option = option_, .fallback = value_                                                                          \
    }
#define TN_ROW_END                                                                                                     \
    {                                                                                                                  \
        .option = NULL                                                                                                 \
    }

/* A model_type, whose keys are in the whole config.json. */
#define TN_ROW_MARK(model_type_)                                                                                       \
    {                                                                                                                  \
        model_type_, "", NULL, NULL                                                                                    \
    }
#define TN_ROW_NO_MARK                                                                                                 \
    {                                                                                                                  \
        NULL, NULL, NULL, NULL                                                                                         \
    }

/* The whole connector is one module. */
#define TN_ROW_WHOLE(path_, arguments_)                                                                                \
    {                                                                                                                  \
        path_, arguments_, "", ""                                                                                      \
    }
#define TN_ROW_NO_MODULE                                                                                               \
    {                                                                                                                  \
        NULL, NULL, NULL, NULL                                                                                         \
    }

extern const tn_choice tn_strategy_choices[];

/* All parameters under "multi_modal_projector." */
extern const tn_alias tn_projector_names[];

#endif
