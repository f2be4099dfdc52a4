/* SPDX-License-Identifier: MIT */
/* tenon: the layers between a vision encoder and a language model (the "connector").
 *
 * A connector maps patch features (batch, tokens, in_dim) to language-model tokens (batch, out_tokens, out_dim). This
 * header is the whole interface, in the order in which a program meets it:
 *
 *   1. version, status, error        4. registry and builder        7. prepare and run
 *   2. dtypes and tensors            5. adapter and parameters      8. description
 *   3. counting and configuration    6. adapter files               9. tensor files
 *                                                                  10. training
 *
 * Conventions. Pointers must not be NULL except where NULL is said to be allowed, as it is for every tenon_error and
 * every struct of options. Every call that can fail returns a tenon_status and takes a tenon_error last (NULL is
 * allowed). A call that fails leaves its outputs untouched. Counts and shapes are int64_t, bytes are size_t. Structs
 * that may grow begin with their `size` and are filled by their _init function. Strings are UTF-8 and NUL-terminated.
 * Strings that a getter returns belong to the object and live as long as it does, or until what they tell is set anew.
 *
 * Tensors are DLPack's DLTensor: dtype, device, shape, strides (in elements) and byte offset. The library borrows a
 * caller's tensor for the call, except where tenon_adapter_set_parameter says so.
 */
#ifndef TENON_TENON_H
#define TENON_TENON_H

#include <dlpack/dlpack.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define TENON_API __attribute__((visibility("default")))
#define TENON_MUST_CHECK __attribute__((warn_unused_result))
#define TENON_PRINTF(index, first) __attribute__((format(printf, index, first)))
#else
#define TENON_API
#define TENON_MUST_CHECK
#define TENON_PRINTF(index, first)
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- 1. version, status, error ---------------------------------------------------------------------------------- */

#define TENON_VERSION_MAJOR 0
#define TENON_VERSION_MINOR 1
#define TENON_VERSION_PATCH 0
#define TENON_VERSION_STRING "0.1.0"

/* The version of the library that is loaded, "major.minor.patch"; compare with TENON_VERSION_STRING. */
TENON_API const char *tenon_version(void);

/* One line on how the library was built: version, threading, CPU levels. */
TENON_API const char *tenon_build_info(void);

/* The values are pinned: they never change meaning. */
typedef enum tenon_status {
    TENON_OK = 0,
    TENON_INVALID = 1,      /* an argument or a setting is wrong */
    TENON_NOT_FOUND = 2,    /* a name, a file, a tensor does not exist */
    TENON_EXISTS = 3,       /* a name is taken */
    TENON_UNSUPPORTED = 4,  /* understood, but this build or version cannot do it */
    TENON_BAD_FILE = 5,     /* a file's content is wrong */
    TENON_IO = 6,           /* the operating system refused */
    TENON_NO_MEMORY = 7,    /* an allocation failed */
    TENON_NOT_PREPARED = 8, /* parameters are missing, or tenon_adapter_prepare was not called */
    TENON_MISMATCH = 9      /* shapes or tensors do not fit the adapter */
} tenon_status;

#define TENON_ERROR_SIZE 4096

/* Where a failed call leaves its sentence. The caller owns it; a successful call does not touch it. Fields of configs,
 * calls and option structs are named in backquotes, with a value where one is suggested: `prefix_tokens=1`. A program
 * that has other names for them (the command has --prefix-tokens) puts its own there. */
typedef struct tenon_error {
    char message[TENON_ERROR_SIZE];
} tenon_error;

/* "invalid", "not found", ...; "unknown status" for any other number. */
TENON_API const char *tenon_status_name(tenon_status status);

/* Makes text of unknown origin (a tensor's name, a path) safe to print: writes its `length` bytes to `shown`, which
 * holds `capacity` bytes, at least 32, with the final NUL. Printable UTF-8 stays as it is. Control, invisible and
 * direction-changing characters, bytes that are not UTF-8, backslashes and backquotes become \x1b, \u202e or
 * \U000e0041. Text that does not fit is cut in the middle: "abc...xyz". Returns the bytes written, without the NUL.
 * Messages of the library are made so already. */
TENON_API size_t tenon_quote(char *shown, size_t capacity, const char *text, size_t length);

/* "Did you mean": the one of `count` known names that is nearest to a misspelt one; NULL when none is near. */
TENON_API const char *tenon_nearest_name(const char *name, const char *const *names, size_t count);

/* ---- 2. dtypes and tensors -------------------------------------------------------------------------------------- */

/* Storage types of features, parameters and tokens, in any mix. Sums are float32 whatever the storage. */
typedef enum tenon_dtype { TENON_F32 = 1, TENON_BF16 = 2, TENON_F16 = 3 } tenon_dtype;

/* "f32", "bf16", "f16"; NULL for any other number. */
TENON_API const char *tenon_dtype_name(tenon_dtype dtype);

/* Bytes of one element; 0 for any other number. */
TENON_API size_t tenon_dtype_size(tenon_dtype dtype);

/* The DLPack form of a dtype. */
TENON_API DLDataType tenon_dtype_to_dlpack(tenon_dtype dtype);

/* Reads "f32", "bf16" or "f16". TENON_INVALID for anything else, with the options. */
TENON_API TENON_MUST_CHECK tenon_status tenon_dtype_from_name(const char *name, tenon_dtype *dtype, tenon_error *error);

/* Memory for an adapter's parameters, packs and workspaces; small objects come from malloc. `alloc` returns `size`
 * bytes aligned to `align` (a power of two), or NULL; `free` gets the pointer and the size back. Both may be called
 * from any thread. */
typedef struct tenon_allocator {
    size_t size;
    void *(*alloc)(void *context, size_t size, size_t align);
    void (*free)(void *context, void *data, size_t size);
    void *context;
} tenon_allocator;

/* The system's: from 2 MiB on it asks for large pages, where there are such. */
TENON_API void tenon_allocator_init(tenon_allocator *allocator);

/* ---- 3. counting and configuration ------------------------------------------------------------------------------ */

/* Marks a field of a struct as not given. */
#define TENON_UNSET INT64_MIN

/* Tokens that a window x window pool makes of num_input_tokens patches on a square grid: ceil(grid / window)^2.
 * TENON_INVALID: window or count not positive, count not a square, or require_divisible and the grid is ragged. */
TENON_API TENON_MUST_CHECK tenon_status tenon_pooled_token_count(int64_t num_input_tokens, int64_t window,
                                                                 bool require_divisible, int64_t *count,
                                                                 tenon_error *error);

/* The same on any grid. `ragged` says what becomes of windows that the grid does not fill: "reject", "partial" or
 * "drop". */
TENON_API TENON_MUST_CHECK tenon_status tenon_pooled_grid_count(int64_t height, int64_t width, int64_t window,
                                                                const char *ragged, int64_t *count, tenon_error *error);

/* Tokens of one frame when num_tokens visual tokens belong to num_frames frames. TENON_INVALID, naming both numbers,
 * when they do not divide. */
TENON_API TENON_MUST_CHECK tenon_status tenon_tokens_per_frame(int64_t num_tokens, int64_t num_frames, int64_t *count,
                                                               tenon_error *error);

/* Length of a sequence of num_frames frames of tokens_per_frame tokens and max_text_len of text. TENON_INVALID for
 * negative numbers and for sums past int64. The sequence fits when it is at most max_seq_len. */
TENON_API TENON_MUST_CHECK tenon_status tenon_sequence_length(int64_t num_frames, int64_t tokens_per_frame,
                                                              int64_t max_text_len, int64_t *length,
                                                              tenon_error *error);

/* A connector's type and its settings. Fields of every config: `type`, `hidden_dim` (0: the output width),
 * `activation`, `pool_window`, `pool_heads`, as the PyTorch module has them; `prefix_tokens`, the count of leading
 * tokens (CLS, registers) that are no patches; `ragged` where the type has windows: "reject", "partial" or "drop".
 * Further options are whatever the type's builder reads. */
typedef struct tenon_config tenon_config;

/* A tensor of a call by its name. */
typedef struct tenon_named_tensor {
    const char *name;
    DLTensor *tensor;
} tenon_named_tensor;

/* Settings of one call that change counts as well as values; all fields are optional. The call borrows what its
 * pointers name. */
