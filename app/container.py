"""The one place that wires: settings to stores, stores to services, services to handlers.

Resolved once, when a process starts. Nothing in a request's path asks the container for anything.
"""

from __future__ import annotations

import asyncio
import random
from importlib.metadata import version as package_version
from typing import Final

from dependency_injector import containers, providers

from app.domain.gate import GateRule
from app.domain.item_index import ItemIndexes
from app.domain.rendered import RenderedItems
from app.domain.rule_gate import RuleGateRule
from app.files.catalogue_files import CatalogueFiles
from app.files.event_archive import EventArchive
from app.files.event_spool import EventSpool
from app.http.admin_audit import AdminAudit
from app.http.admin_keys import AdminKeys
from app.http.admin_models import AdminModels
from app.http.admin_pods import AdminPods
from app.http.admin_rule_previews import AdminRulePreviews
from app.http.admin_rule_versions import AdminRuleVersions
from app.http.admin_rules import AdminRules
from app.http.admin_running import AdminRunning
from app.http.admin_shoppers import AdminShoppers
from app.http.admin_strategies import AdminStrategies
from app.http.admin_tracking import AdminTracking
from app.http.admin_webhooks import AdminWebhooks
from app.http.catalogue import CatalogueHandler, ItemGroupsHandler
from app.http.catalogue_files import CatalogueFilesHandler, CatalogueTasksHandler
from app.http.client_address import ClientAddress
from app.http.explanations import Explanations
from app.http.idempotency import Idempotency
from app.http.native_events import NativeEventsHandler
from app.http.rate_limit import RateLimit
from app.http.storefront import Storefront, result_ids
from app.http.storefront_page import StorefrontPage
from app.http.tracking import Tracking
from app.http.webhook_sender import HttpWebhookSender
from app.jobs.queue import JobQueue
from app.plugins.artefacts import ArtefactStore
from app.plugins.discovery import discover
from app.plugins.fitting import ChildFitter
from app.plugins.model_loader import ArtefactModelLoader
from app.plugins.process_runner import StrategyProcesses
from app.plugins.runner import SUPPORTED_MODES, StrategyRunner
from app.postgres.audit import AuditLog
from app.postgres.catalogue import Catalogue
from app.postgres.catalogue_write import CatalogueWriter
from app.postgres.configuration import ConfigurationReader
from app.postgres.database import connect
from app.postgres.event_days import EventDays
from app.postgres.event_log import EventLog
from app.postgres.idempotency import IdempotencyKeyStore
from app.postgres.merchants import Merchants
from app.postgres.model_versions import ModelVersionStore
from app.postgres.pods import PodStore
from app.postgres.recent_events import RecentEvents
from app.postgres.retention import ExpiringRows
from app.postgres.rule_samples import RuleSamples
from app.postgres.rule_sets import RuleSetStore
from app.postgres.served_samples import PostgresServedSamples
from app.postgres.shopper_log import ShopperLog
from app.postgres.strategy_configurations import StrategyConfigurationStore
from app.postgres.tasks import Tasks
from app.postgres.training_data import TrainingDataReader
from app.postgres.webhooks import WebhookStore
from app.redis.coalescing import CoalescingRedis
from app.redis.connection import RedisConnection
from app.redis.feature_reader import CoalescedFeatureReader
from app.redis.history import HistoryStore
from app.redis.history_reader import CoalescedHistoryReader, StoredHistoryReader
from app.redis.item_features import RedisItemFeatures
from app.redis.log_levels import LogLevelStore
from app.redis.placements import Placements
from app.redis.shopper_placements import ShopperPlacements
from app.services.attribute import Attribution
from app.services.catalogue_follow import Follower
from app.services.catalogue_import import CatalogueImport, ImportRecovery
from app.services.catalogue_sync import Projector
from app.services.catalogue_verify import Verifier
from app.services.configuration import StrategyConfigurations
from app.services.conflicts import RuleReach
from app.services.explain import Explain
from app.services.history import HistoryKeeper, HistoryRebuild
from app.services.ingest import Ingest
from app.services.judge_rules import JudgeRules
from app.services.log_levels import LogLevelFollower
from app.services.merchandise import Merchandise
from app.services.models import Models
from app.services.preview import Previews
from app.services.privacy import Privacy
from app.services.published_rules import MerchantRulesCompiler
from app.services.recommend import Recommend
from app.services.retention import EventRetention, Retention
from app.services.serving import Serving
from app.services.shopper_history import Histories
from app.services.track import Tracker
from app.services.train import Training
from app.services.training_tasks import TrainingRequests, TrainingTasks
from app.services.vitals import Vitals
from app.services.webhooks import WebhookDelivery, Webhooks
from app.settings import Settings
from app.telemetry.metrics import Metrics
from app.telemetry.observers import (
    EventObserver,
    JobObserver,
    ProjectionObserver,
    postgres_observer,
    redis_observer,
)
from app.telemetry.open_telemetry import tracer_from_environment

