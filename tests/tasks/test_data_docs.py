"""Pages of Data Docs, made to need no network: what refers to another host goes, what is in the folder stays."""

import pytest

from tasks.data_docs import rewrite_page


def page(inside: str) -> str:
    return f"<html><head><title>a</title></head><body>{inside}</body></html>"


@pytest.mark.parametrize(
    "outside",
    [
        '<script src="https://a.example/x.js"></script>',
        "<script>\nfetch('https://a.example')\n</script>",
        '<link rel="stylesheet" href="https://a.example/x.css"/>',
        "<link rel=stylesheet href=//a.example/x.css>",
        '<style>@import url("https://a.example/x.css");</style>',
        '<img alt="logo" src="https://a.example/x.png?d=1"\n style="width: auto"/>',
        '<button onclick="go()">Go</button>',
    ],
)
def test_what_lies_elsewhere_is_gone(outside: str) -> None:
    html = rewrite_page(page(f"<p>kept</p>{outside}"))
    assert "<p>kept</p>" in html
    assert "example" not in html
    assert "onclick" not in html


def test_links_inside_stay_and_links_outside_become_words() -> None:
    html = rewrite_page(
        page('<a class="x" href="https://a.example/y?z=1">news</a> <a href="../b.html">b</a> <a href="#c">c</a>')
    )
    assert '<a class="x">news</a> <a href="../b.html">b</a> <a href="#c">c</a>' in html
    assert html.count("<style>") == 1
