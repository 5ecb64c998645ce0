"""The served scorer: equal to scikit-learn, total, explained, and free of scikit-learn at run time."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier.features import STRUCTURE_NAMES, Features, extract
from classifier.model import LAYOUT_NAME, TREES_NAME, Model
from classifier.sample import Sample
from classifier.training import TrainedModel
from tests.classifier.samples import sample_of, samples


@settings(max_examples=60, deadline=None)
@given(chosen=st.lists(samples(), min_size=1, max_size=8))
def test_served_score_equals_scikit_learn(model: Model, trained: TrainedModel, chosen: list[Sample]) -> None:
    """Over arbitrary text and context, serving gives the pipeline's own probability to 1e-6."""
    expected = trained.predict(chosen)
    served = [model.score(sample).value for sample in chosen]
    assert served == pytest.approx(expected.tolist(), abs=1e-6)


def test_served_score_equals_scikit_learn_on_real_requests(retrained: TrainedModel) -> None:
    """The same for the whole shipped set, where words and structure carry weight."""
    model = retrained.to_model("t")
    chosen = [sample_of(row) for row in retrained.dataset.rows]
    served = [model.score(sample).value for sample in chosen]
    assert served == pytest.approx(retrained.predict(chosen).tolist(), abs=1e-6)
    assert max(served) - min(served) > 0.8


@pytest.fixture(scope="module")
def answered(answered_trained: TrainedModel) -> Model:
    """The model with trees as it is served."""
    return answered_trained.to_model("t")


@settings(max_examples=60, deadline=None)
@given(chosen=st.lists(samples(), min_size=5, max_size=20))
def test_served_trees_equal_scikit_learn(
    answered_trained: TrainedModel, answered: Model, chosen: list[Sample]
) -> None:
    """The same for a model that has trees: walking all of them at once reaches the leaves scikit-learn reaches."""
    assert answered_trained.calibrated.estimator.difficulty_ is not None
    served = [answered.score(sample).value for sample in chosen]
    assert served == pytest.approx(answered_trained.predict(chosen).tolist(), abs=1e-6)


def test_served_trees_equal_scikit_learn_on_real_requests(
    answered_trained: TrainedModel, answered: Model
) -> None:
    """Every leaf that labels reach is worth the same on both sides, and the trees do move scores."""
    chosen = [sample_of(row) for row in answered_trained.dataset.rows]
    served = [answered.score(sample).value for sample in chosen]
    assert served == pytest.approx(answered_trained.predict(chosen).tolist(), abs=1e-6)
    said = {
        part.contribution
        for sample in chosen
        for part in answered.explain(sample, 999)
        if part.name == TREES_NAME
    }
    assert len(said) > 20


@settings(max_examples=60, deadline=None)
@given(chosen=st.lists(samples(), min_size=1, max_size=8))
def test_served_layouts_equal_scikit_learn(questions_trained: TrainedModel, chosen: list[Sample]) -> None:
    """The same for a model with tables of its own for tasks answered freely, by one of few options, by one of many."""
    model = questions_trained.to_model("t")
    served = [model.score(sample).value for sample in chosen]
    assert served == pytest.approx(questions_trained.predict(chosen).tolist(), abs=1e-6)


def test_served_layouts_equal_scikit_learn_on_what_they_were_fitted_to(
    questions_trained: TrainedModel,
) -> None:
    """Where all tables carry weight; a word counts for more with few options and for less with many."""
    model = questions_trained.to_model("t")
    chosen = [sample_of(row) for row in questions_trained.dataset.rows[::3]]
    served = [model.score(sample).value for sample in chosen]
    assert served == pytest.approx(questions_trained.predict(chosen).tolist(), abs=1e-6)
    few, many = "\nA) 1\nB) 2\nC) 3\nD) 4", "".join(f"\n{letter}) 1" for letter in "ABCDEFGHIJ")

    def moved(options: str) -> float:
        said = [model.score(Sample.bounded(text=f"Which {word}?{options}")).raw for word in ("ring", "cell")]
        return said[0] - said[1]

    assert moved(few) > 0.5 > -0.5 > moved(many)


