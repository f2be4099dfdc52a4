/* SPDX-License-Identifier: MIT */
/* The module itself. */
#include "module.h"

static bool add_constants(PyObject *module)
{
    return PyModule_AddIntConstant(module, "F32", TENON_F32) == 0 &&
           PyModule_AddIntConstant(module, "BF16", TENON_BF16) == 0 &&
           PyModule_AddIntConstant(module, "F16", TENON_F16) == 0 &&
           PyModule_AddStringConstant(module, "MASK_SENTENCE", tnpy_mask_sentence) == 0 &&
           PyModule_AddStringConstant(module, "MASKED_SENTENCE", tnpy_masked_sentence) == 0 &&
           PyModule_AddStringConstant(module, "version", tenon_version()) == 0 &&
           PyModule_AddStringConstant(module, "build_info", tenon_build_info()) == 0;
}

PyMODINIT_FUNC PyInit__C(void);

PyMODINIT_FUNC PyInit__C(void)
{
    static PyModuleDef definition = {
        PyModuleDef_HEAD_INIT,
        .m_name = "tenon._C",
        .m_doc = "The C library: what the package tenon is made of, and tenon.torch below it.",
        .m_size = -1,
    };
    definition.m_methods = tnpy_counting_methods;
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL) return NULL;
    if (add_constants(module) && tnpy_errors_setup(module) && tnpy_results_setup(module) && tnpy_array_setup(module) &&
        tnpy_call_setup() && tnpy_builder_setup(module) && tnpy_adapter_setup(module) && tnpy_watch_setup(module)) {
        return module;
    }
    Py_DECREF(module);
    return NULL;
}
