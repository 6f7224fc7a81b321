"""Pages in a real browser: nothing is wider than the window, on a desk and on a phone."""

import html
import json
import re
import shutil
import subprocess

import pytest
from test_jobs_report import evolve_run, report, train_run
from test_jobs_report_objective import objective_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
WIDTHS = (1400, 768, 390)
PROBE = """<script>
onload = () => {
  const found = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument;
    const ends = [...page.querySelectorAll("svg, h1, h2, h3, p, dl")].map(one => one.getBoundingClientRect().right);
    return [frame.contentWindow.innerWidth, page.documentElement.scrollWidth, Math.ceil(Math.max(...ends))];
  });
  document.title = JSON.stringify(found);
};
</script>"""
"""Of each frame: its width, that of all that lies in its page, and where the farthest of text and pictures ends."""


def measured(tmp_path, *pages):
    """[[width, width of the page, end of what does not scroll], ...] of every page at every width, in one start."""
    style = "height: 900px; border: 0; width"
    frames = [f'<iframe style="{style}: {width}px" srcdoc="{html.escape(page)}"></iframe>'
              for page in pages for width in WIDTHS]  # fmt: skip
    (tmp_path / "probe.html").write_text(f"<!DOCTYPE html><title></title>{''.join(frames)}{PROBE}")
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--dump-dom",
               f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--window-size=1500,900",
               f"file://{tmp_path / 'probe.html'}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title, done.stderr
    return [tuple(found) for found in json.loads(html.unescape(title[1]))]


def test_no_page_is_wider_than_its_window(tmp_path):
    several = [train_run(tmp_path / name, name) for name in ("naive", "esmm", "escm2_ips", "escm2_dr")]
    kinds = [several[0], evolve_run(tmp_path / "evolve"), objective_run(tmp_path / "es")]
    pages = [report(tmp_path, *runs).source for runs in (several, kinds)]
    too_wide = pages[1].replace("</main>", '<p style="width: 2000px">x</p></main>')
    found = measured(tmp_path, *pages, too_wide)
    assert [width for width, _, _ in found] == [*WIDTHS] * 3
    for width, whole, end in found[: -len(WIDTHS)]:
        assert whole <= width
        assert end <= width
    assert all(whole > width for width, whole, _ in found[-len(WIDTHS) :]), "the check sees what is too wide"
