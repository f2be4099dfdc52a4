/* SPDX-License-Identifier: MIT */
/* Connectors and files of more than one tensor: further inputs and outputs, integers, grids of packed batches, all by
 * name. run_ports.c reads what a connector takes and makes, run_named.c what a file has of it, run_groups.c runs it,
 * some images at a time. */
#ifndef TN_CLI_NAMED_H
#define TN_CLI_NAMED_H

#include "tenon/tenon.h"

#include <jansson.h>

typedef struct tn_port {
    const char *name;
    int64_t width; /* of an integer tensor the columns; 0: any */
} tn_port;

/* What a connector takes and makes; the features and the tokens come first. All zero: nobody has asked. */
typedef struct tn_ports {
    json_t *graph; /* owns the names */
    tn_port *inputs, *outputs, *integers;
    size_t num_inputs, num_outputs, num_integers;
} tn_ports;

bool tn_ports_read(tn_ports *ports, const tenon_adapter *adapter, tenon_error *error);
void tn_ports_free(tn_ports *ports);

/* A tensor of the file that the call reads: the features, further inputs, then integers. */
typedef struct tn_named_part {
    const char *name; /* the connector's */
    int64_t index;    /* in the file */
    DLDataType dtype;
    int ndim;
    int64_t shape[3]; /* packed inputs: rows, width; else images, rows, width; integers as in the file */
    size_t row;       /* bytes of a row of an input, of an image of an integer tensor */
    void *integers;   /* all elements of an integer tensor, owned; NULL: an input, which is read when it is run */
} tn_named_part;

/* What a file has for a call. */
typedef struct tn_named {
    tn_named_part *parts;
    size_t num_parts, num_inputs; /* the inputs come first */
    int64_t *grids;               /* [images, columns] of a packed batch; NULL: all images are alike */
    int64_t columns;
    int64_t *first; /* [images + 1] first row of each image in the inputs, of a packed batch */
    size_t num_outputs;
    int64_t **made;       /* [num_outputs] [images + 1] first row of each image in an output */
    bool is_stacked;      /* the tokens are written as (images, tokens, width) */
    unsigned char *patch; /* patch mask, as many bytes as there are rows without prefix tokens; NULL: none */
    unsigned char *frame; /* [images] or NULL */
} tn_named;

void tn_named_free(tn_named *named);

#endif
