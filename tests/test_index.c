/* SPDX-License-Identifier: MIT */
/* Indexes of shards, folders of checkpoints and the Hugging Face cache: which files make a model, and what is said
 * where that cannot be told. */
#include "scratch.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const DLDataType u8 = {kDLUInt, 8, 1};

/* A safetensors file of one tensor of one byte. */
static void write_byte(const char *path, const char *name, char byte)
{
    char header[256];
    snprintf(header, sizeof header, "{\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", name);
    scratch_safetensors(path, header, &byte, 1);
}

static void write_text(const char *path, const char *text)
{
    scratch_write(path, text, strlen(text));
}

static void link_to(const char *target, const char *path)
{
    const char *link = scratch_path(path);
    unlink(link);
    assert_int_equal(symlink(target, link), 0);
}

static void expect_byte(const char *path, const char *name, char byte)
{
    tenon_file *file = open_file(path, NULL);
    expect_tensor(file, name, u8, 1, (int64_t[]){1}, &byte, 1);
    tenon_file_close(file);
}

/* As expect_refused, where the message names another file than the one that was opened. */
static void expect_bad(const char *path, const char *words)
{
    tenon_error error = {""};
    tenon_file *file = NULL;
    assert_int_equal(tenon_file_open(path, NULL, &file, &error), TENON_BAD_FILE);
    expect_message(&error, words, NULL);
}

static void write_shards(void)
{
    scratch_folder("sharded");
    scratch_folder("sharded/sub");
    scratch_safetensors("sharded/1.safetensors",
                        "{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":"
                        "[0,2]},\"left\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,3]}}",
                        "xyz", 3);
    scratch_safetensors("sharded/sub/2.safetensors", "{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}",
                        "pq", 2);
    scratch_safetensors("outside.safetensors", "{\"c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", "o",
                        1);
}

static const char *write_index(const char *json)
{
    return scratch_write("sharded/model.safetensors.index.json", json, strlen(json));
}

static void reads_shards(void **state)
{
    (void)state;
    write_shards();
    const char *path = write_index("{\"metadata\":{\"total_size\":4,\"note\":\"n\"},\"weight_map\":{"
                                   "\"b\":\"sub/2.safetensors\",\"a\":\"1.safetensors\"}}");
    const char *folder = scratch_path("sharded");
    for (int i = 0; i < 2; i++) {
        tenon_file *file = open_file(i == 0 ? path : folder, NULL);
        assert_string_equal(tenon_file_kind(file), "safetensors index");
        assert_int_equal(tenon_file_num_tensors(file), 2);
        expect_tensor(file, "a", u8, 1, (int64_t[]){2}, "xy", 2);
        expect_tensor(file, "b", u8, 1, (int64_t[]){2}, "pq", 2);
        assert_int_equal(tenon_file_find_tensor(file, "left", &(int64_t){0}, NULL), TENON_NOT_FOUND);
        assert_string_equal(tenon_file_metadata(file, "note"), "n");
        assert_null(tenon_file_metadata(file, "total_size"));
        tenon_file_close(file);
    }
}

