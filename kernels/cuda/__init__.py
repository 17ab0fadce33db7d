"""The CUDA back end: own kernels in ``source/*.cu``, compiled by NVRTC at their first use, with thin launchers.

:mod:`.device` says what a device is, :mod:`.compiler` turns sources into PTX and machine code, :mod:`.families` puts
the families of kernels together. The launchers run on a graphics card (:mod:`.cupy_device`) and on the emulated device
(:mod:`minidl.kernels.emulator`) alike.
"""
