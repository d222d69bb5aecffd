"""The list of the networks, as a user sees it."""

from __future__ import annotations

import json

import pytest
from rich.cells import cell_len

from pixelwise.cli.main import main
from pixelwise.cli.models import option_words, short_paper
from pixelwise.cli.tables import fitted_facts, fitted_table, fold_at_dots, large_number
from pixelwise.models.registry import MODELS, model_options


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> pytest.CaptureResult[str]:
    with pytest.raises(SystemExit) as leaving:
        main(["models", *arguments])
    assert not leaving.value.code
    return capsys.readouterr()


def test_every_model_is_listed_with_its_paper_and_its_options(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = shown(capsys).out
    for name, model in MODELS.items():
        assert f"\n{name} " in text
        assert f"{model.published.parameters:,}" in text
        assert model.paper.partition(",")[0].partition(":")[0] in text
        assert option_words(model_options(name)) in text
    assert f"{len(MODELS)} models" in text


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_list_fits_the_terminal(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    table = shown(capsys).out.partition("\n\n")[0].splitlines()
    assert all(cell_len(line) <= columns for line in table)
    assert sum(line.startswith(tuple(MODELS)) for line in table) >= len(MODELS), "no name is broken"


def test_the_list_for_programs(capsys):
    output = shown(capsys, "--json")
    assert "parameters" in output.err
    models = {model["name"]: model for model in json.loads(output.out)["models"]}
    assert list(models) == list(MODELS)
    unet = models["unet"]
    assert unet["year"] == 2015
    assert unet["link"] == "arXiv 1505.04597"
    assert unet["paper"] == MODELS["unet"].paper
    assert unet["options"] == model_options("unet")
    assert unet["published"] == {
        "parameters": 31_037_698,
        "in_channels": 3,
        "classes": 2,
        "size": [256, 256],
        "options": {"width": 64},
    }


@pytest.mark.parametrize(
    ("paper", "short"),
    [
        ("Lamba: Understanding. Towards Data Science 2019", "Lamba, Towards Data Science"),
        ("Iglovikov, Shvets: Ternaus: a Net. arXiv 2018", "Iglovikov, Shvets, arXiv"),
        ("Jégou, Drozdzal, Vázquez: The One. CVPR Workshops 2017", "Jégou et al., CVPR Workshops"),
    ],
)
def test_papers_in_short(paper, short):
    assert short_paper(paper) == short


def test_options_are_written_as_they_are_typed():
    options = {"width": 1, "scale": 1.0, "bias": False, "encoder": "resnet34", "rate": 0}
    assert option_words(options) == "width=1 scale=1.0 bias=false encoder=resnet34 rate=0"


# Tables


def test_a_narrow_table_breaks_names_behind_dots_and_no_numbers(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    rows = [["encoder.levels.0.3", "conv 3×3 + norm", "1,234,567"], ["head", "conv", "9"]]
    table = fitted_table(["layer", "does", "weights"], rows, right="weights")
    assert [line.split("  ")[0] for line in table[2:]] == ["encoder.levels", ".0.3", "head"] or table[2].startswith(
        "encoder."
    )
    assert any(line.endswith("1,234,567") for line in table)
    assert all(cell_len(line) <= 40 for line in table)


def test_control_characters_stay_out_of_tables(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert fitted_table(["a"], [["x\x1b[31my"]])[2] == "x\\x1b[31my"
    assert fitted_facts({"name": "[bold]x[/bold]"}) == ["name  [bold]x[/bold]"]


def test_long_facts_go_on_below(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert fitted_facts({"stride": "one " * 15})[1].startswith("        one")


@pytest.mark.parametrize(
    ("name", "width", "folded"),
    [
        ("a.b.c", 5, "a.b.c"),
        ("a.b.c", 4, "a.b.\nc"),
        ("a.b.c", 1, "a.\nb.\nc"),
        ("long", 2, "long"),
        ("", 3, ""),
        ("..a", 1, ".\n.\na"),
    ],
)
def test_names_are_folded_at_their_dots(name, width, folded):
    assert fold_at_dots(name, width) == folded


@pytest.mark.parametrize(
    ("number", "text"),
    [(1, "1"), (999, "999"), (9_999, "10 K"), (999_499, "999 K"), (999_500, "1 M"), (1_230_000_000, "1.23 G")],
)
def test_large_numbers_have_three_digits(number, text):
    assert large_number(number) == text


def test_the_largest_numbers_stay_in_the_largest_unit():
    assert large_number(12 * 10**15) == "1.2e+04 T"
