"""`vitrine demo` with a small shop's own files, and its page in a real browser."""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest

from app.cli.demo.storefront_client import VERSION
from tests.running_demo import PATIENCE, ROOT, Demo, start_demo

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-dev-shm-usage", "--no-first-run", "--disable-component-update"),
    # The storefront client does not track what drives itself; a person's browser says nothing.
    "--disable-blink-features=AutomationControlled",
)
AGENT = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/140.0.0.0 Safari/537.36"
)
KINDS = {"tea": "Tea", "cups": "Cups", "lamps": "Lamps", "toys": "Toys"}


def write_shop(folder: Path) -> None:
    """48 products of four kinds; each order is of one kind, so that it can be learned."""
    folder.mkdir()
    random_ = random.Random(7)
    with (folder / "item_groups.csv").open("w", newline="") as file:
        write = csv.writer(file).writerow
        write(("id", "name", "parent_id"))
        write(("all", "Everything", ""))
        for id_, name in KINDS.items():
            write((id_, name, "all"))
    with (folder / "items.csv").open("w", newline="") as file:
        write = csv.writer(file).writerow
        write(("sku", "title", "price", "group_ids", "brand"))
        for kind in KINDS:
            for number in range(12):
                write(
                    (f"{kind}-{number}", f"{KINDS[kind]} no. {number}", 2.5 + number, kind, "acme")
                )
    now = int(time.time())
    with (folder / "events.csv").open("w", newline="") as file:
        write = csv.writer(file).writerow
        write(("time", "user_id", "order_id", "item_id", "quantity", "price"))
        for order in range(400):
            kind = random_.choice(list(KINDS))
            for number in random_.sample(range(12), 4):
                row = (now - 86_400 * 20 + order * 4_000, f"u{order % 60}", f"o{order}")
                write((*row, f"{kind}-{number}", 1, 2.5 + number))
    mapping = {"items": {"id": "sku", "name": "title"}}
    (folder / "mapping.json").write_text(json.dumps(mapping))


@pytest.fixture(scope="module")
def urls(module_database_url: str, module_owner_url: str, module_redis_url: str) -> dict[str, str]:
    return {
        "VITRINE_DATABASE_URL": module_database_url,
        "VITRINE_DATABASE_OWNER_URL": module_owner_url,
        "VITRINE_REDIS_URL": module_redis_url,
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the demo, in which the storefront client stays installed between runs."""
    home = tmp_path_factory.mktemp("demo")
    kept = ROOT / ".vitrine" / "shop-client"
    kept.mkdir(parents=True, exist_ok=True)
    (home / "demo").mkdir()
    (home / "demo" / f"client-{VERSION}").symlink_to(kept)
    return home


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "gift-shop"
    write_shop(folder)
    return folder


@pytest.fixture(scope="module")
def demo(home: Path, data: Path, urls: dict[str, str]) -> Iterator[Demo]:
    # The first start is killed when half is done; the second one does the rest.
    killed = start_demo(home, urls, "--data", str(data))
    killed.until(lambda: "[4/6]" in killed.log.read_text())
    children = psutil.Process(killed.process.pid).children(recursive=True)
    killed.process.kill()
    killed.process.wait()
    assert psutil.wait_procs(children, timeout=PATIENCE)[1] == []
    demo = start_demo(home, urls, "--data", str(data))
    try:
        yield demo.ready()
        assert demo.stop() == 0, demo.log.read_text()[-6000:]
    finally:
        if demo.process.poll() is None:
            demo.process.kill()
            demo.process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


class Visit:
    """A new shopper's page; whatever it says to the console, or asks of elsewhere, is a failure."""

    def __init__(self, browser: Any, demo: Demo, **options: Any) -> None:
        self.context = browser.new_context(user_agent=AGENT, locale="en-US", **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE * 1000)
        self.url = demo.about["url"]
        self.complaints: list[str] = []
        self.calls: list[tuple[str, str]] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._console)
        self.page.on("request", self._request)

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _request(self, request: Any) -> None:
        if request.url.startswith("data:"):
            return
        if not request.url.startswith(self.url):
            self.complaints.append(f"asked elsewhere: {request.url}")
        self.calls.append((request.method, request.url.removeprefix(self.url)))

    def go(self, path: str = "/shop/") -> Any:
        self.page.goto(self.url + path)
        self.page.mouse.move(200, 200)  # the client tracks people, who move
        return self.page

    def items(self, pod: str) -> list[str]:
        cards = self.page.locator(f'[data-pod="{pod}"]:not([aria-busy]) .card[data-item]')
        cards.first.wait_for()
        return [card.get_attribute("data-item") for card in cards.all()]

    def tracked(self, action: str) -> bool:
        return any(action in path for _, path in self.calls)

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"it did not happen; calls: {self.calls[-12:]}")
            self.page.wait_for_timeout(20)