typedef struct tenon_executor tenon_executor;
typedef struct tenon_call {
    size_t size;
    int64_t pool_window; /* overrides the config's window; TENON_UNSET: do not */
    int64_t grid_height; /* rows and columns of the patch grid; TENON_UNSET: a square */
    int64_t grid_width;
    const DLTensor
        *patch_mask; /* (batch, tokens - prefix_tokens) of bool, int8 or uint8; 0: this patch does not exist */
    const DLTensor *frame_mask; /* (batch) of the same dtypes; 0: skip this image, its tokens are zero */
    DLTensor *attention; /* out, f32: (batch, out_tokens, heads, window^2) pooling weights, 0 for absent patches */
    int threads;         /* 0: as many as tenon_num_threads says */
    const tenon_executor *executor; /* NULL: OpenMP */
    void *saved; /* forward: out, backward: in; what backward needs, kept instead of recomputed; NULL: recompute */
    size_t saved_size; /* its bytes, at least tenon_adapter_saved_size; any alignment */
    /* int32 or int64, (images, 2) height and width or (images, 3) time, height and width of each image's patch grid:
     * the batch is packed. Features are then (rows, in_dim), image after image, tokens (rows, out_dim), the patch mask
     * (rows); the frame mask stays (images). NULL: all images are alike. */
    const DLTensor *grids;
    const tenon_named_tensor *inputs; /* [num_inputs] further inputs that the connector declares, and integer tensors */
    int64_t num_inputs;
    const tenon_named_tensor *outputs; /* [num_outputs] forward: further outputs that the connector declares */
    int64_t num_outputs;
} tenon_call;

TENON_API void tenon_call_init(tenon_call *call);

/* A config of this type with the defaults: mlp_2layer's are hidden_dim 0, activation "gelu", pool_window 2, pool_heads
 * 16. Free it with tenon_config_free. TENON_NOT_FOUND: no such type; the message lists those there are. */
TENON_API TENON_MUST_CHECK tenon_status tenon_config_new(const char *type, tenon_config **config, tenon_error *error);

/* Reads {"type": "avgpool", "pool_window": 3}. An integer, a real number, a string, a boolean or a list of integers
 * becomes an option of that kind; "type" may be left out (mlp_2layer). TENON_BAD_FILE: not one JSON object, or a key
 * twice. */
TENON_API TENON_MUST_CHECK tenon_status tenon_config_from_json(const char *json, size_t length, tenon_config **config,
                                                               tenon_error *error);

/* Writes the config as one line of JSON into `json` (capacity bytes, NUL included) and its length into *length; json
 * may be NULL to ask for the length. TENON_INVALID: capacity too small. */
TENON_API TENON_MUST_CHECK tenon_status tenon_config_to_json(const tenon_config *config, char *json, size_t capacity,
                                                             size_t *length, tenon_error *error);

TENON_API void tenon_config_free(tenon_config *config);

/* Set an option. The value is checked where the field is one of the seven above; the strings are copied. */
TENON_API TENON_MUST_CHECK tenon_status tenon_config_set_int(tenon_config *config, const char *name, int64_t value,
                                                             tenon_error *error);
TENON_API TENON_MUST_CHECK tenon_status tenon_config_set_real(tenon_config *config, const char *name, double value,
                                                              tenon_error *error);
TENON_API TENON_MUST_CHECK tenon_status tenon_config_set_string(tenon_config *config, const char *name,
                                                                const char *value, tenon_error *error);

TENON_API TENON_MUST_CHECK tenon_status tenon_config_set_bool(tenon_config *config, const char *name, bool value,
                                                              tenon_error *error);

/* A list of `count` integers, which are copied; `values` may be NULL where there are none. */
TENON_API TENON_MUST_CHECK tenon_status tenon_config_set_ints(tenon_config *config, const char *name, int64_t count,
                                                              const int64_t *values, tenon_error *error);

TENON_API const char *tenon_config_type(const tenon_config *config);

/* Read an option back, where one of the seven fields is not set the type's default (`ragged` has none here).
 * TENON_NOT_FOUND: never set; TENON_INVALID: another kind.
 */
TENON_API TENON_MUST_CHECK tenon_status tenon_config_get_int(const tenon_config *config, const char *name,
                                                             int64_t *value, tenon_error *error);
TENON_API TENON_MUST_CHECK tenon_status tenon_config_get_real(const tenon_config *config, const char *name,
                                                              double *value, tenon_error *error);
TENON_API TENON_MUST_CHECK tenon_status tenon_config_get_string(const tenon_config *config, const char *name,
                                                                const char **value, tenon_error *error);
TENON_API TENON_MUST_CHECK tenon_status tenon_config_get_bool(const tenon_config *config, const char *name, bool *value,
                                                              tenon_error *error);
TENON_API TENON_MUST_CHECK tenon_status tenon_config_get_ints(const tenon_config *config, const char *name,
                                                              const int64_t **values, int64_t *count,
                                                              tenon_error *error);

/* Lets the type's builder read the options. TENON_INVALID: one that it does not know, or refuses. */
TENON_API TENON_MUST_CHECK tenon_status tenon_config_check(const tenon_config *config, tenon_error *error);

/* Tokens per image out of num_input_tokens in, prefix tokens included, under this call's window and grid (NULL: none).
 * num_input_tokens <= 0 passes through unchanged: it means "not known yet". Equals the built adapter's count. */
TENON_API TENON_MUST_CHECK tenon_status tenon_config_output_num_tokens(const tenon_config *config,
                                                                       const tenon_call *call, int64_t num_input_tokens,
                                                                       int64_t *count, tenon_error *error);

/* ---- 4. registry and builder ------------------------------------------------------------------------------------ */

/* Lists the layers of one connector. The library owns the builder and calls the function whenever it needs the list;
 * it must be pure. The first error sticks, later calls do nothing, and tenon_adapter_new returns it. */
typedef struct tenon_builder tenon_builder;
typedef void (*tenon_builder_function)(tenon_builder *builder);

/* The pointer given when the type was registered. */
TENON_API void *tenon_builder_context(const tenon_builder *builder);

/* Registers a connector type for the rest of the process; the name is copied, and `context` (NULL is allowed) must live
 * as long. Safe from any thread. TENON_EXISTS: the name is taken. */
TENON_API TENON_MUST_CHECK tenon_status tenon_register_adapter(const char *name, tenon_builder_function function,
                                                               void *context, tenon_error *error);

/* TENON_OK when the type is registered; else TENON_NOT_FOUND and a message that lists the types there are. */
TENON_API TENON_MUST_CHECK tenon_status tenon_find_adapter(const char *name, tenon_error *error);

/* Copies up to `capacity` type names, sorted, into `names` and returns how many there are. The strings live for the
 * rest of the process. */
TENON_API size_t tenon_list_adapters(const char **names, size_t capacity);

/* Does a registered type have this config option: does its builder read it, or is it "prefix_tokens"? False for an
 * unknown type. */
TENON_API bool tenon_type_has_option(const char *name, const char *option);

/* What the layers of a registered type say: does it pool the patch grid, and does it by default refuse a grid that its
 * window does not divide? Both are false for an unknown name. */
TENON_API bool tenon_type_pools(const char *name);
TENON_API bool tenon_type_needs_divisible(const char *name);

/* The widths being built for; 0 while the library only counts tokens and widths are not known. */
TENON_API int64_t tenon_builder_in_dim(const tenon_builder *builder);
TENON_API int64_t tenon_builder_out_dim(const tenon_builder *builder);

/* Read an option of the config, or the fallback when it is not set. What was read is saved in the adapter's file, so
 * the names "type", "in_dim" and "out_dim" are taken. A string's fallback may be NULL: then the option is saved only
 * where it is set. An integer is a real number too; any other kind than the one asked for is an error. */
TENON_API int64_t tenon_option_int(tenon_builder *builder, const char *name, int64_t fallback);
TENON_API double tenon_option_real(tenon_builder *builder, const char *name, double fallback);
TENON_API const char *tenon_option_string(tenon_builder *builder, const char *name, const char *fallback);
TENON_API bool tenon_option_bool(tenon_builder *builder, const char *name, bool fallback);

/* A list of integers and how many there are, *count; `fallback` has fallback_count of them (NULL: none). The list lives
 * as long as the builder function runs. */
TENON_API const int64_t *tenon_option_ints(tenon_builder *builder, const char *name, int64_t *count,
                                           int64_t fallback_count, const int64_t *fallback);

/* Refuse to build, with a sentence; for a builder's own checks. */
TENON_API void tenon_builder_fail(tenon_builder *builder, const char *format, ...) TENON_PRINTF(2, 3);

