/* SPDX-License-Identifier: MIT */
/* What borrow.c and described.c share. Failures set an exception and return false. */
#ifndef TENON_PYTHON_BORROW_H
#define TENON_PYTHON_BORROW_H

#include "module.h"

bool tnpy_fail_read_only(const char *name);

/* `kind`: what it is that has a mask. Values that are marked as missing would be read as if they were there. */
bool tnpy_fail_masked(const char *name, const char *kind);

/* (address, dtype, shape, strides): dtype is a tenon_dtype; strides in elements, or None for dense rows. */
bool tnpy_borrow_tuple(tnpy_borrowed *borrowed, PyObject *tuple, const char *name);

/* Tries __array_interface__; *has tells whether there is one. */
bool tnpy_borrow_interface(tnpy_borrowed *borrowed, PyObject *object, const char *name, bool write, bool *has);

#endif
