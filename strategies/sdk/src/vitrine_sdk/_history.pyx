# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""A shopper's history on its way from Redis' entries to a model's numbers, each step in one call.

As `vitrine_sdk._kernel`: twins in Python beside the callers, the interpreter's lock held throughout.
Items lie far apart in memory, and a history has a hundred of them: what each step reads of all of
them is on its way before the first is looked at.
"""

cimport numpy as np
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject
from libc.math cimport exp2f, sqrtf
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from vitrine_sdk._kernel cimport data, room

cdef extern from *:
    void __builtin_prefetch(const void*, ...) nogil
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    double PyOS_string_to_double(const char*, char** end, PyObject* overflow) except? -1.0
    bint PyUnicode_IS_COMPACT_ASCII(PyObject*)
    ctypedef struct PyASCIIObject:
        Py_ssize_t length
    ctypedef struct PyListObject:
        PyObject** ob_item


np.import_array()

cdef inline object made(Py_ssize_t count, int type_, void** at):
    """A new array and where its elements go. Runs nobody's code: see `_kernel`."""
    cdef np.npy_intp length = count
    array = np.PyArray_EMPTY(1, &length, type_, 0)
    at[0] = np.PyArray_DATA(array)
    return array


cdef float DAY = 86400.0, ONE = 1.0
cdef uint32_t FOUND = 0x80000000  # beside an item: it comes after all that has not this
cdef Py_ssize_t AHEAD = 24  # cells, in whose time a line of memory comes

# Memory that is read here and there, in pages as large as there are: for most of a request's reads
# of small ones the processor would first have to look up where they lie.

cdef extern from *:
    """
    #include <stdlib.h>
    #include <string.h>
    #ifdef __linux__
    #include <sys/mman.h>
    #endif
    static void *zeroed(size_t size) {
        const size_t large = (size_t) 1 << 21;
        void *at = NULL;
        if (posix_memalign(&at, size < large ? 64 : large, size)) return NULL;
    #ifdef MADV_HUGEPAGE
        if (size >= large) madvise(at, size, MADV_HUGEPAGE);
    #endif
        return memset(at, 0, size);
    }
    """
    void* zeroed(size_t size) nogil


# Items by id

cdef inline const char* utf8(PyObject* text, Py_ssize_t* size) except NULL:
    if PyUnicode_IS_COMPACT_ASCII(text):
        size[0] = (<PyASCIIObject*> text).length
        return <const char*> (<PyASCIIObject*> text + 1)
    return PyUnicode_AsUTF8AndSize(<object> text, size)


cdef inline uint64_t mixed(uint64_t value) noexcept nogil:
    value ^= value >> 32
    value *= <uint64_t> 0xD6E8FEB86659FD93
    value ^= value >> 32
    value *= <uint64_t> 0xD6E8FEB86659FD93
    return value ^ (value >> 32)


cdef inline uint64_t hashed(const char* text, Py_ssize_t size) noexcept nogil:
    cdef uint64_t value = <uint64_t> size * <uint64_t> 0x9E3779B97F4A7C15, word
    while size >= 8:
        memcpy(&word, text, 8)
        value = mixed(value ^ word)
        text += 8
        size -= 8
    if size:
        word = 0
        memcpy(&word, text, size)
        value = mixed(value ^ word)
    return value


cdef struct Slot:
    uint64_t hash
    int64_t row  # + 1; 0: free


