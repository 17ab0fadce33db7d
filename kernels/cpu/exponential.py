"""exp(x) for x <= 0, as a polynomial that LLVM turns into vectors: Numba's own is a call for every element.

x = n * ln 2 + r with |r| <= ln 2 / 2. Adding 1.5 * 2^52 (2^23 in float32) rounds n to an integer and leaves it in the
low bits. ln 2 in two parts keeps r exact (Cody and Waite 1980, "Software manual for the elementary functions").
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.kernels.cpu.runtime import jit

_LOG2_E = 1.4426950408889634
_ROUND = 6755399441055744.0
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10
_LOWEST = -708.0  # exp of less is no normal number; it counts as 0

_LOG2_E_32 = np.float32(1.4426950408889634)
_ROUND_32 = np.float32(12582912.0)
_LN2_HIGH_32 = np.float32(0.693359375)  # few bits: n times it is exact
_LN2_LOW_32 = np.float32(-2.12194440e-4)
_LOWEST_32 = np.float32(-87.0)
# Cephes' expf (Moshier 1989): exp(r) = 1 + r + r^2 * p(r), relative error 2e-8 before rounding.
_P5, _P4, _P3, _P2, _P1, _P0 = (
    np.float32(c)
    for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
)
_ZERO_32, _ONE_32 = np.float32(0), np.float32(1)


@jit
def exp_negative(x: Any) -> Any:
    """exp(x) for a float64 x <= 0, relative error below 1e-15; 0 below -708 and NaN for NaN."""
    bounded = _LOWEST if x < _LOWEST else x
    shifted = bounded * _LOG2_E + _ROUND
    n = shifted - _ROUND
    r = (bounded - n * _LN2_HIGH) - n * _LN2_LOW
    # The Taylor series of exp up to r^13, whose next term is below 5e-18.
    e = 1.6059043836821613e-10
    e = e * r + 2.08767569878681e-09
    e = e * r + 2.505210838544172e-08
    e = e * r + 2.755731922398589e-07
    e = e * r + 2.7557319223985893e-06
    e = e * r + 2.48015873015873e-05
    e = e * r + 0.0001984126984126984
    e = e * r + 0.001388888888888889
    e = e * r + 0.008333333333333333
    e = e * r + 0.041666666666666664
    e = e * r + 0.16666666666666666
    e = e * r + 0.5
    e = e * r + 1.0
    e = e * r + 1.0
    # Shifted left by 52, the low bits of n land in the exponent: adding them multiplies by 2^n.
    exponent = np.float64(shifted).view(np.int64) << 52
    power = np.int64(np.float64(e).view(np.int64) + exponent).view(np.float64)
    return power if x >= _LOWEST else (0.0 if x < _LOWEST else x)


@jit
def exp_negative_32(x: Any) -> Any:
    """exp(x) for a float32 x <= 0 in float32, within two units of the last place; 0 below -87, NaN for NaN."""
    bounded = _LOWEST_32 if x < _LOWEST_32 else x
    shifted = bounded * _LOG2_E_32 + _ROUND_32
    n = shifted - _ROUND_32
    r = (bounded - n * _LN2_HIGH_32) - n * _LN2_LOW_32
    p = ((((_P5 * r + _P4) * r + _P3) * r + _P2) * r + _P1) * r + _P0
    e = p * (r * r) + r + _ONE_32
    exponent = np.int32(np.float32(shifted).view(np.int32) << np.int32(23))
    power = np.int32(np.float32(e).view(np.int32) + exponent).view(np.float32)
    return power if x >= _LOWEST_32 else (_ZERO_32 if x < _LOWEST_32 else x)
