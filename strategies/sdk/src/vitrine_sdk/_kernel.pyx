# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What a request does to hundreds of numbers, in one call each: see `vitrine_sdk.kernel`.

Arrays are C-contiguous, one-dimensional, of the types that the twins in Python take. Everything
runs with the interpreter's lock held, so that scratch memory is shared by all calls; each leaves it
as it found it. To make an object may collect garbage, and so run others' code and let other threads
in: while scratch is in use none is made. No header of numpy's is needed to build this.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.math cimport isfinite
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from numpy import empty, float32, int32, int64, uint8

cdef extern from *:
    int __builtin_ctzll(unsigned long long) nogil
    void __builtin_prefetch(const void*) nogil

cdef int32_t KEEP = 0x7FFFFFFF  # as `app.domain.rule_program.KEEP`
cdef float STEP = 524288.0  # half of what doubles a position, as `app.domain.ruling`
cdef int UNAVAILABLE = 0, FILTERED = 1, DUPLICATE = 5, UNRENDERED = 6, RULED = 7

cdef void* data(object array, Py_ssize_t size, Py_ssize_t* count) except NULL:
    """Where the elements lie; the caller's reference to the array keeps them there."""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_SIMPLE)
    cdef void* found = view.buf
    cdef Py_ssize_t itemsize = view.itemsize, length = view.len
    PyBuffer_Release(&view)
    if itemsize != size:
        raise TypeError(f"an array of {itemsize} bytes an element, not {size}")
    count[0] = length // size
    return found if found != NULL else <void*> &KEEP

cdef void* writable(object array, Py_ssize_t size, Py_ssize_t* count) except NULL:
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_WRITABLE)
    PyBuffer_Release(&view)
    return data(array, size, count)

# Scratch. `bits` and `sums` are zero between calls.
cdef uint64_t* bits = NULL
cdef double* sums = NULL
cdef Py_ssize_t bit_words = 0, sum_room = 0
cdef char* spare = NULL
cdef Py_ssize_t spare_room = 0

cdef int room_for_bits(Py_ssize_t count) except -1:
    global bits, bit_words
    cdef Py_ssize_t words = (count + 63) // 64
    if words > bit_words:
        fresh = <uint64_t*> realloc(bits, words * sizeof(uint64_t))
        if fresh == NULL:
            raise MemoryError
        bits = fresh
        memset(bits + bit_words, 0, (words - bit_words) * sizeof(uint64_t))
        bit_words = words
    return 0

cdef int room_for_sums(Py_ssize_t count) except -1:
    global sums, sum_room
    if count > sum_room:
        fresh = <double*> realloc(sums, count * sizeof(double))
        if fresh == NULL:
            raise MemoryError
        sums = fresh
        memset(sums + sum_room, 0, (count - sum_room) * sizeof(double))
        sum_room = count
    return 0

cdef void* room(Py_ssize_t size) except NULL:
    global spare, spare_room
    if size > spare_room:
        fresh = <char*> realloc(spare, size)
        if fresh == NULL:
            raise MemoryError
        spare = fresh
        spare_room = size
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
    chosen = empty(cells, int32)
    totals = empty(cells, float32)
    cdef int32_t* out = <int32_t*> data(chosen, 4, &i)
    cdef float* total = <float*> data(totals, 4, &i)
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
    chosen = empty(count, int32)
    totals = empty(count, float32)
    cdef int32_t* out = <int32_t*> data(chosen, 4, &i)
    cdef float* total = <float*> data(totals, 4, &i)
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
    places = empty(min(limit, count), int64)
    cdef int64_t* out = <int64_t*> data(places, 8, &i)
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


def holds(items, int32_t item):
    """Whether an item is among others."""
    cdef Py_ssize_t count, i
    cdef int32_t* listed = <int32_t*> data(items, 4, &count)
    for i in range(count):
        if listed[i] == item:
            return True
    return False


def flaw(items, scores, reasons, Py_ssize_t model_items, Py_ssize_t kinds):
    """What of candidates (as long as each other, not empty) is against the contract: 0: nothing;
    1: an item outside of the model's; 2: one twice; 3, 4: scores not finite, or increasing; 5: a
    reason that there is not."""
    cdef Py_ssize_t count, i, marked = 0
    cdef int32_t* item = <int32_t*> data(items, 4, &count)
    cdef float* score = <float*> data(scores, 4, &i)
    cdef uint8_t* reason = <uint8_t*> data(reasons, 1, &i)
    cdef uint64_t some
    cdef int wrong = 0
    for i in range(count):
        if item[i] < 0 or item[i] >= model_items:
            return 1
    room_for_bits(model_items)
    for i in range(count):
        some = (<uint64_t> 1) << (item[i] & 63)
        if bits[item[i] >> 6] & some:
            wrong = 2
            break
        bits[item[i] >> 6] |= some
        marked += 1
    for i in range(marked):
        bits[item[i] >> 6] = 0
    if wrong:
        return wrong
    if not isfinite(score[0]) or not isfinite(score[count - 1]):
        return 3
    for i in range(1, count):
        if not score[i] <= score[i - 1]:
            return 4
    for i in range(count):
        if reason[i] >= kinds:
            return 5
    return 0


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
    places = empty(count, int64)
    cdef int64_t* out = <int64_t*> data(places, 8, &i)
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


cdef inline bint before(int64_t* key, int32_t a, int32_t b) noexcept:
    return key[a] < key[b] or (key[a] == key[b] and a < b)


cdef inline void sink(int32_t* heap, int64_t* key, Py_ssize_t at, Py_ssize_t count) noexcept:
    """The one that competes best first."""
    cdef int32_t moved = heap[at]
    cdef Py_ssize_t child
    while True:
        child = 2 * at + 1
        if child >= count:
            break
        if child + 1 < count and before(key, heap[child + 1], heap[child]):
            child += 1
        if not before(key, heap[child], moved):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = moved


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
    found = (empty(want, int32), empty(want, float32), empty(want, uint8), empty(want, uint8))
    cdef int32_t* out_rows = <int32_t*> data(found[0], 4, &length)
    cdef float* out_scores = <float*> data(found[1], 4, &length)
    cdef uint8_t* out_sources = <uint8_t*> data(found[2], 1, &length)
    cdef uint8_t* out_reasons = <uint8_t*> data(found[3], 1, &length)
    cdef char* at = <char*> room(
        cap_count * sizeof(Cap) + n * (sizeof(int64_t) + 3 * sizeof(int32_t)) + 64
    )
    # Laid out by falling alignment.
    cdef Cap* cap = <Cap*> at
    cdef int64_t* key = <int64_t*> (at + cap_count * sizeof(Cap))
    cdef int32_t* heap = <int32_t*> (key + n)
    cdef int32_t* parked = heap + n  # what waits, in its order: read and written
    cdef int32_t* chosen = parked + n
    cdef Py_ssize_t heaped = n, next_in_order = 0, waiting = 0, read, written, until
    cdef Py_ssize_t taken = 0
    cdef int32_t candidate
    cdef bint fits
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
            key[i] = position[i] - <int64_t> (boost[signature[row[i]]] * STEP)
            heap[i] = <int32_t> i
        for i in range(n // 2 - 1, -1, -1):
            sink(heap, key, i, n)
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
                candidate = heap[0]
                heaped -= 1
                heap[0] = heap[heaped]
                if heaped:
                    sink(heap, key, 0, heaped)
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
