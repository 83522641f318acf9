"""docs/reference/ is what docs/generate_reference.py writes of the code as it is."""

import dataclasses
import runpy

import pytest
from paths import ROOT

GENERATOR = runpy.run_path(str(ROOT / "docs" / "generate_reference.py"))


@pytest.mark.parametrize("page", sorted(GENERATOR["PAGES"]))
def test_page_is_up_to_date(page):
    committed = (ROOT / "docs" / "reference" / page).read_text(encoding="utf-8")
    assert GENERATOR["PAGES"][page]() == committed, "run: make reference"


def test_a_field_without_description_or_unit_is_refused():
    @dataclasses.dataclass
    class Spec:
        """A spec.

        Attributes:
            size: Side of the images.
        """

        size: int = 1

    with pytest.raises(ValueError, match="size"):
        list(GENERATOR["_spec_section"](Spec, "", 2))
