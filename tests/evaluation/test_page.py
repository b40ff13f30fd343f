"""The page of a frontier, as a browser shows it."""

import base64
import io
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from denoiselab.choices import folder
from denoiselab.code_digest import sha256_of_code
from denoiselab.evaluation import Store
from denoiselab.evaluation.report.page import _picture, page_run, write_page
from denoiselab.evaluation.report.tables import write_pictures
from denoiselab.evaluation.verdicts.compare import Estimate, compare
from denoiselab.evaluation.verdicts.published import read
from denoiselab.media import figures
from denoiselab.media.figures import write_strip

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


def record(sampler, nfe, fid, **other):
    precision = {"value": 1 / fid, "standard_error": None, "lower_is_better": False}
    kid = {"value": (fid - 5) / 1000, "standard_error": 0.01, "lower_is_better": True}
    infinite = {"value": fid - 1 if nfe > 5 else None, "standard_error": None, "lower_is_better": True}
    infinite |= {} if nfe > 5 else {"reason": "n is too small."}
    return {
        "sampler": sampler, "nfe": nfe, "steps": nfe, "score": fid, "standard_error": 0.1 * fid, "error": None,
        "scores": {"fid": {"value": fid, "standard_error": 0.1 * fid, "lower_is_better": True}, "precision": precision,
                   "kid": kid, "fid_infinity": infinite},
        "seconds": 1.0, "network_evaluations": nfe, "seconds_per_1k_images": 2.0 * nfe, "peak_memory_mb": 100.0,
        "device": "cpu", "shape": [1, 6, 5], "data": "toy", "split": "train", "images_seen": 1000, "metric": "fid",
        "n": 50000, "seed": 0, "extractor": "inception", "extractor_sha256": "e" * 64, "reference_n": 60000,
        "reference_sha256": "f" * 64, "weights": "ema", "weights_sha256": "a" * 64, "guidance": 1.0,
        "settings": {"steps": nfe}, "code_modules": ["denoiselab.noise"],
        "code_sha256": sha256_of_code(["denoiselab.noise"]),
        "cell": f"{sampler}-{nfe}-{other.get('images_seen', 0)}-".ljust(64, "0"), **other,
    }  # fmt: skip


def strip(shade):
    images = torch.full((16, 1, 6, 5), shade, dtype=torch.uint8)
    images[3] = 255
    return images


@pytest.fixture
def directory(tmp_path):
    """Eight cells, one of them failed, a former checkpoint, a training curve and a hostile configuration."""
    store = Store(tmp_path / "run <b>")
    fids = {("ddim", 5): 30.0, ("ddim", 10): 12.0, ("ddim", 20): 5.0, ("ddim", 50): 4.0,
            ("heun", 5): 60.0, ("heun", 9): 9.0, ("heun", 19): 6.0}  # fmt: skip
    records = [record(sampler, nfe, fid) for (sampler, nfe), fid in fids.items()]
    failed = record("heun", 49, 1.0, score=None, standard_error=None, scores={}, error="sample 7 <x> is not finite.")
    store.add([record("ddim", 5, 99.0, images_seen=500, n=1000), *records, failed])
    for number, one in enumerate(records):
        write_strip(store.picture(one), strip(20 * number + 20))
    (store.directory / "metrics.csv").write_text(
        "images_seen,train/loss,score/fid1k/ddim@5\n100,0.9,\n500,0.5,\n500,,99.0\n1000,0.2,\n"
    )
    (store.directory / "config.yaml").write_text("name: <!--<script></script><script>alert(1)</script>\n")
    return store.directory


def content(page):
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page.read_text(), re.S)[1])


@pytest.fixture(scope="module")
def chromium():
    """CI installs Chromium; without it the test fails, since a page that nobody opened is not tested."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "these tests open the page in Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def browser(chromium):
    """Each page that it opens has a context of its own: no storage, cookies or cache of another."""
    yield chromium
    for context in chromium.contexts:
        context.close()


def opened(browser, path, trouble):
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: trouble.append(request.url) if request.url != path.as_uri() else None)
    page.goto(path.as_uri())
    page.wait_for_selector("#frontier .points path")
    return page


POINTS = "#frontier .scatterlayer .points path"


def marks(page):
    """The symbols of each line's points: filled, hollow or faded."""
    found = page.evaluate(
        "document.getElementById('frontier').data.filter(t => t.customdata)"
        ".map(t => [t.name, t.marker.symbol.map((s, i) => t.marker.opacity[i] < 1 ? 'faded' : s)])"
    )
    return dict(found)