/* Values. Every call that makes a value returns its number, -1 after an error; -1 is accepted everywhere and keeps the
 * first error. The features are value 0. A value is a matrix for each image: its space says what the rows are, its
 * width how many columns there are. Row layers, sums and concatenations stay within a space. */

/* How the rows of an input lie: row-major over the grid; or block after block of the size of the first windows over
 * them, as processors of native resolution deliver them. */
typedef enum tenon_row_order { TENON_ROWS_RASTER = 0, TENON_ROWS_BLOCKS = 1 } tenon_row_order;

/* The order of the features' rows, before any layer. Returns their value. */
TENON_API int tenon_features(tenon_builder *builder, tenon_row_order order);

/* Declares a further input, in rows of its own: a second encoder. */
TENON_API int tenon_input(tenon_builder *builder, const char *name, int64_t width, tenon_row_order order);

/* Declares a further input whose rows are those of the features: another layer of the same encoder. */
TENON_API int tenon_tap(tenon_builder *builder, const char *name, int64_t width);

/* Declares an integer tensor that a call brings, of `columns` columns (0: any). Returns its number for layers that read
 * one; -1 after an error. */
TENON_API int tenon_integers(tenon_builder *builder, const char *name, int64_t columns);

/* Names a value as an output. The output "tokens" is the value of that name, or else the value made last; all others
 * are further outputs of a call. */
TENON_API int tenon_output(tenon_builder *builder, const char *name, int value);

/* The next layer reads this value instead of the one before it. */
TENON_API int tenon_from(tenon_builder *builder, int value);

/* The width of a value; 0 while widths are not known, or after an error. */
TENON_API int64_t tenon_value_width(const tenon_builder *builder, int value);

/* Layers. Each reads the value made last, or the one that tenon_from chose, and makes one. Parameter names are
 * "name.weight" and "name.bias". */
enum {
    TENON_NO_BIAS = 0,
    TENON_BIAS = 1,
    TENON_TRANSPOSED = 2, /* linear: the weight is stored (in, out_dim) */
    TENON_BARE_NAME = 4,  /* linear: the weight's name is the layer's, without ".weight" */
    TENON_NO_WEIGHT = 8,  /* norms: y is the normalised row as it is */
    TENON_PLUS_ONE = 16,  /* norms: the weight is added to 1 */
    TENON_VECTOR = 128    /* parameter rows: stored as (width), not (1, width) */
};

/* y = x W^T + b: W (out_dim, in), b (out_dim). Flags: TENON_BIAS, TENON_TRANSPOSED, TENON_BARE_NAME. */
TENON_API int tenon_linear(tenon_builder *builder, const char *name, int64_t out_dim, unsigned flags);

/* y = x: for a value that is an output and is read again. */
TENON_API int tenon_copy(tenon_builder *builder);

/* y = the sum of `count` values of one width, in this order. */
TENON_API int tenon_sum(tenon_builder *builder, int count, const int *values);

/* y = the columns of the first value, then those of the second, and so on. */
TENON_API int tenon_concat(tenon_builder *builder, int count, const int *values);

/* "gelu" (the erf form), "gelu_tanh", "quick_gelu", "silu" or "relu", element by element. */
TENON_API int tenon_activation(tenon_builder *builder, const char *activation);

/* LayerNorm over the width: y = (x - mean(x)) / sqrt(var(x) + eps) weight + bias, weight and bias (width). */
TENON_API int tenon_layer_norm(tenon_builder *builder, const char *name, double eps);

/* RMSNorm over the width: y = x / sqrt(mean(x^2) + eps) weight, weight (width). Flags: TENON_NO_WEIGHT, or
 * TENON_PLUS_ONE for (1 + weight) as Gemma has it. */
TENON_API int tenon_rms_norm(tenon_builder *builder, const char *name, double eps, unsigned flags);

/* The order of a merged row, slowest index first: row and column in the window, then channel; or channel, then row and
 * column, as torch.nn.functional.unfold has it. The last has rows as the first, but the windows follow each other
 * column by column: their grid is the transpose (InternVL's `ps_version` v1). */
typedef enum tenon_merge_order {
    TENON_MERGE_DY_DX_C = 0,
    TENON_MERGE_C_DY_DX = 1,
    TENON_MERGE_DY_DX_C_TRANSPOSED = 2
} tenon_merge_order;

/* The patches of each side x side window of the grid side by side in one row of side^2 times the width. `ragged`:
 * "reject" refuses a grid that the side does not divide, "drop" leaves out what does not fill a window, "partial" pads
 * with zeros at the bottom and the right. */
TENON_API int tenon_patch_merge(tenon_builder *builder, int64_t side, tenon_merge_order order, const char *ragged);

/* y = f(gate) value, of two values of one width; f as in tenon_activation. */
TENON_API int tenon_gate(tenon_builder *builder, const char *activation, int gate, int value);

/* The same of the two halves of one value's columns: y = f(first half) second half, or with `second_is_gate`
 * f(second half) first half, as Cohere's and Aya's. */
TENON_API int tenon_gate_halves(tenon_builder *builder, const char *activation, bool second_is_gate);

/* Mean over each window x window block of the grid, from the top left. `ragged` says what happens where the grid ends
 * inside a window: "reject" refuses such a grid, "partial" averages the patches that are there, "drop" leaves them out.
 */
TENON_API int tenon_window_mean(tenon_builder *builder, int64_t window, const char *ragged);

/* Multi-head attention inside each window: the query is the mean of the window's patches, keys and values are the
 * patches; parameters q_proj, k_proj, v_proj (in, in), under "name." unless the name is "". There is no output
 * projection: append a linear. */
TENON_API int tenon_window_attention(tenon_builder *builder, const char *name, int64_t heads, int64_t window,
                                     const char *ragged, unsigned flags);

/* The same over windows that a call brings in its integer tensor `map` (tenon_integers): for each image M rows of k
 * numbers of rows of the value read, -1 where there is none; rows may repeat, and stand in any order. The output has M
 * rows; a row of -1 alone is zero. The shape is (images, M, k), or (M, k) beside features of two axes without grids.
 * Attention has `heads` heads of width head_dim of its own: q_proj, k_proj, v_proj (heads head_dim, in). */
TENON_API int tenon_map_mean(tenon_builder *builder, int map);
TENON_API int tenon_map_attention(tenon_builder *builder, const char *name, int map, int64_t heads, int64_t head_dim,
                                  unsigned flags);

/* The rows of a parameter `name` (rows, width), the same for all images: learned queries, positions. Drawn from a
 * normal distribution of standard deviation `std` around 0, or, with std 0, filled with `value`. A row layer over it
 * runs once a call; beside values of an image in a row layer it is repeated for each image. Flags: TENON_VECTOR, of one
 * row. */
TENON_API int tenon_parameter_rows(tenon_builder *builder, const char *name, int64_t rows, int64_t width, double value,
                                   double std, unsigned flags);

/* For each image the rows of the first value, then those of the second, and so on, of one width. One of them at least
 * is of the image; parameter rows are repeated for each. Masked rows stay masked. */
TENON_API int tenon_concat_rows(tenon_builder *builder, int count, const int *values);

/* Each frame of h x w rows as one of ceil(h / factor) x ceil(w / factor), bilinearly (align_corners false, no
 * antialiasing). Masked rows count as zero. */
TENON_API int tenon_resize(tenon_builder *builder, int64_t factor);

/* The tiles of a picture put together, as LLaVA-NeXT packs them. An image is 1 + R C frames (grids of frames, height
 * and width): the whole picture, then R x C tiles, row by row. The output: the rows of the first frame; then, line by
 * line, those of the tiles side by side, without lines or columns that are padding, each line followed by `newline`,
 * one row of a parameter. Of one frame: its rows and a newline. `image_sizes` is an integer tensor (images, 2) of the
 * pictures' height and width; R and C follow from `count` resolutions (height, width) in pixels and from the tile's
 * side, as the model's processor chooses them. With most_tiles > 0 (LLaVA-OneVision's anyres_max) a picture of many
 * more rows than that many tiles have is resized bilinearly to about as many. The batch must be packed. */
TENON_API int tenon_unpad_tiles(tenon_builder *builder, int newline, int image_sizes, int64_t tile_size,
                                int64_t most_tiles, int64_t count, const int64_t *resolutions);

/* Attention over an image: y[i, h] = sum_j a_j values[j, g], a = softmax over the image's rows j of
 * queries[i, h] . keys[j, g] / sqrt(d), for each of `heads` heads h and its key head g = h key_heads / heads. All three
 * are projected already: queries have width heads d, keys key_heads d, values key_heads e; y has width heads e and a
 * row for each query. Queries are rows of a parameter, the same for all images, or rows of each image; keys and values
 * are rows of the image, the same ones. Masked rows are no keys. An image without any key gets zeros. */