@pytest.fixture
def visit(browser: Any, demo: Demo) -> Iterator[Callable[..., Visit]]:
    visits: list[Visit] = []
    if demo.about["shop"] is None:
        pytest.skip("npm is not there: the shop page was left out")

    def start(**options: Any) -> Visit:
        visits.append(Visit(browser, demo, **options))
        return visits[-1]

    yield start
    complaints = [complaint for each in visits for complaint in each.complaints]
    for each in visits:
        each.context.close()
    assert complaints == []


def test_the_demo_tells_how_to_use_it(demo: Demo) -> None:
    about = demo.about
    assert "[4/6] Catalogue: done before" in demo.log.read_text()
    assert set(about["pods"]) == {"home_popular", "home_for_you", "pdp_similar", "cart_complements"}
    assert (demo.home / "demo.json").stat().st_mode & 0o077 == 0
    until = time.monotonic() + 30
    # The file is written before the lines are.
    while (curl := re.search(r"curl '([^']+)'", demo.log.read_text())) is None:
        assert time.monotonic() < until
        time.sleep(0.05)
    with urlopen(curl[1]) as answer:
        results = json.load(answer)["response"]["results"]
    assert len(results) == 3
    with urlopen(f"{about['url']}/openapi.json") as answer:
        spec = json.load(answer)
    assert {"/recommendations/v1/pods/{pod_id}", "/metrics"} <= set(spec["paths"])
    assert ("/shop/{path}" in spec["paths"]) == (about["shop"] is not None)
    with urlopen(f"{about['url']}/health/ready") as answer:
        assert json.load(answer)["ready"] is True
    with urlopen(f"{about['url']}/metrics") as answer:
        metrics = answer.read().decode()
    merchant = about["merchant"]
    for wanted in (
        f'vitrine_item_index_items{{merchant="{merchant}",section="Products"}} 48.0',
        f'vitrine_model_version_number{{configuration="similar",merchant="{merchant}"}} 1.0',
        "vitrine_workers_ready 1.0",
    ):
        assert wanted in metrics
    assert "background_work_ended" not in (demo.home / "demo" / "server.log").read_text()


@pytest.mark.browser
def test_for_you_follows_what_the_shopper_does(visit: Callable[..., Visit]) -> None:
    shop = visit()
    page = shop.go()
    before = shop.items("home_for_you")
    assert len(before) > 3
    strategies = page.locator('[data-pod="home_for_you"] .strategy').all_inner_texts()
    assert all("popular" in text for text in strategies)  # nobody is known: the fallback answers
    shop.until(lambda: shop.tracked("recommendation_result_view"))
    kind = before[0].split("-")[0]
    page.locator('[data-pod="home_for_you"] .card-link').first.click()
    page.locator("article.product h1").wait_for()
    assert page.evaluate("document.activeElement.tagName") == "H1"
    similar = shop.items("pdp_similar")
    assert similar[0].startswith(kind)
    assert before[0] not in similar
    shop.until(lambda: shop.tracked("recommendation_result_click"))
    shop.until(lambda: shop.tracked("item_detail_load"))
    page.go_back()
    first = page.locator('[data-pod="home_for_you"] .card .strategy').first
    shop.until(lambda: "personalized" in first.inner_text())
    after = shop.items("home_for_you")
    assert after != before
    assert after[0].startswith(kind)