def test_the_page_in_a_browser(directory, browser, tmp_path):
    trouble = []
    path = tmp_path / "page.html"
    assert write_page(path, [page_run("run <b>", directory)]) == 9
    page = opened(browser, path, trouble)
    # The full budget is shown first: a point a cell that has a score.
    assert page.locator(POINTS).count() == 7
    data = page.evaluate(
        "document.getElementById('frontier').data.slice(0, 2).map(t => [t.name, t.x, t.y, t.error_y.array])"
    )
    assert data[0] == ["ddim", [5, 10, 20, 50], [30, 12, 5, 4], pytest.approx([3, 1.2, 0.5, 0.4])]
    assert page.inner_text("#headline") == "At 10 calls: heun, 9.00 ± 0.90 (it takes 9 calls); ties: ddim."
    assert "7 of 9 cells" in page.inner_text("#count")
    assert "heun, NFE 49: sample 7 <x> is not finite." in page.inner_text("#failed")
    # Hovering a point shows two lines there, and its protocol with its samples beside the plot.
    page.locator(POINTS).nth(5).hover(force=True)
    page.wait_for_selector("#frontier .hoverlayer text")
    hover = page.locator("#frontier .hoverlayer text .line").all_text_contents()
    assert hover == ["heun, 9 calls: 9.00, best", "surely better than all cells of no more calls"]
    protocol = ("heun", "9 ± 0.9", "n = 50,000", "ema", "inception eeeeeeee", "ffffffff", "1,000", "aaaaaaaaaaaaaaaa")
    assert all(part in page.inner_text("#detail") for part in protocol)
    picture = page.get_attribute("#detail img", "src")
    assert picture == next(c["picture"] for c in content(path)["cells"] if c["sampler"] == "heun" and c["nfe"] == 9)
    # The grids: a row a sampler, a column an NFE.
    assert page.locator("#grids img").count() == 7
    assert [cell.inner_text() for cell in page.locator("#grids tr:first-child th").all()] == [
        "NFE", "5", "9", "10", "19", "20", "49", "50",
    ]  # fmt: skip
    # Axes, error bars and the metric can be switched.
    layout = "document.getElementById('frontier').layout"
    assert page.evaluate(f"[{layout}.xaxis.type, {layout}.yaxis.type]") == ["log", "log"]
    for box in ("xlog", "ylog", "errors"):
        page.uncheck(f"#{box}")
    assert page.evaluate(f"[{layout}.xaxis.type, {layout}.yaxis.type]") == ["linear", "linear"]
    assert page.evaluate("document.getElementById('frontier').data[0].error_y.visible") is False
    page.select_option("#metric", "precision")
    assert "higher is better" in page.text_content("#frontier .ytitle")
    assert page.evaluate("document.getElementById('frontier').data[0].y")[0] == pytest.approx(1 / 30)
    # The budget during training is another measure.
    page.select_option("#measure", index=1)
    assert page.locator(POINTS).count() == 1
    assert page.locator("#curve .scatterlayer .trace").count() == 2
    page.click("#configs summary")
    assert "</script><script>alert(1)" in page.inner_text("#configs pre")
    assert trouble == []
    image = np.asarray(Image.open(io.BytesIO(page.screenshot())))
    assert len(np.unique(image.reshape(-1, image.shape[-1]), axis=0)) > 50  # something was drawn


def scored(sampler, nfe, value, error, **other):
    """A cell with a standard error."""
    fid = {"value": value, "standard_error": error, "lower_is_better": True}
    cell = {"standard_error": error, "scores": {"fid": fid}, "cell": f"{sampler}-{nfe}-".ljust(64, "0"), **other}
    return record(sampler, nfe, value, **cell)


