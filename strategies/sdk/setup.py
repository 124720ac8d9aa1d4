"""Only what pyproject.toml cannot say yet but as an experiment: the compiled kernel. Without a
compiler, Cython or headers the package installs all the same (vitrine_sdk.kernel)."""

import contextlib

from setuptools import Extension, setup

headers = []
with contextlib.suppress(ImportError):
    import numpy

    headers.append(numpy.get_include())

setup(
    ext_modules=[
        Extension(
            f"vitrine_sdk.{name}",
            [f"src/vitrine_sdk/{name}.pyx"],
            include_dirs=headers,
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
            optional=True,
        )
        for name in ("_kernel", "_history")
    ]
)