@pytest.mark.browser
def test_a_cart_is_filled_changed_and_bought(visit: Callable[..., Visit]) -> None:
    shop = visit()
    page = shop.go("/shop/product/lamps-3")
    page.get_by_role("button", name="Add to cart").click()
    page.locator('[data-pod="pdp_similar"] .add').first.click()
    assert page.locator("#cart-count").inner_text() == "2"
    shop.until(lambda: shop.tracked("conversion"))
    page.get_by_role("link", name=re.compile("^Cart")).click()
    rows = page.locator(".lines tbody tr")
    rows.nth(1).wait_for()
    page.get_by_label("Quantity of Lamps no. 3").fill("3")
    page.get_by_label("Quantity of Lamps no. 3").press("Tab")
    page.get_by_text("4 pieces", exact=True).wait_for()
    seeds = [row.get_attribute("data-item") for row in rows.all()]
    complements = shop.items("cart_complements")
    assert not set(seeds) & set(complements)
    page.get_by_role("button", name="Remove").last.click()
    page.get_by_text("3 pieces", exact=True).wait_for()
    assert "$16.50" in page.locator("tfoot").inner_text()
    page.get_by_role("button", name="Buy").click()
    page.get_by_role("heading", name="Thank you").wait_for()
    shop.until(lambda: shop.tracked("purchase"))
    assert page.locator("#cart-count").inner_text() == "0"
    page.get_by_role("link", name=re.compile("^Cart")).click()
    page.get_by_text("It is empty.").wait_for()


@pytest.mark.browser
def test_categories_and_search_lead_to_products(visit: Callable[..., Visit]) -> None:
    shop = visit()
    page = shop.go()
    page.get_by_role("link", name="Everything").click()
    page.get_by_role("link", name="Lamps", exact=True).click()
    page.get_by_role("heading", level=1, name="Lamps").wait_for()
    assert all(item.startswith("lamps") for item in shop.items("home_popular"))
    page.get_by_label("Search for a product").fill("tea no. 1")
    page.keyboard.press("Enter")
    page.get_by_text("3 products", exact=True).wait_for()
    shop.until(lambda: shop.tracked("search_result_load"))
    page.get_by_role("link", name="Tea no. 11").click()
    page.get_by_role("heading", level=1, name="Tea no. 11").wait_for()
    shop.until(lambda: shop.tracked("click_through"))
    page.get_by_label("Search for a product").fill("no such thing")
    page.keyboard.press("Enter")
    page.get_by_text("Nothing is called").wait_for()


@pytest.mark.browser
def test_the_page_works_by_keyboard_alone(visit: Callable[..., Visit]) -> None:
    shop = visit()
    page = shop.go()
    shop.items("home_popular")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the products"
    page.keyboard.press("Enter")
    for _ in range(3):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "card-link":
            break
    page.keyboard.press("Enter")
    page.locator("article.product").wait_for()
    toggle = page.get_by_role("button", name=re.compile("API calls"))
    toggle.focus()
    page.keyboard.press("Enter")
    page.locator("#calls-list li").first.wait_for()
    assert "/recommendations/v1/pods/" in page.locator("#calls-list").inner_text()
    page.keyboard.press("Escape")
    assert toggle.get_attribute("aria-expanded") == "false"
    nameless = page.evaluate(
        """[...document.querySelectorAll('button, a, input, [role=button]')].filter((node) =>
             !(node.getAttribute('aria-label') || node.textContent.trim() || node.labels?.length))
           .map((node) => node.outerHTML)"""
    )
    assert nameless == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_in_either_light(visit: Callable[..., Visit], scheme: str) -> None:
    shop = visit(viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True)
    page = shop.go()
    for path in ("/shop/", "/shop/product/toys-1", "/shop/category/all", "/shop/cart", "/docs"):
        shop.go(path)
        page.locator("h1").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == 360, path
    light = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0] > 128"
    )
    assert light == (scheme == "light")