def ladder():
    """At 10 calls b is surely the best, at 20 it ties with c, and d is surely worse everywhere."""
    values = {("b", 10): 5.0, ("c", 10): 8.0, ("d", 10): 20.0, ("b", 20): 4.0, ("c", 20): 4.1, ("d", 20): 19.0}
    grid = {"_target_": "denoiselab.samplers.DDIM", "spacing": {"_target_": "a.UniformTime"}}
    return [
        scored(name, nfe, value, 0.1, settings=grid, ms_per_sample=nfe * (8.0 if name == "b" else 2.0), timed_batch=8,
               call_ms=16.0, rule_ms=0.1, decode_ms=0.0, flops_per_sample=nfe * 2_000_000_000)
        for (name, nfe), value in values.items()
    ]  # fmt: skip


def test_the_page_answers_which_sampler_is_best_at_a_budget_and_how_sure_it_is(tmp_path, browser):
    trouble, store = [], Store(tmp_path / "run")
    store.add(ladder())
    for one in ladder():
        write_strip(store.picture(one), strip(int(one["score"]) * 9))
    write_page(tmp_path / "page.html", [page_run("a", tmp_path / "run")])
    page = opened(browser, tmp_path / "page.html", trouble)
    assert page.inner_text("#headline") == "At 10 calls: b on uniform time, 5.00 ± 0.10."
    assert page.inner_text("#sure").startswith("Sure at the 5 % level of all pairs at once: better than c, d.")
    assert "unpaired" in page.inner_text("#sure")
    rows = [row.locator("td").all_inner_texts() for row in page.locator("#ranking tr").all()[1:]]
    assert [row[0] for row in rows] == ["b", "c", "d"]
    assert [row[3] for row in rows] == ["best", "surely worse", "surely worse"]
    half = compare([Estimate(r["cell"], r["score"], 0.1, r["n"]) for r in ladder()]).critical * 0.1 * math.sqrt(2)
    assert rows[1][2] == f"+3.00 ± {half:.2f}"
    assert page.locator("#three img").count() == 3
    assert page.get_attribute("#three img", "src") == content(tmp_path / "page.html")["cells"][0]["picture"]
    # Another budget, by the field and by the slider.
    page.fill("#budget", "20")
    page.press("#budget", "Enter")
    assert page.inner_text("#headline") == "At 20 calls: b on uniform time, 4.00 ± 0.10; ties: c."
    needed = round(float(f"{50000 * (half / 0.1) ** 2:.2g}"))
    assert f"About {needed:,} samples a cell would tell them apart" in page.inner_text("#sure")
    assert "surely worse: d" in page.inner_text("#sure")
    page.fill("#slide", "0")
    assert page.inner_text("#headline").startswith("At 10 calls")
    page.fill("#budget", "9")
    page.press("#budget", "Enter")
    assert page.inner_text("#headline") == "At 9 calls: no cell costs so little."
    # In time, b is dear.
    page.fill("#budget", "10")
    page.press("#budget", "Enter")
    page.select_option("#cost", "ms_per_sample")
    assert page.input_value("#budget") == "80"
    assert page.inner_text("#headline").startswith("At 80 ms: c on uniform time, 4.10 ± 0.10 (it takes 40 ms)")
    page.select_option("#cost", "flops_per_sample")
    assert page.input_value("#budget") == "40"
    assert "GFLOPs" in page.text_content("#frontier .xtitle")
    assert page.inner_text("#headline").startswith("At 40 GFLOPs: b on uniform time, 4.00")
    assert trouble == []


def test_what_another_line_than_the_best_is_surely_better_than_names_that_line(tmp_path, browser):
    trouble, store = [], Store(tmp_path / "run")
    store.add([scored("heun", 10, 3.7, 0.5), scored("unipc", 10, 3.73, 0.01), scored("ddim", 10, 4.2, 0.01)])
    write_page(tmp_path / "page.html", [page_run("a", tmp_path / "run")])
    page = opened(browser, tmp_path / "page.html", trouble)
    assert page.inner_text("#sure").startswith("Not sure which of them; surely worse: ddim (than unipc).")
    difference, verdict = page.locator("#ranking tr").all()[3].locator("td").all_inner_texts()[2:]
    assert verdict == "surely worse"
    assert difference.splitlines()[1].startswith("minus unipc: +0.4700 ± 0.0")
    assert trouble == []