TENON_API int tenon_attention(tenon_builder *builder, int queries, int keys, int values, int64_t heads,
                              int64_t key_heads);

/* ---- 5. adapter and parameters ---------------------------------------------------------------------------------- */

typedef struct tenon_adapter tenon_adapter;

/* Describes the connector: layers, parameter names and shapes. Allocates no parameter storage. The config is copied;
 * the allocator (NULL: the system's) is copied too and must outlive the adapter. Free with tenon_adapter_free. */
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_new(const tenon_config *config, int64_t in_dim, int64_t out_dim,
                                                          const tenon_allocator *allocator, tenon_adapter **adapter,
                                                          tenon_error *error);

/* Frees the adapter and the parameters it owns. NULL is allowed. No call may be using it. */
TENON_API void tenon_adapter_free(tenon_adapter *adapter);

TENON_API const tenon_config *tenon_adapter_config(const tenon_adapter *adapter);
TENON_API int64_t tenon_adapter_in_dim(const tenon_adapter *adapter);
TENON_API int64_t tenon_adapter_out_dim(const tenon_adapter *adapter);

/* Tokens per image out of num_input_tokens in, exactly what a forward with this call writes. */
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_output_num_tokens(const tenon_adapter *adapter,
                                                                        const tenon_call *call,
                                                                        int64_t num_input_tokens, int64_t *count,
                                                                        tenon_error *error);

/* What a call makes: output 0 is the tokens, then further outputs in the order of their declaration, each with a width
 * of its own. The name lives as long as the adapter. */
TENON_API int64_t tenon_adapter_num_outputs(const tenon_adapter *adapter);
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_output(const tenon_adapter *adapter, int64_t index,
                                                             const char **name, int64_t *width, tenon_error *error);

/* Where each image's rows begin in output `index` of a forward with this call: `offsets` has images + 1 numbers, the
 * last of which is how many rows there are. With grids `images` is theirs and num_input_tokens is not used, else every
 * image has num_input_tokens tokens. Of the call's inputs only integer tensors count.
 */
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_output_offsets(const tenon_adapter *adapter, int64_t index,
                                                                     const tenon_call *call, int64_t images,
                                                                     int64_t num_input_tokens, int64_t *offsets,
                                                                     tenon_error *error);

/* One parameter: dense row-major data of the given shape; data NULL (and dtype 0 unless the file told it) while it has
 * no storage. */
typedef struct tenon_parameter {
    size_t size;
    const char *name;
    tenon_dtype dtype;
    int ndim;
    const int64_t *shape; /* [ndim] */
    const void *data;
    const char *source; /* the name of the tensor that it was read from; NULL: it was not read from a file */
} tenon_parameter;

TENON_API void tenon_parameter_init(tenon_parameter *parameter);

/* Parameters in declaration order: the order of initialisation and of the file. */
TENON_API int64_t tenon_adapter_num_parameters(const tenon_adapter *adapter);
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_parameter(const tenon_adapter *adapter, int64_t index,
                                                                tenon_parameter *parameter, tenon_error *error);
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_find_parameter(const tenon_adapter *adapter, const char *name,
                                                                     int64_t *index, tenon_error *error);

/* Draws every parameter as PyTorch's nn.Linear does after torch.manual_seed(seed), bit for bit; the adapter owns the
 * storage, of this dtype. Unpublishes what tenon_adapter_prepare made. */
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_reset_parameters(tenon_adapter *adapter, tenon_dtype dtype,
                                                                       uint64_t seed, tenon_error *error);

/* Uses the caller's tensor (dense, row-major, on the CPU) as this parameter. The data is borrowed until the parameter
 * is replaced or released or the adapter freed; the DLTensor itself is not. Unpublishes what tenon_adapter_prepare
 * made; a change of the data in place does not, and needs tenon_adapter_prepare again. */
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_set_parameter(tenon_adapter *adapter, const char *name,
                                                                    const DLTensor *tensor, tenon_error *error);

/* Drops the parameters, owned and borrowed; what tenon_adapter_prepare made stays in use. Halves the memory of a
 * program that only runs. */
TENON_API void tenon_adapter_release_parameters(tenon_adapter *adapter);

/* ---- 6. adapter files ------------------------------------------------------------------------------------------- */

/* A tensor's name, or the first parts of names, and what stands in its place: {"mm.linear_1", "proj1"} makes
 * "proj1.weight" of "mm.linear_1.weight". */
typedef struct tenon_rename {
    const char *from;
    const char *to; /* "": the parts are dropped */
} tenon_rename;

/* How to find an adapter's tensors in a file, and what was found. */
typedef struct tenon_load_options {
    size_t size;
    const char *prefix;      /* "model.adapter.": tensors are named prefix + parameter; NULL: match on suffix */
    const char *config_json; /* tenon_adapter_open: for files without a config of their own. in_dim, out_dim and
                                hidden_dim are the tensors' where it does not tell them; NULL: the file's config */
    bool describe_only;      /* tenon_adapter_open: names, shapes and dtypes, no data */
    const tenon_allocator *allocator; /* tenon_adapter_open */
    char used_prefix[256];            /* out: the prefix that was used */
    int64_t num_used;                 /* out: tensors of the file that the adapter took */
    int64_t num_unused;               /* out: the file's other tensors */
    const tenon_rename *rename; /* [num_rename], applied before names are matched, to each the longest; borrowed */
    int64_t num_rename;
    const char *family; /* tenon_adapter_open: the family of the model, see tenon_list_families; NULL: as its
                           config.json says */
    const char
        *activation; /* tenon_adapter_open: instead of the one that the file or the config asks for; NULL: that */
} tenon_load_options;

TENON_API void tenon_load_options_init(tenon_load_options *options);

/* Reads every parameter from a safetensors file, an index of shards (model.safetensors.index.json) or a folder that
 * holds one; dtypes are the file's. Names may have any one prefix, and in between what DDP, torch.compile, FSDP and
 * activation checkpointing put there ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.").
 * All or nothing: on failure the parameters are what they were, and the message names the missing, misshapen and
 * unexpected tensors and the prefixes seen. `options` may be NULL. TENON_NOT_FOUND: a rename that no tensor has use
 * for. */
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_load(tenon_adapter *adapter, const char *path,
                                                           tenon_load_options *options, tenon_error *error);

/* Builds the adapter that the file, or options->config_json, describes and loads it: one of tenon's own files, or a
 * public model in Hugging Face's format (a folder with config.json, or a file or index beside one) or llama.cpp's (an
 * mmproj file in GGUF), of which the connector's tensors alone are read. options->config_json may be such a model's
 * config too. The caller owns *adapter on success. `options` may be NULL. TENON_NOT_FOUND: nothing describes it, or a
 * model of no known family. TENON_MISMATCH: tensors are missing or misshapen, or config and tensors contradict each
 * other. */
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_open(const char *path, tenon_load_options *options,
                                                           tenon_adapter **adapter, tenon_error *error);

/* Families of public models whose folders or mmproj files tenon_adapter_open takes. Copies up to `capacity` names into
 * `names` and returns how many there are; the strings are static. */
TENON_API size_t tenon_list_families(const char **names, size_t capacity);

/* The connector type of a family, and the `index`th of the model_type values of config.json (of a GGUF file: of its
 * clip.projector_type) that it stands for; NULL:
 * there is no such family, or no such number. Static strings. */
TENON_API const char *tenon_family_connector(const char *family);
TENON_API const char *tenon_family_model_type(const char *family, size_t index);

/* A module of a family's class in transformers that computes a part of the connector. */
typedef struct tenon_family_module {
    size_t size;
    const char *path;      /* the end of its path in the model; "{i}" stands for each number */
    const char *arguments; /* of its forward: "image_features, image_sizes" */
    const char *first; /* the layer that it begins with, by the name of its parameters: "layer_norm"; "": the first */
    const char *last;  /* and the one that it ends with, the activation behind it included; "": the last */
} tenon_family_module;

TENON_API void tenon_family_module_init(tenon_family_module *module);

/* The `index`th module of a family. TENON_NOT_FOUND: there is no such family, or no such number. */
TENON_API TENON_MUST_CHECK tenon_status tenon_family_get_module(const char *family, size_t index,
                                                                tenon_family_module *module, tenon_error *error);

