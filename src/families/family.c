/* SPDX-License-Identifier: MIT */
/* The one list of families. */
#include "families/family.h"

#include "families/gguf.h"

#include "core/error.h"
#include "core/versioned.h"
#include <string.h>

const tn_family *const tn_families[] = {
    &tn_family_pixtral, /* before llava, whose model_type it has */
    &tn_family_llava_original, &tn_family_llava,         &tn_family_video_llava,     &tn_family_vip_llava,
    &tn_family_fast_vlm,       &tn_family_janus,         &tn_family_deepseek_vl,     &tn_family_paligemma,
    &tn_family_mllama,         &tn_family_fuyu,          &tn_family_qwen2_vl,        &tn_family_qwen2_5_vl,
    &tn_family_qwen3_vl,       &tn_family_qwen3_omni,    &tn_family_qwen3_5,         &tn_family_gemma3,
    &tn_family_internvl,       &tn_family_internvl_chat, &tn_family_idefics2,        &tn_family_idefics3,
    &tn_family_mistral3,       &tn_family_lighton_ocr,   &tn_family_aya_vision,      &tn_family_llama4,
    &tn_family_molmo2,         &tn_family_llava_next,    &tn_family_llava_onevision, &tn_family_gguf_mlp,
    &tn_family_gguf_qwen2vl,   &tn_family_gguf_qwen25vl, &tn_family_gguf_internvl,   &tn_family_gguf_idefics3,
    &tn_family_gguf_llama4,
};

size_t tn_num_families(void)
{
    return sizeof tn_families / sizeof tn_families[0];
}

const tn_family *tn_family_find(const char *name)
{
    for (size_t i = 0; i < tn_num_families(); i++) {
        if (strcmp(tn_families[i]->name, name) == 0) return tn_families[i];
    }
    return NULL;
}

size_t tenon_list_families(const char **names, size_t capacity)
{
    for (size_t i = 0; i < tn_num_families() && i < capacity; i++)
        names[i] = tn_families[i]->name;
    return tn_num_families();
}

const char *tenon_family_connector(const char *family)
{
    const tn_family *found = family != NULL ? tn_family_find(family) : NULL;
    return found != NULL ? found->connector : NULL;
}

const char *tenon_family_model_type(const char *family, size_t index)
{
    const tn_family *found = family != NULL ? tn_family_find(family) : NULL;
    if (found == NULL) return NULL;
    for (size_t i = 0; found->marks[i].model_type != NULL; i++) {
        const char *type = found->marks[i].model_type;
        size_t first = 0;
        while (strcmp(found->marks[first].model_type, type) != 0)
            first++;
        if (first == i && index-- == 0) return tn_is_gguf(found) ? found->marks[i].value : type;
    }
    return NULL;
}

void tenon_family_module_init(tenon_family_module *module)
{
    *module = (tenon_family_module){.size = sizeof *module};
}

tenon_status tenon_family_get_module(const char *family, size_t index, tenon_family_module *module, tenon_error *error)
{
    const tn_family *of = family != NULL ? tn_family_find(family) : NULL;
    if (of == NULL) {
        return tn_fail(error, TENON_NOT_FOUND, "there is no family '%s'", family != NULL ? tn_quote(family).text : "");
    }
    size_t count = 0;
    while (of->modules[count].path != NULL && count < index)
        count++;
    const tn_module *found = &of->modules[count];
    if (found->path == NULL) {
        return tn_fail(error, TENON_NOT_FOUND, "family '%s' has %zu modules, no module %zu", of->name, count, index);
    }
    const tenon_family_module row = {.size = sizeof row,
                                     .path = found->path,
                                     .arguments = found->arguments,
                                     .first = found->first,
                                     .last = found->last};
    return tn_struct_write(module, &row, sizeof row, TN_FIRST_SIZE(tenon_family_module, last), "tenon_family_module",
                           error);
}

const tn_choice tn_activation_choices[] = {{"gelu", "\"gelu\""},          {"gelu_pytorch_tanh", "\"gelu_tanh\""},
                                           {"gelu_new", "\"gelu_tanh\""}, {"quick_gelu", "\"quick_gelu\""},
                                           {"silu", "\"silu\""},          {"swish", "\"silu\""},
                                           {"relu", "\"relu\""},          {NULL, NULL}};
