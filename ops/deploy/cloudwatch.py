"""Writes CloudWatch's alarms and dashboard from the definitions of Prometheus' alerts:
`python -m ops.deploy.cloudwatch [--check]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ops.alerts.alerts import ALERTS, PAGE, Alarm, Alert
from ops.alerts.generate import write

TARGET = Path(__file__).parent / "cloudformation/alarms.yaml"
NOTE = "# Made by `python -m ops.deploy.cloudwatch` from ops/alerts/alerts.py. Do not edit.\n"
PARAMETERS = (
    *("Environment", "ClusterName", "ApiServiceName", "LoadBalancerName", "TargetGroupName"),
    *("DatabaseIdentifier", "ReplicationGroupId", "PageTopicArn", "TicketTopicArn"),
)


def template() -> dict[str, Any]:
    alerts = [alert for alert in ALERTS if alert.alarm is not None]
    resources = {alert.name: _alarm(alert) for alert in alerts}
    resources["Dashboard"] = {
        "Type": "AWS::CloudWatch::Dashboard",
        "Properties": {
            "DashboardName": {"Fn::Sub": "vitrine-${Environment}"},
            "DashboardBody": {"Fn::Sub": json.dumps(_dashboard(alerts))},
        },
    }
    # By name, so that the stack is ready only when the alarms are.
    rolling = [{"Ref": alert.name} for alert in alerts if alert.alarm and alert.alarm.rolls_back]
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "Vitrine: alarms to PagerDuty and to a quiet channel, and a dashboard.",
        "Parameters": {name: {"Type": "String"} for name in PARAMETERS},
        "Resources": resources,
        "Outputs": {"RollbackAlarms": {"Value": {"Fn::Join": [",", rolling]}}},
    }


def _alarm(alert: Alert) -> dict[str, Any]:
    alarm = alert.alarm
    assert alarm is not None
    topic = "PageTopicArn" if alert.severity == PAGE else "TicketTopicArn"
    return {
        "Type": "AWS::CloudWatch::Alarm",
        "Properties": {
            "AlarmName": {"Fn::Sub": f"vitrine-${{Environment}}-{alert.name}"},
            "AlarmDescription": f"{_plain(alert.summary)}. ops/runbooks/{alert.runbook}.md",
            "Metrics": [
                *_queries(alarm),
                {"Id": "result", "Expression": alarm.expression, "ReturnData": True},
            ],
            "EvaluationPeriods": alarm.minutes,
            "DatapointsToAlarm": alarm.minutes,
            "Threshold": alarm.threshold,
            "ComparisonOperator": "GreaterThanOrEqualToThreshold"
            if alarm.above
            else "LessThanThreshold",
            "TreatMissingData": alarm.missing,
            "AlarmActions": [{"Ref": topic}],
            "OKActions": [{"Ref": topic}],
        },
    }


def _queries(alarm: Alarm) -> list[dict[str, Any]]:
    return [
        {
            "Id": name,
            "ReturnData": False,
            "MetricStat": {
                "Metric": {
                    "Namespace": namespace,
                    "MetricName": metric,
                    "Dimensions": [
                        {"Name": key, "Value": {"Ref": value.strip("${}")}}
                        for key, value in dimensions.items()
                    ],
                },
                "Period": 60,
                "Stat": statistic,
            },
        }
        for name, (namespace, metric, dimensions, statistic) in alarm.metrics.items()
    ]


def _dashboard(alerts: list[Alert]) -> dict[str, Any]:
    widgets = []
    for number, alert in enumerate(alerts):
        assert alert.alarm is not None
        metrics: list[Any] = []
        for name, (namespace, metric, dimensions, statistic) in alert.alarm.metrics.items():
            pairs = [part for pair in dimensions.items() for part in pair]
            metrics.append(
                [namespace, metric, *pairs, {"id": name, "stat": statistic, "visible": False}]
            )
        metrics.append(
            [{"expression": alert.alarm.expression, "label": alert.name, "id": "result"}]
        )
        widgets.append(
            {
                "type": "metric",
                "x": number % 3 * 8,
                "y": number // 3 * 6,
                "width": 8,
                "height": 6,
                "properties": {
                    "title": alert.name,
                    "region": "${AWS::Region}",
                    "period": 60,
                    "metrics": metrics,
                    "annotations": {
                        "horizontal": [{"value": alert.alarm.threshold, "label": "alarm"}]
                    },
                },
            }
        )
    return {"widgets": widgets}


def _plain(text: str) -> str:
    return text.replace("{{ $labels.", "").replace(" }}", "")


if __name__ == "__main__":
    text = NOTE + json.dumps(template(), indent=1) + "\n"
    raise SystemExit(min(1, write({TARGET: text}, check="--check" in sys.argv)))
