/* SPDX-License-Identifier: MIT */
/* What a file is, told by its first bytes: the formats that tenon reads, and those that people hand it in their place
 * (a pointer to a file that was not downloaded, a server's error page, an archive), which are better named than called
 * a broken safetensors file. */
#include "formats/format.h"

#include "core/error.h"
#include "core/utf8.h"
#include <string.h>
#include <strings.h>

static bool is_blank(unsigned char byte)
{
    return byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t';
}

/* The text after the byte order mark of UTF-8, if there is one, and after blanks. It ends in a 0. */
static const char *text_of(const tn_head *head)
{
    const unsigned char *at = head->bytes;
    if (memcmp(at, "\xef\xbb\xbf", 3) == 0) at += 3;
    while (is_blank(*at))
        at++;
    return (const char *)at;
}

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

/* The same without regard to case, as HTML has it. */
static bool starts_with_any(const char *text, const char *const *starts)
{
    for (; *starts != NULL; starts++) {
        if (strncasecmp(text, *starts, strlen(*starts)) == 0) return true;
    }
    return false;
}

static bool is_empty(const tn_head *head)
{
    return head->file_size == 0;
}

/* Eight bytes of a length, the brace of a JSON object (or a blank, which the reader will name). Longer headers are not
 * read, so a magic number of four letters is never taken for a length. */
static bool is_safetensors(const tn_head *head)
{
    uint64_t length = 0;
    for (int i = 7; i >= 0; i--)
        length = length << 8 | head->bytes[i];
    return head->size > 8 && (head->bytes[8] == '{' || is_blank(head->bytes[8])) && length <= TN_MAX_HEADER;
}

static bool is_lfs_pointer(const tn_head *head)
{
    const char *text = text_of(head);
    return starts_with(text, "version https://git-lfs.") || starts_with(text, "version https://hawser.");
}

static bool is_html(const tn_head *head)
{
    static const char *const starts[] = {"<!doctype html", "<html", "<head", "<body", "<script", NULL};
    const char *text = text_of(head);
    if (starts_with_any(text, starts)) return true;
    /* Or after a comment or the declaration of XML. */
    return (starts_with(text, "<!--") || starts_with(text, "<?xml")) &&
           (strstr(text, "<html") != NULL || strstr(text, "<!DOCTYPE html") != NULL);
}

static bool is_xml(const tn_head *head)
{
    static const char *const starts[] = {"<?xml", "<Error>", "<!--", NULL};
    return starts_with_any(text_of(head), starts);
}

static bool is_json(const tn_head *head)
{
    const char *text = text_of(head);
    if (*text != '{') return false;
    for (const char *c = text; *c != 0; c++) {
        if ((unsigned char)*c < ' ' && !is_blank((unsigned char)*c)) return false;
    }
    return strlen((const char *)head->bytes) == head->size;
}

/* {"error": ...}: the first key is one under which servers report what went wrong. */
static bool is_json_error(const tn_head *head)
{
    static const char *const keys[] = {"\"error", "\"message\"", "\"detail", "\"code\"", "\"status", NULL};
    if (!is_json(head)) return false;
    const char *key = text_of(head) + 1;
    while (is_blank((unsigned char)*key))
        key++;
    return starts_with_any(key, keys);
}

static bool has_mark(const tn_head *head)
{
    return memcmp(head->bytes, "\xef\xbb\xbf", 3) == 0;
}

static bool is_index(const tn_head *head)
{
    return is_json(head) && strstr((const char *)head->bytes, "\"weight_map\"") != NULL;
}

/* With its mark, or ASCII whose every second byte is 0. */
static bool is_utf16(const tn_head *head)
{
    const unsigned char *b = head->bytes;
    if (memcmp(b, "\xff\xfe", 2) == 0 || memcmp(b, "\xfe\xff", 2) == 0) return true;
    if (head->size < 8) return false;
    const int zero = b[0] == 0 ? 0 : 1;
    for (int i = 0; i < 8; i++) {
        const bool is_ascii = (b[i] >= ' ' && b[i] < 0x7f) || is_blank(b[i]);
        if (i % 2 == zero ? b[i] != 0 : !is_ascii) return false;
    }
    return true;
}

static bool is_utf32(const tn_head *head)
{
    return head->size >= 4 &&
           (memcmp(head->bytes, "\xff\xfe\0\0", 4) == 0 || memcmp(head->bytes, "\0\0\xfe\xff", 4) == 0);
}

/* ---- archives ---- */

/* The name of a zip archive's first file ends in `suffix`. A local header has its length at byte 26, itself at 30. */
static bool zip_begins_with(const tn_head *head, const char *suffix)
{
    const size_t tail = strlen(suffix);
    if (head->size < 30 || memcmp(head->bytes, "PK\x03\x04", 4) != 0) return false;
    const size_t length = head->bytes[26] | (size_t)head->bytes[27] << 8;
    return length >= tail && 30 + length <= head->size && memcmp(head->bytes + 30 + length - tail, suffix, tail) == 0;
}