cdef class Rows:
    """See `app.domain.row_lookup`. Open addressing, at most half full.

    Ids are compared where they are added or asked for one by one. Of a packed hundred the hashes
    say enough, for as long as no two ids have the same: an id that the catalogue has not is taken
    for another with a probability of one in 2 ** 44, for a million items. Who makes up such an id
    in an event could as well name the item.
    """

    cdef list ids
    cdef Slot* slots
    cdef Py_ssize_t mask, used
    cdef bint doubtful  # two ids have the same hash

    def __cinit__(self, list ids):
        if ids:
            raise ValueError("ids before there is a table of them")
        self.ids = ids
        self.mask = 255
        self.used = 0
        self.doubtful = False
        self.slots = <Slot*> zeroed((self.mask + 1) * sizeof(Slot))
        if self.slots == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.slots)

    def row(self, str id):
        cdef Py_ssize_t size
        cdef const char* text
        try:
            text = PyUnicode_AsUTF8AndSize(id, &size)
        except UnicodeEncodeError:
            return -1
        return self.find(text, size, hashed(text, size))

    def rows(self, ids):
        cdef list listed = list(ids)
        cdef Py_ssize_t k
        cdef int32_t* out
        found = made(len(listed), np.NPY_INT32, <void**> &out)
        for k in range(len(listed)):
            out[k] = self.row(listed[k])
        return found

    def add(self, str id):
        cdef Py_ssize_t size
        cdef const char* text = PyUnicode_AsUTF8AndSize(id, &size)
        cdef Slot slot
        slot.hash = hashed(text, size)
        cdef int32_t row = self.find(text, size, slot.hash)
        if row < 0:
            if 2 * (self.used + 1) > self.mask:
                self.grow()
            row = <int32_t> PyList_GET_SIZE(self.ids)
            self.ids.append(id)
            slot.row = row + 1
            self.put(slot)
            self.used += 1
        return row

    def packed(self, bytes joined, ends):
        cdef Py_ssize_t count, i, at, start = 0, size = PyBytes_GET_SIZE(joined), last = 0
        cdef int32_t* end = <int32_t*> data(ends, 4, &count)
        cdef const char* text = PyBytes_AS_STRING(joined)
        for i in range(count):
            if end[i] < last or end[i] > size:
                raise IndexError(f"an id from {last} to {end[i]} of {size} bytes")
            last = end[i]
        cdef int32_t* row
        found = made(count, np.NPY_INT32, <void**> &row)
        cdef uint64_t* hashes = <uint64_t*> room((count + 1) * sizeof(uint64_t))
        for i in range(count):
            hashes[i] = hashed(text + start, end[i] - start)
            __builtin_prefetch(&self.slots[hashes[i] & self.mask])
            start = end[i]
        start = 0
        for i in range(count):
            if self.doubtful:
                row[i] = self.find(text + start, end[i] - start, hashes[i])
                start = end[i]
                continue
            at = hashes[i] & self.mask
            while self.slots[at].row and self.slots[at].hash != hashes[i]:
                at = (at + 1) & self.mask
            row[i] = <int32_t> (self.slots[at].row - 1)
        return found

    cdef int32_t find(self, const char* text, Py_ssize_t size, uint64_t hash) except -2:
        cdef Py_ssize_t at = hash & self.mask, length
        cdef const char* known
        while self.slots[at].row:
            if self.slots[at].hash == hash:
                known = utf8((<PyListObject*> self.ids).ob_item[self.slots[at].row - 1], &length)
                if length == size and not memcmp(known, text, size):
                    return <int32_t> (self.slots[at].row - 1)
            at = (at + 1) & self.mask
        return -1

    cdef int grow(self) except -1:
        cdef Py_ssize_t at, before = self.mask
        cdef Slot* old = self.slots
        fresh = <Slot*> zeroed(2 * (before + 1) * sizeof(Slot))
        if fresh == NULL:
            raise MemoryError
        self.slots = fresh
        self.mask = 2 * before + 1
        for at in range(before + 1):
            if old[at].row:
                self.put(old[at])
        free(old)
        return 0

    cdef void put(self, Slot slot) noexcept:
        cdef Py_ssize_t at = slot.hash & self.mask
        while self.slots[at].row:
            self.doubtful |= self.slots[at].hash == slot.hash
            at = (at + 1) & self.mask
        self.slots[at] = slot


# Redis' entries

cdef struct Entry:
    const char* id
    Py_ssize_t size
    double time
    int8_t type

cdef int64_t EXACT = <int64_t> 1 << 53
cdef double TENS[19]
for _place in range(19):
    TENS[_place] = 10.0 ** _place


