import json
import re
import sys

import pytest

from megatron.run_page.page import ASSETS, SCRIPTS, STYLES, live_assets, static_page

pytest.importorskip("plotly", reason="plotly is not installed")
ODD = "</script><script>alert(1)</script><!-- scripts --> & \u2028 \"quoted\" 'x'"


def test_every_asset_is_served_and_needs_nothing_from_elsewhere():
    assets = live_assets("a title")
    assert set(assets) == {"/", "/plotly.js", *(f"/{name}" for name in (*STYLES, *SCRIPTS))}
    assert {path.name for path in ASSETS.iterdir()} == {"page.html", *STYLES, *SCRIPTS}
    page = assets["/"].content.decode()
    assert "<title>a title</title>" in page
    for name in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert name == "data:," or f"/{name}" in assets
    for name in (*STYLES, *SCRIPTS):
        text = assets[f"/{name}"].content.decode()
        assert "http" not in text
        # Text of a log enters the page as text.
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)


@pytest.mark.parametrize("title", ["runs", ODD])
def test_a_file_holds_everything_and_no_text_ends_its_data(title):
    snapshot = {"runs": [{"name": title, "text": "\ud800"}]}
    page = static_page(title, snapshot, "today")
    data = re.search(r'<script type="application/json" id="snapshot">(.*?)</script>', page)
    assert json.loads(data[1]) == snapshot
    assert "alert(1)</script>" not in page
    assert page.count("<script") == page.count("</script>") == 2 + 1 + len(SCRIPTS)
    assert not re.search(r'<(script|link|img)[^>]+(src|href)="(?!data:)', page)
    assert "connect-src" not in page
    assert "default-src 'none'" in page


def test_without_plotly_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'data-efficiency\[watch\]'"):
        live_assets("x")