static bool is_npz(const tn_head *head)
{
    return zip_begins_with(head, ".npy");
}

static bool is_torch_zip(const tn_head *head)
{
    return zip_begins_with(head, "/data.pkl") || zip_begins_with(head, "/.format_version") ||
           zip_begins_with(head, "/.data/serialization_id");
}

static bool is_zip(const tn_head *head)
{
    return memcmp(head->bytes, "PK\x03\x04", 4) == 0 || memcmp(head->bytes, "PK\x05\x06", 4) == 0 ||
           memcmp(head->bytes, "PK\x07\x08", 4) == 0;
}

/* The first header's checksum, in octal at byte 148, is the sum of its 512 bytes with blanks in its own place. Archives
 * of before POSIX have it too. */
static bool is_tar(const tn_head *head)
{
    if (head->size < 512) return false;
    unsigned long sum = 8 * ' ', stored = 0;
    for (size_t i = 0; i < 512; i++)
        sum += i < 148 || i >= 156 ? head->bytes[i] : 0;
    size_t i = 148;
    while (i < 156 && head->bytes[i] == ' ')
        i++;
    if (head->bytes[i] < '0' || head->bytes[i] > '7') return false;
    for (; i < 156 && head->bytes[i] >= '0' && head->bytes[i] <= '7'; i++)
        stored = stored * 8 + (unsigned long)(head->bytes[i] - '0');
    return stored == sum;
}

/* ---- the rest ---- */

static bool is_text(const tn_head *head)
{
    for (size_t i = 0, length; i < head->size; i += length) {
        const unsigned char byte = head->bytes[i];
        if ((byte < ' ' && !is_blank(byte)) || byte == 0x7f) return false;
        length = tn_utf8_length(head->bytes + i, head->size - i);
        if (length == 0 && head->size - i >= 4) return false;
        if (length == 0) return head->file_size > head->size; /* cut in the middle of a character */
    }
    return true;
}

static bool is_anything(const tn_head *head)
{
    (void)head;
    return true;
}

/* The first row that matches. safetensors has no magic number, so what is not known is opened as that, and its checks
 * say what is wrong. Nothing here ever advises to load a pickle. */