cdef bint plain(const char* at, Py_ssize_t size, Entry* entry) except -1:
    """Whether an entry is `["id",type,seconds,...]` as it is written, and what it says. One that is
    written in another way (an escape in the id, an exponent) is for a real decoder."""
    cdef const char* end = at + size
    cdef const char* number
    cdef char* behind
    cdef int64_t digits = 0
    cdef int places = 0, length = 0
    cdef bint fraction = False
    if size < 12 or at[0] != c"[" or at[1] != c'"' or (end - 1)[0] != c"]":
        return False
    at += 2
    entry.id = at
    while at[0] != c'"':
        if at[0] == c"\\" or at == end:
            return False
        at += 1
    entry.size = at - entry.id
    # What is behind the time has four characters at least, the bracket with it.
    if end - at < 10 or at[1] != c"," or not c"0" <= at[2] <= c"7" or at[3] != c",":
        return False
    entry.type = at[2] - c"0"
    at += 4
    number = at
    while at < end:
        if c"0" <= at[0] <= c"9":
            length += 1
            if length <= 18:
                digits = 10 * digits + (at[0] - c"0")
                places += fraction
        elif at[0] == c"." and not fraction and length:
            fraction = True
        else:
            break
        at += 1
    if not length or end - at < 3 or at[0] != c",":
        return False
    if length <= 18 and digits <= EXACT:  # then the quotient is rounded once, as it should be
        entry.time = <double> digits / TENS[places]
    else:
        entry.time = PyOS_string_to_double(number, &behind, NULL)
        if behind != at:
            return False
    if at[1] == c'"':
        return (end - 2)[0] == c'"' and end - at > 3
    return end - at == 6 and memcmp(at + 1, b"null]", 5) == 0


cdef inline Entry** latest_first(Entry** entry, Entry** other, Py_ssize_t count) noexcept nogil:
    """A merge sort, equal times as they stand; in which of both rooms the outcome is."""
    cdef Py_ssize_t width = 1, start, middle, end, left, right, at
    while width < count:
        start = 0
        while start < count:
            middle = min(start + width, count)
            end = min(start + 2 * width, count)
            left, right = start, middle
            for at in range(start, end):
                if left < middle and (right >= end or entry[left].time >= entry[right].time):
                    other[at] = entry[left]
                    left += 1
                else:
                    other[at] = entry[right]
                    right += 1
            start = end
        entry, other = other, entry
        width *= 2
    return entry


def columns(list lists, Py_ssize_t limit):
    """The `limit` latest entries of lists that are newest first, as `app.domain.past.Past` has them:
    ids, one after the other; where each ends; types; times. Of several lists the latest come first,
    equal times as they stand. None: an entry is not written as we write most."""
    cdef Py_ssize_t count = 0, i = 0, k, size = 0
    cdef list listed
    cdef bytes entry, joined
    cdef Entry* entries
    cdef Entry** order
    for listed in lists:
        count += PyList_GET_SIZE(listed)
    limit = min(limit, count)
    cdef int32_t* end
    cdef int8_t* type
    cdef int64_t* time
    ends = made(limit, np.NPY_INT32, <void**> &end)
    types = made(limit, np.NPY_INT8, <void**> &type)
    times = made(limit, np.NPY_INT64, <void**> &time)
    entries = <Entry*> room(count * (sizeof(Entry) + 2 * sizeof(Entry*)) + 1)
    order = <Entry**> (entries + count)
    for listed in lists:
        for k in range(PyList_GET_SIZE(listed)):
            entry = listed[k]
            if not plain(PyBytes_AS_STRING(entry), PyBytes_GET_SIZE(entry), &entries[i]):
                return None
            order[i] = &entries[i]
            i += 1
    if len(lists) > 1:
        order = latest_first(order, order + count, count)
    for i in range(limit):
        size += order[i].size
        if size > 0x7FFFFFFF:
            return None
        end[i] = <int32_t> size
        type[i] = order[i].type
        time[i] = <int64_t> order[i].time
    joined = PyBytes_FromStringAndSize(NULL, size)
    cdef char* out = PyBytes_AS_STRING(joined)
    for i in range(limit):
        memcpy(out, order[i].id, order[i].size)
        out += order[i].size
    return joined, ends, types, times


# What a model sees

def known(positions, rows, types, times, Py_ssize_t wanted, int64_t now):
    """The `wanted` latest events of items that a model knows: its items, types, ages in seconds.

    Args:
        positions: of rows; -1: not known, as are rows beyond them.
    """
    cdef Py_ssize_t place_count, count, i, kept = 0
    cdef int32_t* place = <int32_t*> data(positions, 4, &place_count)
    cdef int32_t* row = <int32_t*> data(rows, 4, &count)
    cdef int8_t* type = <int8_t*> data(types, 1, &i)
    if i != count:
        raise ValueError("arrays that differ in length")
    cdef int64_t* time = <int64_t*> data(times, 8, &i)
    if i != count:
        raise ValueError("arrays that differ in length")
    cdef int32_t* item
    cdef int8_t* kind
    cdef float* age
    cdef int32_t* here = <int32_t*> room((count + 1) * sizeof(int32_t))
    for i in range(count):
        if 0 <= row[i] < place_count:
            __builtin_prefetch(&place[row[i]])
    for i in range(count):
        if kept < wanted and 0 <= row[i] < place_count and place[row[i]] >= 0:
            here[kept] = <int32_t> i
            kept += 1
    items = made(kept, np.NPY_INT32, <void**> &item)
    kinds = made(kept, np.NPY_INT8, <void**> &kind)
    ages = made(kept, np.NPY_FLOAT32, <void**> &age)
    for i in range(kept):
        item[i] = place[row[here[i]]]
        kind[i] = type[here[i]]
        age[i] = <float> max(now - time[here[i]], 0)
    return items, kinds, ages