@pytest.mark.browser
def test_a_list_that_fails_says_so_and_can_be_asked_again(visit: Callable[..., Visit]) -> None:
    shop = visit()
    refuse = [True]

    def answer(route: Any) -> None:
        if refuse[0]:
            route.fulfill(status=503, json={"message": "the store is away"})
        else:
            route.continue_()

    shop.page.route("**/pods/home_popular*", answer)
    page = shop.go()
    alert = page.locator('[data-pod="home_popular"] [role="alert"]')
    alert.wait_for()
    assert "the store is away" in alert.inner_text()
    refuse[0] = False
    alert.get_by_role("button", name="Try again").click()
    assert len(shop.items("home_popular")) > 0
    assert [text for text in shop.complaints if "503" not in text] == []
    shop.complaints.clear()  # the browser's own line on the 503
    page.route(
        "**/pods/home_popular*",
        lambda route: route.fulfill(
            json={"response": {"results": [], "pod": {}}, "result_id": "r", "request": {}}
        ),
    )
    page.reload()
    page.get_by_text("Nothing to show here yet.").wait_for()


@pytest.mark.browser
def test_a_page_that_does_not_exist_leads_back(visit: Callable[..., Visit]) -> None:
    shop = visit()
    page = shop.go("/shop/product/none")
    page.get_by_role("heading", level=1, name="Not found").wait_for()
    shop.complaints.clear()  # the browser's own line on the 404
    page.get_by_role("link", name="To the shop").click()
    assert len(shop.items("home_popular")) > 0


@pytest.mark.browser
def test_a_new_shopper_is_not_taken_for_the_old_one(visit: Callable[..., Visit]) -> None:
    shop = visit()
    page = shop.go()
    shop.items("home_for_you")
    page.locator('[data-pod="home_for_you"] .card-link').first.click()
    shop.until(lambda: shop.tracked("item_detail_load"))
    page.go_back()
    first = page.locator('[data-pod="home_for_you"] .card .strategy').first
    shop.until(lambda: "personalized" in first.inner_text())
    page.get_by_role("button", name="New shopper").click()
    shop.until(lambda: "popular" in first.inner_text())


@pytest.mark.browser
def test_the_documentation_can_be_read_and_searched(visit: Callable[..., Visit]) -> None:
    shop = visit()
    page = shop.go("/docs")
    page.locator("article").first.wait_for()
    with urlopen(f"{shop.url}/openapi.json") as answer:
        spec = json.load(answer)
    operations = [each["operationId"] for path in spec["paths"].values() for each in path.values()]
    assert page.locator("article").count() == len(operations)
    fields = page.locator("article details").first
    fields.locator("summary").click()
    assert fields.locator("dt").count() > 0
    page.get_by_label("Find an operation").fill("/admin/v1/pods")
    page.get_by_text(re.compile(r"^\d+ operations found$")).wait_for()
    shown = page.locator("article:not([hidden]) h3").all_inner_texts()
    assert shown
    assert all("/admin/v1/pods" in text for text in shown)


def test_a_second_start_does_nothing_twice_and_ctrl_c_ends_all(
    home: Path, data: Path, urls: dict[str, str], demo: Demo
) -> None:
    first = dict(demo.about)
    children = psutil.Process(demo.process.pid).children(recursive=True)
    assert children
    assert demo.stop() == 0
    _, alive = psutil.wait_procs(children, timeout=PATIENCE)
    assert alive == []
    told = len(demo.log.read_text())
    again = start_demo(home, urls, "--data", str(data))
    demo.process = again.process  # the fixture ends it
    again.ready()
    said = again.log.read_text()[told:]
    assert said.count("done before") == 4, said
    assert (again.about["key"], again.about["token"]) == (first["key"], first["token"])
