/* SPDX-License-Identifier: MIT */
#include "absent.h"

#include "report.h"

#include <inttypes.h>
#include <stdio.h>

static void count_tensors(json_t *shards, const tenon_file *file)
{
    for (int64_t i = 0; i < tenon_file_num_tensors(file); i++) {
        tenon_file_tensor tensor;
        tenon_file_tensor_init(&tensor);
        if (tenon_file_get_tensor(file, i, &tensor, NULL) != TENON_OK || !tensor.absent_shard) continue;
        json_int_t count = json_integer_value(json_object_get(shards, tensor.absent_shard));
        json_object_set_new(shards, tensor.absent_shard, json_integer(count + 1));
    }
}

json_t *tn_absent_shards(const char *path)
{
    tenon_file *file;
    json_t *shards = json_object();
    if (tenon_file_open(path, NULL, &file, NULL) != TENON_OK) return shards;
    count_tensors(shards, file);
    tenon_file_close(file);
    return shards;
}

void tn_print_absent_shards(const char *path)
{
    json_t *shards = tn_absent_shards(path), *count;
    const char *name;
    json_object_foreach(shards, name, count)
    {
        printf("absent      shard %s, of %" JSON_INTEGER_FORMAT " tensor%s\n", tn_name_text(name),
               json_integer_value(count), json_integer_value(count) == 1 ? "" : "s");
    }
    json_decref(shards);
}