static void index_faults(void **state)
{
    (void)state;
    write_shards();
    expect_refused(write_index("{\"weight_map\":{\"a\":\"sub/2.safetensors\"}}"), TENON_BAD_FILE, "'a'",
                   "'sub/2.safetensors', which does not hold it", NULL);
    expect_refused(write_index("{\"weight_map\":{\"b\":\"1.safetensors\",\"a\":\"1.safetensors\"}}"), TENON_BAD_FILE,
                   "'b'", "does not hold it", NULL);
    scratch_safetensors("sharded/3.safetensors",
                        "{\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"d\":{\"dtype\":\"U8\","
                        "\"shape\":[1],\"data_offsets\":[1,2]}}",
                        "pq", 2);
    expect_refused(write_index("{\"weight_map\":{\"b\":\"sub/2.safetensors\",\"d\":\"3.safetensors\"}}"),
                   TENON_BAD_FILE, "a duplicate of it is in '3.safetensors'", "'b'", NULL);
    /* C11: a tensor in another shard than the index says is no duplicate. */
    expect_refused(
        write_index("{\"weight_map\":{\"b\":\"1.safetensors\",\"a\":\"1.safetensors\",\"d\":\"3.safetensors\"}}"),
        TENON_BAD_FILE, "maps tensor 'b' to the shard '1.safetensors', but it is in '3.safetensors'",
        "do not belong together", NULL);
    expect_refused(write_index("{\"weight_map\":{\"b\":\"4.safetensors\",\"d\":\"3.safetensors\"}}"), TENON_BAD_FILE,
                   "'b' to the shard '4.safetensors', but it is in '3.safetensors'", NULL);
    /* Shards that are something else. */
    scratch_write("sharded/4.safetensors", "<html>no</html>", 15);
    expect_bad(write_index("{\"weight_map\":{\"b\":\"4.safetensors\"}}"), "4.safetensors: is an HTML page");
    scratch_npy("sharded/4.safetensors", 1, "{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }", "x", 1);
    expect_bad(write_index("{\"weight_map\":{\"b\":\"4.safetensors\"}}"),
               "4.safetensors: is npy; a shard of an index is");
    unlink(scratch_path("sharded/4.safetensors"));
    expect_refused(write_index("{\"weight_map\":{\"a\":\"1.safetensors\",\"a\":\"1.safetensors\"}}"), TENON_BAD_FILE,
                   "duplicate key", "\"a\"", NULL);
    expect_refused(write_index("{\"weight_map\":{\"a\":1}}"), TENON_BAD_FILE, "'a' is not a string", NULL);
    expect_refused(write_index("{\"weights\":{}}"), TENON_BAD_FILE, "weight_map", NULL);
    expect_refused(write_index("{\"weight_map\":"), TENON_BAD_FILE, "not valid JSON", NULL);
}

/* B93, C10: refused before anything is opened, also where the file exists and would do. */
static void b93_shard_names(void **state)
{
    (void)state;
    static const char *const names[] = {"../outside.safetensors",
                                        "/etc/passwd",
                                        "sub/../../outside.safetensors",
                                        "",
                                        "C:\\\\x",
                                        "sub\\\\2.safetensors",
                                        "C:x",
                                        ".",
                                        "./1.safetensors",
                                        "sub//2.safetensors",
                                        "sub/",
                                        "..",
                                        "sub/..",
                                        "a\\nb"};
    write_shards();
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char json[256];
        snprintf(json, sizeof json, "{\"weight_map\":{\"c\":\"%s\"}}", names[i]);
        expect_refused(write_index(json), TENON_BAD_FILE, "'c'", "only plain names", NULL);
    }
    assert_int_equal(symlink("../outside.safetensors", scratch_path("sharded/link.safetensors")), 0);
    expect_refused(write_index("{\"weight_map\":{\"c\":\"link.safetensors\"}}"), TENON_BAD_FILE, "leads out",
                   "link.safetensors", NULL);
    assert_int_equal(symlink("..", scratch_path("sharded/up")), 0);
    expect_refused(write_index("{\"weight_map\":{\"c\":\"up/outside.safetensors\"}}"), TENON_BAD_FILE, "leads out",
                   NULL);
    assert_int_equal(symlink("sub/2.safetensors", scratch_path("sharded/in.safetensors")), 0);
    tenon_file *file = open_file(write_index("{\"weight_map\":{\"b\":\"in.safetensors\"}}"), NULL);
    tenon_file_close(file);
    /* A folder whose name begins like the index's. */
    scratch_folder("sharded-more");
    scratch_safetensors("sharded-more/x.safetensors", "{\"c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
                        "o", 1);
    assert_int_equal(symlink("../sharded-more/x.safetensors", scratch_path("sharded/near.safetensors")), 0);
    expect_refused(write_index("{\"weight_map\":{\"c\":\"near.safetensors\"}}"), TENON_BAD_FILE, "leads out", NULL);
}

/* ---- folders ---- */