/* The activation that models of the family were trained with, where the family's files ask for another one, as
 * llama.cpp computes the tanh form of GELU where a model was trained with the exact one; NULL: they agree. */
TENON_API const char *tenon_family_trained_activation(const char *family);

/* The family of the public model that the adapter was opened from, a static string; NULL: it was not opened from one.
 */
TENON_API const char *tenon_adapter_family(const tenon_adapter *adapter);

/* What the encoder of that model must deliver: a line "input: sentence" for each input. NULL: as above. */
TENON_API const char *tenon_adapter_feeding(const tenon_adapter *adapter);

/* The same for tensors [count] that no file of section 9 holds, such as those of a PyTorch checkpoint: builds the
 * adapter that options->config_json describes, without parameters, and tells which tensor each of these is:
 * indices[i], of `capacity` numbers, for parameter i. A tensor's `dtype` is what the caller can deliver, `stored` what
 * messages call it; `source` is what they call the whole. TENON_MISMATCH: as tenon_adapter_load. */
typedef struct tenon_file_tensor tenon_file_tensor;
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_match(const char *source, const tenon_file_tensor *const *tensors,
                                                            int64_t count, tenon_load_options *options,
                                                            tenon_adapter **adapter, int64_t *indices, int64_t capacity,
                                                            tenon_error *error);

/* TENON_INVALID, with the tensor, the place of the first and how many there are, when numbers among the parameters are
 * infinite or NaN. TENON_NOT_PREPARED: a parameter has no storage. */
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_check_finite(const tenon_adapter *adapter, tenon_error *error);

typedef struct tenon_save_options {
    size_t size;
    const char *prefix; /* "model.adapter.": in front of the tensors' names, as it is; NULL: nothing. With a prefix the
                           metadata says {"format": "pt"} too, which transformers wants */
    bool allow_nonfinite; /* write infinite numbers and NaN */
} tenon_save_options;

TENON_API void tenon_save_options_init(tenon_save_options *options);

/* Writes a self-describing safetensors file: parameters, config, widths. The file is written atomically: after a
 * failure the old one is still there. `options` may be NULL. TENON_INVALID: parameters are infinite or NaN.
 * TENON_UNSUPPORTED: the name is that of another format. */
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_save(const tenon_adapter *adapter, const char *path,
                                                           const tenon_save_options *options, tenon_error *error);

/* How tenon_adapter_graft writes, and what it did. */
typedef struct tenon_graft_options {
    size_t size;
    const char *type;     /* stored type of the matrices ("F32", "F16", "BF16", "Q8_0"); NULL: that of the base where
                             tenon writes it, else F16. Vectors keep theirs, or become F32 */
    bool allow_nonfinite; /* write infinite numbers and NaN */
    int64_t num_tensors;  /* out: tensors that were replaced */
    int64_t num_retyped;  /* out: of them, those that are of another type than in the base */
    int64_t num_rounded;  /* out: of them, those in which a number is not what it was */
    double largest_error; /* out: how far one was moved at most */
    char largest_tensor[256]; /* out: in which tensor of the base; "": in none */
    char activation[64];      /* out: the activation that the base asks for where the adapter has another one; "" */
} tenon_graft_options;

TENON_API void tenon_graft_options_init(tenon_graft_options *options);

/* Writes the file `base`, an mmproj file in GGUF, to `path` with the adapter's parameters in place of its connector's.
 * Where no type changes, the bytes outside these tensors stay the same; else their offsets in the header change and
 * all other tensors' data stays the same. Atomic; `path` may be `base`. `options` may be NULL. TENON_MISMATCH: the base
 * holds another connector, or one of other widths. TENON_UNSUPPORTED: it is no GGUF file. */
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_graft(const tenon_adapter *adapter, const char *base,
                                                            const char *path, tenon_graft_options *options,
                                                            tenon_error *error);

/* ---- 7. prepare and run ----------------------------------------------------------------------------------------- */

/* Threads of a host. `run` calls job(argument, i) once for each i in [0, count), on any threads, in any order, and
 * returns when all have returned. Jobs never wait for each other, so running them one after another is allowed. */
struct tenon_executor {
    size_t size;
    int width; /* how many jobs can run at once, at least 1 */
    void (*run)(void *context, int count, void (*job)(void *argument, int index), void *argument);
    void *context;
};

/* No run function yet, width 1. */
TENON_API void tenon_executor_init(tenon_executor *executor);

/* Threads of a call that says neither how many (0) nor where: as many as OMP_NUM_THREADS says, else one for each core
 * that this process may use. That is the least of its affinity, of what omp_set_num_threads said, and on Linux of the
 * CPU quota of its control groups (versions 1 and 2, those around them included), rounded up and at least 1. Affinity,
 * quota and the variable are read once. 1 in a build without OpenMP and in a forked child. TENON_INVALID:
 * OMP_NUM_THREADS is not a number from 1 to 4096. */
TENON_API TENON_MUST_CHECK tenon_status tenon_num_threads(int *threads, tenon_error *error);

typedef struct tenon_prepare_options {
    size_t size;
    const char *cpu; /* the highest CPU level to use, from tenon_cpu_levels(); NULL: TENON_CPU of the environment, else
                        the best this machine has */
    int threads;     /* 0: as many as tenon_num_threads says */
    const tenon_executor *executor; /* NULL: OpenMP */
    bool train; /* pack for forward and backward: no folding, weights also in the order in which backward reads them */
} tenon_prepare_options;

TENON_API void tenon_prepare_options_init(tenon_prepare_options *options);

/* CPU levels that this build has and this machine can run, lowest first, comma-separated: "baseline,avx2,avx512" or
 * "baseline,neon". */
TENON_API const char *tenon_cpu_levels(void);

/* What tenon_adapter_prepare makes of a level's name (NULL: TENON_CPU, else the best): *level (may be NULL) is that
 * level, or the best one below it that this machine can run. TENON_INVALID: this build has no level of that name. */
TENON_API TENON_MUST_CHECK tenon_status tenon_find_cpu_level(const char *name, const char **level, tenon_error *error);

/* The level that the adapter is prepared for; NULL when it is not prepared. */
TENON_API const char *tenon_adapter_cpu(const tenon_adapter *adapter);

/* Packs the parameters for the forward pass and publishes the pack at once for all threads; forwards that are running
 * keep the one they started with. The pack holds its own copy. `options` may be NULL. TENON_NOT_PREPARED: a parameter
 * has no storage.
 *
 * With `train`, preparing again after the parameters changed in place writes over the old pack unless a call is running
 * on it; a call that another thread starts meanwhile waits. */
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_prepare(tenon_adapter *adapter,
                                                              const tenon_prepare_options *options, tenon_error *error);

/* Memory for one call: at least the size that tenon_adapter_workspace_size tells, any alignment. */
typedef struct tenon_workspace {
    void *data;
    size_t size;
} tenon_workspace;

/* Bytes of workspace that forwards of any batch of images with num_input_tokens tokens each need under this call
 * (NULL: the defaults). It does not depend on the batch. Before tenon_adapter_prepare: for the CPU level it would
 * choose unasked. */
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_workspace_size(const tenon_adapter *adapter,
                                                                     int64_t num_input_tokens, const tenon_call *call,
                                                                     size_t *bytes, tenon_error *error);

/* Runs the connector: x (batch, tokens, in_dim) of f32, bf16 or f16 with any strides; y (batch, out_tokens, out_dim) of
 * any of these, its last axis contiguous. Features of two axes, (tokens, in_dim), are one image; then y, the attention
 * and in a backward dy and the gradient of x come without the axis of the batch too, and a patch_mask may. What is
 * written (y, attention, workspace) may not overlap what is read. `call` may be NULL. With a workspace nothing is
 * allocated; with NULL the adapter's allocator serves the call. Any number of threads may run one adapter at once. */
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_forward(const tenon_adapter *adapter, const DLTensor *x,
                                                              DLTensor *y, const tenon_call *call,
                                                              const tenon_workspace *workspace, tenon_error *error);

/* ---- 8. description --------------------------------------------------------------------------------------------- */

typedef struct tenon_layer_info {
    size_t size;
    const char *type;  /* "linear", "activation", "window_mean", ... */
    const char *name;  /* the parameters' prefix, or the activation's name; "" when there is none */
    const char *reach; /* what one output row reads: "row", "window", "image" */
    int64_t in_dim;
    int64_t out_dim;
    int64_t first_parameter; /* index of its first parameter, and how many there are */
    int64_t num_parameters;
    const int *inputs; /* [num_inputs] the values it reads */
    int num_inputs;
    int output; /* the value it makes */
} tenon_layer_info;

