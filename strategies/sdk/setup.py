"""Only what pyproject.toml cannot say yet but as an experiment: the compiled kernel. Without a
compiler, Cython or Python's headers the package installs all the same (vitrine_sdk.kernel)."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension("vitrine_sdk._kernel", ["src/vitrine_sdk/_kernel.pyx"], optional=True),
        Extension("vitrine_sdk._history", ["src/vitrine_sdk/_history.pyx"], optional=True),
    ]
)