/* C6: what transformers would open is opened; where that cannot be told the candidates are named. */
static void c6_files_of_a_folder(void **state)
{
    (void)state;
    scratch_folder("plain");
    expect_refused(scratch_path("plain"), TENON_NOT_FOUND, "holds no model.safetensors.index.json", NULL);
    write_text("plain/pytorch_model.bin", "x");
    expect_refused(scratch_path("plain"), TENON_NOT_FOUND,
                   "tenon.convert, of the Python package, reads its 'pytorch_model.bin'", NULL);
    write_byte("plain/x1.safetensors", "a", '1');
    expect_byte(scratch_path("plain"), "a", '1');
    write_byte("plain/x2.safetensors", "a", '2');
    expect_refused(scratch_path("plain"), TENON_INVALID, "2 safetensors files but neither",
                   "'x1.safetensors', 'x2.safetensors'", "name the one to read", NULL);
    for (int i = 3; i < 10; i++) {
        char name[64];
        snprintf(name, sizeof name, "plain/x%d.safetensors", i);
        write_byte(name, "a", '3');
    }
    expect_refused(scratch_path("plain"), TENON_INVALID, "'x6.safetensors' and 3 more", NULL);
    scratch_folder("lost");
    write_byte("lost/model-00001-of-00002.safetensors", "a", '1');
    write_byte("lost/model-00002-of-00002.safetensors", "b", '2');
    expect_refused(scratch_path("lost"), TENON_INVALID, "'model-00001-of-00002.safetensors'",
                   "download their index too", NULL);
    write_byte("plain/model.safetensors", "a", 'm');
    expect_byte(scratch_path("plain"), "a", 'm');
}

/* C6: the index decides; files that it does not name are ignored, but for the one that others would read. */
static void c6_an_index_and_other_files(void **state)
{
    (void)state;
    static const char name[] = "indexed/model.safetensors.index.json";
    scratch_folder("indexed");
    write_byte("indexed/a.safetensors", "w", '1');
    write_byte("indexed/b.safetensors", "w", '2'); /* stale */
    write_text(name, "{\"weight_map\":{\"w\":\"a.safetensors\"}}");
    write_text("indexed/z.safetensors.index.json", "{\"weight_map\":{\"w\":\"b.safetensors\"}}");
    expect_byte(scratch_path("indexed"), "w", '1');
    write_byte("indexed/model.safetensors", "w", '3');
    expect_refused(scratch_path("indexed"), TENON_INVALID, "model.safetensors.index.json: does not name ",
                   "indexed/model.safetensors, ", "two models; name the one to read", NULL);
    expect_byte(scratch_path(name), "w", '1');
    expect_byte(scratch_path("indexed/model.safetensors"), "w", '3');
    write_text(name, "{\"weight_map\":{\"w\":\"model.safetensors\"}}");
    expect_byte(scratch_path("indexed"), "w", '3');
    /* Without the usual names. */
    unlink(scratch_path("indexed/model.safetensors"));
    unlink(scratch_path(name));
    expect_byte(scratch_path("indexed"), "w", '2');
    write_text("indexed/y.safetensors.index.json", "{\"weight_map\":{\"w\":\"a.safetensors\"}}");
    expect_refused(scratch_path("indexed"), TENON_INVALID, "2 indexes",
                   "'y.safetensors.index.json', 'z.safetensors.index.json'", NULL);
    unlink(scratch_path("indexed/y.safetensors.index.json"));
    write_byte("indexed/model.safetensors", "w", '3');
    expect_refused(scratch_path("indexed"), TENON_INVALID, "z.safetensors.index.json: does not name ", "two models",
                   NULL);
}

/* ---- shards that are not there ---- */

static void expect_absent(const tenon_file *file, const char *name, const char *shard, ...)
{
    tenon_file_tensor tensor;
    tenon_file_tensor_init(&tensor);
    tenon_error error = {""};
    int64_t index = 77, found = 77;
    for (index = 0; index < tenon_file_num_tensors(file); index++) {
        assert_int_equal(tenon_file_get_tensor(file, index, &tensor, NULL), TENON_OK);
        if (strcmp(tensor.name, name) == 0) break;
    }
    assert_string_equal(tensor.absent_shard, shard);
    assert_string_equal(tensor.stored, "");
    assert_int_equal(tensor.ndim, 0);
    assert_int_equal(tenon_file_find_tensor(file, name, &found, &error), TENON_NOT_FOUND);
    assert_int_equal(found, 77);
    char byte;
    tenon_error other = {""};
    assert_int_equal(tenon_file_read(file, index, 0, 1, &byte, 1, &other), TENON_NOT_FOUND);
    assert_string_equal(error.message, other.message);
    va_list words;
    va_start(words, shard);
    for (const char *word = va_arg(words, const char *); word != NULL; word = va_arg(words, const char *))
        expect_message(&error, word, NULL);
    va_end(words);
}