TENON_API void tenon_layer_info_init(tenon_layer_info *info);
TENON_API int64_t tenon_adapter_num_layers(const tenon_adapter *adapter);
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_layer(const tenon_adapter *adapter, int64_t index,
                                                            tenon_layer_info *info, tenon_error *error);

/* Writes the whole graph as one line of JSON into `json` (capacity bytes, NUL included) and its length into *length;
 * json may be NULL to ask for the length. TENON_INVALID: capacity too small.
 *
 *     {"type": "avgpool", "in_dim": 1152, "out_dim": 4096, "prefix_tokens": 0,
 *      "inputs": [{"name": "features", "value": 0}],                   the features first, then further ones
 *      "integers": [{"name": "map", "columns": 0}],                    integer tensors that a call brings; 0: any
 *      "outputs": [{"name": "tokens", "value": 2}],                    the tokens first
 *      "spaces": [{"kind": "input", "order": "raster"},                or "blocks"
 *                 {"kind": "windows", "parent": 0, "side": 2, "ragged": "partial", "is_pool": true,
 *                  "transposed": false}],
 *      "values": [{"space": 0, "width": 1152, "input": "features"}, {"space": 1, "width": 1152, "layer": 0}, ...],
 *      "layers": [{"type": "window_mean", "name": "", "reach": "window", "inputs": [0], "output": 1, "settings": {},
 *                  "parameters": []}, ...],
 *      "parameters": [{"name": "proj.weight", "shape": [4096, 1152],
 *                      "initial": {"rule": "kaiming_uniform", "fan_in": 1152}, "decays": true}, ...]}
 *
 * Values, layers and spaces are numbered from 0 and refer to each other by number; what is read was made before. A
 * space is what the rows of a value are. Other kinds: "shared" ("rows" made of parameters alone), "map" ("parent",
 * "integers": a row for each row of this tensor), "layer" ("parent", "layer": the rows that this layer makes).
 * `is_pool`: a call's pool_window replaces the side; `transposed`: windows follow each other column by column. A value
 * is an input or the result of a layer; the layer "parameter" reads no value. Initial rules: "kaiming_uniform" (a =
 * sqrt(5)) and "uniform" (within 1 / sqrt(fan_in)) as torch.nn.Linear draws weight and bias, "constant" ("value") and
 * "normal" ("std"). "decays": weight decay applies by default. */
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_graph_json(const tenon_adapter *adapter, char *json,
                                                                 size_t capacity, size_t *length, tenon_error *error);

/* Floating-point operations that an image of num_input_tokens tokens costs (a multiply-add is two), after folding. */
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_flops(const tenon_adapter *adapter, int64_t num_input_tokens,
                                                            const tenon_call *call, double *flops, tenon_error *error);

/* ---- 9. tensor files -------------------------------------------------------------------------------------------- */

/* A file of tensors open for reading: safetensors, an index of safetensors shards, npy, GGUF (versions 2 and 3,
 * little-endian, not split). The kind is told by the content, never by the name. Of a folder it is
 * model.safetensors.index.json, or its only index, or model.safetensors, or its only .safetensors file; of a repository
 * in a Hugging Face cache (blobs, refs, snapshots) the snapshot that refs/main names, or the only one. Several
 * candidates are an error, and so are an index and a model.safetensors that it does not name, which are two models.
 *
 * An index names its shards inside its own folder, "sub/x.safetensors" included (of an index that is a symbolic link,
 * next in the folder of the file that it leads to); links that lead out of it are refused, save those of a Hugging Face
 * cache from snapshots/ to blobs/. The index decides: tensors and files that it does not name are ignored. A shard that
 * was not downloaded is an error only when one of its tensors is asked for. A safetensors header takes at most 100 MB,
 * an npy header at most 1 MiB, a tensor at most 64 dimensions. */
typedef struct tenon_file tenon_file;

typedef struct tenon_file_options {
    size_t size;
    bool npy_bfloat16; /* read an npy array of uint16, or of ml_dtypes' two bytes of void, as bfloat16 */
    bool keep_f64;     /* deliver stored f64 as f64, instead of narrowing it to f32 */
} tenon_file_options;

TENON_API void tenon_file_options_init(tenon_file_options *options);

/* What a file is, told by its content, never by its name: "safetensors", "safetensors index", "npy" or "GGUF", which
 * tenon_file_open reads; what it refuses with a sentence of its own, such as "empty file", "Git LFS pointer",
 * "HTML page", "XML document", "JSON error", "JSON document", "text", "UTF-16 text", "PyTorch checkpoint (zip)",
 * "PyTorch checkpoint (pickle)", "npz", "zip archive", "tar archive", "gzip file", "pickle", "HDF5";
 * "unknown" for the rest. *kind is a static string. The file's first bytes are looked at, its headers are not checked:
 * a file that is told to be safetensors can be a broken one. TENON_INVALID: the path is no regular file. */
TENON_API TENON_MUST_CHECK tenon_status tenon_file_identify(const char *path, const char **kind, tenon_error *error);

/* An index of shards of any format, for programs that read the shards themselves: pytorch_model.bin.index.json has the
 * form of a safetensors one. The names of shards are checked as tenon_file_open checks them; tenon_file_beside finds
 * them. No shard is opened. */
typedef struct tenon_index tenon_index;
TENON_API TENON_MUST_CHECK tenon_status tenon_index_open(const char *path, tenon_index **index, tenon_error *error);
TENON_API void tenon_index_close(tenon_index *index);
TENON_API int64_t tenon_index_num_tensors(const tenon_index *index);

/* A tensor's name and its shard's, in the order of the file. */
TENON_API TENON_MUST_CHECK tenon_status tenon_index_tensor(const tenon_index *index, int64_t number, const char **name,
                                                           const char **shard, tenon_error *error);

/* The path of a file that the file `path` mentions by name, as an index mentions its shards, into `found` of `capacity`
 * bytes, NUL included. TENON_BAD_FILE: the name is no plain relative one ("sub/x.bin" is), or leads out of the folder
 * of `path` by a link, save from snapshots/ to blobs/ of a Hugging Face cache. TENON_NOT_FOUND: there is no such file.
 */
TENON_API TENON_MUST_CHECK tenon_status tenon_file_beside(const char *path, const char *name, char *found,
                                                          size_t capacity, tenon_error *error);

/* A tensor of the file. `dtype` is what tenon_file_read delivers: f32 for stored f64 (narrowed unless the file
 * was opened with keep_f64), 8-bit floats and the quantised blocks of GGUF (widened), the stored dtype in the machine's
 * byte order otherwise; kDLOpaqueHandle for what it does not read. The strings and the shape live as long as the file.
 */
struct tenon_file_tensor {
    size_t size;
    const char *name;   /* "" for npy */
    const char *stored; /* as the file spells it: "BF16", "<f4", "Q4_K" */
    DLDataType dtype;
    int ndim;
    const int64_t *shape;
    const char *absent_shard; /* the shard that holds it, where an index names one that was not downloaded; then only
                                 the name is known: ndim is 0, `stored` "". NULL: the tensor is there */
    const char *path;         /* the file that holds it: the shard of an index. NULL where that is absent */
};

TENON_API void tenon_file_tensor_init(tenon_file_tensor *tensor);

/* Opens and checks the headers; reads no data. The caller owns *file. `options` may be NULL. */
TENON_API TENON_MUST_CHECK tenon_status tenon_file_open(const char *path, const tenon_file_options *options,
                                                        tenon_file **file, tenon_error *error);

/* Opens the one safetensors, npy or GGUF file that a descriptor delivers: a pipe, a socket, standard input. It is read
 * to its end now and copied to a file without a name in $TMPDIR (/tmp by default), which must have room for it and goes
 * with the tenon_file; a regular file that is at its beginning is read in place instead. `name` stands for the path in
 * messages. The descriptor stays the caller's. TENON_INVALID: a terminal, a folder, an index of shards. */
TENON_API TENON_MUST_CHECK tenon_status tenon_file_open_stream(int descriptor, const char *name,
                                                               const tenon_file_options *options, tenon_file **file,
                                                               tenon_error *error);

TENON_API void tenon_file_close(tenon_file *file);

/* "safetensors", "safetensors index", "npy" or "GGUF". */
TENON_API const char *tenon_file_kind(const tenon_file *file);

