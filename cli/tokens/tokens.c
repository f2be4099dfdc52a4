/* SPDX-License-Identifier: MIT */
/* tenon tokens: how many tokens a connector makes of an image, and whether a clip of them fits a sequence. Nothing is
 * built; the count is the one that `run` writes. */
#include "commands.h"
#include "config_options.h"
#include "json.h"
#include "model.h"
#include "names.h"
#include "report.h"

#include <inttypes.h>
#include <stdio.h>

typedef struct settings {
    tn_config_settings config;
    tn_pair grid;
    tn_pair image;
    int64_t patch;
    int64_t frames;
    int64_t text;
    int64_t max_seq;
    bool json;
} settings;

static const tn_argument arguments[] = {
    {"N", true, NULL,
     "tokens per image of the vision encoder, prefix tokens included; optional with --grid or --image"},
    {.name = NULL}};

static const tn_option options[] = {
    TN_CONFIG_OPTION_TYPE(settings),
    TN_CONFIG_OPTION_WINDOW(settings),
    {"grid", 0, TN_PAIR, "HxW", NULL, 0, offsetof(settings, grid),
     "rows x columns of the patch grid; default a square grid",
     "--grid 32x128: 4096 patches by window 4 give 8x32 tokens"},
    {"image", 0, TN_PAIR, "HxW", NULL, 0, offsetof(settings, image),
     "height x width of the image in pixels; gives the grid together with --patch",
     "--image 336x336 --patch 14: the grid is 24x24"},
    {"patch", 0, TN_INT, "P", NULL, 1, offsetof(settings, patch),
     "patch size in pixels; an incomplete patch at the right or bottom edge of the image is dropped",
     "--image 384x384 --patch 14: the grid is 27x27"},
    TN_CONFIG_OPTION_PREFIX_TOKENS(settings),
    TN_CONFIG_OPTION_RAGGED(settings),
    TN_CONFIG_OPTION_OPTION(settings),
    {"frames", 0, TN_INT, "F", NULL, 1, offsetof(settings, frames),
     "number of frames in a clip, each an image; default 1", "--frames 16: 16 times the tokens"},
    {"text", 0, TN_INT, "T", NULL, 0, offsetof(settings, text), "number of text tokens in the sequence",
     "--text 512: the sequence is 512 longer"},
    {"max-seq", 0, TN_INT, "L", NULL, 1, offsetof(settings, max_seq),
     "maximum sequence length; the exit code is 1 when the sequence does not fit",
     "--max-seq 2048: 16 x 81 + 512 = 1808 fits"},
    TN_OPTION_JSON(settings),
    {.name = NULL}};

static const tn_example examples[] = {
    {"tenon tokens --type avgpool --window 3 729", "a 27x27 grid in windows of 3x3"},
    {"tenon tokens --type attentional_pool --window 2 --ragged partial --grid 27x27",
     "the same grid, ragged at the edge"},
    {"tenon tokens --type avgpool --window 3 729 --frames 16 --text 512 --max-seq 2048",
     "a clip of 16 frames and its text"},
    {.line = NULL}};

/* What one count is made of and comes to. */
typedef struct counts {
    int64_t tokens_in;
    int64_t prefix_tokens;
    int64_t per_image;
    int64_t visual;
    int64_t length;
} counts;

/* Fills the grid of an --image; -1, or the exit code after saying what is wrong. */
static int grid_of_image(const tn_command *command, settings *given)
{
    if (!given->image.height && given->patch == TENON_UNSET) return -1;
    if (!given->image.height || given->patch == TENON_UNSET)
        return tn_usage(command, "--image and --patch go together");
    if (given->grid.height) return tn_usage(command, "--grid and --image both give the grid: leave one out");
    given->grid = (tn_pair){given->image.height / given->patch, given->image.width / given->patch};
    if (given->grid.height && given->grid.width) return -1;
    return tn_usage(command, "a %" PRId64 "x%" PRId64 " image is smaller than a patch of %" PRId64, given->image.height,
                    given->image.width, given->patch);
}

/* Tokens in: N as given, or the grid's patches and the prefix tokens. */
static int tokens_in(const tn_command *command, const settings *given, const char *text, counts *out)
{
    if (text) {
        if (!tn_parse_int(text, &out->tokens_in)) return tn_usage(command, "N must be a whole number, got '%s'", text);
        if (out->tokens_in <= 0) return tn_usage(command, "N must be positive (got %" PRId64 ")", out->tokens_in);
        return -1;
    }
    if (!given->grid.height) return tn_usage(command, "tokens needs N, the tokens per image, or --grid");
    if (__builtin_mul_overflow(given->grid.height, given->grid.width, &out->tokens_in) ||
        __builtin_add_overflow(out->tokens_in, out->prefix_tokens, &out->tokens_in))
        return tn_usage(command, "the grid %" PRId64 "x%" PRId64 " has more patches than can be counted",
                        given->grid.height, given->grid.width);
    return -1;
}