def test_a_budget_in_another_unit_has_the_cell_that_it_is_the_cost_of(tmp_path, browser):
    trouble, store = [], Store(tmp_path / "run")
    costs = {("a", 5): 0.30597189, ("a", 10): 0.61194378, ("b", 5): 0.1, ("b", 10): 0.2}
    store.add(
        [
            scored(name, nfe, 20.0 - nfe - (name == "a"), 0.1, flops_per_sample=cost * 1e9)
            for (name, nfe), cost in costs.items()
        ]
    )
    write_page(tmp_path / "page.html", [page_run("a", tmp_path / "run")])
    page = opened(browser, tmp_path / "page.html", trouble)
    page.select_option("#cost", "flops_per_sample")
    assert page.input_value("#budget") == "0.61195"
    for place, headline in (
        ("3", "At 0.612 GFLOPs: a, 9.00"),
        ("2", "At 0.306 GFLOPs: b"),
        ("3", "At 0.612 GFLOPs: a"),
    ):
        page.fill("#slide", place)
        assert page.inner_text("#headline").startswith(headline)
        assert page.input_value("#slide") == place
    assert trouble == []


@pytest.mark.parametrize(
    ("name", "words"),
    [("UniformTime", "uniform time"), ("VPTime", "vp time"), ("UniformLogSNR", "uniform log snr"), ("Asinh", "asinh")],
)
def test_a_grid_is_named_in_words(name, words, tmp_path):
    store = Store(tmp_path / "run")
    store.add([scored("a", 10, 1.0, 0.1, settings={"spacing": {"_target_": f"a.{name}"}})])
    write_page(tmp_path / "page.html", [page_run("a", tmp_path / "run")])
    (cell,) = content(tmp_path / "page.html")["cells"]
    assert cell["grid"] == words


def test_marks_of_the_picture_have_the_level_that_was_asked_for(tmp_path):
    store = Store(tmp_path / "run")
    store.add(
        records := [scored(name, 10, value, 0.1) for name, value in (("a", 4.0), ("b", 4.15))]
    )  # 1.06 standard errors
    for one in records:
        write_strip(store.picture(one), strip(9))
    pictures = []
    for level in (0.05, 0.5):
        write_pictures(store, records, lambda *given: None, level)
        pictures.append((tmp_path / "run" / "frontier.png").read_bytes())
    assert pictures[0] != pictures[1]


def test_the_picture_of_guidance_has_evaluations_as_its_axis_and_a_legend_within_it(tmp_path, monkeypatch):
    store, drawn = Store(tmp_path / "run"), []
    guider = {"name": "apg", "interval": [0.19, 1.61], "momentum": -0.5}
    records = [
        scored("dpm_solver_pp", 10, 4.0 + scale, 0.1, guidance=scale, guider=guider, network_evaluations=spent,
               cell=f"{spent}".ljust(64, "0"))
        for scale, spent in ((1.5, 10), (2.5, 13), (3.5, 20))
    ]  # fmt: skip
    store.add(records)
    for one in records:
        write_strip(store.picture(one), strip(9))
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure))
    write_pictures(store, records, lambda *given: None)
    (figure,) = drawn
    (axes,), (legend,) = figure.axes, figure.legends
    assert [float(x) for line in axes.containers for x in line[0].get_xdata()] == [10, 13, 20]
    assert (axes.get_xlabel(), [text.get_text() for text in axes.get_xticklabels()]) == (
        "network evaluations per sample",
        ["10", "13", "20"],
    )
    assert legend.get_window_extent().width <= figure.bbox.width


def test_marks_are_filled_where_it_is_sure_hollow_where_cells_tie_and_faded_where_one_is_surely_worse(
    tmp_path, browser
):
    trouble = []
    Store(tmp_path / "run").add([*ladder(), scored("e", 5, 4.1, 0.1)])
    write_page(tmp_path / "page.html", [page_run("a", tmp_path / "run")])
    page = opened(browser, tmp_path / "page.html", trouble)
    assert marks(page) == {"e": ["circle"], "b": ["faded", "circle-open"], "c": ["faded", "circle-open"],
                           "d": ["faded", "faded"]}  # fmt: skip
    page.fill("#budget", "20")
    page.press("#budget", "Enter")
    assert "As good for less: e at 5 calls, 4.10." in page.inner_text("#sure")
    assert trouble == []