/* C11: only the shards whose tensors are asked for need be there. */
static void c11_absent_shards(void **state)
{
    (void)state;
    scratch_folder("part");
    write_byte("part/m-1.safetensors", "proj.weight", '1');
    write_text("part/m-3.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n");
    write_text("part/model.safetensors.index.json",
               "{\"weight_map\":{\"lm.0\":\"m-2.safetensors\",\"lm.1\":\"m-2.safetensors\",\"proj.weight\":"
               "\"m-1.safetensors\",\"lm.2\":\"m-2.safetensors\",\"lm.3\":\"m-2.safetensors\",\"lm.4\":"
               "\"m-2.safetensors\",\"head\":\"m-3.safetensors\"}}");
    tenon_file *file = open_file(scratch_path("part"), NULL);
    assert_int_equal(tenon_file_num_tensors(file), 7);
    expect_tensor(file, "proj.weight", u8, 1, (int64_t[]){1}, "1", 1);
    expect_absent(
        file, "lm.1", "m-2.safetensors", "part/model.safetensors.index.json: the shard 'm-2.safetensors' was not ",
        "found beside the index; download it; it holds tensor 'lm.1' and 4 others ('lm.0', 'lm.2', 'lm.3', ...); "
        "1 more shard is absent: 'm-3.safetensors'",
        NULL);
    expect_absent(file, "head", "m-3.safetensors", "the shard 'm-3.safetensors' is a Git LFS pointer", "'git lfs pull'",
                  "it holds tensor 'head'; 1 more", NULL);
    tenon_file_close(file);
    /* A link of a cache whose blob was deleted. */
    link_to("../nowhere/blob", "part/m-2.safetensors");
    file = open_file(scratch_path("part"), NULL);
    expect_absent(file, "lm.0", "m-2.safetensors", "was not found", NULL);
    tenon_file_close(file);
    /* One that is there and broken is told at once. */
    unlink(scratch_path("part/m-2.safetensors"));
    write_text("part/m-2.safetensors", "\xff\xff\xff\xff\xff\xff\xff\xff{}");
    expect_bad(scratch_path("part"), "m-2.safetensors: its first 8 bytes announce");
}

/* C13: an index that is a link: beside the link first, then beside the file that it leads to. */
static void c13_an_index_that_is_a_link(void **state)
{
    (void)state;
    scratch_folder("real");
    scratch_folder("link");
    write_byte("real/1.safetensors", "a", 'r');
    write_byte("real/2.safetensors", "b", 'r');
    write_byte("link/2.safetensors", "b", 'l');
    write_text("real/m.safetensors.index.json",
               "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\",\"c\":\"3.safetensors\"}}");
    link_to("../real/m.safetensors.index.json", "link/model.safetensors.index.json");
    tenon_file *file = open_file(scratch_path("link"), NULL);
    expect_tensor(file, "a", u8, 1, (int64_t[]){1}, "r", 1);
    expect_tensor(file, "b", u8, 1, (int64_t[]){1}, "l", 1);
    expect_absent(file, "c", "3.safetensors", "link/model.safetensors.index.json: the shard '3.safetensors'",
                  "was not found beside the index, nor beside ",
                  "/real/m.safetensors.index.json, where that link leads", NULL);
    tenon_file_close(file);
    write_byte("outside.safetensors", "c", 'o');
    link_to("../outside.safetensors", "real/3.safetensors");
    expect_bad(scratch_path("link"), "leads out of the folder");
}

/* ---- the layouts of a Hugging Face cache ---- */

