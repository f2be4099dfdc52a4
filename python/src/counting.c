/* SPDX-License-Identifier: MIT */
/* Module functions that need no adapter: counts, configs, the registry's names, the machine. */
#include "module.h"

#include <stdlib.h>
#include <string.h>

static bool check_count(Py_ssize_t count, Py_ssize_t expected, const char *name)
{
    if (count == expected) return true;
    PyErr_Format(PyExc_TypeError, "%s takes %zd arguments (got %zd)", name, expected, count);
    return false;
}

static PyObject *pooled_token_count(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    int64_t tokens, window, count;
    tenon_error error;
    if (!check_count(nargs, 3, "pooled_token_count") || !tnpy_read_int(args[0], "num_input_tokens", &tokens) ||
        !tnpy_read_int(args[1], "window", &window)) {
        return NULL;
    }
    const int divisible = PyObject_IsTrue(args[2]);
    if (divisible < 0) return NULL;
    const tenon_status status = tenon_pooled_token_count(tokens, window, divisible, &count, &error);
    return status == TENON_OK ? PyLong_FromLongLong(count) : tnpy_raise(status, &error);
}

static PyObject *pooled_grid_count(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    int64_t height, width, window, count;
    tenon_error error;
    if (!check_count(nargs, 4, "pooled_grid_count") || !tnpy_read_int(args[0], "height", &height) ||
        !tnpy_read_int(args[1], "width", &width) || !tnpy_read_int(args[2], "window", &window)) {
        return NULL;
    }
    const char *ragged = tnpy_read_string(args[3], "ragged");
    if (ragged == NULL) return NULL;
    const tenon_status status = tenon_pooled_grid_count(height, width, window, ragged, &count, &error);
    return status == TENON_OK ? PyLong_FromLongLong(count) : tnpy_raise(status, &error);
}

static PyObject *tokens_per_frame(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    int64_t tokens, frames, count;
    tenon_error error;
    if (!check_count(nargs, 2, "tokens_per_frame") || !tnpy_read_int(args[0], "num_tokens", &tokens) ||
        !tnpy_read_int(args[1], "num_frames", &frames)) {
        return NULL;
    }
    const tenon_status status = tenon_tokens_per_frame(tokens, frames, &count, &error);
    return status == TENON_OK ? PyLong_FromLongLong(count) : tnpy_raise(status, &error);
}

static PyObject *sequence_length(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    int64_t frames, tokens, text, length;
    tenon_error error;
    if (!check_count(nargs, 3, "sequence_length") || !tnpy_read_int(args[0], "num_frames", &frames) ||
        !tnpy_read_int(args[1], "tokens_per_frame", &tokens) || !tnpy_read_int(args[2], "max_text_len", &text)) {
        return NULL;
    }
    const tenon_status status = tenon_sequence_length(frames, tokens, text, &length, &error);
    return status == TENON_OK ? PyLong_FromLongLong(length) : tnpy_raise(status, &error);
}

PyObject *tnpy_config_to_python(const tenon_config *config)
{
    size_t length;
    tenon_error error;
    tenon_status status = tenon_config_to_json(config, NULL, 0, &length, &error);
    if (status != TENON_OK) return tnpy_raise(status, &error);
    char *json = malloc(length + 1);
    if (json == NULL) return PyErr_NoMemory();
    status = tenon_config_to_json(config, json, length + 1, &length, &error);
    PyObject *text =
        status == TENON_OK ? PyUnicode_FromStringAndSize(json, (Py_ssize_t)length) : tnpy_raise(status, &error);
    free(json);
    return text;
}

bool tnpy_read_config(PyObject *object, tenon_config **config)
{
    tenon_error error;
    const char *json = tnpy_read_string(object, "config");
    if (json == NULL) return false;
    const tenon_status status = tenon_config_from_json(json, strlen(json), config, &error);
    if (status != TENON_OK) tnpy_raise(status, &error);
    return status == TENON_OK;
}