def test_the_comparisons_of_a_page_have_the_level_that_was_asked_for(tmp_path):
    Store(tmp_path / "run").add(ladder())
    critical = []
    for level in (0.05, 0.5):
        write_page(tmp_path / "page.html", [page_run("a", tmp_path / "run")], level=level)
        found = content(tmp_path / "page.html")
        (one,) = found["comparisons"]
        assert one["level"] == level
        records = [found["cells"][number] for number in one["cells"]]
        cells = [Estimate(r["cell"], r["score"], 0.1, r["n"], cost=r["nfe"]) for r in records]
        own = compare(cells, level)
        pairs = [(i, j) for i in range(len(cells)) for j in range(i + 1, len(cells))]
        assert one["verdict"] == [own.verdict(i, j) for i, j in pairs]
        assert one["standings"]["nfe"] == one["standings"]["flops_per_sample"] == own.standings()
        assert one["standings"]["ms_per_sample"] == own.standings([r["ms_per_sample"] for r in records])
        critical.append(one["critical"])
    assert critical[1] < critical[0]


def test_pareto_marks_have_the_level_of_the_store(tmp_path):
    cells = [scored("a", 10, 5.0, 0.1), scored("b", 10, 5.15, 0.1)]  # 1.06 standard errors apart
    for level, marks in ((0.05, [True, True]), (0.4, [True, False]), (0.05, [True, True])):
        store = Store(tmp_path, level)
        store.add(cells)
        found = [*store.read().values()]
        assert [record["pareto"] for record in found] == marks
        assert [record.get("pareto_level", 0.05) for record in found] == [level, level]
        cells = []


def test_published_curves_are_in_the_plot_where_protocol_and_model_match(tmp_path, browser):
    trouble, papers = [], read(folder() / "published")
    parts = {"network": "networks.DDPMUNet", "schedule": "schedules.DiscreteVP", "parameterization": "p.eps"}
    parts["conditioner"] = "conditioners.Unconditional"
    own = {"data": "cifar10", "images_seen": 0}
    Store(tmp_path / "run").add([scored("a", 10, 9.0, 0.1, **own), scored("a", 20, 8.0, 0.1, **own)])
    (tmp_path / "run" / "config.yaml").write_text("\n".join(f"{k}: {{_target_: {v}}}" for k, v in parts.items()))
    write_page(tmp_path / "page.html", [page_run("a", tmp_path / "run")], papers=papers)
    page = opened(browser, tmp_path / "page.html", trouble)
    theirs = "document.getElementById('frontier').data.filter(t => (t.name ?? '').endsWith('(published)'))"
    drawn = dict(page.evaluate(f"{theirs}.map(t => [t.name, [t.x, t.y]])"))
    assert drawn["DEIS tAB3, DDPM (published)"] == [[10, 20], [7.12, 4.53]]  # near the own cells
    assert not any("EDM" in name for name in drawn)
    rows = page.locator("#papers tr").all_inner_texts()
    (heun,) = [row for row in rows if row.startswith("Heun, EDM") and "toolbox" in row]
    assert "network: DDPMUNet, theirs NCSNpp (EDM); schedule: DiscreteVP, theirs EDM (EDM)" in heun
    page.select_option("#cost", "network_evaluations")
    assert page.evaluate(f"{theirs}.length") == 0  # they count calls
    # Other data: nothing to compare with.
    Store(tmp_path / "other").add(ladder())
    write_page(tmp_path / "page.html", [page_run("a", tmp_path / "other")], papers=papers)
    page = opened(browser, tmp_path / "page.html", trouble)
    assert not page.locator("#published").is_visible()
    assert trouble == []


