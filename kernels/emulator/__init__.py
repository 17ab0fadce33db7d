"""The emulated device: runs the PTX that NVRTC makes on the processor, and checks every memory access.

It needs no graphics card and no driver: only NVRTC (extra ``minidl[emulator]``) and the host's C++ compiler.
"""