static PyObject *check_config(PyObject *module, PyObject *object)
{
    (void)module;
    tenon_config *config;
    if (!tnpy_read_config(object, &config)) return NULL;
    tenon_error error;
    const tenon_status status = tenon_config_check(config, &error);
    PyObject *text = status == TENON_OK ? tnpy_config_to_python(config) : tnpy_raise(status, &error);
    tenon_config_free(config);
    return text;
}

static PyObject *config_output_num_tokens(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    int64_t tokens, count;
    tenon_config *config;
    tenon_error error;
    tenon_call call;
    tenon_call_init(&call);
    if (!check_count(nargs, 4, "config_output_num_tokens") || !tnpy_read_int(args[1], "num_input_tokens", &tokens) ||
        !tnpy_read_optional_int(args[2], "pool_window", TENON_UNSET, &call.pool_window) ||
        !tnpy_read_grid(args[3], &call) || !tnpy_read_config(args[0], &config)) {
        return NULL;
    }
    const tenon_status status = tenon_config_output_num_tokens(config, &call, tokens, &count, &error);
    tenon_config_free(config);
    return status == TENON_OK ? PyLong_FromLongLong(count) : tnpy_raise(status, &error);
}

/* An option's value, of whatever kind it is; KeyError where it is not set. */
static PyObject *option_to_python(const tenon_config *config, const char *name)
{
    tenon_error error;
    int64_t integer, count;
    const int64_t *list;
    double real;
    bool truth;
    const char *string;
    if (tenon_config_get_int(config, name, &integer, NULL) == TENON_OK) return PyLong_FromLongLong(integer);
    if (tenon_config_get_real(config, name, &real, NULL) == TENON_OK) return PyFloat_FromDouble(real);
    if (tenon_config_get_bool(config, name, &truth, NULL) == TENON_OK) return PyBool_FromLong(truth);
    if (tenon_config_get_ints(config, name, &list, &count, NULL) == TENON_OK) return tnpy_ints_to_python(list, count);
    const tenon_status status = tenon_config_get_string(config, name, &string, &error);
    return status == TENON_OK ? PyUnicode_FromString(string) : tnpy_raise(status, &error);
}

static PyObject *config_field(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    tenon_config *config;
    const char *name;
    if (!check_count(nargs, 2, "config_field") || (name = tnpy_read_string(args[1], "name")) == NULL ||
        !tnpy_read_config(args[0], &config)) {
        return NULL;
    }
    PyObject *value = option_to_python(config, name);
    tenon_config_free(config);
    return value;
}

/* The names that `names_of` lists. */
static PyObject *list_names(size_t (*names_of)(const char **names, size_t capacity))
{
    const size_t count = names_of(NULL, 0);
    const char **names = malloc((count + 1) * sizeof *names);
    if (names == NULL) return PyErr_NoMemory();
    const size_t found = names_of(names, count);
    PyObject *list = PyList_New(0);
    for (size_t i = 0; i < count && i < found && list != NULL; i++) {
        PyObject *name = PyUnicode_FromString(names[i]);
        if (name == NULL || PyList_Append(list, name) < 0) Py_CLEAR(list);
        Py_XDECREF(name);
    }
    free(names);
    return list;
}

static PyObject *list_adapters(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return list_names(tenon_list_adapters);
}

static PyObject *family_modules(PyObject *module, PyObject *family)
{
    (void)module;
    const char *name = tnpy_read_string(family, "family");
    PyObject *list = name != NULL ? PyList_New(0) : NULL;
    tenon_family_module found;
    tenon_family_module_init(&found);
    for (size_t i = 0; list != NULL && tenon_family_get_module(name, i, &found, NULL) == TENON_OK; i++) {
        PyObject *row = Py_BuildValue("(ssss)", found.path, found.arguments, found.first, found.last);
        if (row == NULL || PyList_Append(list, row) < 0) Py_CLEAR(list);
        Py_XDECREF(row);
    }
    return list;
}

static PyObject *list_families(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return list_names(tenon_list_families);
}