def test_scores_over_trainings_are_a_table_with_sentences(tmp_path, browser):
    trouble = []
    Store(tmp_path / "run").add(ladder())
    cells = [{"sampler": name, "guided": guided, "nfe": 10} for name, guided in (("<b>", "scale=2"), ("c", ""))]
    mean = {"metric": "fid", "n": 512, "mean": 4.0, "interval": [3.5, 4.5], "training_sd": 0.2, "draw_sd": None}
    means = [{**cell, **mean} for cell in cells]
    one = {"best": cells[0], "other": cells[1], "mean": 0.25, "interval": [-0.1, 0.6]}
    differences = [{**one, "sure": False, "seeds_needed": 9}, {**one, "sure": True, "seeds_needed": 3}]
    panel = {"trainings": 3, "level": 0.05, "runs": ["a", "b"], "cells": means, "differences": differences}
    Image.new("RGB", (90, 40), (9, 9, 9)).save(tmp_path / "run" / "error_split.png")
    write_page(tmp_path / "page.html", [page_run("a", tmp_path / "run")], panels=[panel])
    page = opened(browser, tmp_path / "page.html", trouble)
    rows = [row.locator("td").all_inner_texts() for row in page.locator("#panels tr").all()[1:]]
    assert rows[0] == ["<b> scale=2@10", "fid", "512", "4.00", "[3.50, 4.50]", "0.20", ""]
    told = page.inner_text("#panels")
    assert "c@10 less <b> scale=2@10: 0.25, interval [-0.10, 0.60]: undecided; some 9 seeds would show" in told
    assert "[-0.10, 0.60]: sure over trainings" in told
    assert "about these trained models; samplers over seeds of training are compared below" in page.inner_text("#sure")
    assert "One training" not in page.inner_text("#count")
    assert page.evaluate("document.querySelector('#errorsplit img').naturalWidth") == 90
    (tmp_path / "run" / "error_split.png").write_bytes(b"damaged")
    write_page(tmp_path / "page.html", [page_run("a", tmp_path / "run")])
    page = opened(browser, tmp_path / "page.html", trouble)
    assert not page.locator("#trainings").is_visible()
    assert "One training: verdicts are about this model" in page.inner_text("#count")
    assert "below" not in page.inner_text("#sure")
    assert not page.locator("#split").is_visible()
    assert trouble == []


@pytest.mark.parametrize("size", [(1400, 900), (900, 800), (420, 800)])
def test_the_answer_is_in_the_first_screen(size, tmp_path, browser):
    """Of a frontier of nine lines with long names, the nine cells within the budget and the pictures of three."""
    store = Store(tmp_path / "run")
    names = [f"sampler_{number}@uniform_log_snr" for number in range(9)]
    cells = [scored(name, 10, 4.0 + number / 10, 0.1) for number, name in enumerate(names)]
    store.add(cells)
    for one in cells:
        write_strip(store.picture(one), strip(200))
    write_page(tmp_path / "page.html", [page_run("a", tmp_path / "run")])
    page = opened(browser, tmp_path / "page.html", [])
    page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
    page.reload()
    page.wait_for_selector(POINTS)
    for part in ("#headline", "#sure", "#budget", "#ranking"):
        box = page.locator(part).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= size[0] + 1, part
        assert box["y"] + box["height"] <= size[1], part
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_every_cell_has_a_point_whatever_the_metric_and_the_axes(directory, browser, tmp_path):
    """KID may be negative, and has no logarithm then; the value at infinity is not there at few samples."""
    trouble = []
    write_page(tmp_path / "page.html", [page_run("a", directory)])
    page = opened(browser, tmp_path / "page.html", trouble)
    kinds = "document.getElementById('frontier').layout.yaxis.type"
    for metric, points in (("fid", 7), ("precision", 7), ("kid", 7), ("fid_infinity", 5)):
        page.select_option("#metric", metric)
        for cost in ("nfe", "network_evaluations", "seconds_per_1k_images"):
            page.select_option("#cost", cost)
            for box in ("xlog", "ylog", "xlog", "ylog"):
                if page.is_enabled(f"#{box}"):
                    page.click(f"#{box}")
                assert page.locator(POINTS).count() == points, (metric, cost)
        assert page.evaluate(kinds) == ("linear" if metric == "kid" else "log")
        assert page.is_enabled("#ylog") == (metric != "kid")
        assert ("the axis is linear" in page.inner_text("#count")) == (metric == "kid")
    assert "2 without a value of fid_infinity: n is too small." in page.inner_text("#count")
    assert trouble == []


