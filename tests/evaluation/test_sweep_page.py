"""The page of a sweep, opened in Chromium."""

import pytest
from playwright.sync_api import sync_playwright
from test_page import CHROMIUM, FLAGS

from denoiselab.evaluation.report.sweep_page import write_page
from denoiselab.evaluation.report.sweep_ranking import job, ranking

HOSTILE = "</script><img src=x onerror=alert(1)><b>"


@pytest.fixture
def page(tmp_path):
    jobs = [
        job(
            str(i), {"status": "done", "value": 5.0 - i, "overrides": [f"optimizer.lr={lr}", f"method={HOSTILE}", seed]}
        )
        for i, (lr, seed) in enumerate([(1e-4, "seed=0"), (1e-4, "seed=1"), (1e-2, "seed=0"), (1e-2, "seed=1")])
    ]
    jobs.append(job("4", {"status": "failed", "error": HOSTILE, "overrides": ["optimizer.lr=1", "method=x", "seed=0"]}))
    path = tmp_path / "sweep.html"
    write_page(path, ranking(jobs, "frontier/best", ["optimizer.lr", "method", "seed"]), {"3": "3/frontier.html"})
    return path


def test_the_page_of_a_sweep(page):
    """On a screen and on a telephone: nothing is wider than it, texts are texts, a row shows its line."""
    assert CHROMIUM, "this test opens the page in Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for width in (1400, 420):
            tab = browser.new_page(viewport={"width": width, "height": 900})
            errors = []
            tab.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
            tab.on("dialog", lambda dialog, errors=errors: errors.append(dialog.message))
            tab.goto(page.as_uri())
            tab.wait_for_selector("#lines .scatterlayer .trace")
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            assert tab.locator("#headline").inner_text().startswith("best: optimizer.lr=0.01 method=</script>")
            assert tab.locator("#lines .scatterlayer .trace").count() == 5
            assert tab.locator("#jobs tr.best td").all_inner_texts()[0] == "3"
            assert tab.locator("#jobs a").get_attribute("href") == "3/frontier.html"
            assert HOSTILE in tab.locator("#reasons").inner_text()
            width_of = "document.getElementById('lines').data[3].line.width"  # of the second row's job
            assert tab.evaluate(width_of) == 1.3
            tab.locator("#jobs tr").nth(2).hover()
            assert tab.evaluate(width_of) == 4
            assert errors == []
        browser.close()
