"""What `vitrine_sdk._history` takes of it."""

cdef void* data(object array, Py_ssize_t size, Py_ssize_t* count) except NULL
cdef void* room(Py_ssize_t size) except NULL