def test_many_runs_on_one_page(directory, browser, tmp_path):
    other = shutil.copytree(directory, tmp_path / "b")
    trouble = []
    write_page(tmp_path / "page.html", [page_run("a", directory), page_run("b", other)])
    page = opened(browser, tmp_path / "page.html", trouble)
    assert page.locator(POINTS).count() == 14
    names = page.evaluate("document.getElementById('frontier').data.map(t => t.name)")
    assert names[:8] == ["a · ddim", "a · heun", "b · ddim", "b · heun"] * 2  # points, and the legend
    assert trouble == []


def test_what_runs_share_is_shown_first_and_a_lone_value_has_one_tick(directory, browser, tmp_path):
    """A larger budget that one run alone has, and a curve of one point and no other."""
    other = shutil.copytree(directory, tmp_path / "b")
    Store(other).add([record("ddim", 5, 8.0, n=90000, cell="d" * 64)])
    (other / "metrics.csv").write_text("images_seen,train/loss\n100,0.9\n")
    trouble = []
    write_page(tmp_path / "page.html", [page_run("a", directory), page_run("b", other)])
    assert opened(browser, tmp_path / "page.html", trouble).locator(POINTS).count() == 14
    write_page(tmp_path / "page.html", [page_run("b", other)])
    page = opened(browser, tmp_path / "page.html", trouble)
    assert page.locator("#curve .points path").count() == 1
    assert page.locator("#curve .yaxislayer-above .ytick").count() == 1
    (other / "metrics.csv").unlink()
    write_page(tmp_path / "page.html", [page_run("b", other)])
    assert not opened(browser, tmp_path / "page.html", trouble).locator("#training").is_visible()
    assert trouble == []


def test_the_page_opens_on_what_was_measured_last_and_names_measures_by_what_differs(directory, browser, tmp_path):
    """Of another number of samples, of an earlier checkpoint; and of the same cells asked for again."""
    store, trouble = Store(directory), []
    store.add([record("ddim", nfe, 7.0, n=2000, images_seen=700, cell=f"{nfe}" * 32) for nfe in (10, 20)])
    write_page(tmp_path / "page.html", [page_run("a", directory)])
    page = opened(browser, tmp_path / "page.html", trouble)
    assert page.locator(POINTS).count() == 2
    assert page.locator("#measure option").all_inner_texts() == [
        "n = 2,000: 2 cells", "n = 50,000: 8 cells", "n = 1,000: 1 cell",
    ]  # fmt: skip
    asked = [r["cell"] for r in store.read().values() if r["n"] == 50000]
    write_page(tmp_path / "page.html", [page_run("a", directory)], asked)
    page = opened(browser, tmp_path / "page.html", trouble)
    assert page.locator(POINTS).count() == 7
    assert page.locator("#measure option").first.inner_text() == "n = 50,000: 8 cells"
    other = record("ddim", 5, 1.0, n=2000, seed=1, cell="e" * 64, extractor="dinov2")
    store.add([other])
    write_page(tmp_path / "page.html", [page_run("a", directory)], ["e" * 64])
    page = opened(browser, tmp_path / "page.html", trouble)
    told = page.locator("#measure option").all_inner_texts()
    assert told[0] == "n = 2,000, seed 1, extractor dinov2 eeeeeeee: 1 cell"
    assert len(set(told)) == 4
    assert trouble == []


def test_cells_of_other_code_have_lines_and_marks_of_their_own(tmp_path, browser):
    trouble = []
    cells = [record("ddim", 5, 9.0), record("ddim", 10, 8.0, cell="a" * 64)]
    cells += [record("ddim", 10, 1.0, code_sha256="beef" * 16, cell="b" * 64)]
    cells += [record("ddim", 20, 5.0, code_sha256=None, code_modules=[], git="c" * 40, cell="d" * 64)]
    Store(tmp_path / "run").add(cells)
    write_page(tmp_path / "page.html", [page_run("a", tmp_path / "run")])
    page = opened(browser, tmp_path / "page.html", trouble)
    assert marks(page) == {
        "ddim": ["circle", "circle-open"], "ddim code=beefbeef": ["circle"], "ddim code=cccccccc": ["faded"],
    }  # fmt: skip
    assert "another version of the code" in content(tmp_path / "page.html")["cells"][2]["code"]
    assert trouble == []


