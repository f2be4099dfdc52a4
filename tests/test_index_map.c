/* SPDX-License-Identifier: MIT */
/* Indexes whose shards a program reads itself, and files that others mention. */
#include "scratch.h"
#include <stdio.h>
#include <unistd.h>

static tenon_error error;

static tenon_status open_text(const char *text, tenon_index **index)
{
    return tenon_index_open(scratch_write("pytorch_model.bin.index.json", text, strlen(text)), index, &error);
}

static void the_map_is_read(void **state)
{
    (void)state;
    tenon_index *index = NULL;
    const char *name, *shard;
    assert_int_equal(open_text("{\"weight_map\": {\"a.weight\": \"m-1.bin\", \"b\": \"sub/m-2.bin\"}}", &index),
                     TENON_OK);
    assert_int_equal(tenon_index_num_tensors(index), 2);
    assert_int_equal(tenon_index_tensor(index, 0, &name, &shard, &error), TENON_OK);
    assert_string_equal(name, "a.weight");
    assert_string_equal(shard, "m-1.bin");
    assert_int_equal(tenon_index_tensor(index, 1, &name, &shard, &error), TENON_OK);
    assert_string_equal(shard, "sub/m-2.bin");
    assert_int_equal(tenon_index_tensor(index, 2, &name, &shard, &error), TENON_INVALID);
    assert_int_equal(tenon_index_tensor(index, -1, &name, &shard, &error), TENON_INVALID);
    tenon_index_close(index);
    tenon_index_close(NULL);
}

/* C10, B93: the rules are those of an index of safetensors, whatever the shards are. */
static void c10_b93_bad_maps_are_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"{\"weight_map\": {\"a\": \"../x.bin\"}}", "leads out of the folder by '..'"},
        {"{\"weight_map\": {\"a\": \"/etc/passwd\"}}", "is an absolute path"},
        {"{\"weight_map\": {\"a\": \"sub/../../x\"}}", "'..'"},
        {"{\"weight_map\": {\"a\": \"C:\\\\x\"}}", "backslash"},
        {"{\"weight_map\": {\"a\": \"\"}}", "is empty"},
        {"{\"weight_map\": {\"a\": 1}}", "is not a string"},
        {"{\"weight_map\": {\"a\": \"x\", \"a\": \"y\"}}", "duplicate key"},
        {"{\"weight_map\": [1]}", "no object \"weight_map\""},
        {"[]", "no JSON object"},
        {"{", "not valid JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tenon_index *index = NULL;
        assert_int_equal(open_text(cases[i][0], &index), TENON_BAD_FILE);
        assert_null(index);
        expect_message(&error, "pytorch_model.bin.index.json", cases[i][1], NULL);
    }
    tenon_index *index = NULL;
    assert_int_equal(tenon_index_open("/no/such.index.json", &index, &error), TENON_NOT_FOUND);
    assert_int_equal(tenon_index_open(NULL, &index, &error), TENON_INVALID);
}

static void mentioned_files_are_found_inside_the_folder(void **state)
{
    (void)state;
    char found[4096], link[4096];
    const char *index = scratch_write("index.json", "{}", 2);
    assert_int_equal(tenon_file_beside(index, "m-1.bin", found, sizeof found, &error), TENON_NOT_FOUND);
    const char *shard = scratch_write("m-1.bin", "x", 1);
    assert_int_equal(tenon_file_beside(index, "m-1.bin", found, sizeof found, &error), TENON_OK);
    assert_string_equal(found, shard);
    snprintf(found, sizeof found, "as it was");
    assert_int_equal(tenon_file_beside(index, "m-1.bin", found, strlen(shard), &error), TENON_INVALID);
    assert_int_equal(tenon_file_beside(index, "../m-1.bin", found, sizeof found, &error), TENON_BAD_FILE);
    assert_int_equal(tenon_file_beside(index, shard, found, sizeof found, &error), TENON_BAD_FILE);
    snprintf(link, sizeof link, "%s", scratch_path("link.bin"));
    assert_int_equal(symlink("/etc/passwd", link), 0);
    assert_int_equal(tenon_file_beside(index, "link.bin", found, sizeof found, &error), TENON_BAD_FILE);
    expect_message(&error, "link.bin", "leads out of the folder", NULL);
    assert_string_equal(found, "as it was");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_map_is_read),
        cmocka_unit_test(c10_b93_bad_maps_are_refused),
        cmocka_unit_test(mentioned_files_are_found_inside_the_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
