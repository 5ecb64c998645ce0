"""The filler as a block: whence it comes, where it is cut, who gets it, and its part of the bill."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.demand import Demand
from cache.index import PrefixIndex
from cache.padding import HOLD_S, MINIMUM_GAPS, PadReason
from cache.plan import Strategy
from cache.rules import rules_for
from cache.tokens import TokenEstimator
from classifier.route import Route
from router import cost
from router.applications import Applications
from router.beliefs import Beliefs, CacheView
from router.call import Call, Identity, Message, Role, Text, Tool
from router.config import FILLER_BYTES_LIMIT, ApplicationConfig, ConfigError, load_config, show_config
from router.filler import MARGIN_BOUNDS, Filler, cut
from router.padding import LENGTHENING_LIMIT, Padding, Paddings
from router.padding_bill import NO_PADDING, filler_span, padding_cost, without_filler
from router.pricing import PriceTable
from router.request import Demands, Request
from router.upstreams.anthropic_models import traits_of
from router.upstreams.anthropic_render import Options, render
from router.usage import Usage

MODEL = "claude-opus-4-5-20251101"
START_S = 1_795_168_800.0
MINIMUM = rules_for(MODEL).minimum_tokens
FILLER = "\n\n".join(
    f"Example {number}. The record shows what was agreed, by whom and until when it holds; it is quoted in full."
    for number in range(1, 200)
)
SYSTEM = ("You answer from records. " * 300, "Be brief. " * 100)


@dataclass(slots=True)
class Desk:
    """One application's padding, driven call by call without a provider."""

    paddings: Paddings
    applications: Applications
    beliefs: Beliefs
    now_s: float = START_S

    def request(self, application: str = "desk", **call: object) -> Request:
        """A request of the application, checked."""
        found = self.applications.get(application)
        fields: dict[str, object] = {"system": found.system, "tools": found.tools, "max_output_tokens": 100}
        return Request(
            call=Call(
                identity=Identity(request_id="r", application=application),
                messages=(Message(Role.USER, (Text(f"What is due at {self.now_s}?"),)),),
                **(fields | call),
            ),
            application=found,
            demands=Demands(),
        )

    def view(self, padding: Padding, request: Request) -> CacheView:
        """The plan over the prompt as Opus gets it."""
        rendered = render(padding.applied(request.call), MODEL, traits_of(MODEL), Options())
        views = self.beliefs.views(
            rendered.prompt,
            {Route.OPUS: MODEL},
            strategy=Strategy.AUTO,
            kind="desk",
            now_s=self.now_s,
            expected_follow_ups=None,
        )
        return views[Route.OPUS]

    def settle(self, gap_s: float = 30.0, **usage: int) -> Padding:
        """One call that is billed as estimated; return how it stood when it was decided."""
        request = self.request()
        padding = self.paddings.standing(request)
        assert padding is not None
        view = self.view(padding, request)
        billed = Usage(input_tokens=view.counts[-1], **usage)
        self.paddings.learn(padding, view, billed, started_s=self.now_s, readable_s=self.now_s + 1)
        self.now_s += gap_s
        return padding

    def current(self) -> Padding:
        """How it stands now."""
        found = self.paddings.standing(self.request())
        assert found is not None
        return found


def desk(filler: str = FILLER, **application: object) -> Desk:
    """An application of about 2,100 tokens."""
    applications = Applications({"desk": ApplicationConfig(**({"system": SYSTEM} | application))})
    prices, estimator = PriceTable(), TokenEstimator()
    beliefs = Beliefs(
        prices=prices,
        workspaces={Route.OPUS: "default"},
        index=PrefixIndex(100),
        demand=Demand(max_prefixes=100, max_waiting=100),
        estimator=estimator,
    )
    paddings = Paddings(
        applications, filler, model=MODEL, strategy=Strategy.AUTO, prices=prices, estimator=estimator
    )
    return Desk(paddings, applications, beliefs)


def padded_desk() -> Desk:
    """The same after as many short gaps as it takes."""
    found = desk()
    for _ in range(MINIMUM_GAPS + 1):
        assert not found.settle().padded
    assert found.current().padded
    return found


# --- settings


def test_the_filler_is_read_beside_the_settings(tmp_path):
    """Like system files: relative to the config file, its text kept, shown by its length only."""
    (tmp_path / "filler.md").write_text("Ein Beispiel für später.\n", encoding="utf-8")
    file = tmp_path / "router.toml"
    file.write_text(
        '[cache]\nfiller_file = "filler.md"\n[applications.a]\n[applications.b]\npad = false\n',
        encoding="utf-8",
    )
    config = load_config(file, {})
    assert config.cache.filler == "Ein Beispiel für später.\n"
    assert [config.applications[name].pad for name in "ab"] == [None, False]
    assert "<25 characters>" in show_config(config)
    assert "Beispiel" not in show_config(config)