def weighed(items, types, ages, table, decay, float half_life, float least):
    """See `vitrine_sdk.past`."""
    cdef Py_ssize_t count, table_size, i, kept = 0
    cdef int32_t* item = <int32_t*> data(items, 4, &count)
    cdef int8_t* type = <int8_t*> data(types, 1, &i)
    if i != count:
        raise ValueError("arrays that differ in length")
    cdef float* age = <float*> data(ages, 4, &i)
    if i != count:
        raise ValueError("arrays that differ in length")
    cdef float* kind = <float*> data(table, 4, &table_size)
    cdef float* fading = <float*> data(decay, 4, &i)
    if i < count:
        raise ValueError("fewer decays than events")
    cdef float most = 0.0
    for i in range(count):
        if type[i] < 0 or type[i] >= table_size:
            raise IndexError(f"type {type[i]} of {table_size}")
    cdef float* weight
    cdef int32_t* out
    cdef float* much
    weights = made(count, np.NPY_FLOAT32, <void**> &weight)
    for i in range(count):
        weight[i] = kind[type[i]] * fading[i] * exp2f(-((age[i] - age[0]) / DAY) / half_life)
        most = max(most, weight[i])
    for i in range(count):
        kept += weight[i] > least * most
    chosen = made(kept, np.NPY_INT32, <void**> &out)
    heavy = made(kept, np.NPY_FLOAT32, <void**> &much)
    kept = 0
    for i in range(count):
        if weight[i] > least * most:
            out[kept] = item[i]
            much[kept] = weight[i]
            kept += 1
    return weights, chosen, heavy


cdef uint64_t* in_order(uint64_t* keys, uint64_t* other, Py_ssize_t count) noexcept:
    """Sorts; in which of both rooms the outcome is."""
    cdef int32_t starts[8][256]
    cdef Py_ssize_t i
    cdef int b, digit, length, at
    cdef int32_t* start
    if count < 2:
        return keys
    memset(starts, 0, sizeof(starts))
    for i in range(count):
        for b in range(8):
            starts[b][(keys[i] >> 8 * b) & 0xFF] += 1
    for b in range(8):
        start = starts[b]
        if start[(keys[0] >> 8 * b) & 0xFF] == count:
            continue  # it is the same in all
        at = 0
        for digit in range(256):
            length = start[digit]
            start[digit] = at
            at += length
        for i in range(count):
            digit = (keys[i] >> 8 * b) & 0xFF
            other[start[digit]] = keys[i]
            start[digit] += 1
        keys, other = other, keys
    return keys


def repeated(items, types, weights, int8_t type, again):
    """See `vitrine_sdk.past`."""
    cdef Py_ssize_t count, again_count, i, found = 0, kept = 0
    cdef int32_t* item = <int32_t*> data(items, 4, &count)
    cdef int8_t* kind = <int8_t*> data(types, 1, &i)
    if i != count:
        raise ValueError("arrays that differ in length")
    cdef float* weight = <float*> data(weights, 4, &i)
    if i != count:
        raise ValueError("arrays that differ in length")
    cdef float* ready = <float*> data(again, 4, &again_count)
    for i in range(count):
        if item[i] < 0 or item[i] >= again_count:
            raise IndexError(f"item {item[i]} of {again_count}")
        __builtin_prefetch(&ready[item[i]])
    cdef int32_t* out
    cdef float* total
    cdef uint64_t* keys = <uint64_t*> room((2 * count + 1) * (sizeof(uint64_t) + 4))
    cdef int32_t* had = <int32_t*> (keys + 2 * count + 1)
    cdef float* much = <float*> (had + count)
    cdef double sum
    for i in range(count):
        if kind[i] == type:
            keys[found] = (<uint64_t> item[i] << 32) | <uint64_t> i
            found += 1
    keys = in_order(keys, keys + count, found)
    i = 0
    while i < found:
        had[kept] = <int32_t> (keys[i] >> 32)
        sum = 0.0
        while i < found and <int32_t> (keys[i] >> 32) == had[kept]:
            sum += sqrtf(weight[keys[i] & 0xFFFFFFFF]) * ready[had[kept]]
            i += 1
        much[kept] = <float> sum
        kept += much[kept] > 0
    chosen = made(kept, np.NPY_INT32, <void**> &out)
    totals = made(kept, np.NPY_FLOAT32, <void**> &total)
    memcpy(out, had, kept * sizeof(int32_t))
    memcpy(total, much, kept * sizeof(float))
    return chosen, totals


