# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What a request does to hundreds of numbers, in one call each: see `vitrine_sdk.kernel`.

Arrays are C-contiguous, one-dimensional, of the types that the twins in Python take. Everything
runs with the interpreter's lock held, so that scratch memory is shared by all calls; each leaves it
as it found it. To make an object may collect garbage, and so run others' code and let other threads
in: while scratch is in use none is made.
"""

cimport numpy as np
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_New, PyList_SET_ITEM
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.math cimport isfinite
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

np.import_array()

cdef extern from *:
    int __builtin_ctzll(unsigned long long) nogil
    void __builtin_prefetch(const void*) nogil

cdef extern from "Python.h":
    PyObject** PySequence_Fast_ITEMS(object)

cdef int32_t KEEP = 0x7FFFFFFF  # as `app.domain.rule_program.KEEP`
cdef float STEP = 524288.0  # half of what doubles a position, as `app.domain.ruling`
cdef int UNAVAILABLE = 0, FILTERED = 1, DUPLICATE = 5, UNRENDERED = 6, RULED = 7

cdef void* data(object array, Py_ssize_t size, Py_ssize_t* count) except NULL:
    """Where the elements lie; the caller's reference to the array keeps them there."""
    if not np.PyArray_Check(array):
        raise TypeError(f"{type(array).__name__}, not an array")
    if np.PyArray_ITEMSIZE(array) != size:
        raise TypeError(f"an array of {array.dtype}, not of {size} bytes an element")
    if not np.PyArray_ISCONTIGUOUS(array):
        raise ValueError("an array that is not C-contiguous")
    count[0] = np.PyArray_SIZE(array)
    return np.PyArray_DATA(array)

cdef void* writable(object array, Py_ssize_t size, Py_ssize_t* count) except NULL:
    cdef void* found = data(array, size, count)
    if not np.PyArray_ISWRITEABLE(array):
        raise ValueError("an array that is read-only")
    return found

cdef inline object fresh(Py_ssize_t count, int type_, void** at):
    """A new array and where its elements go."""
    cdef np.npy_intp length = count
    made = np.PyArray_EMPTY(1, &length, type_, 0)
    at[0] = np.PyArray_DATA(made)
    return made

# Scratch. `bits` and `sums` are zero between calls.
cdef uint64_t* bits = NULL
cdef double* sums = NULL
cdef Py_ssize_t bits_room = 0, sums_room = 0  # bytes
cdef char* spare = NULL
cdef Py_ssize_t spare_room = 0

cdef void* grown(void* room, Py_ssize_t* have, Py_ssize_t size) except NULL:
    """Room for so many bytes at least; what is new of it is zero."""
    if room != NULL and size <= have[0]:
        return room
    fresh = <char*> realloc(room, max(size, 1))
    if fresh == NULL:
        raise MemoryError
    memset(fresh + have[0], 0, size - have[0])
    have[0] = size
    return fresh