BACKGROUND_TIMEOUT: Final = 5.0  # seconds that background work waits for an answer of Redis

EVENT_CONNECTIONS: Final = 4  # to PostgreSQL, for events alone
RETENTION_SAMPLE_DAYS: Final = 30
RETENTION_KEY_DAYS: Final = 2
RETENTION_TASK_DAYS: Final = 90


def _artefacts_url(settings: Settings) -> str:
    return settings.artefacts_url or str((settings.home / "artefacts").absolute())


def _gate(settings: Settings) -> GateRule | None:
    if not settings.gate_metric:
        return None
    return GateRule(metric=settings.gate_metric, margin=settings.gate_margin)


def _rule_judge(settings: Settings, serving: Serving, previews: Previews) -> JudgeRules | None:
    if settings.rule_gate == "off":
        return None
    refuse = settings.rule_gate == "refuse"
    return JudgeRules(
        serving, previews, RuleGateRule(margin=settings.rule_gate_margin, refuse=refuse)
    )


def _spool(settings: Settings) -> EventSpool | None:
    if settings.event_spool is None:
        return None
    return EventSpool(settings.event_spool, max_bytes=settings.event_spool_bytes)


def _retention_days(settings: Settings) -> dict[str, int]:
    return {
        "event_id": settings.event_id_days,
        "served_sample": RETENTION_SAMPLE_DAYS,
        "idempotency_key": RETENTION_KEY_DAYS,
        "task": RETENTION_TASK_DAYS,
    }


def _event_retention(
    settings: Settings, log: EventDays, merchants: ConfigurationReader
) -> EventRetention | None:
    if settings.event_days is None:
        return None
    url = settings.event_archive_url
    return EventRetention(
        log, merchants, settings.event_days, None if url is None else EventArchive(url)
    )


