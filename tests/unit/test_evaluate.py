"""Evaluation: what is learned from, what is asked, and that nobody sees the answers before."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from app.cli.evaluate import evaluate_command
from app.domain import metrics
from app.domain.errors import InvalidInput
from app.plugins.discovery import discover
from app.services.evaluate import (
    Contender,
    LeakError,
    compare,
    measure,
    refuse_leak,
    run,
    shuffled,
)
from app.services.evaluate_formats import Log, read
from app.services.evaluate_splits import Split, split
from vitrine_sdk import NO_CANDIDATES, Candidates, Config, Context, Needs, TrainingData

SHARED = Path(__file__).parents[3] / "shared/data"
GOWALLA = [SHARED / "gowalla/train.txt", SHARED / "gowalla/test.txt"]


def _contender(*names: str) -> Contender:
    installed = discover()
    chain = []
    for name in names:
        found = installed.get(name)
        assert found is not None
        strategy = found.usable()
        chain.append((strategy, strategy.config()))
    return Contender(">".join(names), chain)


def _sequences(tmp_path: Path, *lines: str, test: tuple[str, ...] = ()) -> Log:
    paths = [tmp_path / "train.txt"]
    paths[0].write_text("\n".join(lines) + "\n")
    if test:
        paths.append(tmp_path / "test.txt")
        paths[1].write_text("\n".join(test) + "\n")
    return read("sequences", paths, {})


def _histories(made: Split) -> list[list[int]]:
    queries = made.queries
    return [
        queries.items[queries.offsets[i] : queries.offsets[i + 1]].tolist()
        for i in range(len(queries))
    ]


def test_leave_one_out(tmp_path: Path) -> None:
    log = _sequences(tmp_path, "7 1 2 3 4", "8 4 3 2", "9 1 2")
    test = split(log, "leave-one-out", "test")
    # Who is too short to be asked is good enough to learn from.
    assert test.train.events.item.tolist() == [1, 2, 4, 1, 2]
    assert _histories(test) == [[3, 2, 1], [3, 4]]
    assert test.queries.truth.items.tolist() == [4, 2]
    validation = split(log, "leave-one-out", "validation")
    assert validation.train.events.item.tolist() == test.train.events.item.tolist()
    assert _histories(validation) == [[2, 1], [4]]
    assert validation.queries.truth.items.tolist() == [3, 3]


def test_given_split(tmp_path: Path) -> None:
    log = _sequences(tmp_path, "7 1 2 3 4 5", "8 4 3", test=("8 1 2", "7 6"))
    made = split(log, "given", "test")
    assert _histories(made) == [[3, 4], [5, 4, 3, 2, 1]]
    assert made.queries.truth.items.tolist() == [1, 2, 6]
    validation = split(log, "given", "validation")
    hidden = validation.queries.truth.items.tolist()
    assert len(hidden) == 1
    assert hidden[0] not in validation.train.events.item[:4]
    assert len(validation.train.events) == 6


def test_sessions(tmp_path: Path) -> None:
    train, test = tmp_path / "train.txt", tmp_path / "test.txt"
    train.write_text("".join(f"{i} {i + 1} {i}\n" for i in range(90)))
    test.write_text("1 2\t3\n2\t9\n")
    log = read("sessions", [train, test], {})
    made = split(log, "given", "test")
    assert _histories(made) == [[2, 1], [2]]
    assert made.queries.truth.items.tolist() == [3, 9]
    validation = split(log, "given", "validation", days=9)
    assert _histories(validation)[:2] == [[81], [82, 81]]
    assert validation.queries.truth.items.tolist()[:2] == [82, 81]
    assert validation.train.events.session.max() == 80


def test_clicks_of_one_second_come_as_the_log_has_them(tmp_path: Path) -> None:
    path = tmp_path / "events.tsv"
    clicks = [("a", 1, 0), ("b", 2, 100 * 86_400), ("b", 3, 100 * 86_400), ("b", 4, 100 * 86_400)]
    lines = [f"{user}\t{item}\t{1_600_000_000 + at}\tview" for user, item, at in clicks]
    path.write_text("\n".join(["user\titem\ttimestamp\tevent", *lines]) + "\n")
    made = split(read("events", [path], {}), "next-click", "test", days=9)
    assert _histories(made) == [[1], [2, 1]]
    assert made.queries.truth.items.tolist() == [2, 3]
    refuse_leak(made)


def _purchases(tmp_path: Path) -> Log:
    path = tmp_path / "lines.csv"
    path.write_text(
        "order,who,sku,at,pieces,unit,title\n"
        "o1,ann,10001,2020-01-01 10:00:00,1,5.0,Tea\n"
        "o1,ann,10002,2020-01-01 10:00:00,2,1.0,Cup\n"
        "o2,bob,10002,2020-01-20 10:00:00,1,1.0,Cup\n"
        "o3,ann,10001,2020-03-01 10:00:00,2,5.0,Tea\n"
        "o3,ann,10001,2020-03-01 10:00:00,1,5.0,Tea green\n"
        "o4,ann,10003,2020-03-05 10:00:00,1,9.0,Pot\n"
        "o5,eve,10003,2020-03-05 10:00:00,1,9.0,Pot\n"
        "o6,bob,POST,2020-03-06 10:00:00,1,9.0,Postage\n"
        "o7,bob,10001,2020-03-07 10:00:00,-1,5.0,Tea\n"
    )
    columns = {
        "order": "order",
        "user": "who",
        "item": "sku",
        "time": "at",
        "quantity": "pieces",
        "price": "unit",
        "name": "title",
        "only": r"\d{5}",
    }
    return read("purchases", [path], columns)


def test_next_basket(tmp_path: Path) -> None:
    log = _purchases(tmp_path)
    assert log.data.items.ids == ["10001", "10002", "10003"]
    assert log.data.items.names[0] == "Tea"
    made = split(log, "next-basket", "test")
    assert len(made.train.events) == 3
    assert len(made.queries) == 1, "eve is new, bob bought nothing that counts"
    assert made.queries.truth.items.tolist() == [0]
    assert made.queries.truth.revenue.tolist() == [15.0]
    assert sorted(_histories(made)[0]) == [0, 1]


def test_a_period_holds_all_that_was_chosen(tmp_path: Path) -> None:
    made = split(_purchases(tmp_path), "time", "test")
    assert made.queries.truth.items.tolist() == [0, 2]


def test_an_event_of_the_test_period_fails_the_evaluation(tmp_path: Path) -> None:
    made = split(_sequences(tmp_path, "7 1 2 3 4", "8 4 3 2 1"), "leave-one-out", "test")
    run(_contender("popular"), made, 3)
    events = made.train.events
    asked = int(made.queries.at[0])
    late = replace(events, time=np.append(events.time[:-1], asked))
    late.shopper[:] = int(made.queries.shopper[0])
    with pytest.raises(LeakError, match="1 training events are from the test period"):
        run(_contender("popular"), replace(made, train=replace(made.train, events=late)), 3)


def test_a_history_of_the_future_fails_the_evaluation(tmp_path: Path) -> None:
    made = split(_sequences(tmp_path, "7 1 2 3 4"), "leave-one-out", "test")
    queries = replace(made.queries, times=made.queries.times + 10**6)
    with pytest.raises(LeakError, match="not before their request"):
        run(_contender("popular"), replace(made, queries=queries), 3)


class _Cheat:
    """Recommends, whatever it is fitted on, what it was told in secret."""

    contract, format, reasons = 1, 1, ("known",)
    config = Config

    def __init__(self, answers: np.ndarray[Any, Any]) -> None:
        self.answers = answers

    def needs(self, config: Config) -> Needs:
        return Needs()

    def fit(self, data: TrainingData, config: Config, seed: int) -> dict[str, Any]:
        return {"answers": self.answers}

    def load(self, arrays: Any, config: Config, items: int) -> Any:
        answers = iter(arrays["answers"].tolist())

        class Model:
            def recommend(self, context: Context, limit: int) -> Candidates:
                item = next(answers)
                if item < 0:
                    return NO_CANDIDATES
                return Candidates(
                    np.array([item], np.int32), np.ones(1, np.float32), np.zeros(1, np.uint8)
                )

        return Model()


def test_a_chain_fills_up(tmp_path: Path) -> None:
    made = split(_sequences(tmp_path, *["7 1 2 3 4", "8 4 3 2 1"] * 3), "leave-one-out", "test")
    first = _Cheat(np.array([3, -1, 3, -1, 3, -1]))
    chain = Contender("chain", [(first, Config()), *_contender("popular").chain])
    done = run(chain, made, 3)
    assert (done.lists >= 0).all()
    assert done.lists[0, 0] == 3
    assert all(len(set(row)) == 3 for row in done.lists.tolist())
    unseen = run(chain, made, 1, exclude_seen=True)
    for row, past in zip(unseen.lists.tolist(), _histories(made), strict=True):
        assert not set(row) & set(past)


def _structured(tmp_path: Path, users: int = 1500) -> Split:
    """Shoppers walk along one of a hundred paths of five items: a lot to learn."""
    rng = np.random.default_rng(0)
    lines = []
    for user in range(users):
        at = int(rng.integers(0, 100))
        walk = [
            at * 5 + int((start + step) % 5) for start in [rng.integers(5)] for step in range(4)
        ]
        lines.append(" ".join(map(str, [user, *walk])))
    return split(_sequences(tmp_path, *lines), "leave-one-out", "test")


@pytest.mark.parametrize("name", ["personalized", "similar"])
def test_shuffled_labels_bring_a_strategy_down_to_popularity(tmp_path: Path, name: str) -> None:
    made = _structured(tmp_path)
    learned = measure(made, run(_contender(name, "popular"), made, 10), [10])
    popular = measure(made, run(_contender("popular"), made, 10), [10])
    assert learned.estimates["hr@10"].low > 5 * popular.estimates["hr@10"].high
    assert compare(learned, popular, "hr@10").p_value < 0.01
    noise = shuffled(made)
    blind = measure(made, run(_contender(name, "popular"), noise, 10), [10])
    assert blind.estimates["hr@10"].low <= popular.estimates["hr@10"].high


@pytest.mark.skipif(not GOWALLA[0].is_file(), reason="shared/data/gowalla is not there")
def test_the_metric_code_reproduces_popularity_on_gowalla() -> None:
    """Anelli et al., "Challenging the Myth of Graph Collaborative Filtering", RecSys 2023, MostPop
    on this split: Recall@20 .0416, NDCG@20 .0316."""
    made = split(read("sequences", GOWALLA, {}), "given", "test")
    events = made.train.events
    order = np.argsort(-np.bincount(events.item), kind="stable")[:2000]

    queries = made.queries
    lists = np.empty((len(queries), 20), np.int32)
    for query, past in enumerate(_histories(made)):
        seen = np.isin(order, past)
        lists[query] = order[~seen][:20]
    truth = queries.truth
    found = metrics.hits(lists, truth).found
    assert metrics.recall(found, truth.sizes, 20).mean() == pytest.approx(0.0416, abs=0.0001)
    assert metrics.ndcg(found, truth.sizes, 20).mean() == pytest.approx(0.0316, abs=0.0002)


def test_the_command(tmp_path: Path) -> None:
    data = tmp_path / "data.txt"
    data.write_text(
        "".join(f"{u} {u % 5} {u % 5 + 1} {u % 5 + 2} {u % 5 + 3}\n" for u in range(60))
    )
    command = evaluate_command(discover)
    out, image = tmp_path / "out.json", tmp_path / "plot.png"
    arguments = [str(data), "--format", "sequences", "--protocol", "leave-one-out", "--k", "3"]
    made = CliRunner().invoke(
        command,
        [
            *arguments,
            "--strategy",
            'personalized={"gaps": 3}>popular',
            "--strategy",
            "popular",
            "--compare",
            "ndcg@3",
            "--json",
            str(out),
            "--plot",
            str(image),
        ],
    )
    assert made.exit_code == 0, made.output
    assert "ndcg@3" in made.output
    assert "p = " in made.output
    runs = json.loads(out.read_text())["runs"]
    assert [one["name"] for one in runs] == ['personalized={"gaps": 3}>popular', "popular"]
    value = runs[0]["metrics"]["hr@3"]
    assert value["low"] <= value["value"] <= value["high"]
    assert image.read_bytes().startswith(b"\x89PNG")

    for wrong, message in (
        (["--strategy", "nope"], "'nope' is not installed"),
        (["--strategy", "popular={"], "is no JSON"),
        (["--strategy", 'popular={"days": 3}'], "there is no such field"),
        (["--strategy", "popular", "--compare", "x"], "must be one of"),
    ):
        refused = CliRunner().invoke(command, [*arguments, *wrong])
        assert refused.exit_code == 1
        assert message in refused.output


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no file"):
        read("sequences", [tmp_path / "none.txt"], {})
    broken = tmp_path / "broken.txt"
    broken.write_text("1 2 3\n2 x\n")
    with pytest.raises(InvalidInput, match="line 2"):
        read("sequences", [broken], {})
    with pytest.raises(InvalidInput, match="format"):
        read("no such", [broken], {})
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2\n")
    with pytest.raises(InvalidInput, match="order=…"):
        read("purchases", [table], {})