TENON_API int64_t tenon_file_num_tensors(const tenon_file *file);
TENON_API TENON_MUST_CHECK tenon_status tenon_file_get_tensor(const tenon_file *file, int64_t index,
                                                              tenon_file_tensor *tensor, tenon_error *error);

/* TENON_NOT_FOUND: no tensor has the name, or its shard was not downloaded. */
TENON_API TENON_MUST_CHECK tenon_status tenon_file_find_tensor(const tenon_file *file, const char *name, int64_t *index,
                                                               tenon_error *error);

/* The value of a metadata key of a safetensors file, an index or a GGUF file; NULL when there is none. GGUF's numbers,
 * bools and short arrays of them are as JSON writes them ("1e-05", "true", "[1, 2]"); of an array that is longer or
 * holds strings, and of a string of more than 1 MiB, only what it is: "[32000 strings]". */
TENON_API const char *tenon_file_metadata(const tenon_file *file, const char *key);

/* The key of that number, from 0 on, in the order of the file; NULL past the last one. */
TENON_API const char *tenon_file_metadata_key(const tenon_file *file, int64_t number);

/* Reads `count` slices along the first axis, from `first` on, as dense row-major elements of the tensor's `dtype` into
 * `data`, which holds `capacity` bytes. A scalar is one slice. Any number of threads may read one file at once.
 * TENON_BAD_FILE: the file changed or shrank since it was opened. After a failure `data` may be partly filled. */
TENON_API TENON_MUST_CHECK tenon_status tenon_file_read(const tenon_file *file, int64_t index, int64_t first,
                                                        int64_t count, void *data, size_t capacity, tenon_error *error);

/* A file of tensors being written: .npy, .safetensors or .gguf (version 3), told by the name's suffix. It appears under
 * its name only when committed; until then, and after a failure, what was there stays. */
typedef struct tenon_writer tenon_writer;

/* Opens a hidden file beside the target; under its name nothing is written yet. TENON_INVALID: another suffix, or the
 * target is no regular file. */
TENON_API TENON_MUST_CHECK tenon_status tenon_writer_new(const char *path, tenon_writer **writer, tenon_error *error);

/* Writes to a descriptor (a pipe, standard output) instead, as "npy" or "safetensors"; `name` stands for the path in
 * messages. Nothing is held back: bytes are gone when tenon_writer_write returns, a failure leaves the stream cut
 * short, and tensors are filled in the file's order (larger elements first, then as declared). The descriptor stays the
 * caller's. A reader that went away raises SIGPIPE, unless the program ignores it; then it is TENON_IO. */
TENON_API TENON_MUST_CHECK tenon_status tenon_writer_new_stream(int descriptor, const char *name, const char *format,
                                                                tenon_writer **writer, tenon_error *error);

/* Declares a tensor, before the first write; *index (may be NULL) numbers it. f32, f16, integers and bool; bf16 in
 * safetensors and GGUF, and in npy as uint16. An npy file has exactly one; its name is ignored. GGUF has no unsigned
 * integers and no bool, 1 to 4 dimensions (a scalar becomes a vector of 1), and names of at most 63 bytes. */
TENON_API TENON_MUST_CHECK tenon_status tenon_writer_add(tenon_writer *writer, const char *name, DLDataType dtype,
                                                         int ndim, const int64_t *shape, int64_t *index,
                                                         tenon_error *error);

/* The same with the stored type's name: those of tenon_writer_add as safetensors spells them ("F32", "BF16", "I64"), or
 * "Q8_0" of GGUF, whose elements are given as f32, in each write a multiple of 32. */
TENON_API TENON_MUST_CHECK tenon_status tenon_writer_add_as(tenon_writer *writer, const char *name, const char *stored,
                                                            int ndim, const int64_t *shape, int64_t *index,
                                                            tenon_error *error);

/* Adds a metadata string to a safetensors or GGUF file, before the first write. TENON_UNSUPPORTED for npy. */
TENON_API TENON_MUST_CHECK tenon_status tenon_writer_set_metadata(tenon_writer *writer, const char *key,
                                                                  const char *value, tenon_error *error);

/* Asks, before the first write, that elements go to the disk past the file cache of the system: for large files that
 * are not read again soon. The data then begins at a multiple of 4096 bytes. What lies at such multiples both in the
 * file and in memory is not copied on its way; the rest, or all where the file system cannot, is written as ever. */
TENON_API TENON_MUST_CHECK tenon_status tenon_writer_set_direct(tenon_writer *writer, tenon_error *error);

/* Appends `bytes` bytes of dense elements to a tensor; the tensors may be filled in any order. */
TENON_API TENON_MUST_CHECK tenon_status tenon_writer_write(tenon_writer *writer, int64_t index, const void *data,
                                                           size_t bytes, tenon_error *error);

/* Checks that every tensor is complete, syncs and renames. The writer must still be freed. */
TENON_API TENON_MUST_CHECK tenon_status tenon_writer_commit(tenon_writer *writer, tenon_error *error);

/* Frees the writer; an uncommitted file disappears. NULL is allowed. */
TENON_API void tenon_writer_free(tenon_writer *writer);

/* Any file that is to appear whole or not at all, written as tenon_writer writes its own: in a hidden file beside the
 * target, whose mode is kept; a new file follows the umask, a symbolic link is written through. */
typedef struct tenon_atomic_file tenon_atomic_file;

/* Opens the hidden file. TENON_INVALID: the target exists and is no regular file. The caller owns *file. */
TENON_API TENON_MUST_CHECK tenon_status tenon_atomic_file_new(const char *path, tenon_atomic_file **file,
                                                              tenon_error *error);

/* Appends `bytes` bytes. */
TENON_API TENON_MUST_CHECK tenon_status tenon_atomic_file_write(tenon_atomic_file *file, const void *data, size_t bytes,
                                                                tenon_error *error);

/* Syncs and renames. The object must still be freed. */
TENON_API TENON_MUST_CHECK tenon_status tenon_atomic_file_commit(tenon_atomic_file *file, tenon_error *error);

/* Frees; an uncommitted file disappears. NULL is allowed. */
TENON_API void tenon_atomic_file_free(tenon_atomic_file *file);

/* ---- 10. training ----------------------------------------------------------------------------------------------- */

/* Where tenon_adapter_backward writes. */
typedef struct tenon_gradients {
    size_t size;
    DLTensor *x; /* (batch, tokens, in_dim) of f32, bf16 or f16, its last axis contiguous: overwritten, with zeros for
                    prefix tokens and those that are masked or dropped; NULL: not wanted */
    const DLTensor *const *parameters; /* [num_parameters] in declaration order, f32, dense, of the parameter's shape:
                                          added to. A NULL entry: that parameter is frozen and costs nothing. The array
                                          NULL: all are frozen */
    bool overwrite; /* overwrite the parameters' gradients instead, whatever they hold: cheaper than clearing them */
    const tenon_named_tensor *inputs; /* [num_inputs] gradients of further inputs, overwritten as x is */
    int64_t num_inputs;
    const tenon_named_tensor
        *outputs; /* [num_outputs] in: gradients of further outputs; one that is not there is zero */
    int64_t num_outputs;
} tenon_gradients;

/* Nothing wanted. */
TENON_API void tenon_gradients_init(tenon_gradients *gradients);

/* The gradients of sum(y * dy), y being what tenon_adapter_forward makes of x under this call: of every parameter that
 * is not frozen, and of x. dy (batch, out_tokens, out_dim) and x are of f32, bf16 or f16 with any strides; sums are
 * f32. A parameter's gradient sums tokens in their order, so that its bits depend on the batch and the CPU level, never
 * on threads; that of a patch depends on the tokens that read it alone. Tokens without patches have no gradient.
 *
 * `call` is the forward's, or NULL; its attention is not written. With call->saved, which a forward of the same x and
 * call has filled, nothing is recomputed; without, the values between layers are made anew, a block of tokens at a
 * time, and memory does not grow with the batch. Both give the same bits. What is written (x's gradient, the
 * parameters', the workspace) may not overlap anything else. Any number of threads may run one adapter at once, on
 * gradients of their own. TENON_NOT_PREPARED: not prepared with `train`. */
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_backward(const tenon_adapter *adapter, const DLTensor *dy,
                                                               const DLTensor *x, const tenon_gradients *gradients,
                                                               const tenon_call *call, const tenon_workspace *workspace,
                                                               tenon_error *error);

