/* SPDX-License-Identifier: MIT */
/* The one list of families. */
#include "families/family.h"

#include <string.h>

const tn_family *const tn_families[] = {
    &tn_family_pixtral, /* before llava, whose model_type it has */
    &tn_family_llava_original, &tn_family_llava,         &tn_family_video_llava, &tn_family_vip_llava,
    &tn_family_fast_vlm,       &tn_family_janus,         &tn_family_deepseek_vl, &tn_family_paligemma,
    &tn_family_mllama,         &tn_family_fuyu,          &tn_family_qwen2_vl,    &tn_family_qwen2_5_vl,
    &tn_family_qwen3_vl,       &tn_family_qwen3_omni,    &tn_family_qwen3_5,     &tn_family_gemma3,
    &tn_family_internvl,       &tn_family_internvl_chat, &tn_family_idefics3,    &tn_family_mistral3,
    &tn_family_lighton_ocr,    &tn_family_aya_vision,    &tn_family_llama4,
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
        if (first == i && index-- == 0) return type;
    }
    return NULL;
}

const tn_choice tn_activation_choices[] = {{"gelu", "\"gelu\""},          {"gelu_pytorch_tanh", "\"gelu_tanh\""},
                                           {"gelu_new", "\"gelu_tanh\""}, {"quick_gelu", "\"quick_gelu\""},
                                           {"silu", "\"silu\""},          {"swish", "\"silu\""},
                                           {"relu", "\"relu\""},          {NULL, NULL}};
