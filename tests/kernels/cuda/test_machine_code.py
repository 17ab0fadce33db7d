"""Every kernel becomes machine code for each architecture, within its registers and without a spill."""

from __future__ import annotations

import os
from collections import defaultdict

import pytest

from minidl.kernels.cuda import compiler, nvrtc
from minidl.kernels.cuda.inventory import ARCHITECTURES, Kernel, kernels

pytestmark = pytest.mark.skipif(not nvrtc.available(), reason=nvrtc.MISSING)
THOROUGH = ("sm_75", "sm_90a")
"""The oldest and, with the most instructions of its own, the architecture for which one of each kind is compiled."""


def check(wanted: list[Kernel], architecture: str) -> None:
    by_source = defaultdict(list)
    for kernel in wanted:
        by_source[kernel.source].append(kernel)
    faults = []
    for source, several in by_source.items():
        names = [k.name for k in several if "<" in k.name]
        made = compiler.compile(source, architecture, None, names)
        faults += [f"{source} for {architecture}: {remark}" for remark in made.remarks]
        for kernel in several:
            usage = made.usage[kernel.name]
            if usage.spills or usage.stack or usage.registers > kernel.registers:
                faults.append(
                    f"{kernel.name} for {architecture}: {usage}, {kernel.registers} registers allowed"
                )
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_compile_within_their_registers(architecture: str) -> None:
    wanted = [k for k in kernels(architecture) if k.quick]
    if architecture not in THOROUGH:
        wanted = wanted[:1]
    check(wanted, architecture)


@pytest.mark.skipif(
    not os.environ.get("MINIDL_TEST_ALL_KERNELS"),
    reason="minutes of compiling: set MINIDL_TEST_ALL_KERNELS=1",
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_kernels_compile_within_their_registers(architecture: str) -> None:
    check(list(kernels(architecture)), architecture)


def test_the_inventory_names_each_kernel_once() -> None:
    for architecture in ARCHITECTURES:
        names = [k.name for k in kernels(architecture)]
        assert len(names) == len(set(names)) > 200