static void write_cache(void)
{
    scratch_folder("hub");
    scratch_folder("hub/blobs"); /* of nobody */
    scratch_folder("hub/models--o--m");
    scratch_folder("hub/models--o--m/blobs");
    scratch_folder("hub/models--o--m/refs");
    scratch_folder("hub/models--o--m/snapshots");
    scratch_folder("hub/models--o--m/snapshots/abc");
    scratch_folder("hub/models--o--m/snapshots/abc/connector");
    scratch_folder("hub/models--o--m/snapshots/abc/connector/snapshots");
    scratch_folder("hub/models--o--m/snapshots/abc/connector/snapshots/x");
    write_text("hub/models--o--m/blobs/11", "{\"weight_map\":{\"c\":\"1.safetensors\"}}");
    write_byte("hub/models--o--m/blobs/22", "c", 'o');
    write_byte("outside.safetensors", "c", 'x');
    write_byte("hub/blobs/33", "c", 'x');
}

/* C8: every file of a snapshot is a link into the blobs of the same repository, whatever folder it is in. */
static void c8_snapshots(void **state)
{
    (void)state;
    static const struct {
        const char *folder, *up;
    } cases[] = {{"hub/models--o--m/snapshots/abc", "../.."},
                 {"hub/models--o--m/snapshots/abc/connector", "../../.."},
                 {"hub/models--o--m/snapshots/abc/connector/snapshots/x", "../../../../.."}};
    write_cache();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char index[256], shard[256], target[256];
        snprintf(index, sizeof index, "%s/model.safetensors.index.json", cases[i].folder);
        snprintf(shard, sizeof shard, "%s/1.safetensors", cases[i].folder);
        snprintf(target, sizeof target, "%s/blobs/11", cases[i].up);
        link_to(target, index);
        snprintf(target, sizeof target, "%s/blobs/22", cases[i].up);
        link_to(target, shard);
        expect_byte(scratch_path(cases[i].folder), "c", 'o');
        expect_byte(scratch_path(shard), "c", 'o');
        /* Out of the repository, into the blobs of another or of nobody. */
        static const char *const outside[] = {"%s/../../outside.safetensors", "%s/../blobs/33",
                                              "%s/../blobs/../blobs/33"};
        for (int j = 0; j < 3; j++) {
            snprintf(target, sizeof target, outside[j], cases[i].up);
            link_to(target, shard);
            expect_refused(scratch_path(cases[i].folder), TENON_BAD_FILE, "leads out of the folder", NULL);
        }
    }
}

/* The repository's own folder stands for the snapshot of refs/main, or for the only one. */
static void c8_repositories(void **state)
{
    (void)state;
    static const char name[] = "hub/models--o--m";
    write_cache();
    link_to("../../blobs/11", "hub/models--o--m/snapshots/abc/model.safetensors.index.json");
    link_to("../../blobs/22", "hub/models--o--m/snapshots/abc/1.safetensors");
    expect_byte(scratch_path(name), "c", 'o');
    scratch_folder("hub/models--o--m/snapshots/def");
    expect_refused(scratch_path(name), TENON_INVALID, "snapshots: the folder holds 2 snapshots", "'abc', 'def'", NULL);
    write_byte("hub/models--o--m/snapshots/def/model.safetensors", "c", 'd');
    write_text("hub/models--o--m/refs/main", "def");
    expect_byte(scratch_path(name), "c", 'd');
    write_text("hub/models--o--m/refs/main", "abc\n");
    expect_byte(scratch_path(name), "c", 'o');
    static const char *const faults[] = {"nowhere", "", "../../../outside", "/etc"};
    for (int i = 0; i < 4; i++) {
        write_text("hub/models--o--m/refs/main", faults[i]);
        expect_refused(scratch_path(name), TENON_INVALID, "2 snapshots, and refs/main names none of them", NULL);
    }
    scratch_folder("hub/empty");
    scratch_folder("hub/empty/snapshots");
    expect_refused(scratch_path("hub/empty"), TENON_NOT_FOUND, "hub/empty: the folder holds no ", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_shards),
        cmocka_unit_test(index_faults),
        cmocka_unit_test(b93_shard_names),
        cmocka_unit_test(c6_files_of_a_folder),
        cmocka_unit_test(c6_an_index_and_other_files),
        cmocka_unit_test(c11_absent_shards),
        cmocka_unit_test(c13_an_index_that_is_a_link),
        cmocka_unit_test(c8_snapshots),
        cmocka_unit_test(c8_repositories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