static tenon_status count(const tenon_config *config, const settings *given, counts *out, tenon_error *error)
{
    tenon_call call;
    tenon_call_init(&call);
    tn_call_set_grid(&call, given->grid);
    int64_t text = given->text == TENON_UNSET ? 0 : given->text;
    tenon_status status = tenon_config_output_num_tokens(config, &call, out->tokens_in, &out->per_image, error);
    if (status == TENON_OK) status = tenon_sequence_length(given->frames, out->per_image, 0, &out->visual, error);
    if (status == TENON_OK) status = tenon_sequence_length(given->frames, out->per_image, text, &out->length, error);
    return status;
}

static void print_count(const tenon_config *config, const settings *given, const counts *made)
{
    const char *type = tenon_config_type(config);
    printf("%s", type);
    if (tenon_type_pools(type)) printf(", window %" PRId64, tn_config_int(config, "pool_window"));
    printf(": ");
    if (made->prefix_tokens) printf("%" PRId64 " tokens, %" PRId64 " prefix, ", made->tokens_in, made->prefix_tokens);
    if (given->grid.height) printf("grid %" PRId64 "x%" PRId64 ", ", given->grid.height, given->grid.width);
    printf("%" PRId64 " patches -> %" PRId64 "\n", made->tokens_in - made->prefix_tokens, made->per_image);
}

static void print_budget(const settings *given, const counts *made)
{
    bool has_text = given->text != TENON_UNSET;
    if (given->frames > 1)
        printf("clip: %" PRId64 " frames x %" PRId64 " -> %" PRId64 "\n", given->frames, made->per_image, made->visual);
    if (has_text)
        printf("sequence: %" PRId64 " visual + %" PRId64 " text -> %" PRId64 "\n", made->visual, given->text,
               made->length);
    if (given->max_seq == TENON_UNSET) return;
    if (made->length <= given->max_seq)
        printf("%" PRId64 " of %" PRId64 ": fits, %" PRId64 " left\n", made->length, given->max_seq,
               given->max_seq - made->length);
    else
        printf("%" PRId64 " of %" PRId64 ": does not fit, %" PRId64 " too many\n", made->length, given->max_seq,
               made->length - given->max_seq);
}

static int print_as_json(const tenon_config *config, const settings *given, const counts *made)
{
    json_t *object =
        json_pack("{s:o, s:I, s:I, s:I, s:I, s:I, s:I}", "config", tn_json_config(config), "tokens_in",
                  (json_int_t)made->tokens_in, "patches", (json_int_t)(made->tokens_in - made->prefix_tokens), "tokens",
                  (json_int_t)made->per_image, "frames", (json_int_t)given->frames, "visual", (json_int_t)made->visual,
                  "length", (json_int_t)made->length);
    if (object && given->grid.height)
        json_object_set_new(object, "grid", tn_json_pair(given->grid.height, given->grid.width));
    if (object && given->max_seq != TENON_UNSET) {
        json_object_set_new(object, "max_seq", json_integer(given->max_seq));
        json_object_set_new(object, "fits", json_boolean(made->length <= given->max_seq));
    }
    return tn_print_json(object);
}

static int count_and_print(const tn_command *command, const tenon_config *config, const settings *given,
                           const char *text)
{
    tenon_error error;
    counts made = {.prefix_tokens = tn_config_int(config, "prefix_tokens")};
    int code = tokens_in(command, given, text, &made);
    if (code >= 0) return code;
    if (count(config, given, &made, &error) != TENON_OK) return tn_failed_error(&error);
    if (given->json) {
        code = print_as_json(config, given, &made);
    } else {
        print_count(config, given, &made);
        print_budget(given, &made);
        code = TN_EXIT_OK;
    }
    bool fits = given->max_seq == TENON_UNSET || made.length <= given->max_seq;
    return code == TN_EXIT_OK && !fits ? TN_EXIT_FAILURE : code;
}

static int run(const tn_command *command, int argc, char **argv)
{
    settings given = {.config = TN_CONFIG_SETTINGS_DEFAULTS,
                      .patch = TENON_UNSET,
                      .frames = 1,
                      .text = TENON_UNSET,
                      .max_seq = TENON_UNSET};
    const char *words[TN_MAX_ARGUMENTS];
    tenon_config *config;
    int code = tn_options_parse(command, argc, argv, &given, words);
    if (code < 0) code = tn_names_check_command(command, &given, words);
    if (code < 0) code = grid_of_image(command, &given);
    if (code < 0) code = tn_config_from_settings(command, &given.config, &config);
    if (code >= 0) return code;
    code = count_and_print(command, config, &given, words[0]);
    tenon_config_free(config);
    return code;
}

const tn_command tn_command_tokens = {
    "tokens",
    "count the tokens of an image or a clip",
    "Counts the tokens that a connector makes of one image, without building the connector. It is the number that run "
    "writes. With --frames, --text and --max-seq it adds up the sequence and checks whether it fits.",
    arguments,
    options,
    examples,
    "0: counted, and the sequence fits. 1: the grid cannot be pooled, or the sequence does not fit. 2: invalid command "
    "line.",
    run,
    false};