class Container(containers.DeclarativeContainer):
    """Everything that a process may need; what nobody asks for is not made.

    Dependencies: `settings` with the stores' URLs filled in, and the process' `metrics`.
    """

    settings = providers.Dependency(instance_of=Settings)
    metrics = providers.Dependency(instance_of=Metrics)

    # Stores

    background_observer = providers.Singleton(redis_observer, metrics, "background")
    request_observer = providers.Singleton(redis_observer, metrics, "request", tallied=True)
    job_observer = providers.Singleton(JobObserver, metrics)
    tracer = providers.Singleton(tracer_from_environment)  # the worker's
    database = providers.Singleton(
        connect,
        settings.provided.database_url,
        pool=settings.provided.database_pool,
        observe=providers.Singleton(postgres_observer, metrics),
    )
    background_redis = providers.Singleton(
        RedisConnection,
        settings.provided.redis_url,
        cluster=settings.provided.redis_cluster,
        pool=8,
        timeout=BACKGROUND_TIMEOUT,
        observe=background_observer,
    )
    request_redis = providers.Singleton(
        RedisConnection,
        settings.provided.redis_url,
        cluster=settings.provided.redis_cluster,
        pool=settings.provided.redis_pool,
        timeout=settings.provided.request_budget,
        connect_timeout=settings.provided.request_budget,
        observe=request_observer,
    )
    log_level_store = providers.Singleton(LogLevelStore, background_redis)
    log_levels = providers.Singleton(LogLevelFollower, log_level_store)
    catalogue = providers.Singleton(Catalogue, database)
    catalogue_writer = providers.Singleton(CatalogueWriter, database)
    tasks = providers.Singleton(Tasks, database)
    merchants = providers.Singleton(Merchants, database)
    pods = providers.Singleton(PodStore, database)
    configuration_reader = providers.Singleton(ConfigurationReader, database)
    strategy_configuration_store = providers.Singleton(StrategyConfigurationStore, database)
    model_versions = providers.Singleton(ModelVersionStore, database)
    audit_log = providers.Singleton(AuditLog, database)
    # A pool of its own, so that what merchants ask for cannot keep shoppers' events waiting.
    event_database = providers.Singleton(
        connect,
        settings.provided.database_url,
        pool=EVENT_CONNECTIONS,
        observe=providers.Singleton(postgres_observer, metrics),
    )
    event_log = providers.Singleton(
        EventLog, event_database, attribution_days=settings.provided.attribution_days
    )
    recent_events = providers.Singleton(RecentEvents, database)
    expiring_rows = providers.Singleton(ExpiringRows, database)
    job_queue = providers.Singleton(JobQueue, settings.provided.database_url)
    item_features = providers.Singleton(RedisItemFeatures, background_redis)
    history = providers.Singleton(
        HistoryStore,
        background_redis.provided.client,
        run=background_redis.provided.run,
        length=settings.provided.history_length,
        days=settings.provided.history_days,
        observe=background_observer,
    )
    coalescing_redis = providers.Singleton(
        CoalescingRedis, settings.provided.redis_url, observe=request_observer
    )
    redis_topology = providers.Callable(
        lambda cluster: "cluster" if cluster else "single", settings.provided.redis_cluster
    )
    # Many requests' reads in one write, on a single Redis; a cluster's nodes each want their own.
    request_history = providers.Selector(
        redis_topology,
        single=providers.Singleton(CoalescedHistoryReader, coalescing_redis),
        cluster=providers.Singleton(
            StoredHistoryReader,
            providers.Singleton(
                HistoryStore, request_redis.provided.client, observe=request_observer
            ),
        ),
    )
    request_item_features = providers.Selector(
        redis_topology,
        single=providers.Singleton(CoalescedFeatureReader, coalescing_redis),
        cluster=providers.Singleton(RedisItemFeatures, request_redis),
    )
    artefacts = providers.Singleton(
        ArtefactStore,
        providers.Callable(_artefacts_url, settings),
        settings.provided.home.joinpath.call("cache"),
    )

    # Catalogue

    rendered = providers.Singleton(RenderedItems, settings.provided.near_cache_bytes)
    indexes = providers.Singleton(ItemIndexes, rendered)
    projection_observer = providers.Singleton(ProjectionObserver, metrics)
    projector = providers.Singleton(
        Projector, catalogue, item_features, observer=projection_observer
    )
    verifier = providers.Singleton(Verifier, catalogue, item_features, observer=projection_observer)
    follower = providers.Singleton(
        Follower, indexes, item_features, catalogue, poll_seconds=settings.provided.poll_seconds
    )
    ingest = providers.Singleton(Ingest, catalogue_writer, projector)
    catalogue_files = providers.Singleton(
        CatalogueFiles,
        settings.provided.home.joinpath.call("uploads"),
        max_bytes=settings.provided.max_upload_bytes,
    )
    catalogue_import = providers.Singleton(
        CatalogueImport, catalogue_writer, tasks, projector, catalogue_files, job_queue
    )
    import_recovery = providers.Singleton(
        ImportRecovery, tasks, catalogue_files, job_queue, job_queue, configuration_reader
    )

    # Events

    history_rebuild = providers.Singleton(
        HistoryRebuild,
        recent_events,
        history,
        length=settings.provided.history_length,
        days=settings.provided.history_days,
    )
    spool = providers.Singleton(_spool, settings)

    # Models and training

    strategies = providers.Singleton(discover)
    models = providers.Singleton(
        Models, model_versions, artefacts, keep=settings.provided.models_kept
    )
    strategy_configurations = providers.Singleton(
        StrategyConfigurations, strategy_configuration_store, strategies, SUPPORTED_MODES
    )
    scratch = settings.provided.home.joinpath.call("scratch")
    training_data = providers.Singleton(TrainingDataReader, database, scratch)
    training = providers.Singleton(
        Training,
        source=training_data,
        fitter=providers.Singleton(
            ChildFitter,
            artefacts,
            scratch,
            timeout=settings.provided.fit_seconds,
            memory_mib=settings.provided.fit_memory_mib,
            gate=providers.Callable(_gate, settings),
        ),
        artefacts=artefacts,
        versions=model_versions,
        configurations=strategy_configuration_store,
        strategies=strategies,
        publish=models.provided.publish,
        run_in_thread=providers.Object(asyncio.to_thread),
        observer=job_observer,
        published=configuration_reader,
    )
    training_requests = providers.Singleton(
        TrainingRequests, tasks, job_queue, strategy_configuration_store
    )
    training_tasks = providers.Singleton(
        TrainingTasks, tasks, training, training_requests, configuration_reader, job_queue
    )
    retention = providers.Singleton(
        Retention,
        expiring_rows,
        models,
        configuration_reader,
        providers.Callable(_retention_days, settings),
        providers.Singleton(
            _event_retention,
            settings,
            providers.Singleton(EventDays, database),
            configuration_reader,
        ),
    )
    privacy = providers.Singleton(
        Privacy,
        providers.Singleton(ShopperLog, database),
        history,
        providers.Singleton(ShopperPlacements, background_redis),
    )

    # Webhooks

    webhook_store = providers.Singleton(WebhookStore, database)
    webhook_sender = providers.Singleton(HttpWebhookSender)
    webhook_delivery = providers.Singleton(
        WebhookDelivery, webhook_store, webhook_sender, tracer=tracer
    )

    # Serving

    rules_compiler = providers.Singleton(MerchantRulesCompiler)
    strategy_processes = providers.Singleton(
        StrategyProcesses,
        memory_mib=settings.provided.strategy_memory_mib,
        patience=settings.provided.request_budget,
    )
    serving = providers.Singleton(
        Serving,
        configuration_reader,
        providers.Singleton(ArtefactModelLoader, artefacts, strategies, strategy_processes),
        indexes,
        rules_compiler,
        poll_seconds=settings.provided.poll_seconds,
    )
    history_keeper = providers.Singleton(
        HistoryKeeper, history_rebuild, history, serving.provided.merchants
    )
    attribution = providers.Singleton(
        Attribution, providers.Singleton(Placements, background_redis), serving, metrics
    )
    event_observer = providers.Singleton(
        EventObserver, metrics, accepted=attribution.provided.received
    )
    tracker = providers.Singleton(
        Tracker,
        event_log,
        history,
        spool,
        observer=event_observer,
        on_history_gap=history_keeper.provided.note_gap,
    )
    vitals = providers.Singleton(
        Vitals,
        serving,
        indexes,
        metrics,
        providers.Callable(package_version, "vitrine"),
        follower=follower,
        pool=database,
        spool=spool,
    )
    runner = providers.Singleton(StrategyRunner, metrics)
    histories = providers.Singleton(Histories, request_history)
    served_samples = providers.Singleton(PostgresServedSamples, database)
    recommend = providers.Singleton(
        Recommend,
        runner,
        histories,
        request_item_features,
        served_samples,
        metrics,
        random=providers.Object(random.random),
        budget=settings.provided.request_budget,
        overfetch=settings.provided.overfetch,
        history_length=settings.provided.history_length,
        sample_rate=settings.provided.served_sample_rate,
    )

    # Rules

    explain = providers.Singleton(
        Explain,
        runner,
        histories,
        request_item_features,
        overfetch=settings.provided.overfetch,
        history_length=settings.provided.history_length,
    )
    previews = providers.Singleton(
        Previews, explain, indexes, providers.Singleton(RuleSamples, database)
    )
    merchandise = providers.Singleton(
        Merchandise,
        providers.Singleton(RuleSetStore, database),
        indexes,
        providers.Callable(_rule_judge, settings, serving, previews),
    )

    # HTTP

    idempotency = providers.Singleton(
        Idempotency, providers.Singleton(IdempotencyKeyStore, database)
    )
    new_result_id = providers.Singleton(result_ids)
    storefront = providers.Singleton(
        Storefront,
        serving,
        recommend,
        new_result_id,
        providers.Singleton(Explanations, explain, serving),
    )
    storefront_page = providers.Singleton(StorefrontPage, serving, recommend, new_result_id)
    tracking = providers.Singleton(
        Tracking,
        serving,
        tracker,
        address=providers.Singleton(ClientAddress, settings.provided.trusted_proxies),
        on_untracked=event_observer.provided.untracked,
    )
    native_events = providers.Singleton(
        NativeEventsHandler, serving, tracker, on_untracked=event_observer.provided.untracked
    )
    items_handler = providers.Singleton(CatalogueHandler, ingest, catalogue, serving)
    item_groups_handler = providers.Singleton(ItemGroupsHandler, ingest, catalogue, serving)
    catalogue_files_handler = providers.Singleton(
        CatalogueFilesHandler,
        catalogue_import,
        serving,
        max_upload_bytes=settings.provided.max_upload_bytes,
    )
    catalogue_tasks_handler = providers.Singleton(CatalogueTasksHandler, tasks, serving)
    public_handlers = providers.List(
        storefront,
        storefront_page,
        tracking,
        native_events,
        items_handler,
        item_groups_handler,
        catalogue_files_handler,
        catalogue_tasks_handler,
    )
    admin_handlers = providers.List(
        providers.Singleton(AdminPods, pods, idempotency),
        providers.Singleton(AdminStrategies, strategies, strategy_configurations, idempotency),
        providers.Singleton(AdminModels, models, training_requests, idempotency),
        providers.Singleton(AdminKeys, merchants, idempotency),
        providers.Singleton(AdminTracking, merchants),
        providers.Singleton(AdminRules, merchandise, idempotency),
        providers.Singleton(AdminRuleVersions, merchandise, idempotency),
        providers.Singleton(
            AdminRulePreviews,
            serving,
            merchandise,
            previews,
            providers.Singleton(RuleReach, indexes),
        ),
        providers.Singleton(
            AdminWebhooks, providers.Singleton(Webhooks, webhook_store), idempotency
        ),
        providers.Singleton(AdminAudit, audit_log),
        providers.Singleton(AdminRunning, serving, runner),
        providers.Singleton(AdminShoppers, privacy),
    )
    rate_limit = providers.Singleton(RateLimit)
