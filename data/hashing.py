"""Hashes that are the same on every machine, in every run and for every integer width; no Python per row.

An integer x is hashed as splitmix64(x mod 2^64) [Steele, Lea, Flood, OOPSLA 2014]. A string of bytes b_0 .. b_(n-1) is
hashed as splitmix64(n + sum_i (b_i + 1) * P^(i+1) mod 2^64), P odd and so invertible: a polynomial, so that one running
sum over the bytes of many rows gives each row's as a difference of two of its entries.
Shapes: R rows, S bytes of all rows together.
"""

import numpy as np
import pyarrow as pa
import pyarrow.types as pat

P = np.uint64(0x9E3779B97F4A7C15)
P_INVERSE = np.uint64(pow(int(P), -1, 1 << 64))
BLOCK_ROWS = 4096
MIX_BLOCK = 1 << 14
MIX_STEPS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


def splitmix64(x: np.ndarray) -> np.ndarray:
    """The splitmix64 finaliser of every uint64; a bijection, arithmetic modulo 2^64."""
    mixed = np.add(x, np.uint64(0x9E3779B97F4A7C15), order="C")
    # in place and a block at a time, so that ten passes stay in the cache
    flat = mixed.reshape(-1)
    scratch = np.empty(min(len(flat), MIX_BLOCK), np.uint64)
    for begin in range(0, len(flat), MIX_BLOCK):
        block = flat[begin : begin + MIX_BLOCK]
        shifted = scratch[: len(block)]
        for shift, factor in MIX_STEPS:
            block ^= np.right_shift(block, shift, out=shifted)
            block *= factor
        block ^= np.right_shift(block, np.uint64(31), out=shifted)
    return mixed


def hash_array(array: pa.Array) -> np.ndarray:
    """uint64_R of an integer, boolean, string or dictionary array; where a value is missing the hash means nothing."""
    if pat.is_dictionary(array.type):
        if len(array.dictionary) == 0:
            return np.zeros(len(array), np.uint64)
        return hash_array(array.dictionary)[array.indices.fill_null(0).to_numpy()]
    if pat.is_boolean(array.type):
        array = array.cast(pa.int8())
    if pat.is_integer(array.type):
        values_R = array.fill_null(0).to_numpy()
        wide_R = values_R if pat.is_unsigned_integer(array.type) else values_R.astype(np.int64, copy=False)
        return splitmix64(wide_R.astype(np.uint64))
    return hash_strings(array)


def hash_strings(array: pa.Array) -> np.ndarray:
    """uint64_R of a string array, from its byte buffer, a few thousand rows at a time to stay in the cache.

    Bytes are multiplied by the power of their place in the block, not in their row, which makes that one product and
    one running sum of whole arrays; a row's share is then divided by the power at which it begins.
    """
    width = np.int64 if pat.is_large_string(array.type) else np.int32
    _, offsets, data = array.buffers()
    if len(array) == 0 or offsets is None:
        return np.zeros(len(array), np.uint64)
    # A slice shares its parent's buffers: its own offsets start at array.offset.
    offset_R1 = np.frombuffer(offsets, width)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    byte_S = np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)
    length_R = np.diff(offset_R1)
    blocks = [offset_R1[begin : begin + BLOCK_ROWS + 1] for begin in range(0, len(array), BLOCK_ROWS)]
    longest = max(int(block[-1] - block[0]) for block in blocks)
    power = np.cumprod(np.full(longest, P))
    inverse = np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(longest, P_INVERSE)]))
    ones = np.concatenate([np.zeros(1, np.uint64), np.cumsum(power[: int(length_R.max())])])  # sum of P^(i+1), i < n
    sum_R = ones[length_R] + length_R.astype(np.uint64)
    running = np.zeros(longest + 1, np.uint64)
    for number, block in enumerate(blocks):
        place = block - block[0]
        size = int(place[-1])
        terms = np.multiply(byte_S[block[0] : block[-1]], power[:size], dtype=np.uint64)
        np.cumsum(terms, out=running[1 : size + 1])
        at = running[place]
        begin = number * BLOCK_ROWS
        sum_R[begin : begin + len(place) - 1] += (at[1:] - at[:-1]) * inverse[place[:-1]]
    return splitmix64(sum_R)
