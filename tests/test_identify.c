/* SPDX-License-Identifier: MIT */
/* Files that are not what they seem: each is named for what it is, with the way out (report C14). */
#include "scratch.h"
#include <stdio.h>
#include <stdlib.h>

static void expect_kind(const char *path, const char *kind)
{
    tenon_error error = {""};
    const char *found = NULL;
    if (tenon_file_identify(path, &found, &error) != TENON_OK) fail_msg("%s", error.message);
    assert_string_equal(found, kind);
}

/* Identified as `kind`, and refused in words that hold `words`. */
static void expect_named(const void *data, size_t size, const char *kind, const char *words)
{
    const char *path = scratch_write("model.safetensors", data, size);
    expect_kind(path, kind);
    tenon_error error = {""};
    tenon_file *file = NULL;
    const tenon_status status = tenon_file_open(path, NULL, &file, &error);
    if (status != TENON_BAD_FILE && status != TENON_UNSUPPORTED) fail_msg("%s: status %d", kind, (int)status);
    expect_message(&error, "model.safetensors: ", words, NULL);
    if (strstr(error.message, "weights_only") != NULL) fail_msg("%s", error.message);
}

static void expect_text(const char *text, const char *kind, const char *words)
{
    expect_named(text, strlen(text), kind, words);
}

#define EXPECT_BYTES(bytes, kind, words) expect_named(bytes, sizeof bytes - 1, kind, words)

/* C14 */
static void c14_pointers_and_pages(void **state)
{
    (void)state;
    expect_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa"
        "5e2ca24d17e2393\nsize 12345\n",
        "Git LFS pointer", "the file itself was not downloaded; fetch it with 'git lfs pull'");
    expect_text("version https://hawser.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer",
                "git lfs pull");
    expect_text("/annex/objects/SHA256E-s3--00.safetensors\n", "git-annex pointer", "git annex get");
    expect_text("<!DOCTYPE html>\n<html class=\"\"><head>", "HTML page", "is an HTML page");
    expect_text("\xef\xbb\xbf \r\n<HTML><BODY>no</BODY></HTML>", "HTML page", "download it again");
    expect_text("<!-- x -->\n<html>", "HTML page", "is an HTML page");
    expect_text("<?xml version=\"1.0\"?>\n<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML\">", "HTML page",
                "is an HTML page");
    expect_text("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AccessDenied</Code></Error>", "XML document",
                "<Code>AccessDenied</Code>");
    expect_text("<Error><Code>NoSuchKey</Code></Error>", "XML document", "NoSuchKey");
    expect_text("{\"error\":\"Repository not found\"}", "JSON error", "Repository not found");
    expect_text(" { \"message\": \"Not Found\"}", "JSON error", "Not Found");
    expect_text("{\"errors\":[1]}", "JSON error", "error message");
    expect_text("Entry not found", "text", "begins 'Entry not found'");
    expect_text("1.5,2.5\n3.5,4.5\n", "text", "is a text file");
    expect_named("", 0, "empty file", "is empty");
}

/* C14: an index as some editors and shells save it. */
static void c14_encodings(void **state)
{
    (void)state;
    expect_text("\xef\xbb\xbf{\"weight_map\":{}}", "UTF-8 text with a byte order mark",
                "begins with a byte order mark");
    EXPECT_BYTES("\xff\xfe{\0\"\0w\0", "UTF-16 text", "text in UTF-16; save it as UTF-8");
    EXPECT_BYTES("\xfe\xff\0{\0\"\0w\0e", "UTF-16 text", "UTF-16");
    EXPECT_BYTES("{\0\"\0w\0e\0i\0g\0h\0t\0", "UTF-16 text", "UTF-16");
    EXPECT_BYTES("\0{\0\"\0w\0e\0i\0g\0h\0t", "UTF-16 text", "UTF-16");
    EXPECT_BYTES("\xff\xfe\0\0{\0\0\0\"\0\0\0", "UTF-32 text", "UTF-32");
    expect_text("{\"hidden_size\": 1152}", "JSON document", "no object \"weight_map\"");
    expect_text("                    {\"weight_map\":{\"a\":\"../x\"}}", "safetensors index", "'../x'");
    expect_text("\n\n\t \r\n                      {\"weight_map\":", "safetensors index", "not valid JSON");
}

