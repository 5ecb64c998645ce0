"""The model card says where the model is from, how good it is, and what is not known."""

from classifier import artifact as artifacts
from classifier.card import Source, model_card, write_card
from classifier.model import DEFAULT_DIRECTORY


def test_a_card_names_sources_figures_and_limits(tmp_path):
    """Every source with its licence; a figure nobody measured is unknown, not 0."""
    artifact = artifacts.load(DEFAULT_DIRECTORY)
    card = model_card(
        artifact,
        sources=[Source(name="seed", rows=798, licence="Apache-2.0", attribution="this project")],
        figures={"auroc": 0.956, "ece": None},
        sections={"The gate": "- passed quality"},
    )
    path = write_card(tmp_path, card)
    text = path.read_text()
    assert text.startswith(f"# Routing classifier {artifact.digest}\n")
    assert "| seed | 798 | Apache-2.0 | this project |" in text
    assert "| AUROC | 0.956 |" in text
    assert "| calibration error | unknown |" in text
    assert "## The gate\n\n- passed quality" in text
    assert "## What it does not know" in text
