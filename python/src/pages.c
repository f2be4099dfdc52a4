/* SPDX-License-Identifier: MIT */
/* Large pages for memory that is written once: a new gradient of the size of the weights costs thousands of faults. */
#include "module.h"

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

PyObject *tnpy_use_large_pages(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    (void)module;
    int64_t address, bytes;
    if (nargs != 2) {
        PyErr_Format(PyExc_TypeError, "use_large_pages takes (address, bytes); got %zd arguments", nargs);
        return NULL;
    }
    if (!tnpy_read_int(args[0], "address", &address) || !tnpy_read_int(args[1], "bytes", &bytes)) return NULL;
#ifdef MADV_HUGEPAGE
    const int64_t page = sysconf(_SC_PAGESIZE); /* 4096, and up to 65536 on 64-bit ARM; whole pages inside */
    const int64_t begin = (address + page - 1) / page * page, end = (address + bytes) / page * page;
    if (begin < end) (void)madvise((void *)(intptr_t)begin, (size_t)(end - begin), MADV_HUGEPAGE);
#endif
    return Py_NewRef(Py_None);
}
