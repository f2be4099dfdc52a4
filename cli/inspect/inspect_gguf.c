/* SPDX-License-Identifier: MIT */
/* What inspect says of a GGUF file beside its tensors: the keys of its header, and which activation it asks for. */
#include "inspect.h"

#include "json.h"
#include "model.h"
#include "report.h"

#include <stdio.h>
#include <string.h>

enum { MOST_SHOWN = 72 };

static bool is_gguf(const tenon_file *file)
{
    return !strcmp(tenon_file_kind(file), "GGUF");
}

void tn_activation_text(const tenon_adapter *adapter)
{
    const char *trained = tenon_family_trained_activation(tenon_adapter_family(adapter));
    const char *used = tn_config_string(tenon_adapter_config(adapter), "activation");
    if (!trained) return;
    if (!strcmp(used, trained))
        printf("activation  %s, with which the model was trained; llama.cpp computes gelu_tanh\n", used);
    else
        printf("activation  %s, as the file asks for; the model was trained with %s (--activation %s)\n", used, trained,
               trained);
}

void tn_metadata_text(const tenon_file *file)
{
    const char *key;
    if (!is_gguf(file)) return;
    printf("\nkey                                      value\n");
    for (int64_t i = 0; (key = tenon_file_metadata_key(file, i)); i++) {
        const char *value = tenon_file_metadata(file, key);
        char shown[MOST_SHOWN + 1];
        snprintf(shown, sizeof shown, "%s", value);
        printf("%-40s %s%s\n", tn_name_text(key), tn_name_text(shown), strlen(value) > MOST_SHOWN ? " ..." : "");
    }
}

json_t *tn_gguf_json(const tenon_file *file, const tenon_adapter *adapter)
{
    const char *key, *trained = adapter ? tenon_family_trained_activation(tenon_adapter_family(adapter)) : NULL;
    json_t *object = json_object(), *values = json_object();
    if (is_gguf(file)) json_object_set(object, "metadata", values);
    for (int64_t i = 0; is_gguf(file) && (key = tenon_file_metadata_key(file, i)); i++)
        json_object_set_new(values, key, tn_json_text(tenon_file_metadata(file, key)));
    if (trained) json_object_set_new(object, "trained_activation", json_string(trained));
    json_decref(values);
    return object;
}