static PyObject *find_adapter(PyObject *module, PyObject *object)
{
    (void)module;
    tenon_error error;
    const char *name = tnpy_read_string(object, "name");
    if (name == NULL) return NULL;
    const tenon_status status = tenon_find_adapter(name, &error);
    return status == TENON_OK ? Py_NewRef(Py_None) : tnpy_raise(status, &error);
}

static PyObject *type_pools(PyObject *module, PyObject *object)
{
    (void)module;
    const char *name = tnpy_read_string(object, "name");
    return name != NULL ? PyBool_FromLong(tenon_type_pools(name)) : NULL;
}

static PyObject *type_needs_divisible(PyObject *module, PyObject *object)
{
    (void)module;
    const char *name = tnpy_read_string(object, "name");
    return name != NULL ? PyBool_FromLong(tenon_type_needs_divisible(name)) : NULL;
}

static PyObject *cpu_levels(PyObject *module, PyObject *unused)
{
    (void)module;
    (void)unused;
    return PyUnicode_FromString(tenon_cpu_levels());
}

PyMethodDef tnpy_counting_methods[] = {
    {"pooled_token_count", TNPY_FAST(pooled_token_count), METH_FASTCALL,
     "pooled_token_count(num_input_tokens, window, require_divisible)"},
    {"pooled_grid_count", TNPY_FAST(pooled_grid_count), METH_FASTCALL,
     "pooled_grid_count(height, width, window, ragged)"},
    {"tokens_per_frame", TNPY_FAST(tokens_per_frame), METH_FASTCALL, "tokens_per_frame(num_tokens, num_frames)"},
    {"sequence_length", TNPY_FAST(sequence_length), METH_FASTCALL,
     "sequence_length(num_frames, tokens_per_frame, max_text_len)"},
    {"check_config", check_config, METH_O,
     "check_config(json): the config as the library writes it. Refuses options that the type does not have."},
    {"config_output_num_tokens", TNPY_FAST(config_output_num_tokens), METH_FASTCALL,
     "config_output_num_tokens(json, num_input_tokens, pool_window, grid)"},
    {"family_modules", family_modules, METH_O,
     "family_modules(family): (path, arguments, first layer, last layer) of each module of the model's class."},
    {"list_families", list_families, METH_NOARGS, "The families of public models that are opened."},
    {"list_adapters", list_adapters, METH_NOARGS, "The registered types, sorted."},
    {"find_adapter", find_adapter, METH_O, "find_adapter(name): KeyError, with the names there are."},
    {"type_pools", type_pools, METH_O, "type_pools(name): does the type pool the patch grid?"},
    {"type_needs_divisible", type_needs_divisible, METH_O,
     "type_needs_divisible(name): does it refuse grids that the window does not divide?"},
    {"cpu_levels", cpu_levels, METH_NOARGS, "CPU levels of this build and machine, lowest first, comma-separated."},
    {"config_field", TNPY_FAST(config_field), METH_FASTCALL,
     "config_field(json, name): its value, or the default of a field that every config has; KeyError."},
    {"identify", tnpy_identify, METH_O, "identify(path): what a file is, told by its content."},
    {"file_beside", tnpy_file_beside, METH_VARARGS,
     "file_beside(path, name): the path of a file that the file `path` mentions, which is inside its folder."},
    {"read_index", tnpy_read_index, METH_O, "read_index(path): the (tensor, shard) pairs of an index of any format."},
    {"register_adapter", tnpy_register_adapter, METH_VARARGS,
     "register_adapter(name, function): function(builder) lists the layers, for the rest of the process."},
    {"use_large_pages", TNPY_FAST(tnpy_use_large_pages), METH_FASTCALL,
     "use_large_pages(address, bytes): advice to the system for new memory; costs and changes nothing else."},
    {"copy", TNPY_FAST(tnpy_array_copy), METH_FASTCALL,
     "copy(array, name='the array'): a dense copy of f32, bf16 or f16, as an Array. `name` is for messages."},
    {NULL, NULL, 0, NULL},
};
