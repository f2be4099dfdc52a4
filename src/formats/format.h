/* SPDX-License-Identifier: MIT */
/* Inside the formats: what a format tells the shared half (open.c, file.c, write.c) about a file.
 *
 * A format is one row of a table: how its files are recognised and how the header becomes entries. Everything after
 * that - finding, slicing, reading, converting - is the same for all. A format checks that an entry's bytes lie inside
 * the file and are as many as its shape says before it adds the entry. */
#ifndef TN_FORMATS_FORMAT_H
#define TN_FORMATS_FORMAT_H

#include "core/dtype.h"
#include "core/file.h"
#include "tenon/tenon.h"
#include <jansson.h>

/* safetensors' reference implementation refuses longer headers; so do we, and our index files keep to it too. */
enum { TN_MAX_HEADER = 100000000, TN_MAX_FILE_DIMS = 64 };

/* What transformers calls the only file of a checkpoint; its index adds ".index.json". */
#define TN_USUAL_FILE "model.safetensors"

/* What describes a model of transformers. */
#define TN_MODEL_CONFIG "config.json"

/* DLPack's code of bool, which headers before its 0.9 do not name. */
enum { TN_DL_BOOL = 6 };

/* ---- encodings: how elements lie in a file, and what tenon_file_read makes of them ---- */

typedef struct tn_encoding {
    const char *safetensors; /* its name there, NULL: it has none */
    const char *npy;         /* the same, without the byte order: "f4" */
    size_t stored_bits;      /* of an element in the file, or of a block; 0: not known */
    DLDataType dtype;        /* what a read delivers; kDLOpaqueHandle: it cannot be read */
    void (*convert)(void *to, const void *from, size_t count); /* NULL: delivered as stored */
    size_t block; /* elements that are stored together, with a scale of their own, as f32; 0: each by itself */
} tn_encoding;

/* Bytes of an element, or of a block, in the file; 0: not known, or no whole number. */
static inline size_t tn_stored_size(const tn_encoding *encoding)
{
    return encoding->stored_bits % 8 == 0 ? encoding->stored_bits / 8 : 0;
}

/* NULL when there is none of that name. */
const tn_encoding *tn_encoding_of_safetensors(const char *name, size_t length);
const tn_encoding *tn_encoding_of_npy(const char *name, size_t length);

/* The encoding that stores exactly this dtype; NULL when writers do not write it. */
const tn_encoding *tn_encoding_to_write(DLDataType dtype);

/* An encoding of which nothing is known but a name. */
extern const tn_encoding tn_encoding_unknown;

/* bfloat16 as npy stores it: under the name of uint16, or as ml_dtypes saves it, two bytes of void. */
extern const tn_encoding tn_encoding_npy_bfloat16;

/* f64 that is delivered as it is. */
extern const tn_encoding tn_encoding_f64;

/* Reverses the bytes of each element. */
void tn_swap_bytes(void *data, size_t element, size_t count);
bool tn_host_is_big_endian(void);

/* ---- a file that is open for reading ---- */

typedef struct tn_entry {
    char *name;   /* owns the memory of `shape` and `stored` too */
    char *stored; /* the dtype as the file spells it */
    int64_t *shape;
    int ndim;
    bool swapped;         /* the file's byte order is not the machine's */
    bool is_column_major; /* the first axis is the fastest; only npy has that */
    const tn_encoding *encoding;
    const tn_input *input;
    uint64_t offset;    /* of the first byte in `input` */
    int64_t absent;     /* the number of its shard in file->absent, from 1 on; 0: the tensor is there */
    uint64_t header_at; /* GGUF: where the header has the number of its type, a u32, and then its offset, a u64 */
} tn_entry;

/* A shard that an index names and that is not there. Its tensors are entries of which only the name is known. */
typedef struct tn_absent_shard {
    char *name;
    char *reason; /* "was not found beside the index" */
    int64_t num_tensors;
} tn_absent_shard;

struct tenon_file {
    const char *kind;
    char *path; /* as it was given */
    tn_input **inputs;
    int64_t num_inputs;
    tn_entry *entries; /* in the header's order */
    int64_t num_entries, capacity;
    int64_t *by_name; /* [num_entries] numbers of entries, sorted by name */
    json_t *metadata; /* an object of strings, or NULL */
    tn_absent_shard *absent;
    int64_t num_absent;
    uint64_t data_start, alignment; /* GGUF: what offsets count from, and are multiples of */
    bool is_folder;                 /* the path is a folder's, so that the file to read was chosen for the caller */
    bool npy_bfloat16, keep_f64;
};

