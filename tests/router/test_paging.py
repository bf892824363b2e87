"""Pages of a sorted list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.paging import take_page
from trunkline.errors import GatewayError


def all_pages(items: list[str], size: int) -> list[list[str]]:
    pages: list[list[str]] = []
    token = ""
    while True:
        page, token = take_page(items, name=str, page_size=size, page_token=token)
        pages.append(list(page))
        if not token:
            return pages


@given(st.sets(st.text(max_size=5), max_size=30), st.integers(1, 10))
def test_pages_hold_every_item_once_in_order(names: set[str], size: int) -> None:
    items = sorted(names)
    pages = all_pages(items, size)
    assert [name for page in pages for name in page] == items
    assert all(len(page) == size for page in pages[:-1])


def test_a_page_holds_a_thousand_at_most() -> None:
    items = [f"{number:04}" for number in range(1001)]
    assert [len(page) for page in all_pages(items, 0)] == [1000, 1]
    assert [len(page) for page in all_pages(items, 5000)] == [1000, 1]


def test_an_item_that_went_away_between_pages_harms_nobody() -> None:
    page, token = take_page(["a", "b", "c"], name=str, page_size=2, page_token="")
    assert list(page) == ["a", "b"]
    page, token = take_page(["a", "c"], name=str, page_size=2, page_token=token)
    assert (list(page), token) == (["c"], "")


@pytest.mark.parametrize("token", ["x", "YWZ0ZXI", "YWJj", "/+==", "\udcff", "ä"])
def test_a_token_that_is_not_ours_is_refused(token: str) -> None:
    with pytest.raises(GatewayError) as raised:
        take_page(["a"], name=str, page_size=1, page_token=token)
    assert raised.value.param == "page_token"


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(GatewayError) as raised:
        take_page(["a"], name=str, page_size=-1, page_token="")
    assert raised.value.param == "page_size"