cdef inline uint32_t falling(float score) noexcept nogil:
    """Grows as the score falls; nan is the lowest."""
    cdef uint32_t raw
    cdef float plain = score + <float> 0.0  # of -0.0 and 0.0 one
    if plain != plain:
        return 0xFFFFFFFF
    memcpy(&raw, &plain, 4)
    return raw if raw & <uint32_t> 0x80000000 else raw ^ <uint32_t> 0x7FFFFFFF


cdef char* area = NULL
cdef Py_ssize_t area_items = 0, area_rest = 0
cdef double* sums  # of each item, and
cdef uint64_t* bits  # of each item: both are zero between calls

cdef void* scratch(Py_ssize_t items, Py_ssize_t size) except NULL:
    """Room for so many bytes, beside `sums` and `bits` for so many items: all in one piece."""
    global area, area_items, area_rest, sums, bits
    cdef Py_ssize_t words
    if items > area_items or size > area_rest:
        items, size = max(items, area_items), max(size + size // 4, area_rest)
        words = items // 64 + 1
        fresh = zeroed(max(8 * (items + words) + size, 1 << 21))
        if fresh == NULL:
            raise MemoryError
        free(area)
        area, area_items, area_rest = <char*> fresh, items, size
        sums = <double*> area
        bits = <uint64_t*> (sums + items)
    return bits + area_items // 64 + 1


cdef inline float risen(uint32_t raw) noexcept nogil:
    """The score that `falling` was given."""
    cdef float score
    if not raw & <uint32_t> 0x80000000:
        raw ^= <uint32_t> 0x7FFFFFFF
    memcpy(&score, &raw, 4)
    return score


cdef inline Py_ssize_t keep(
    uint64_t* keys, int32_t* counts, Py_ssize_t kept, float score, uint32_t item
) noexcept nogil:
    cdef uint32_t key = falling(score)
    counts[key >> 20] += 1
    keys[kept] = (<uint64_t> key << 32) | item
    return kept + 1


cdef Py_ssize_t settle(int32_t* touched, float* total, Py_ssize_t count) noexcept:
    """Which of the items that were added to are marked still, their sums, how many; scratch is zero
    again."""
    cdef Py_ssize_t i, found = 0
    cdef int32_t item
    cdef uint64_t bit
    for i in range(count):
        item = touched[i]
        bit = (<uint64_t> 1) << (item & 63)
        touched[found] = item
        total[found] = <float> sums[item]
        found += (bits[item >> 6] & bit) != 0
        bits[item >> 6] &= ~bit
        sums[item] = 0.0
    return found


def following(
    offsets, neighbours, weights, rows, factors, without, first, first_scores, float share,
    eligible, Py_ssize_t limit,
):
    """See `vitrine_sdk.past`. In one pass what `_kernel.merged` and `_kernel.best` do, without
    arrays of the thousands that are not taken."""
    cdef Py_ssize_t offset_count, cell_count, weight_count, row_count, factor_count, first_count
    cdef Py_ssize_t without_count, flag_count = 0, i, at, kept = 0, taken = 0, cells = 0
    cdef int64_t* starts = <int64_t*> data(offsets, 8, &offset_count)
    cdef int32_t* neighbour = <int32_t*> data(neighbours, 4, &cell_count)
    cdef float* weight = <float*> data(weights, 4, &weight_count)
    cdef int32_t* row = <int32_t*> data(rows, 4, &row_count)
    cdef float* factor = <float*> data(factors, 4, &factor_count)
    cdef int32_t* ahead = <int32_t*> data(first, 4, &first_count)
    cdef float* ahead_score = <float*> data(first_scores, 4, &i)
    cdef int32_t* left = <int32_t*> data(without, 4, &without_count)
    cdef uint8_t* flags = NULL
    cdef int32_t n = <int32_t> (offset_count - 1), item
    cdef int64_t cell
    cdef float product, most = 0.0, part
    if i != first_count or factor_count != row_count or weight_count != cell_count:
        raise ValueError("arrays that differ in length")
    if eligible is not None:
        flags = <uint8_t*> data(eligible, 1, &flag_count)
        if flag_count < n:
            raise ValueError(f"{flag_count} flags for {n} items")
    for i in range(row_count):
        if row[i] < 0 or row[i] >= n:
            raise IndexError(f"row {row[i]} of {n}")
        __builtin_prefetch(&starts[row[i]])
    for i in range(first_count):
        if ahead[i] < 0 or ahead[i] >= n:
            raise IndexError(f"item {ahead[i]} of {n}")
    for i in range(row_count):
        if starts[row[i]] < 0 or starts[row[i] + 1] > cell_count:
            raise IndexError(f"row {row[i]} ends beyond the cells")
        cells += max(starts[row[i] + 1] - starts[row[i]], 0)
        for cell in range(starts[row[i]], starts[row[i] + 1], 16):
            __builtin_prefetch(&neighbour[cell])
            __builtin_prefetch(&weight[cell])
    cdef int32_t* out
    cdef float* score
    cdef uint8_t* reason
    cdef Py_ssize_t most_kept = cells + first_count + 1
    cdef uint64_t* keys = <uint64_t*> scratch(n, most_kept * (2 * sizeof(uint64_t) + 8))
    cdef int32_t* touched = <int32_t*> (keys + 2 * most_kept)
    cdef float* total = <float*> (touched + most_kept)
    cdef uint64_t* marked = bits
    cdef double* sum = sums
    cdef uint64_t bit
    cdef Py_ssize_t found = 0, fresh = 0
    for i in range(row_count):
        for cell in range(starts[row[i]], starts[row[i] + 1]):
            item = neighbour[cell]
            if item < 0 or item >= n:
                settle(touched, total, fresh)
                raise IndexError(f"item {item} of {n}")
            # The rows' last ones look ahead into others' cells, which are items too.
            if cell + AHEAD < cell_count:
                __builtin_prefetch(sum + neighbour[cell + AHEAD], 1)
            product = weight[cell] * factor[i]
            bit = (<uint64_t> 1) << (item & 63)
            touched[fresh] = item
            fresh += not marked[item >> 6] & bit
            marked[item >> 6] |= bit
            sum[item] += <double> product
    for i in range(without_count):
        if 0 <= left[i] < n:
            marked[left[i] >> 6] &= ~((<uint64_t> 1) << (left[i] & 63))
    found = settle(touched, total, fresh)
    cdef int32_t counts[4096]
    memset(counts, 0, sizeof(counts))
    part = 1.0
    if first_count:
        for i in range(first_count):
            most = max(most, ahead_score[i])
        part = share / most
        for i in range(first_count):
            if flags == NULL or flags[ahead[i]]:
                kept = keep(keys, counts, kept, ahead_score[i] * part, <uint32_t> ahead[i])
        most = total[0] if found else 0.0
        for i in range(found):
            most = max(most, total[i])
        part = (ONE - share) / max(most, <float> 1e-30)
    for i in range(found):
        if flags == NULL or flags[touched[i]]:
            kept = keep(keys, counts, kept, total[i] * part, <uint32_t> touched[i] | FOUND)
    cdef uint64_t beyond
    if limit < kept // 2:  # those beyond the last eighth of an octave that is needed are not sorted
        at = 0
        while taken < limit:
            taken += counts[at]
            at += 1
        beyond = <uint64_t> (at - 1) << 52 | 0xFFFFFFFFFFFFF
        at = 0
        for i in range(kept):
            keys[at] = keys[i]
            at += keys[i] <= beyond
        kept = at
    keys = in_order(keys, keys + most_kept, kept)
    kept = min(kept, limit)
    chosen = made(kept, np.NPY_INT32, <void**> &out)
    scores = made(kept, np.NPY_FLOAT32, <void**> &score)
    reasons = made(kept, np.NPY_UINT8, <void**> &reason)
    for i in range(kept):
        out[i] = <int32_t> (keys[i] & ~<uint64_t> FOUND)
        score[i] = risen(<uint32_t> (keys[i] >> 32))
        reason[i] = not keys[i] & FOUND
    return chosen, scores, reasons