/* Bytes of workspace that a backward of any batch of images with num_input_tokens tokens each needs under this call;
 * `gradients` (NULL: all are wanted) says what is wanted: of its tensors only whether they are NULL counts. Before
 * tenon_adapter_prepare: as tenon_adapter_workspace_size. */
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_backward_workspace_size(const tenon_adapter *adapter,
                                                                              int64_t num_input_tokens,
                                                                              const tenon_gradients *gradients,
                                                                              const tenon_call *call, size_t *bytes,
                                                                              tenon_error *error);

/* Bytes of call->saved for a batch of images with num_input_tokens tokens each: about what is between the layers, in
 * f32. Before tenon_adapter_prepare: as tenon_adapter_workspace_size. */
TENON_API TENON_MUST_CHECK tenon_status tenon_adapter_saved_size(const tenon_adapter *adapter, int64_t batch,
                                                                 int64_t num_input_tokens, const tenon_call *call,
                                                                 size_t *bytes, tenon_error *error);

/* True when `name` matches `pattern`: '*' stands for any run of characters, '?' for one: "proj1.*". */
TENON_API bool tenon_name_matches(const char *pattern, const char *name);

/* How far tokens are from their targets; a token's loss, averaged over tokens and images. With d = token - target, over
 * the token's numbers: the mean of d^2; 1 - the cosine of the angle between the two; the mean of d^2 / 2 where |d| < 1,
 * |d| - 1/2 elsewhere. A token or target of length 0 has no angle: its cosine loss is 1, without a gradient. */
typedef enum tenon_loss { TENON_LOSS_MSE = 1, TENON_LOSS_COSINE = 2, TENON_LOSS_SMOOTH_L1 = 3 } tenon_loss;

/* "mse", "cosine", "smooth_l1"; NULL for any other number. */
TENON_API const char *tenon_loss_name(tenon_loss loss);

/* Reads one of these names. TENON_INVALID for anything else, with the options. */
TENON_API TENON_MUST_CHECK tenon_status tenon_loss_from_name(const char *name, tenon_loss *loss, tenon_error *error);

/* Fits an adapter: gradients are summed up over calls of tenon_trainer_step, then tenon_trainer_apply clips their mean
 * over the images and takes a step of AdamW at the rate that the schedule has reached. Without the checks:
 *
 *     while (tenon_trainer_steps(trainer) < steps) {
 *         tenon_trainer_step(trainer, &features, &targets, NULL, NULL, &error);
 *         tenon_trainer_apply(trainer, &info, &error);
 *     }
 *
 * The parameters change in place. Same data, options, level and number of processes: the same bits, for any number of
 * threads. A trainer is used by one thread at a time. */
typedef struct tenon_trainer tenon_trainer;

/* The comments begin with the defaults. */
typedef struct tenon_trainer_options {
    size_t size;
    tenon_loss loss;           /* mse */
    double lr;                 /* 1e-3: peak learning rate */
    double min_lr;             /* 0: learning rate at the end of the cosine decay */
    int64_t warmup;            /* 0: steps of linear warmup */
    int64_t steps;             /* 0: constant rate; else the step at which the cosine decay from lr to min_lr ends */
    double beta1, beta2;       /* 0.9, 0.999 */
    double eps;                /* 1e-8; above 0, also in f32 */
    double weight_decay;       /* 0.01, not applied to biases and to the weights of norms */
    bool decay_biases;         /* false: true applies weight decay to these too */
    double clip;               /* 1: clip the global gradient norm; 0 disables */
    bool no_master;            /* false: bf16 and f16 parameters have f32 master copies that accumulate the updates */
    bool save_activations;     /* false: backward recomputes the activations; true: forward saves them for backward */
    const char *const *freeze; /* [num_freeze] patterns, as tenon_name_matches takes them; borrowed for the call */
    int64_t num_freeze;
    /* Adds up `data` over the processes of a run, in place, to the same bits in each; 0: done. NULL: one process. */
    int (*sum)(void *context, float *data, size_t count);
    void *sum_context;
    const char *cpu; /* as in tenon_prepare_options, copied */
    int threads;
    const tenon_executor *executor; /* must outlive the trainer */
} tenon_trainer_options;

TENON_API void tenon_trainer_options_init(tenon_trainer_options *options);

/* TENON_INVALID: an option is out of its range; which tenon_trainer_new says too, but needs an adapter for. Patterns
 * and the CPU level are not looked at. */
TENON_API TENON_MUST_CHECK tenon_status tenon_trainer_options_check(const tenon_trainer_options *options,
                                                                    tenon_error *error);

/* A trainer of the adapter's parameters, which must have storage: that storage, a borrowed one too, is written to. The
 * adapter must outlive the trainer and be changed by nothing else. Memory, from the adapter's allocator: four f32
 * numbers for each trained parameter where there is a master copy, else three; and that of the largest batch so far,
 * its tokens in f32, a workspace, and with `save_activations` what tenon_adapter_saved_size says. `options` may be
 * NULL. TENON_NOT_FOUND: a pattern that no name matches. TENON_INVALID: an option out of its range, or nothing is left
 * to train. */
TENON_API TENON_MUST_CHECK tenon_status tenon_trainer_new(tenon_adapter *adapter, const tenon_trainer_options *options,
                                                          tenon_trainer **trainer, tenon_error *error);

/* NULL is allowed. The adapter keeps the trained parameters; prepare it again before a forward. */
TENON_API void tenon_trainer_free(tenon_trainer *trainer);

/* Forward, loss and backward of x (batch, tokens, in_dim) against target (batch, out_tokens, out_dim), both of any
 * storage dtype and strides, both without the axis of the batch for one image; adds to the gradients. `losses` [batch]
 * gets each image's; it and `call` may be NULL. An infinite or NaN loss is no error: it shows in `losses`, backward is
 * left out, and tenon_trainer_apply will not apply.
 */
TENON_API TENON_MUST_CHECK tenon_status tenon_trainer_step(tenon_trainer *trainer, const DLTensor *x,
                                                           const DLTensor *target, const tenon_call *call,
                                                           double *losses, tenon_error *error);

/* The losses alone. */
TENON_API TENON_MUST_CHECK tenon_status tenon_trainer_evaluate(tenon_trainer *trainer, const DLTensor *x,
                                                               const DLTensor *target, const tenon_call *call,
                                                               double *losses, tenon_error *error);

/* What tenon_trainer_apply did. */
typedef struct tenon_step_info {
    size_t size;
    int64_t step;         /* steps taken, this one included */
    int64_t images;       /* of all processes */
    double loss;          /* the mean over them */
    double gradient_norm; /* of the mean gradient, before clipping */
    double lr;
    bool applied; /* false: loss or gradient is infinite or NaN, or there was no image; the parameters are untouched */
} tenon_step_info;

TENON_API void tenon_step_info_init(tenon_step_info *info);

/* Takes a step with the gradients summed up so far, of all processes, and clears them. `info` may be NULL. TENON_IO:
 * `sum` failed; no step was taken, and the gradients are to be cleared. */
TENON_API TENON_MUST_CHECK tenon_status tenon_trainer_apply(tenon_trainer *trainer, tenon_step_info *info,
                                                            tenon_error *error);

/* Steps taken; with those of the run that tenon_trainer_restore brought back. */
TENON_API int64_t tenon_trainer_steps(const tenon_trainer *trainer);

/* The norm of this process's gradients as summed up so far, divided by the number of images: infinite or NaN when one
 * of them is. */
TENON_API double tenon_trainer_gradient_norm(const tenon_trainer *trainer);

/* Clears what was summed up. */
TENON_API void tenon_trainer_clear(tenon_trainer *trainer);

/* Writes parameters, moments, master copies and the number of steps to a safetensors file, which appears whole or not
 * at all. `note` (NULL: none) is a text for the caller, such as a position in the data; tenon_file_metadata finds it
 * under "tenon.note". TENON_INVALID: gradients are summed up that no step has used, or numbers to be written are
 * infinite or NaN; the old file stays. */
TENON_API TENON_MUST_CHECK tenon_status tenon_trainer_save(const tenon_trainer *trainer, const char *path,
                                                           const char *note, tenon_error *error);

/* Brings back what tenon_trainer_save wrote: training goes on bit for bit as if it had not stopped, where the options
 * are those of the run that was saved. With other `steps` the next steps have the rates of a run of that length.
 * TENON_MISMATCH: the file is of another connector, of other dtypes, or of a run that froze other parameters. A failure
 * changes nothing. */
TENON_API TENON_MUST_CHECK tenon_status tenon_trainer_restore(tenon_trainer *trainer, const char *path,
                                                              tenon_error *error);

#ifdef __cplusplus
}
#endif
#endif