def test_names_are_text_on_the_page(directory, browser, tmp_path):
    """Plotly reads markup in names, and an object of JavaScript has names of its own."""
    trouble, names = [], ["<b>bold</b>", "__proto__", "<a href='https://a.b'>x</a>", "constructor", "&lt;"]
    store = Store(tmp_path / "run")
    store.add([record(name, 5, 3.0 + i, cell=f"{i}" * 64) for i, name in enumerate(names)])
    (tmp_path / "run" / "metrics.csv").write_text("images_seen,train/loss,score/<i>x</i>\n1,1,2\n2,1,2\n")
    write_page(tmp_path / "page.html", [page_run("a", tmp_path / "run")])
    page = opened(browser, tmp_path / "page.html", trouble)
    assert page.locator(POINTS).count() == len(names)
    shown = page.locator("#frontier .legendtext").all_text_contents()
    assert [*filter(None, shown)][: len(names)] == names
    assert "score/<i>x</i>" in page.locator("#curve .legendtext").all_text_contents()
    assert page.locator("#grids tr td:first-child").all_inner_texts() == names
    assert trouble == []


def test_a_strip_is_folded_to_rows_of_four(directory, tmp_path):
    write_page(tmp_path / "page.html", [page_run("a", directory)])
    cell = next(
        c for c in content(tmp_path / "page.html")["cells"] if (c["sampler"], c["nfe"], c["n"]) == ("ddim", 5, 50000)
    )
    picture = Image.open(io.BytesIO(base64.b64decode(cell["picture"].split(",")[1])))
    tiles = np.asarray(picture)
    times = tiles.shape[1] // 23  # four tiles of 5 and three lines between
    assert tiles.shape == (27 * times, 23 * times)
    assert (tiles[::times, ::times][:6, 18:23] == 255).all()  # image 3 ends the first row
    assert (tiles[::times, ::times][7:13, :5] == 20).all()


def test_a_page_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no cell"):
        write_page(tmp_path / "page.html", [page_run("a", tmp_path)])


def test_a_line_is_one_rule_and_a_measure_is_the_stores(tmp_path):
    """Settings of one sampler's name are lines of their own; other versions and options are other measures."""
    eta = {"_target_": "denoiselab.samplers.DDIM", "eta": 0.5, "spacing": {"_target_": "a.Karras", "rho": 7}}
    versions = {"versions": {"torch": "2.9"}}
    cells = [record("ddim", 5, 9.0), record("ddim", 10, 8.0, settings={**eta, "steps": 10}, cell="b" * 64)]
    cells += [record("ddim", 5, 9.0, cell="c" * 64, **versions)]
    cells += [record("ddim", 5, 9.0, cell="d" * 64, metrics={"is": {"_target_": "m.InceptionScore", "splits": 5}})]
    Store(tmp_path / "run").add(cells)
    write_page(tmp_path / "page.html", [page_run("a", tmp_path / "run")])
    found = {cell["cell"][0]: cell for cell in content(tmp_path / "page.html")["cells"]}
    assert [found[name]["series"] for name in "dbc"] == ["ddim", "ddim #2", "ddim"]
    assert found["b"]["settings"] == "DDIM (eta 0.5, spacing Karras (rho 7))"
    assert found["c"]["versions"] == "torch 2.9"
    assert found["d"]["measure"]["options"] == "is InceptionScore (splits 5)"
    assert len({cell["group"] for cell in found.values()}) == 3


def test_prompts_in_turn_are_columns_of_pictures(tmp_path):
    """Sample i has prompt i mod 3."""
    greys = np.arange(6, dtype=np.uint8) * 40
    Image.fromarray(np.repeat(np.repeat(greys[None], 8, 0), 8, 1)).save(tmp_path / "strip.png")
    uri = _picture(tmp_path / "strip.png", [1, 8, 8], 3)
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as folded:
        assert folded.size == (3 * 9 - 1, 2 * 9 - 1)
        assert np.array_equal(np.asarray(folded)[4::9, 4::9].flatten(), greys)
