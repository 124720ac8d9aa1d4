"""Writes the dashboards as JSON: `python -m ops.dashboards.generate [--check]`. Import them into
Grafana, or point a provisioning provider at this folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

from ops.alerts.generate import write
from ops.dashboards.panels import BOARDS, Board, Panel

HERE = Path(__file__).parent
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")


def rendered(board: Board) -> str:
    """The dashboard's JSON, as Grafana takes it."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .tags(["vitrine"])
        .readonly()
        .refresh("30s")
        .time("now-6h", "now")
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Source").type("prometheus")
        )
    )
    if any("$merchant" in text for text in _queries(board)):
        made.with_variable(
            dashboard.QueryVariable("merchant")
            .label("Merchant")
            .query("label_values(vitrine_configuration_version, merchant)")
            .datasource(SOURCE)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".+")
        )
    for title, panels in board.rows:
        made.with_row(dashboard.Row(title))
        for panel in panels:
            made.with_panel(_panel(panel))
    return json.dumps(json.loads(JSONEncoder(sort_keys=True).encode(made.build())), indent=1) + "\n"


def _panel(panel: Panel) -> stat.Panel | timeseries.Panel:
    made: stat.Panel | timeseries.Panel
    if panel.stat:
        made = stat.Panel().span(6).height(4)
    else:
        made = (
            timeseries.Panel()
            .span(12)
            .height(8)
            .min(0)
            .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        )
    made.title(panel.title).unit(panel.unit).datasource(SOURCE)
    if panel.about:
        made.description(panel.about)
    for number, (expr, legend) in enumerate(panel.queries):
        query = prometheus.Dataquery().expr(expr).legend_format(legend).datasource(SOURCE)
        made.with_target(query.ref_id(chr(ord("A") + number)))
    return made


def _queries(board: Board) -> list[str]:
    return [expr for _, panels in board.rows for panel in panels for expr, _ in panel.queries]


if __name__ == "__main__":
    texts = {HERE / f"{board.uid}.json": rendered(board) for board in BOARDS}
    raise SystemExit(min(1, write(texts, check="--check" in sys.argv)))