cdef int room_for_bits(Py_ssize_t count) except -1:
    global bits
    bits = <uint64_t*> grown(bits, &bits_room, (count + 63) // 64 * sizeof(uint64_t))
    return 0

cdef int room_for_sums(Py_ssize_t count) except -1:
    global sums
    sums = <double*> grown(sums, &sums_room, count * sizeof(double))
    return 0

cdef void* room(Py_ssize_t size) except NULL:
    global spare
    spare = <char*> grown(spare, &spare_room, size)
    return spare


cdef inline void add(int32_t item, double amount) noexcept:
    bits[item >> 6] |= (<uint64_t> 1) << (item & 63)
    sums[item] += amount


cdef int leave_out(object without, int32_t last) except -1:
    cdef Py_ssize_t count, i
    cdef int32_t* item = <int32_t*> data(without, 4, &count)
    for i in range(count):
        if 0 <= item[i] <= last:
            bits[item[i] >> 6] &= ~((<uint64_t> 1) << (item[i] & 63))
            sums[item[i]] = 0.0
    return 0


cdef Py_ssize_t drain(int32_t last, int32_t* out, float* total) noexcept:
    """The items that were added to, ascending, with their sums, and how many; scratch is zero
    again."""
    cdef Py_ssize_t word, found = 0
    cdef uint64_t some
    cdef int32_t item
    for word in range((last >> 6) + 1):
        some = bits[word]
        if some:
            bits[word] = 0
            while some:
                item = <int32_t> (word << 6) + __builtin_ctzll(some)
                some &= some - 1
                out[found] = item
                total[found] = <float> sums[item]
                sums[item] = 0.0
                found += 1
    return found


def merged(offsets, items, weights, rows, factors, without):
    """`Neighbours.merged`: the rows' neighbours, ascending, each with the sum of factor * weight;
    `without`: items that are left out, or None."""
    cdef Py_ssize_t offset_count, item_count, weight_count, row_count, factor_count
    cdef int64_t* starts = <int64_t*> data(offsets, 8, &offset_count)
    cdef int32_t* neighbour = <int32_t*> data(items, 4, &item_count)
    cdef float* weight = <float*> data(weights, 4, &weight_count)
    cdef int32_t* row = <int32_t*> data(rows, 4, &row_count)
    cdef float* factor = <float*> data(factors, 4, &factor_count)
    cdef Py_ssize_t n = offset_count - 1, i
    cdef int64_t cell
    cdef int64_t cells = 0
    cdef int32_t item, last = -1
    cdef float product
    if factor_count != row_count or weight_count != item_count:
        raise ValueError("arrays that differ in length")
    for i in range(row_count):
        if row[i] < 0 or row[i] >= n:
            raise IndexError(f"row {row[i]} of {n}")
        __builtin_prefetch(&starts[row[i]])
    for i in range(row_count):
        if starts[row[i]] < 0 or starts[row[i] + 1] > item_count:
            raise IndexError(f"row {row[i]} ends beyond the cells")
        # Rows lie far apart: all of them are on their way before the first is read.
        cells += max(starts[row[i] + 1] - starts[row[i]], 0)
        for cell in range(starts[row[i]], starts[row[i] + 1], 16):
            __builtin_prefetch(&neighbour[cell])
            __builtin_prefetch(&weight[cell])
    cdef int32_t* out
    cdef float* total
    chosen = fresh(cells, np.NPY_INT32, <void**> &out)
    totals = fresh(cells, np.NPY_FLOAT32, <void**> &total)
    for i in range(row_count):
        for cell in range(starts[row[i]], starts[row[i] + 1]):
            item = neighbour[cell]
            if item > last or item < 0:
                if item < 0:
                    drain(last, out, total)
                    raise IndexError(f"item {item}")
                room_for_bits(item + 1)
                room_for_sums(item + 1)
                last = item
            product = weight[cell] * factor[i]
            add(item, <double> product)
    if without is not None:
        leave_out(without, last)
    i = drain(last, out, total)
    return chosen[:i], totals[:i]


def summed(items, weights):
    """Each item once, ascending, with the sum of its weights."""
    cdef Py_ssize_t count, weight_count, i
    cdef int32_t* item = <int32_t*> data(items, 4, &count)
    cdef float* weight = <float*> data(weights, 4, &weight_count)
    cdef int32_t last = 0
    if weight_count != count:
        raise ValueError("arrays that differ in length")
    for i in range(count):
        if item[i] < 0:
            raise IndexError(f"item {item[i]}")
        last = max(last, item[i])
    room_for_bits(last + 1)
    room_for_sums(last + 1)
    cdef int32_t* out
    cdef float* total
    chosen = fresh(count, np.NPY_INT32, <void**> &out)
    totals = fresh(count, np.NPY_FLOAT32, <void**> &total)
    for i in range(count):
        add(item[i], <double> weight[i])
    i = drain(last, out, total)
    return chosen[:i], totals[:i]


cdef inline void sift(uint64_t* heap, Py_ssize_t at, Py_ssize_t count) noexcept:
    """Largest first."""
    cdef uint64_t moved = heap[at]
    cdef Py_ssize_t child
    while True:
        child = 2 * at + 1
        if child >= count:
            break
        if child + 1 < count and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= moved:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = moved


cdef inline uint64_t falling(float score, Py_ssize_t place) noexcept:
    """A key that grows as the score falls, then as the place grows; nan is the lowest score."""
    cdef uint32_t raw
    cdef float plain = score + <float> 0.0  # of -0.0 and 0.0 one
    if plain != plain:
        raw = 0xFFFFFFFF
    else:
        memcpy(&raw, &plain, 4)
        # The bits of floats in their order, and that turned round.
        raw = raw if raw & <uint32_t> 0x80000000 else raw ^ <uint32_t> 0x7FFFFFFF
    return (<uint64_t> raw << 32) | <uint64_t> place


cdef inline uint64_t* spread(
    uint64_t* keys, uint64_t* other, int32_t count, int32_t* starts, int shift
) noexcept:
    """One pass of a radix sort; where the outcome is."""
    cdef int32_t i, at = 0, length
    cdef uint64_t key
    if starts[(keys[0] >> shift) & 0xFF] == count:
        return keys  # it is the same in all
    for i in range(256):
        length = starts[i]
        starts[i] = at
        at += length
    for i in range(count):
        key = keys[i]
        at = (key >> shift) & 0xFF
        other[starts[at]] = key
        starts[at] += 1
    return other


cdef uint64_t* ascending(uint64_t* keys, uint64_t* other, int32_t count) noexcept:
    """Sorts by the upper halves, equal ones as they stand; in which of both rooms the outcome
    is."""
    cdef int32_t starts[4][256]
    cdef int32_t i, b
    cdef uint64_t* sorted
    if not count:
        return keys
    memset(starts, 0, sizeof(starts))
    for i in range(count):
        starts[0][(keys[i] >> 32) & 0xFF] += 1
        starts[1][(keys[i] >> 40) & 0xFF] += 1
        starts[2][(keys[i] >> 48) & 0xFF] += 1
        starts[3][keys[i] >> 56] += 1
    for b in range(4):
        sorted = spread(keys, other, count, starts[b], 32 + 8 * b)
        if sorted != keys:
            other = keys
            keys = sorted
    return keys


def best(scores, items, eligible, Py_ssize_t limit):
    """Places of the `limit` best of `items` that are eligible (None: all), by falling score; equal
    scores by place."""
    cdef Py_ssize_t count, item_count, flag_count, i, kept = 0, at
    cdef uint64_t key
    cdef float* score = <float*> data(scores, 4, &count)
    cdef int32_t* item = <int32_t*> data(items, 4, &item_count)
    cdef uint8_t* flags = NULL
    if item_count != count:
        raise ValueError("arrays that differ in length")
    if eligible is not None:
        flags = <uint8_t*> data(eligible, 1, &flag_count)
    cdef int64_t* out
    places = fresh(min(limit, count), np.NPY_INT64, <void**> &out)
    cdef uint64_t* keys = <uint64_t*> room((2 * count + limit + 1) * sizeof(uint64_t))
    cdef uint64_t* heap = keys + 2 * count
    for i in range(count):
        if flags != NULL:
            if item[i] < 0 or item[i] >= flag_count:
                raise IndexError(f"item {item[i]} of {flag_count}")
            if not flags[item[i]]:
                continue
        keys[kept] = falling(score[i], i)
        kept += 1
    if kept > 4 * limit:  # the others need no order
        memcpy(heap, keys, limit * sizeof(uint64_t))
        for at in range(limit // 2 - 1, -1, -1):
            sift(heap, at, limit)
        for i in range(limit, kept):
            if keys[i] < heap[0]:
                heap[0] = keys[i]
                sift(heap, 0, limit)
        key = heap[0]
        at = 0
        for i in range(kept):
            keys[at] = keys[i]
            at += keys[i] <= key
        kept = at
    keys = ascending(keys, keys + count, <int32_t> kept)
    kept = min(kept, limit)
    for i in range(kept):
        out[i] = <int64_t> (keys[i] & 0xFFFFFFFF)
    return places[:kept]


def first(offsets, items, weights, parts, Py_ssize_t row, eligible, Py_ssize_t limit):
    """`Neighbours.first`."""
    cdef Py_ssize_t offset_count, item_count, weight_count, part_count, flag_count = 0
    cdef Py_ssize_t taken = 0
    cdef int64_t* starts = <int64_t*> data(offsets, 8, &offset_count)
    cdef int32_t* item = <int32_t*> data(items, 4, &item_count)
    cdef float* weight = <float*> data(weights, 4, &weight_count)
    cdef float* part = <float*> data(parts, 4, &part_count)
    cdef uint8_t* flags = NULL
    cdef int64_t cell, begin, end
    cdef int32_t* out
    cdef float* out_weights
    cdef uint8_t* out_minor
    if weight_count != item_count or part_count != item_count:
        raise ValueError("arrays that differ in length")
    if row < 0 or row >= offset_count - 1:
        raise IndexError(f"row {row} of {offset_count - 1}")
    begin, end = starts[row], starts[row + 1]
    if begin < 0 or end > item_count:
        raise IndexError(f"row {row} ends beyond the cells")
    for cell in range(begin, min(end, begin + limit), 16):  # of three parts of the memory
        __builtin_prefetch(&item[cell])
        __builtin_prefetch(&weight[cell])
        __builtin_prefetch(&part[cell])
    if eligible is not None:
        flags = <uint8_t*> data(eligible, 1, &flag_count)
    limit = max(0, min(limit, end - begin))
    found = fresh(limit, np.NPY_INT32, <void**> &out)
    scores = fresh(limit, np.NPY_FLOAT32, <void**> &out_weights)
    minor = fresh(limit, np.NPY_UINT8, <void**> &out_minor)
    for cell in range(begin, end):
        if taken == limit:
            break
        if item[cell] == row:
            continue
        if flags != NULL:
            if item[cell] < 0 or item[cell] >= flag_count:
                raise IndexError(f"item {item[cell]} of {flag_count}")
            if not flags[item[cell]]:
                continue
        out[taken] = item[cell]
        out_weights[taken] = weight[cell]
        out_minor[taken] = part[cell] * 2 < weight[cell]
        taken += 1
    if taken == limit:
        return found, scores, minor
    return found[:taken], scores[:taken], minor[:taken]


cdef bint plain(object array, int type_) noexcept:
    return (
        np.PyArray_CheckExact(array)
        and np.PyArray_TYPE(array) == type_
        and np.PyArray_NDIM(array) == 1
        and np.PyArray_ISCARRAY_RO(array)
    )


def sound(items, scores, reasons, Py_ssize_t limit, Py_ssize_t model_items, Py_ssize_t kinds):
    """Whether candidates surely are as the contract says; False: whoever says why is to be asked.

    Args:
        kinds: of reasons that the strategy declares.
    """
    cdef Py_ssize_t count, i, marked = 0
    cdef uint64_t some
    cdef bint twice = False
    if not (
        plain(items, np.NPY_INT32) and plain(scores, np.NPY_FLOAT32) and plain(reasons, np.NPY_UINT8)
    ):
        return False
    count = np.PyArray_SIZE(items)
    if np.PyArray_SIZE(scores) != count or np.PyArray_SIZE(reasons) != count or count > limit:
        return False
    if not count:
        return True
    cdef int32_t* item = <int32_t*> np.PyArray_DATA(items)
    cdef float* score = <float*> np.PyArray_DATA(scores)
    cdef uint8_t* reason = <uint8_t*> np.PyArray_DATA(reasons)
    for i in range(count):
        if item[i] < 0 or item[i] >= model_items or reason[i] >= kinds:
            return False
    # What does not increase between finite ends is finite throughout, for nan compares as false.
    if not isfinite(score[0]) or not isfinite(score[count - 1]):
        return False
    for i in range(1, count):
        if not score[i] <= score[i - 1]:
            return False
    room_for_bits(model_items)
    for i in range(count):
        some = (<uint64_t> 1) << (item[i] & 63)
        if bits[item[i] >> 6] & some:
            twice = True
            break
        bits[item[i] >> 6] |= some
        marked += 1
    for i in range(marked):
        bits[item[i] >> 6] = 0
    return not twice


def taken(table, places):
    """`table.take(places)` of numbers of 4 bytes."""
    cdef Py_ssize_t size, count, i
    cdef int32_t* number = <int32_t*> data(table, 4, &size)
    cdef int32_t* place = <int32_t*> data(places, 4, &count)
    cdef int32_t* out
    found = fresh(count, np.NPY_INT32, <void**> &out)
    for i in range(count):
        if place[i] < 0 or place[i] >= size:
            raise IndexError(f"place {place[i]} of {size}")
        out[i] = number[place[i]]
    return found


def known(positions, rows):
    """The positions of those rows that have one (>= 0): the last stands for all beyond."""
    cdef Py_ssize_t size, count, i, found = 0
    cdef int32_t* position = <int32_t*> data(positions, 4, &size)
    cdef int32_t* row = <int32_t*> data(rows, 4, &count)
    cdef int32_t* out
    cdef int32_t at
    made = fresh(count, np.NPY_INT32, <void**> &out)
    for i in range(count):
        if row[i] < 0 or not size:
            continue
        at = position[min(row[i], size - 1)]
        if at >= 0:
            out[found] = at
            found += 1
    return made if found == count else made[:found]


def shown(list items, bytearray used, rows):
    """The texts (bytes) of some rows, which are marked as used; None: one of them has none."""
    cdef Py_ssize_t count, i, size = min(len(items), len(used)), at
    cdef int32_t* row = <int32_t*> data(rows, 4, &count)
    cdef PyObject** texts = PySequence_Fast_ITEMS(items)
    cdef uint8_t* mark = <uint8_t*> <char*> used
    cdef PyObject* text
    # Each lies somewhere else: all are on their way before the first is looked at.
    for i in range(count):
        if row[i] < 0 or row[i] >= size:
            return None
        __builtin_prefetch(&texts[row[i]])
    for i in range(count):
        __builtin_prefetch(texts[row[i]])
    found = PyList_New(count)
    for i in range(count):
        text = texts[row[i]]
        if text == <PyObject*> None:
            return None
        item = <object> text
        Py_INCREF(item)  # the list takes one
        PyList_SET_ITEM(found, i, item)
        mark[row[i]] = 1
        for at in range(64, PyBytes_GET_SIZE(item), 64):  # they are read soon
            __builtin_prefetch(PyBytes_AS_STRING(item) + at)
    return found


def qualify(
    rows, available, filtered, marks, list excluded, list earlier, at_hand,
    signatures, drops, list left_out, Py_ssize_t at_most,
):
    """See `app.domain.selection.Selection.offer`. Adds to `left_out`, by reason.

    Args:
        filtered, at_hand: flags, one a candidate; None: all.
        excluded: rows and their reason; what stands first counts.
        earlier: rows that are in the list already.
        signatures, drops: of rows, and by signature what rules say; None: nothing.

    Returns:
        How many are taken where those are the first ones without a gap, else their places.
    """
    cdef Py_ssize_t count, available_count, mark_count, i, k, taken = 0, last = -1
    cdef Py_ssize_t flag_count, signature_count = 0, drop_count = 0, length
    cdef int32_t* row = <int32_t*> data(rows, 4, &count)
    cdef uint8_t* present = <uint8_t*> data(available, 1, &available_count)
    cdef uint8_t* mark = <uint8_t*> writable(marks, 1, &mark_count)
    cdef uint8_t* passes = NULL
    cdef uint8_t* shown = NULL
    cdef int32_t* signature = NULL
    cdef int32_t* drop = NULL
    cdef int32_t* others
    cdef Py_ssize_t gone[256]
    cdef uint8_t why
    if filtered is not None:
        passes = <uint8_t*> data(filtered, 1, &flag_count)
        if flag_count != count:
            raise ValueError("arrays that differ in length")
    if at_hand is not None:
        shown = <uint8_t*> data(at_hand, 1, &flag_count)
        if flag_count != count:
            raise ValueError("arrays that differ in length")
    if drops is not None:
        signature = <int32_t*> data(signatures, 4, &signature_count)
        drop = <int32_t*> data(drops, 4, &drop_count)
    cdef int64_t* out
    places = fresh(count, np.NPY_INT64, <void**> &out)
    for i in range(count):
        __builtin_prefetch(&present[row[i]])
        __builtin_prefetch(&mark[row[i]])
        __builtin_prefetch(&signature[row[i]])
    for i in range(count):
        if row[i] >= available_count or row[i] >= mark_count:
            raise IndexError(f"row {row[i]} of {available_count}")
        if drop != NULL and row[i] >= 0 and (
            row[i] >= signature_count or signature[row[i]] >= drop_count
        ):
            raise IndexError(f"row {row[i]} has no signature")
    memset(gone, 0, sizeof(gone))
    try:
        for other in earlier:
            others = <int32_t*> data(other, 4, &length)
            for k in range(length):
                if 0 <= others[k] < mark_count:
                    mark[others[k]] = DUPLICATE
        for i in range(len(excluded) - 1, -1, -1):
            other, reason = excluded[i]
            others = <int32_t*> data(other, 4, &length)
            why = reason
            for k in range(length):
                if 0 <= others[k] < mark_count:
                    mark[others[k]] = why
        for i in range(count):
            if row[i] < 0 or not present[row[i]]:
                gone[UNAVAILABLE] += 1
            elif passes != NULL and not passes[i]:
                gone[FILTERED] += 1
            elif mark[row[i]]:
                gone[mark[row[i]]] += 1
            elif shown != NULL and not shown[i]:
                gone[UNRENDERED] += 1
            elif drop != NULL and drop[signature[row[i]]] != KEEP:
                gone[RULED] += 1
            elif taken < at_most:
                out[taken] = i
                last = i
                taken += 1
    finally:
        for other in earlier:
            others = <int32_t*> data(other, 4, &length)
            for k in range(length):
                if 0 <= others[k] < mark_count:
                    mark[others[k]] = 0
        for other, _ in excluded:
            others = <int32_t*> data(other, 4, &length)
            for k in range(length):
                if 0 <= others[k] < mark_count:
                    mark[others[k]] = 0
    for i in range(len(left_out)):
        if gone[i]:
            left_out[i] += gone[i]
    if last + 1 == taken:
        return taken
    return places[:taken]


def picked(rows, scores, reasons, places):
    """What stands at some places of all three; None: they are no plain arrays."""
    cdef Py_ssize_t count, i
    if not (
        plain(rows, np.NPY_INT32) and plain(scores, np.NPY_FLOAT32) and plain(reasons, np.NPY_UINT8)
    ):
        return None
    cdef Py_ssize_t size = min(
        np.PyArray_SIZE(rows), np.PyArray_SIZE(scores), np.PyArray_SIZE(reasons)
    )
    cdef int32_t* row = <int32_t*> np.PyArray_DATA(rows)
    cdef float* score = <float*> np.PyArray_DATA(scores)
    cdef uint8_t* reason = <uint8_t*> np.PyArray_DATA(reasons)
    cdef int64_t* place = <int64_t*> data(places, 8, &count)
    cdef int32_t* out_rows
    cdef float* out_scores
    cdef uint8_t* out_reasons
    found = (
        fresh(count, np.NPY_INT32, <void**> &out_rows),
        fresh(count, np.NPY_FLOAT32, <void**> &out_scores),
        fresh(count, np.NPY_UINT8, <void**> &out_reasons),
    )
    for i in range(count):
        if place[i] < 0 or place[i] >= size:
            raise IndexError(f"place {place[i]} of {size}")
        out_rows[i] = row[place[i]]
        out_scores[i] = score[place[i]]
        out_reasons[i] = reason[place[i]]
    return found


cdef struct Cap:
    int32_t* codes  # by row
    Py_ssize_t code_rows
    int32_t* offsets  # by code: where its values are
    Py_ssize_t codes_known
    int32_t* values
    int32_t* counts  # by value, zero between calls
    Py_ssize_t most
    Py_ssize_t first


cdef inline bint full(Cap* cap, int32_t row) noexcept:
    cdef int32_t code = cap.codes[row]
    cdef int32_t i
    if code >= cap.codes_known:
        return False
    for i in range(cap.offsets[code], cap.offsets[code + 1]):
        if cap.counts[cap.values[i]] >= cap.most:
            return True
    return False


cdef inline void count_in(Cap* cap, int32_t row, int32_t by) noexcept:
    cdef int32_t code = cap.codes[row]
    cdef int32_t i
    if code >= cap.codes_known:
        return
    for i in range(cap.offsets[code], cap.offsets[code + 1]):
        cap.counts[cap.values[i]] += by


cdef int PLACES = 20  # bits of a candidate's place in a pool
cdef uint64_t FIRST = (<uint64_t> 1) << 62


cdef inline uint64_t competing(int64_t key, Py_ssize_t place) noexcept:
    """Larger for who competes better: by the lower key, then by place. Keys have 42 bits at most."""
    return FIRST - <uint64_t> ((key << PLACES) + place)


cdef inline int32_t place_of(uint64_t competitor) noexcept:
    return <int32_t> ((FIRST - competitor) & (((<uint64_t> 1) << PLACES) - 1))


def arrange(rows, scores, sources, reasons, signatures, boosts, positions, caps, Py_ssize_t want):
    """A pool's rows, scores, sources and reasons in the order of boosts and under caps, cut: see
    `app.domain.ruling.boosted_order` and `app.domain.rule_places.Plan`.

    Args:
        signatures, boosts: of rows, and by signature the sum of strengths; None: no boosts.
        positions: where a candidate competes before boosts.
        caps: of each its column's codes by row; offsets by code into values; values; scratch by
            value; how many; among how many.
    """
    cdef Py_ssize_t n, i, c, length, boost_count = 0, signature_count = 0, position_count
    cdef int32_t* row = <int32_t*> data(rows, 4, &n)
    cdef float* score = <float*> data(scores, 4, &length)
    cdef uint8_t* source = <uint8_t*> data(sources, 1, &length)
    cdef uint8_t* reason = <uint8_t*> data(reasons, 1, &length)
    cdef int32_t* signature = NULL
    cdef float* boost = NULL
    cdef int64_t* position
    cdef Py_ssize_t cap_count = len(caps)
    want = max(0, min(want, n))
    cdef int32_t* out_rows
    cdef float* out_scores
    cdef uint8_t* out_sources
    cdef uint8_t* out_reasons
    found = (
        fresh(want, np.NPY_INT32, <void**> &out_rows),
        fresh(want, np.NPY_FLOAT32, <void**> &out_scores),
        fresh(want, np.NPY_UINT8, <void**> &out_sources),
        fresh(want, np.NPY_UINT8, <void**> &out_reasons),
    )
    cdef char* at = <char*> room(
        cap_count * sizeof(Cap) + n * (sizeof(uint64_t) + 2 * sizeof(int32_t)) + 64
    )
    # Laid out by falling alignment.
    cdef Cap* cap = <Cap*> at
    cdef uint64_t* heap = <uint64_t*> (at + cap_count * sizeof(Cap))
    cdef int32_t* parked = <int32_t*> (heap + n)  # what waits, in its order: read and written
    cdef int32_t* chosen = parked + n
    cdef Py_ssize_t heaped = n, next_in_order = 0, waiting = 0, read, written, until
    cdef Py_ssize_t taken = 0
    cdef int32_t candidate
    cdef bint fits
    if n >> PLACES:
        raise ValueError(f"{n} candidates are too many")
    for i in range(n):
        if row[i] < 0:
            raise IndexError(f"row {row[i]}")
    if boosts is not None:
        signature = <int32_t*> data(signatures, 4, &signature_count)
        boost = <float*> data(boosts, 4, &boost_count)
        position = <int64_t*> data(positions, 8, &position_count)
        if position_count < n:
            raise ValueError("too few positions")
        for i in range(n):
            if row[i] >= signature_count or signature[row[i]] >= boost_count:
                raise IndexError(f"row {row[i]} has no signature")
            heap[i] = competing(
                position[i] - <int64_t> (boost[signature[row[i]]] * STEP), i
            )
        for i in range(n // 2 - 1, -1, -1):
            sift(heap, i, n)
    c = 0
    for codes, offsets, values, counts, most, first in caps:
        cap[c].codes = <int32_t*> data(codes, 4, &cap[c].code_rows)
        cap[c].offsets = <int32_t*> data(offsets, 4, &length)
        cap[c].codes_known = length - 1
        cap[c].values = <int32_t*> data(values, 4, &length)
        cap[c].counts = <int32_t*> writable(counts, 4, &length)
        cap[c].most = most
        cap[c].first = first
        for i in range(n):
            if row[i] >= cap[c].code_rows:
                raise IndexError(f"row {row[i]} of {cap[c].code_rows}")
            __builtin_prefetch(&cap[c].codes[row[i]])
        c += 1
    # As far as the first cap reaches, then the next; what one had no room for goes first then.
    while taken < want:
        until = want
        for c in range(cap_count):
            if cap[c].first > taken and cap[c].first < until:
                until = cap[c].first
        read = written = 0
        while taken < until:
            if read < waiting:
                candidate = parked[read]
                read += 1
            elif boost != NULL:
                if not heaped:
                    break
                candidate = place_of(heap[0])
                heaped -= 1
                heap[0] = heap[heaped]
                if heaped:
                    sift(heap, 0, heaped)
            else:
                if next_in_order >= n:
                    break
                candidate = <int32_t> next_in_order
                next_in_order += 1
            fits = True
            for c in range(cap_count):
                if cap[c].first > taken and full(&cap[c], row[candidate]):
                    fits = False
                    break
            if fits:
                for c in range(cap_count):
                    if cap[c].first > taken:
                        count_in(&cap[c], row[candidate], 1)
                chosen[taken] = candidate
                taken += 1
            else:
                parked[written] = candidate
                written += 1
        if taken < until:
            break
        while read < waiting:
            parked[written] = parked[read]
            written += 1
            read += 1
        waiting = written
    for i in range(taken):
        for c in range(cap_count):
            if cap[c].first > i:
                count_in(&cap[c], row[chosen[i]], -1)
    for i in range(taken):
        candidate = chosen[i]
        out_rows[i] = row[candidate]
        out_scores[i] = score[candidate]
        out_sources[i] = source[candidate]
        out_reasons[i] = reason[candidate]
    if taken == want:
        return found
    return found[0][:taken], found[1][:taken], found[2][:taken], found[3][:taken]