static void c14_archives(void **state)
{
    (void)state;
    static const char local[26] = "PK\x03\x04\x14";
    char zip[200] = "";
    static const struct {
        const char *name, *kind, *words;
    } cases[] = {{"x.npy", "npz", "unpack it with 'unzip' and name one"},
                 {"archive/data.pkl", "PyTorch checkpoint (zip)", "tenon.convert"},
                 {"model/.format_version", "PyTorch checkpoint (zip)", "tenon.convert"},
                 {"readme.txt", "zip archive", "unpack it"},
                 {"", "zip archive", "unpack it"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        memcpy(zip, local, sizeof local);
        zip[26] = (char)strlen(cases[i].name);
        memcpy(zip + 30, cases[i].name, strlen(cases[i].name));
        expect_named(zip, sizeof zip, cases[i].kind, cases[i].words);
    }
    EXPECT_BYTES("PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "zip archive", "zip");
    EXPECT_BYTES("PK\x03\x04 and more, of course", "zip archive", "zip");
    static char tar[1024] = "weights/model.safetensors";
    unsigned sum = 8 * ' ';
    memcpy(tar + 257, "ustar", 5);
    for (size_t i = 0; i < 512; i++)
        sum += (unsigned char)tar[i];
    snprintf(tar + 148, 8, "%06o", sum);
    tar[155] = ' ';
    expect_named(tar, sizeof tar, "tar archive", "unpack it with 'tar -xf'");
    memset(tar + 257, 0, 5); /* as before POSIX */
    snprintf(tar + 148, 8, "%06o", sum - 'u' - 's' - 't' - 'a' - 'r');
    expect_named(tar, sizeof tar, "tar archive", "tar");
    EXPECT_BYTES("\x1f\x8b\x08\0\0\0\0\0\0\x03 and so on", "gzip file", "gunzip");
    EXPECT_BYTES("BZh91AY&SY and so on", "bzip2 file", "bunzip2");
    EXPECT_BYTES("\xfd\x37zXZ\0 and so on", "xz file", "unxz");
    EXPECT_BYTES("\x28\xb5\x2f\xfd and so on", "zstd file", "unzstd");
    EXPECT_BYTES("GGUF\3\0\0\0{\0\0\0\0\0\0\0", "GGUF", "GGUF");
    EXPECT_BYTES("\x89HDF\r\n\x1a\n\0\0\0", "HDF5", "HDF5");
    EXPECT_BYTES("\x89PNG\r\n\x1a\n\0\0\0", "PNG image", "is an image");
}

/* C14: pickle.dumps of {"a": 1} by every protocol, and some of the first bytes of others. */
static void c14_pickles(void **state)
{
    (void)state;
    static const char way_out[] = "save its tensors as safetensors or npy";
    expect_text("(dp0\nVa\np1\nI1\ns.", "pickle", way_out);
    EXPECT_BYTES("}q\0X\1\0\0\0aq\1K\1s.", "pickle", way_out);
    EXPECT_BYTES("\x80\2}q\0X\1\0\0\0aq\1K\1s.", "pickle", way_out);
    EXPECT_BYTES("\x80\3}q\0X\1\0\0\0aq\1K\1s.", "pickle", way_out);
    EXPECT_BYTES("\x80\4\x95\n\0\0\0\0\0\0\0}\x94\x8c\1a\x94K\1s.", "pickle", way_out);
    EXPECT_BYTES("\x80\5\x95\n\0\0\0\0\0\0\0}\x94\x8c\1a\x94K\1s.", "pickle", way_out);
    /* without the opcode PROTO */
    EXPECT_BYTES("}\x94\x8c\1a\x94K\1s.", "pickle", way_out);
    EXPECT_BYTES("\x95\n\0\0\0\0\0\0\0}\x94\x8c\1a\x94K\1s.", "pickle", way_out);
    expect_text("ccollections\nOrderedDict\np0\n(tRp1\n.", "pickle", way_out);
    expect_text("cposix\nsystem\n(S'true'\ntR.", "pickle", way_out);
    expect_text("(lp0\nF1.5\naF-2.5\na.", "pickle", way_out);
    EXPECT_BYTES("\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\2M\xe9\3.", "PyTorch checkpoint (pickle)",
                 "tenon.convert");
    expect_text("L119547037146038801333356L\n.", "PyTorch checkpoint (pickle)", "tenon.convert");
    /* These only look like one. */
    expect_text("Name (of a file).", "text", "text");
    expect_text("N", "text", "text");
    expect_text("(I am a text.", "text", "text");
    expect_text("X\xff\xff", "unknown", "3 bytes long");
}

/* A header whose length reads like another format's first bytes is still a header. */
static void safetensors_go_first(void **state)
{
    (void)state;
    char header[0x8b1f + 1];
    memset(header, ' ', sizeof header);
    memcpy(header, "{}", 2);
    header[0x280] = 0;
    const char *path = scratch_safetensors("pickle.safetensors", header, NULL, 0); /* 0x80 0x02 */
    expect_kind(path, "safetensors");
    tenon_file_close(open_file(path, NULL));
    header[0x280] = ' ';
    header[0x8b1f] = 0;
    path = scratch_safetensors("gzip.safetensors", header, NULL, 0); /* 0x1f 0x8b */
    expect_kind(path, "safetensors");
    tenon_file_close(open_file(path, NULL));
    memcpy(header, " {}", 3);
    header[0x280] = 0;
    path = scratch_safetensors("blank.safetensors", header, NULL, 0);
    expect_refused(path, TENON_BAD_FILE, "begins with '{'", NULL);
    path = scratch_npy("a.npy", 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (0,), }", NULL, 0);
    expect_kind(path, "npy");
    expect_kind(scratch_write("x.json", "{\"metadata\": {}, \"weight_map\": {}}", 34), "safetensors index");
    expect_kind(scratch_write("x.bin", "\xc3\x28\x01\x00\xff\xff\xff\xff\xff", 9), "unknown");
    expect_refused(scratch_path("absent.safetensors"), TENON_NOT_FOUND, "No such file", NULL);
    const char *kind = "as it was";
    tenon_error error = {""};
    assert_int_equal(tenon_file_identify(scratch_folder("folder"), &kind, &error), TENON_INVALID);
    expect_message(&error, "is a folder", NULL);
    assert_int_equal(tenon_file_identify(scratch_path("absent"), &kind, &error), TENON_NOT_FOUND);
    assert_int_equal(tenon_file_identify(NULL, &kind, &error), TENON_INVALID);
    assert_string_equal(kind, "as it was");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(c14_pointers_and_pages), cmocka_unit_test(c14_encodings),
        cmocka_unit_test(c14_archives),           cmocka_unit_test(c14_pickles),
        cmocka_unit_test(safetensors_go_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
