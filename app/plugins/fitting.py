"""Fits in child processes: a crash, a leak or a kill there ends nothing here."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import structlog

from app.domain.gate import GateRule
from app.domain.model import Manifest, ModelVersion
from app.domain.pod import StrategyConfiguration
from app.domain.strategy import InstalledStrategy
from app.plugins import training_files
from app.plugins.artefact_files import ArtefactError, write_manifest
from app.plugins.artefacts import ArtefactStore
from app.plugins.fit_job import Against, FitJob, FitReport, config_hash
from app.services.train import FitFailed, Staged, TrainingSet

log = structlog.get_logger(module=__name__)


class ChildFitter:
    """
    Args:
        store: where artefacts are staged.
        scratch: a directory for the training data; it is needed only while fits run.
        timeout: seconds after which a fit is killed.
        memory_mib: address space that a fit may take; None: as much as there is.
        gate: how new models are judged against those that serve; None: they are not.
    """

    def __init__(
        self,
        store: ArtefactStore,
        scratch: Path,
        *,
        timeout: float = 4 * 3600.0,
        memory_mib: int | None = None,
        gate: GateRule | None = None,
    ) -> None:
        self._store = store
        self._scratch = scratch
        self._timeout = timeout
        self._memory_mib = memory_mib
        self._gate = gate

    @asynccontextmanager
    async def prepare(self, training_set: TrainingSet) -> AsyncIterator[PreparedData]:
        self._scratch.mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix="fit-", dir=self._scratch))
        try:
            await asyncio.to_thread(training_files.save, training_set.data, directory)
            yield PreparedData(
                self._store,
                directory,
                training_set,
                timeout=self._timeout,
                memory_mib=self._memory_mib,
                gate=self._gate,
                counts=(self._scratch / "counts").absolute(),
            )
        finally:
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


class PreparedData:
    """Training data on disk, on which any number of configurations can be fitted."""

    def __init__(
        self,
        store: ArtefactStore,
        directory: Path,
        training_set: TrainingSet,
        *,
        timeout: float,
        memory_mib: int | None,
        gate: GateRule | None,
        counts: Path,
    ) -> None:
        self._gate = gate
        self._store = store
        self._counts = counts
        self._directory = directory
        self._section = training_set.section
        self._catalogue_version = training_set.catalogue_version
        self._unknown_items = training_set.unknown_items
        self._now = training_set.data.now
        self._timeout = timeout
        self._memory_mib = memory_mib

    async def fit(
        self,
        configuration: StrategyConfiguration,
        strategy: InstalledStrategy,
        seed: int,
        serving: ModelVersion | None,
        *,
        calibrate: bool = False,
        counts: str | None = None,
    ) -> Staged:
        config = msgspec.to_builtins(strategy.configuration(configuration.config))
        staged = await asyncio.to_thread(self._store.staging)
        job = FitJob(
            data=str(self._directory),
            staged=str(staged),
            strategy=strategy.name,
            config=config,
            seed=seed,
            memory_mib=self._memory_mib,
            calibrate=calibrate,
            counts=None if counts is None else str(self._counts / counts),
            counts_key=f"{strategy.name} {strategy.version} {config_hash(config)}",
            against=await self._against(serving),
        )
        try:
            report = await self._run(job)
            manifest = Manifest(
                configuration_id=configuration.id,
                strategy=strategy.name,
                strategy_version=strategy.version,
                contract=report.contract,
                format=report.format,
                section=self._section,
                items=report.items,
                catalogue_version=self._catalogue_version,
                config=config,
                config_hash=config_hash(config),
                watermark=self._now,
                seed=seed,
                files=report.files,
                calibration=report.calibration,
                metrics={**report.metrics, "unknown_items": float(self._unknown_items)},
            )
            sha256 = await asyncio.to_thread(write_manifest, staged, manifest)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        return Staged(staged, manifest, sha256, report.verdict)

    async def _against(self, serving: ModelVersion | None) -> Against | None:
        """What the new one is judged against; nothing, where that cannot be opened any more."""
        if self._gate is None or serving is None:
            return None
        try:
            directory, manifest = await asyncio.to_thread(
                self._store.verified, serving.location, serving.sha256
            )
        except ArtefactError as error:
            log.warning("gate_without_published_model", reason=error.message)
            return None
        return Against(
            number=serving.number, directory=str(directory), manifest=manifest, rule=self._gate
        )

    async def _run(self, job: FitJob) -> FitReport:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "app.plugins.fit_process",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None  # noqa: S101  # both are pipes
        assert process.stdout is not None  # noqa: S101
        try:
            async with asyncio.timeout(self._timeout):
                # The pipe stays open: when it closes, the child knows that we are gone.
                process.stdin.write(msgspec.json.encode(job) + b"\n")
                answer = await process.stdout.read()
                code = await process.wait()
        except TimeoutError:
            raise FitFailed(f"the fit took longer than {self._timeout:g} s and was ended") from None
        except ConnectionError:
            answer, code = b"", await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            process.stdin.close()
        return _report(answer, code)


def _report(answer: bytes, code: int) -> FitReport:
    try:
        report = msgspec.json.decode(answer, type=FitReport)
    except msgspec.DecodeError:
        report = FitReport()
    if report.trace is not None:
        log.error("fit_raised", trace=report.trace)
    if report.error is not None:
        raise FitFailed(report.error)
    if code != 0 or not report.files:
        raise FitFailed(_end(code))
    return report


def _end(code: int) -> str:
    if code >= 0:
        return f"the fit ended by itself with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    hint = "; the system may have run out of memory" if -code == signal.SIGKILL else ""
    return f"the fit was ended by signal {name}{hint}"