/* Gives the file an input. It owns the input from the call on, even when the call fails. */
tenon_status tn_file_own_input(tenon_file *file, tn_input *input, tenon_error *error);

/* Appends an entry with room for `ndim` dimensions and copies of the names (the file must fill the rest). */
tenon_status tn_file_add_entry(tenon_file *file, const char *name, const char *stored, size_t stored_length, int ndim,
                               tn_entry **entry, tenon_error *error);

/* Sorts `by_name`. TENON_BAD_FILE: a name twice. */
tenon_status tn_file_sort_names(tenon_file *file, tenon_error *error);

/* The entry of that name, or -1. Needs tn_file_sort_names. */
int64_t tn_file_find(const tenon_file *file, const char *name);

/* Notes a shard of an index that is not there; `reason` follows its name in a sentence. */
tenon_status tn_file_add_absent(tenon_file *file, const char *name, const char *reason, tenon_error *error);

/* TENON_NOT_FOUND, with the shard and some of its tensors, where the entry's shard is absent. */
tenon_status tn_file_check_present(const tenon_file *file, const tn_entry *entry, tenon_error *error);

/* Reads elements [first, first + count) as they follow each other in the file, and delivers them as the encoding says.
 */
tenon_status tn_read_elements(const tn_entry *entry, uint64_t first, size_t count, void *data, tenon_error *error);

/* The same of slices [first, first + count) of a column-major entry, of `slice` elements each, row-major in `data`. */
tenon_status tn_read_column_major(const tn_entry *entry, int64_t first, int64_t count, size_t slice, void *data,
                                  tenon_error *error);

/* The header of the file that `input` is open on becomes entries. */
tenon_status tn_safetensors_open(tenon_file *file, const tn_input *input, tenon_error *error);
tenon_status tn_index_open(tenon_file *file, const tn_input *input, tenon_error *error);
tenon_status tn_npy_open(tenon_file *file, const tn_input *input, tenon_error *error);
tenon_status tn_gguf_open(tenon_file *file, const tn_input *input, tenon_error *error);

/* *stored, which the caller frees with free(): `count` numbers in the dtype of the encoding, as tn_replacement has
 * them; *moved: the largest distance between a number and the one that a reader will find, 0: all are the same. */
tenon_status tn_store_as(void **stored, double *moved, const void *from, tn_dtype dtype, size_t count,
                         const tn_encoding *encoding, tenon_error *error);

/* ---- a GGUF file with other tensors in it ---- */

/* A tensor of a file, what it becomes, and its elements: of the dtype of the encoding, or f32 where that has blocks. */
typedef struct tn_replacement {
    int64_t tensor;
    const tn_encoding *encoding;
    const void *data;
} tn_replacement;

/* Writes `file`, a GGUF one, to `path` with `count` of its tensors replaced, their shapes kept. All other bytes of the
 * header and all other tensors' data stay the same. Atomic; `path` may be the file itself. */
tenon_status tn_gguf_replace(const tenon_file *file, const tn_replacement *replacements, int64_t count,
                             const char *path, tenon_error *error);

/* ---- what a file is ---- */

/* The start of a file, by which its kind is told, and its last byte. */
enum { TN_HEAD_SIZE = 4096 };
typedef struct tn_head {
    size_t size; /* of `bytes`: TN_HEAD_SIZE, or the whole file where that is shorter */
    uint64_t file_size;
    unsigned char bytes[TN_HEAD_SIZE + 1]; /* a 0 follows */
    unsigned char last;
} tn_head;

/* One row of the table that tenon_file_identify and tenon_file_open share. */
typedef struct tn_kind {
    const char *name;
    const char *magic; /* the first bytes; NULL: `matches` tells */
    size_t magic_size;
    bool (*matches)(const tn_head *head);
    tenon_status (*open)(tenon_file *file, const tn_input *input, tenon_error *error); /* NULL: refused */
    tenon_status status;                                                               /* of the refusal */
    const char *sentence; /* of the refusal, after "FILE: "; %s: how the file begins, where the sentence shows it */
    bool is_pointer;      /* stands for a file that was not downloaded */
} tn_kind;

tenon_status tn_read_head(const tn_input *input, tn_head *head, tenon_error *error);
const tn_kind *tn_identify(const tn_head *head);

/* Says what the file is and what to do; returns the status. */
tenon_status tn_refuse(const tn_kind *kind, const char *path, const tn_head *head, tenon_error *error);

