# SPDX-License-Identifier: MIT
"""Numbers from a seed and an index: the twin of tests/counter_rng.h, bit for bit.

Stateless, so that any row of a large tensor can be made without the rows before it. The hash is the finaliser of
SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) on a counter; a value is its top 24 bits, so float32 holds it exactly.

    python3 scripts/counter_rng.py      checks the pinned values (no NumPy needed)
"""

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def _mix(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def bits(seed, index):
    """64 random bits."""
    return _mix((_mix((seed + GOLDEN) & MASK) + index * GOLDEN) & MASK)


def value(seed, index):
    """Uniform in [-1, 1), a multiple of 2^-23."""
    return ((bits(seed, index) >> 40) - (1 << 23)) / (1 << 23)


def outlier(seed, index):
    """value, times 64 for one index in 64: features of vision encoders have a few large channels."""
    return value(seed, index) * (64 if bits(seed, index) & 63 == 0 else 1)


def array(seed, shape, kind="value", first=0):
    """float32 NumPy array of value or outlier for the indices first, first + 1, ... in row-major order."""
    import math

    import numpy as np

    def mix(z):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    index = np.arange(first, first + math.prod(shape), dtype=np.uint64)
    hashed = mix(np.uint64(_mix((seed + GOLDEN) & MASK)) + index * np.uint64(GOLDEN))
    result = ((hashed >> np.uint64(40)).astype(np.int64) - (1 << 23)).astype(np.float32) * np.float32(2.0**-23)
    if kind == "outlier":
        result[(hashed & np.uint64(63)) == 0] *= np.float32(64)
    elif kind != "value":
        raise ValueError(f"no generator is called {kind!r}")
    return result.reshape(shape)


# The same numbers are in tests/test_counter_rng.c.
PINNED_BITS = {
    (0, 0): 0x48218226FF3CD4BF,
    (0, 1): 0xA706DD2F4D197E6F,
    (7, 0): 0x74B5ABCC66B8BDC1,
    (7, 12345678901): 0x635E62280948C31C,
    ((1 << 64) - 1, 3): 0x82B43276ABB80226,
}
PINNED_OUTLIERS = {(7, 77): -8.223014831542969, (7, 78): 0.5947873592376709}


def main():
    for (seed, index), expected in PINNED_BITS.items():
        assert bits(seed, index) == expected, (seed, index, hex(bits(seed, index)))
        assert value(seed, index) == ((expected >> 40) - (1 << 23)) / (1 << 23)
    for (seed, index), expected in PINNED_OUTLIERS.items():
        assert outlier(seed, index) == expected, (seed, index, outlier(seed, index))
    try:
        import numpy
    except ImportError:
        print("pinned values agree; NumPy is missing, arrays are not checked")
        return
    for kind, one in (("value", value), ("outlier", outlier)):
        many = array(7, (4, 100), kind, first=3).ravel()
        assert many.dtype == numpy.float32
        assert all(float(many[i]) == one(7, i + 3) for i in range(400))
    print("pinned values agree")


if __name__ == "__main__":
    main()