#define MAGIC(text) text, sizeof text - 1, NULL
#define TOLD_BY(function) NULL, 0, function
#define OPENED_BY(function) function, TENON_OK, NULL, false
#define WRONG(sentence) NULL, TENON_BAD_FILE, sentence, false
#define POINTER(sentence) NULL, TENON_BAD_FILE, sentence, true
#define FOREIGN(sentence) NULL, TENON_UNSUPPORTED, sentence, false
#define SAFE_COPY "save its tensors as safetensors or npy where it was made"
static const tn_kind kinds[] = {
    {"empty file", TOLD_BY(is_empty), WRONG("is empty")},
    {"npy", MAGIC("\x93NUMPY"), OPENED_BY(tn_npy_open)},
    {"safetensors", TOLD_BY(is_safetensors), OPENED_BY(tn_safetensors_open)},
    {"Git LFS pointer", TOLD_BY(is_lfs_pointer), NULL, TENON_BAD_FILE,
     "is a Git LFS pointer: the file itself was not downloaded; fetch it with 'git lfs pull', or download it again",
     true},
    {"git-annex pointer", MAGIC("/annex/objects/"),
     POINTER("is a git-annex pointer: the file itself was not downloaded; fetch it with 'git annex get'")},
    {"HTML page", TOLD_BY(is_html),
     WRONG("is an HTML page, which a server sends in place of a file that it refuses or does not have; check the "
           "address and "
           "the access rights, then download it again")},
    {"XML document", TOLD_BY(is_xml),
     WRONG("is an XML document, which a server sends in place of a file that it refuses or does not have; it begins "
           "'%s'; "
           "check the address and the access rights, then download it again")},
    {"JSON error", TOLD_BY(is_json_error),
     WRONG("is a server's error message in JSON, not the file itself; it begins '%s'; check the address and the access "
           "rights, then download it again")},
    {"UTF-8 text with a byte order mark", TOLD_BY(has_mark),
     WRONG("begins with a byte order mark, which JSON must not have; save it as UTF-8 without one")},
    {"safetensors index", TOLD_BY(is_index), OPENED_BY(tn_index_open)},
    {"JSON document", TOLD_BY(is_json), OPENED_BY(tn_index_open)},
    {"UTF-32 text", TOLD_BY(is_utf32), WRONG("is text in UTF-32; save it as UTF-8")},
    {"UTF-16 text", TOLD_BY(is_utf16), WRONG("is text in UTF-16; save it as UTF-8 without a byte order mark")},
    {"npz", TOLD_BY(is_npz),
     FOREIGN("is an npz, a zip archive of npy files; unpack it with 'unzip' and name one of them")},
    {"PyTorch checkpoint (zip)", TOLD_BY(is_torch_zip),
     FOREIGN("is a PyTorch checkpoint (a zip archive); tenon.convert, of the Python package, reads it and saves "
             "safetensors")},
    {"zip archive", TOLD_BY(is_zip), FOREIGN("is a zip archive; unpack it and name a file of it")},
    {"tar archive", TOLD_BY(is_tar), FOREIGN("is a tar archive; unpack it with 'tar -xf' and name a file of it")},
    {"gzip file", MAGIC("\x1f\x8b"), FOREIGN("is compressed with gzip; unpack it with 'gunzip'")},
    {"bzip2 file", MAGIC("BZh"), FOREIGN("is compressed with bzip2; unpack it with 'bunzip2'")},
    {"xz file", MAGIC("\xfd\x37zXZ\0"), FOREIGN("is compressed with xz; unpack it with 'unxz'")},
    {"zstd file", MAGIC("\x28\xb5\x2f\xfd"), FOREIGN("is compressed with Zstandard; unpack it with 'unzstd'")},
    {"7z archive", MAGIC("7z\xbc\xaf\x27\x1c"), FOREIGN("is a 7z archive; unpack it and name a file of it")},
    {"PyTorch checkpoint (pickle)", TOLD_BY(tn_is_torch_pickle),
     FOREIGN(
         "is a PyTorch checkpoint (a pickle); tenon.convert, of the Python package, reads it and saves safetensors")},
    {"pickle", TOLD_BY(tn_is_pickle),
     FOREIGN("is a Python pickle, which can run any code when it is loaded, so tenon does not; " SAFE_COPY)},
    {"GGUF", MAGIC("GGUF"), OPENED_BY(tn_gguf_open)},
    {"HDF5", MAGIC("\x89HDF\r\n\x1a\n"), FOREIGN("is an HDF5 file; " SAFE_COPY)},
    {"MAT-file", MAGIC("MATLAB 5.0 MAT-file"), FOREIGN("is a MATLAB file; " SAFE_COPY)},
    {"Parquet", MAGIC("PAR1"), FOREIGN("is a Parquet file; " SAFE_COPY)},
    {"Arrow", MAGIC("ARROW1"), FOREIGN("is an Arrow file; " SAFE_COPY)},
    {"PNG image", MAGIC("\x89PNG\r\n\x1a\n"),
     FOREIGN("is an image; tenon starts at the features that a vision encoder makes of it")},
    {"JPEG image", MAGIC("\xff\xd8\xff"),
     FOREIGN("is an image; tenon starts at the features that a vision encoder makes of it")},
    {"text", TOLD_BY(is_text),
     WRONG("is a text file, which begins '%s'; tenon reads safetensors, an index of safetensors (.json), GGUF "
           "and npy")},
    {"unknown", TOLD_BY(is_anything), OPENED_BY(tn_safetensors_open)},
};

tenon_status tn_read_head(const tn_input *input, tn_head *head, tenon_error *error)
{
    const uint64_t length = tn_input_size(input);
    *head = (tn_head){.size = length < TN_HEAD_SIZE ? (size_t)length : TN_HEAD_SIZE, .file_size = length};
    if (length == 0) return TENON_OK;
    TN_TRY(tn_input_read(input, 0, head->bytes, head->size, error));
    return tn_input_read(input, length - 1, &head->last, 1, error);
}

const tn_kind *tn_identify(const tn_head *head)
{
    const tn_kind *kind = kinds;
    while (kind->matches != NULL
               ? !kind->matches(head)
               : head->size < kind->magic_size || memcmp(head->bytes, kind->magic, kind->magic_size) != 0)
        kind++;
    return kind;
}

tenon_status tn_refuse(const tn_kind *kind, const char *path, const tn_head *head, tenon_error *error)
{
    /* The sentence is not a literal to the compiler, so the one %s that it may hold is filled by hand. */
    const char *place = strstr(kind->sentence, "%s");
    const int before = place != NULL ? (int)(place - kind->sentence) : (int)strlen(kind->sentence);
    const char *text = text_of(head);
    size_t shown = strnlen(text, 100);
    while (shown > 0 && ((unsigned char)text[shown] & 0xc0) == 0x80) /* not through a character */
        shown--;
    return tn_fail(error, kind->status, "%s: %.*s%s%s", tn_quote(path).text, before, kind->sentence,
                   place != NULL ? tn_quote_bytes(text, shown).text : "", place != NULL ? place + 2 : "");
}

tenon_status tenon_file_identify(const char *path, const char **kind, tenon_error *error)
{
    if (path == NULL || kind == NULL) return tn_fail(error, TENON_INVALID, "a file needs a path and a place");
    tn_input *input = NULL;
    tn_head head;
    TN_TRY(tn_input_open(path, &input, error));
    const tenon_status status = tn_read_head(input, &head, error);
    tn_input_close(input);
    if (status == TENON_OK) *kind = tn_identify(&head)->name;
    return status;
}