@pytest.mark.parametrize(
    ("text", "content", "message"),
    [
        ('filler_file = "none.md"', None, r"cache\.filler_file: none\.md"),
        ('filler_file = "filler.md"', b" \n\t", r"cache\.filler_file: filler\.md: is empty"),
        ('filler_file = "filler.md"', b"\xff\xfe\x00", r"cache\.filler_file: filler\.md: .*utf-8"),
        (
            'filler_file = "filler.md"',
            b"a " * (FILLER_BYTES_LIMIT // 2) + b"b",
            r"cache\.filler_file: filler\.md: has 1,048,577 bytes, more than the 1,048,576 allowed",
        ),
        ('filler = "text"', None, r"cache\.filler: put the text into a file"),
    ],
)
def test_a_filler_that_cannot_be_used_is_refused_by_name(tmp_path, text, content, message):
    """Unreadable, empty, no UTF-8, or no file at all."""
    if content is not None:
        (tmp_path / "filler.md").write_bytes(content)
    file = tmp_path / "router.toml"
    file.write_text(f"[cache]\n{text}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_config(file, {})


# --- the text


def words(text: str) -> int:
    """A token a word."""
    return len(text.split())


@given(st.integers(1, 5000))
def test_a_cut_reaches_what_is_needed_and_ends_with_a_word(needed):
    """An opening of the filler, never within a word, and hardly longer than needed."""
    text = cut(FILLER, needed, words)
    assert FILLER.startswith(text)
    assert words(text) >= min(needed, words(FILLER))
    assert text == FILLER.rstrip() or FILLER[len(text)].isspace()
    assert words(text) <= needed * 1.2 + 10


def test_a_cut_ends_with_a_paragraph_where_one_ends_soon():
    """Half an example is worth less than a whole one."""
    assert cut(FILLER, 400, words).endswith("quoted in full.")
    assert cut("word " * 1000, 400, words).endswith("word")


def test_a_text_without_spaces_is_cut_where_it_is_long_enough():
    """Not every script has them; the whole filler is not the answer."""
    assert 300 <= len(cut("漢" * 100_000, 300, len)) <= 310
    assert cut("漢" * 200, 300, len) == "漢" * 200


def test_a_cut_looks_at_what_it_needs_of_a_long_text():
    """A megabyte of filler costs no more than its opening: decisions are made between requests."""
    seen = []
    cut("word " * 200_000, 400, lambda text: seen.append(len(text)) or words(text))
    assert max(seen) < 10_000


def test_a_cut_of_an_uneven_text_is_not_too_short():
    """Its opening may have fewer tokens per character than the rest."""
    text = "Donaudampfschifffahrtsgesellschaft " * 100 + "a b c d e f " * 400
    assert 300 <= words(cut(text, 300, words)) <= 301


# --- who gets it


def test_padding_starts_after_evidence_and_is_the_same_bytes_for_everyone():
    """One block behind the application's own, reaching the minimum with its margin, by reference."""
    found = padded_desk()
    first, second = found.current(), found.current()
    assert first is second
    assert first.system[:-1] == SYSTEM
    assert FILLER.startswith(first.system[-1])
    assert first.position == len(SYSTEM)
    view = found.view(first, found.request())
    assert view.counts[first.position] >= MINIMUM * (1 + MARGIN_BOUNDS[1])
    for _ in range(5):
        found.settle(cache_read_tokens=view.counts[first.position])
        assert found.current().system is first.system


def test_flash_is_planned_over_the_plain_prompt():
    """Taking the filler out of Opus's spelling gives the bytes of the call without it."""
    found = padded_desk()
    request, padding = found.request(), found.current()
    padded = render(padding.applied(request.call), MODEL, traits_of(MODEL), Options()).prompt
    plain = render(request.call, MODEL, traits_of(MODEL), Options()).prompt
    assert len(padded.blocks) == len(plain.blocks) + 1
    assert padding.bare(padded) == plain


@pytest.mark.parametrize(
    "change",
    [
        {"system": (*SYSTEM, "And more.")},
        {"tools": (Tool("find", "", "{}"),)},
        {"cache_allowed": False},
    ],
)
def test_what_is_not_everyones_is_not_padded(change):
    """A request with layers of its own, or one that must not be cached."""
    found = padded_desk()
    assert found.paddings.standing(found.request(**change)) is None


def test_the_rest_is_never_padded():
    """No application, one that opted out, one that is never cached, one without shared layers, no filler."""
    assert desk().paddings.standing(desk().request("")) is None
    for found in (desk(pad=False), desk(cache_strategy="none"), desk(system=()), desk(filler="")):
        assert found.paddings.standing(found.request()) is None


def test_a_variant_of_the_opening_has_an_entry_of_its_own():
    """Two output formats in turn: each is used every 400 s, so within five minutes nothing would be read."""
    found = desk(cache_strategy="b")
    for number in range(60):
        schema = '{"type":"object","additionalProperties":false}' if number % 2 else ""
        request = found.request(output_schema_json=schema)
        padding = found.paddings.standing(request)
        view = found.view(padding, request)
        found.paddings.learn(
            padding,
            view,
            Usage(input_tokens=view.counts[-1]),
            started_s=found.now_s,
            readable_s=found.now_s + 1,
        )
        found.now_s += 200
    decision = found.current().decision
    assert (decision.pad, decision.hit_share) == (False, 0.0)


def test_a_filler_too_short_is_never_sent():
    """It is no error: the application may change."""
    found = desk(filler="Too short.")
    for _ in range(MINIMUM_GAPS + 2):
        assert not found.settle().padded
    assert found.current().decision.reason is PadReason.FILLER_TOO_SHORT


def cuts_until_given_up(found: Desk) -> list[str]:
    """The cuts of padded calls that are neither read nor written, up to the first unpadded one."""
    cuts: list[str] = []
    while (padding := found.settle()).padded:
        cuts.append(padding.system[-1])
        assert len(cuts) < 10
    return cuts


def test_a_provider_that_caches_nothing_ends_it_soon():
    """Each padded call proves its cut too short: lengthened a few times, then given up for an hour, then for two."""
    found = padded_desk()
    cuts = cuts_until_given_up(found)
    assert len(cuts) == LENGTHENING_LIMIT + 1
    assert [len(cut) for cut in cuts] == sorted({len(cut) for cut in cuts})
    for wait_s in (HOLD_S, 2 * HOLD_S):
        assert found.current().decision.reason is PadReason.NOT_CACHED
        until_s = found.now_s + wait_s - 120
        while found.now_s < until_s:
            assert not found.settle(gap_s=60).padded
        found.settle(gap_s=60)
        found.settle(gap_s=60)
        assert len(cuts_until_given_up(found)) > 1, "tried again"


def test_a_cut_that_was_too_short_is_lengthened_until_it_is_cached():
    """One call that was marked and neither read nor written proves it; what is cached then stays as it is."""
    found = padded_desk()
    short = found.settle()
    longer = found.current()
    assert longer.system[-1].startswith(short.system[-1])
    assert len(longer.system[-1]) > len(short.system[-1])
    assert longer.shared_tokens == short.shared_tokens
    found.settle(cache_write_5m_tokens=MINIMUM + 50)
    for _ in range(5):
        found.settle(cache_read_tokens=MINIMUM + 50)
        assert found.current().system is longer.system
    found.settle()
    assert found.current().system is longer.system, "an entry that was dropped is no proof of length"


def test_an_answer_to_a_cut_that_is_gone_proves_nothing_of_the_next():
    """Calls in flight when a cut is lengthened lengthen it once, however many they are."""
    found = padded_desk()
    request, padding = found.request(), found.current()
    view = found.view(padding, request)
    billed = Usage(input_tokens=view.counts[-1])
    for _ in range(4):
        found.paddings.learn(padding, view, billed, started_s=found.now_s, readable_s=found.now_s)
    assert found.current().padded
    once = found.current().system[-1]
    found.settle()
    assert len(found.current().system[-1]) > len(once)


def held_share(found: Desk, *uses: tuple[float, float, int]) -> float:
    """Share of padded uses held, after uses of given start, delay of what they wrote, and tokens read."""
    request, padding = found.request(), found.current()
    view = found.view(padding, request)
    for started_s, readable_after_s, read_tokens in uses:
        usage = Usage(
            input_tokens=view.counts[-1],
            cache_read_tokens=read_tokens,
            cache_write_5m_tokens=MINIMUM + 50 - read_tokens,
        )
        found.paddings.learn(
            padding, view, usage, started_s=started_s, readable_s=started_s + readable_after_s
        )
    return found.paddings.evidence("desk").held_share


def test_only_what_could_be_read_tests_the_provider():
    """An entry not yet readable, past its time, or of an unpadded call is no entry that was dropped."""
    start_s = START_S + 10_000
    for gap_s, readable_after_s, tested in ((30, 1, True), (30, 40, False), (400, 1, False)):
        share = held_share(padded_desk(), (start_s, readable_after_s, 0), (start_s + gap_s, 1, 0))
        assert (share < 1.0) is tested, (gap_s, readable_after_s)
    found = padded_desk()  # Its last call was unpadded, and readable 29 s before.
    assert held_share(found, (found.now_s, 1, 0)) == 1.0


def test_a_cut_of_an_unmeasured_filler_has_the_whole_margin():
    """The estimates' error on the application's own text says nothing of the filler's; a measure of it does."""
    estimator = TokenEstimator()
    for _ in range(100):
        estimator.observe(MODEL, 4000, 4000)
    filler = Filler(FILLER, model=MODEL, estimator=estimator)
    assert estimator.uncertainty(MODEL) < MARGIN_BOUNDS[0]
    assert filler.margin() == MARGIN_BOUNDS[1]
    text = filler.cut(1000)
    assumed = filler.tokens(text)
    filler.measure(text, round(assumed * 0.8))
    assert filler.margin() == MARGIN_BOUNDS[0]
    assert filler.tokens(text) == pytest.approx(assumed * 0.8, abs=1)
    assert len(filler.cut(1000)) > 1.15 * len(text)


def test_a_filler_that_was_not_cached_begins_where_the_shared_layers_end():
    """What is billed besides the measured layers is the filler, whatever it was estimated at."""
    found = padded_desk()
    padding = found.current()
    view = found.view(padding, found.request())
    rest = view.counts[-1] - view.counts[padding.position]
    usage = Usage(input_tokens=padding.shared_tokens + 1000 + rest)
    span = filler_span(padding, view, usage)
    assert (span.start, span.measured) == (padding.shared_tokens, True)
    assert abs(span.end - span.start - 1000) <= rest


def test_answers_in_flight_when_it_changes_are_told_apart():
    """A call decided unpadded that settles after the change keeps its own prompt's figures."""
    found = desk()
    request = found.request()
    before = found.paddings.standing(request)
    early = found.view(before, request)
    for _ in range(MINIMUM_GAPS + 1):
        found.settle()
    padding = found.current()
    found.paddings.learn(
        before, early, Usage(input_tokens=early.counts[-1]), started_s=START_S, readable_s=START_S
    )
    assert found.current().system is padding.system
    assert padding_cost(before, early, Usage(input_tokens=early.counts[-1]), None) == NO_PADDING


# --- its part of the bill


@given(st.integers(0, 4500), st.integers(0, 4500), st.integers(0, 4500), st.integers(100, 2000))
def test_the_filler_is_billed_in_the_order_of_the_prompt(read, hour, five, rest):
    """Token by token: read first, then written for an hour, then for five minutes, then uncached."""
    found = PADDED
    padding, request = found.current(), found.request()
    view = found.view(padding, request)
    usage = Usage(
        input_tokens=read + hour + five + rest,
        cache_read_tokens=read,
        cache_write_1h_tokens=hour,
        cache_write_5m_tokens=five,
    )
    price = PriceTable().price(MODEL, START_S)
    per_input, per_read, per_5m, per_1h, _ = price.femto_usd
    billed = [per_read] * read + [per_1h] * hour + [per_5m] * five + [per_input] * rest
    share = padding_cost(padding, view, usage, price)
    start, end, _ = filler_span(padding, view, usage)
    assert 0 <= start <= end <= usage.input_tokens
    assert share.tokens == end - start
    assert abs(share.nano_usd * 1_000_000 - sum(billed[start:end])) <= 500_000
    assert share.nano_usd <= cost.total_nano_usd(usage, price)


def test_a_filler_whose_end_was_marked_is_measured():
    """What was read ends where the filler ends; what stands before it was measured while unpadded."""
    found = padded_desk()
    padding = found.current()
    view = found.view(padding, found.request())
    end = view.counts[padding.position] + 57
    usage = Usage(input_tokens=view.counts[-1] + 60, cache_read_tokens=end, output_tokens=9)
    price = PriceTable().price(MODEL, START_S)
    share = padding_cost(padding, view, usage, price)
    assert share.tokens == end - padding.shared_tokens
    assert share.nano_usd * 1_000_000 == share.tokens * price.femto_usd[1]
    assert without_filler(usage, share.tokens) == Usage(
        input_tokens=usage.input_tokens - share.tokens, output_tokens=9
    )


def test_what_nobody_knows_is_not_free():
    """No usage, no price: the tokens are estimated, the money is unknown."""
    found = padded_desk()
    padding = found.current()
    view = found.view(padding, found.request())
    assert padding_cost(padding, view, None, None).nano_usd is None
    assert padding_cost(padding, view, Usage(input_tokens=5000), None).nano_usd is None
    assert padding_cost(padding, view, None, None).tokens > 1000


PADDED = padded_desk()
"""Only read."""