/* True for what a Python pickle of any protocol begins with; the second: for those that torch.save wrote before it
 * wrote zip archives. */
bool tn_is_pickle(const tn_head *head);
bool tn_is_torch_pickle(const tn_head *head);

/* The JSON of an index, its map checked; to be given back with json_decref. */
tenon_status tn_index_read(const tn_input *input, json_t **json, tenon_error *error);

/* What is wrong with the name of a file that another one mentions: "is empty", ...; NULL: it is a plain relative one.
 */
const char *tn_name_fault(const char *name);

/* The file in a folder that a checkpoint starts at; the caller frees *path. */
tenon_status tn_resolve_folder(const char *folder, char **path, tenon_error *error);

/* What a folder is that holds no whole model, by the files beside `path` (or in it, where it is a folder): a LoRA
 * adapter, a diffusers pipeline. A sentence for after "PATH: "; NULL: nothing is known of it. */
const char *tn_explain_neighbours(const char *path);

/* JSON text of the file `path` -> *json, to be given back with json_decref. TENON_BAD_FILE: `what` is no JSON object,
 * or a key is there twice. `base`: the text's offset in the file, for messages. */
tenon_status tn_json_parse(const char *path, const char *what, const char *text, size_t length, uint64_t base,
                           json_t **json, tenon_error *error);

/* TENON_BAD_FILE: what a header says of a tensor is wrong; the sentence begins with the file and the tensor. */
tenon_status tn_fail_tensor(const tn_input *input, const char *name, tenon_error *error, const char *format, ...)
    TENON_PRINTF(4, 5);

/* `size` bytes of the input in memory of its own, which the caller frees with free(); the caller checked the size. */
tenon_status tn_read_header(const tn_input *input, uint64_t offset, size_t size, char **text, tenon_error *error);

/* ---- a file that is being written ---- */

typedef struct tn_part {
    char *name; /* owns the memory of `shape` too */
    int64_t *shape;
    int ndim;
    const tn_encoding *encoding;
    uint64_t offset; /* from the start of the data; in the file once the header is laid out */
    size_t bytes;
    size_t written;
} tn_part;

struct tenon_writer {
    const struct tn_write_format *format;
    tn_output *output;
    char *path;
    tn_part *parts;
    int64_t num_parts, capacity;
    json_t *names;    /* name -> number of the part */
    json_t *metadata; /* an object of strings, in GGUF of values of any kind; or NULL */
    uint64_t end;     /* of the file, padding included, as the layout sets it; 0: that of the last part */
    bool is_direct;   /* the data is to be aligned to TN_DIRECT_ALIGN */
    bool started, committed;
};

/* The header as it grows. After a failure for lack of memory nothing more is added. */
typedef struct tn_header_text {
    char *data; /* owned */
    size_t length, capacity;
    bool failed;
} tn_header_text;
void tn_header_add(tn_header_text *text, const void *bytes, size_t count);

/* A metadata value that is no string, for formats that have such; the reference is taken over, NULL is a lack of
 * memory. */
tenon_status tn_writer_set_value(tenon_writer *writer, const char *key, json_t *value, tenon_error *error);

/* Places the parts (their `offset`) and makes the bytes before them, which the caller frees with free(). */
typedef struct tn_write_format {
    const char *suffix;
    int64_t max_parts;
    int max_dims;
    size_t max_name; /* bytes of a tensor's name */
    bool has_metadata;
    bool streams;                                  /* its parts follow each other without gaps */
    bool (*has_type)(const tn_encoding *encoding); /* NULL: every encoding that tn_encoding_to_write delivers */
    tenon_status (*layout)(tenon_writer *writer, char **header, size_t *length, tenon_error *error);
} tn_write_format;

tenon_status tn_safetensors_layout(tenon_writer *writer, char **header, size_t *length, tenon_error *error);
tenon_status tn_npy_layout(tenon_writer *writer, char **header, size_t *length, tenon_error *error);
tenon_status tn_gguf_layout(tenon_writer *writer, char **header, size_t *length, tenon_error *error);
bool tn_gguf_has_type(const tn_encoding *encoding);

/* The encoding of that name that writers write: those of tn_encoding_to_write, and Q8_0. NULL: there is none. */
const tn_encoding *tn_encoding_to_write_as(const char *stored);

const tn_encoding *tn_encoding_q8_0(void);

/* `count` elements, a multiple of 32, as blocks of Q8_0; the rounding mode is to be to nearest. */
void tn_encode_q8_0(void *to, const void *from, size_t count);

#endif
