/* SPDX-License-Identifier: MIT */
/* What inspect says of a connector that is part of a public model: its family, what the encoder must deliver, and where
 * the parameters are. */
#include "inspect.h"

#include "json.h"
#include "report.h"

#include <stdio.h>
#include <string.h>

/* The tensor of the file that parameter `index` was read from; false: none was. */
static bool find_source(const tenon_file *file, const tenon_adapter *adapter, int64_t index, tenon_parameter *parameter,
                        tenon_file_tensor *tensor)
{
    int64_t number;
    tenon_parameter_init(parameter);
    tenon_file_tensor_init(tensor);
    return tenon_adapter_parameter(adapter, index, parameter, NULL) == TENON_OK && parameter->source &&
           tenon_file_find_tensor(file, parameter->source, &number, NULL) == TENON_OK &&
           tenon_file_get_tensor(file, number, tensor, NULL) == TENON_OK;
}

void tn_family_text(const tenon_adapter *adapter)
{
    if (!tenon_adapter_family(adapter)) return;
    printf("family      %s\n", tenon_adapter_family(adapter));
    for (const char *line = tenon_adapter_feeding(adapter); line;) {
        const char *end = strchr(line, '\n');
        int length = end ? (int)(end - line) : (int)strlen(line);
        printf("input       %.*s\n", length, line);
        line = end ? end + 1 : NULL;
    }
}

void tn_family_sources_text(const tenon_file *file, const tenon_adapter *adapter)
{
    if (!tenon_adapter_family(adapter)) return;
    printf("\nparameter            in the model\n");
    for (int64_t i = 0; i < tenon_adapter_num_parameters(adapter); i++) {
        tenon_parameter parameter;
        tenon_file_tensor tensor;
        if (!find_source(file, adapter, i, &parameter, &tensor)) continue;
        const char *slash = tensor.path ? strrchr(tensor.path, '/') : NULL;
        printf("%-20s %s %s %s", parameter.name, tn_name_text(tensor.name), tensor.stored,
               tn_shape_text(tensor.ndim, tensor.shape));
        printf(", %s\n", tn_name_text(slash ? slash + 1 : tensor.path ? tensor.path : "-"));
    }
}

static json_t *inputs_as_json(const char *feeding)
{
    json_t *object = json_object();
    for (const char *line = feeding; line;) {
        const char *colon = strstr(line, ": "), *end = strchr(line, '\n');
        char input[64], rows[4096];
        if (!colon) break;
        snprintf(input, sizeof input, "%.*s", (int)(colon - line), line);
        snprintf(rows, sizeof rows, "%.*s", end ? (int)(end - colon - 2) : (int)strlen(colon + 2), colon + 2);
        json_object_set_new(object, input, tn_json_text(rows));
        line = end ? end + 1 : NULL;
    }
    return object;
}

json_t *tn_family_json(const tenon_file *file, const tenon_adapter *adapter)
{
    if (!tenon_adapter_family(adapter)) return json_object();
    json_t *sources = json_object();
    for (int64_t i = 0; i < tenon_adapter_num_parameters(adapter); i++) {
        tenon_parameter parameter;
        tenon_file_tensor tensor;
        if (!find_source(file, adapter, i, &parameter, &tensor)) continue;
        json_object_set_new(
            sources, parameter.name,
            json_pack("{s:o, s:o}", "tensor", tn_json_text(tensor.name), "file", tn_json_text(tensor.path)));
    }
    return json_pack("{s:s, s:o, s:o}", "family", tenon_adapter_family(adapter), "inputs",
                     inputs_as_json(tenon_adapter_feeding(adapter)), "sources", sources);
}