@given(samples())
def test_contributions_of_a_model_with_layouts_add_up(
    questions_trained: TrainedModel, sample: Sample
) -> None:
    """What the layout alone says stands in the explanation under its own name."""
    model = questions_trained.to_model("t")
    explained = model.explain(sample, 10**6)
    total = model.manifest.bias + sum(part.contribution for part in explained)
    assert total == pytest.approx(model.score(sample).raw, abs=1e-6)
    offered = extract(sample).structure[STRUCTURE_NAMES.index("options")]
    assert (LAYOUT_NAME in {part.name for part in explained}) == (offered > 0)


@given(samples())
def test_contributions_of_a_model_with_trees_add_up(answered: Model, sample: Sample) -> None:
    """The trees' part stands in the explanation under its own name."""
    total = answered.manifest.bias + sum(part.contribution for part in answered.explain(sample, 10**6))
    assert total == pytest.approx(answered.score(sample).raw, abs=1e-6)


@given(samples())
def test_features_from_a_ledger_score_alike(model: Model, sample: Sample) -> None:
    """A stored feature row scores as its request did."""
    stored = Features.from_row(extract(sample).to_row())
    assert model.score_features(stored).value == pytest.approx(model.score(sample).value, abs=1e-12)


@given(samples())
def test_contributions_add_up_to_the_raw_score(model: Model, sample: Sample) -> None:
    """All contributions and the bias together are the raw score: an explanation hides nothing."""
    explained = model.explain(sample, top_count=10**6)
    total = model.manifest.bias + sum(part.contribution for part in explained)
    assert total == pytest.approx(model.score(sample).raw, abs=1e-6)
    sizes = [abs(part.contribution) for part in explained]
    assert sizes == sorted(sizes, reverse=True)


def test_explanation_shows_the_callers_own_words() -> None:
    """Word buckets are shown with the request's own words, structure by its name, and no more than asked."""
    sample = Sample.bounded(text="Prove that the series converges", application="tutor")
    explained = Model.default().explain(sample, top_count=200)
    by_name = {part.name: part for part in explained}
    shown = {words for part in explained for words in part.own_text}
    assert {"prove", "^ prove", "converges", "application=tutor"} <= shown
    assert by_name["opens_with_analysis"].own_text == ()
    assert by_name["opens_with_analysis"].contribution > 0
    assert len(Model.default().explain(sample, top_count=3)) == 3


def test_score_names_its_model() -> None:
    """Every score carries the digest of the model that made it."""
    model = Model.default()
    score = model.score(Sample.bounded(text="hello"))
    assert score.model_digest == model.digest
    assert len(model.digest) == 12


def test_kinds_rank_as_they_should() -> None:
    """Commands, tool loops and small talk stay below requests that need thought, short ones included."""
    model = Model.default()
    simple = [
        Sample.bounded(text="switch the office lights off please"),
        Sample.bounded(text="book me a taxi to the airport at five", tools_offered_count=4),
        Sample.bounded(text="", tool_result_count=1, tool_loop=True, tools_offered_count=4),
        Sample.bounded(text="thanks!"),
        Sample.bounded(text="what's the capital of Peru"),
    ]
    hard = [
        Sample.bounded(text="Prove that every finite integral domain is a field."),
        Sample.bounded(
            text="Compare three strategies for migrating our ledger to another database without downtime, "
            "weigh their risks and recommend one."
        ),
        Sample.bounded(
            text="Debug this race: two workers claim the same job under load. Explain the root cause."
        ),
    ]
    assert max(model.score(sample).value for sample in simple) < model.manifest.threshold - 0.05
    assert min(model.score(sample).value for sample in hard) > model.manifest.threshold + 0.1


def test_serving_does_not_import_scikit_learn() -> None:
    """Scoring and deciding load neither scikit-learn nor SciPy: start time and memory of the service."""
    code = (
        "import sys; from classifier import model, policy, followup; from classifier.sample import Sample;"
        "model.Model.default().score(Sample.bounded(text='hello'));"
        "loaded = {name.split('.')[0] for name in sys.modules};"
        "print(sorted(loaded & {'sklearn', 'scipy', 'grpc', 'router', 'cache'}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "[]"
