"""What `vitrine_sdk._history` takes of it."""

from libc.stdint cimport int32_t, uint64_t

cdef void* data(object array, Py_ssize_t size, Py_ssize_t* count) except NULL
cdef void* room(Py_ssize_t size) except NULL
cdef uint64_t* ascending(uint64_t* keys, uint64_t* other, int32_t count) noexcept
