"""Special functions that NumPy lacks, as polynomials."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.kernels.capturing import perhaps

Array = Any

# erf(x) / x in powers of x*x, for |x| <= 1: the Chebyshev expansion on [0, 1] written out in powers.
_SMALL = (
    1.1283791670955126, -0.37612638903183754, 0.11283791670955126, -0.026866170645131218,
    0.005223977625441678, -0.0008548327023403335, 0.00012055332978896794, -1.4925650237575669e-05,
    1.6462110796906402e-06, -1.636576890552566e-07, 1.4806030251337853e-08, -1.2277760280084826e-09,
    9.323863617962225e-11, -6.197184508840852e-12, 2.807352617647703e-13,
)  # fmt: skip
# x exp(x*x) erfc(x) in powers of w = 3/2 (x - 2) / (x + 2) - 1/2, which maps [1, inf) to [-1, 1). The same way.
_LARGE = (
    0.5479978305002455, 0.04479259946985351, -0.04599123267443635, 0.02321720178734541,
    -0.006486869334793702, 0.00036676765483436, 0.00039447988435441114, -8.22078739137102e-05,
    -3.074325598900727e-05, 9.57004596514906e-06, 3.5875817749429598e-06, -1.0054181050961919e-06,
    -5.523485690576884e-07, 7.706806475539405e-08, 9.208082471795301e-08, 3.6426378436298204e-09,
    -1.4166828540250455e-08, -3.4063487184601276e-09, 1.7001408406177282e-09, 8.146057349954789e-10,
    -1.1494216918522938e-10, -8.896460586252118e-11,
)  # fmt: skip
_ONE = 6.5  # erf is 1 in float64 from 5.93 on


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    """Horner's rule, in the dtype of x."""
    kind = x.dtype.type
    y = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        y *= x
        y += kind(c)
    return y


def erf_array(x: Array) -> Array:
    """The error function of a floating array of any dtype, in the same layout.

    Chebyshev expansions of erf(x) / x on [0, 1] and of x exp(x*x) erfc(x) beyond (the variable after Schonfelder,
    Mathematics of Computation 32, 1978), coefficients computed with 60 digits. The relative error is below 3e-16 in
    float64, 2e-7 in float32; float32 uses fewer terms, half types are computed in float32.
    """
    if x.dtype.itemsize == 2:
        return erf_array(x.astype(np.float32)).astype(x.dtype)
    small, large = (_SMALL, _LARGE) if x.dtype == np.float64 else (_SMALL[:10], _LARGE[:14])
    kind = x.dtype.type
    size = np.abs(x)
    inner = np.minimum(size, kind(1))
    near = x * _polynomial(small, inner * inner)
    beyond = size > 1
    if not perhaps(beyond):
        return near
    outer = np.clip(size, kind(1), kind(_ONE))
    w = kind(1.5) * (outer - kind(2)) / (outer + kind(2)) - kind(0.5)
    with np.errstate(under="ignore"):
        far = kind(1) - np.exp(-outer * outer) / outer * _polynomial(large, w)
    return np.where(beyond, np.copysign(far, x), near)
