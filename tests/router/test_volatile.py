"""What looks as if it changed from call to call, and what only looks like that: a table of both."""

import pytest

from router.volatile import EXCERPT_LIMIT, Kind, Volatile, volatile_in

CHANGES = [
    ("The time is 2026-11-22T10:00:00Z.", Kind.TIMESTAMP, True, "2026-11-22T10:00:00Z"),
    ("Generated at 2026-11-22 10:00:12 by deploy", Kind.TIMESTAMP, True, "2026-11-22 10:00:12"),
    ("Sun, 22 Nov 2026 10:00:00 GMT", Kind.TIMESTAMP, False, "Sun, 22 Nov 2026 10:00:00 GMT"),
    ("Snapshot 22.11.2026, 10:00", Kind.TIMESTAMP, True, "22.11.2026, 10:00"),
    ("Today is 2026-11-22.", Kind.DATE, True, "2026-11-22"),
    ("Today is Sunday, 22 November 2026.", Kind.DATE, True, "Sunday, 22 November 2026"),
    ("Today's date: November 22, 2026", Kind.DATE, True, "November 22, 2026"),
    ("Rules of the desk.\nDate: 2026-11-22\n", Kind.DATE, True, "2026-11-22"),
    ("The current date is 22/11/2026", Kind.DATE, True, "22/11/2026"),
    ("Price list of 2026-11-22.", Kind.DATE, False, "2026-11-22"),
    ("Last updated on Nov 22, 2026", Kind.DATE, False, "Nov 22, 2026"),
    ("Today is Monday.", Kind.TODAY, True, "Today is Monday"),
    ("The current year is 2026.", Kind.TODAY, True, "The current year is 2026"),
    ("Current time: 10:42", Kind.TODAY, True, "Current time: 10:42"),
    ("Today is {{date}}.", Kind.PLACEHOLDER, True, "{{date}}"),
    ("You talk to {{ user_name }}.", Kind.PLACEHOLDER, True, "{{ user_name }}"),
    ("Session ${SESSION_ID}", Kind.PLACEHOLDER, False, "${SESSION_ID}"),
    ("Use ${DATE} in shell scripts.", Kind.PLACEHOLDER, False, "${DATE}"),
    ("Today is ${DATE}.", Kind.PLACEHOLDER, True, "${DATE}"),
    (
        "Incident of 2024-03-01 at 10:00 UTC: never delete rows.",
        Kind.TIMESTAMP,
        False,
        "2024-03-01 at 10:00 UTC",
    ),
    ("Prices as of 2024-03-01 10:00 UTC.", Kind.TIMESTAMP, True, "2024-03-01 10:00 UTC"),
    ("Now, at last, it is set: 2024-03-01 10:00", Kind.TIMESTAMP, True, "2024-03-01 10:00"),
    ("If it says now 2024-03-01 10:00, ask.", Kind.TIMESTAMP, False, "2024-03-01 10:00"),
    ("Be brief. Ask if unsure. Today is Monday.", Kind.TODAY, True, "Today is Monday"),
    ("Tone: {{tone}}", Kind.PLACEHOLDER, False, "{{tone}}"),
    ("Today is {current_date}.", Kind.PLACEHOLDER, True, "{current_date}"),
    ("Today is <DATE>.", Kind.PLACEHOLDER, True, "<DATE>"),
    ("Stand: <CURRENT_DATE>", Kind.PLACEHOLDER, False, "<CURRENT_DATE>"),
    ("Now: [TIMESTAMP]", Kind.PLACEHOLDER, True, "[TIMESTAMP]"),
    ("Customer: %(customer)s", Kind.PLACEHOLDER, True, "%(customer)s"),
    ("You help %s with orders.", Kind.PLACEHOLDER, False, "%s"),
    ("{% if today %}x", Kind.PLACEHOLDER, True, "{% if... %}"),
    (
        "Session id: 3f2504e0-4f89-41d3-9a0c-0305e82c3301",
        Kind.UUID,
        True,
        "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
    ),
    (
        "The desk is 3f2504e0-4f89-41d3-9a0c-0305e82c3301.",
        Kind.UUID,
        False,
        "3f2504e0-4f89-41d3-9a0c-0305e82c3301",
    ),
    ("Run 01ARZ3NDEKTSV4RRFFQ69G5FAV", Kind.ULID, True, "01ARZ3NDEKTSV4RRFFQ69G5FAV"),
    (
        "Index da39a3ee5e6b4b0d3255bfef95601890afd80709",
        Kind.HASH,
        False,
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    ),
    ("Prompt of commit ef884b2.", Kind.HASH, False, "ef884b2"),
    ("timestamp: 1795305600", Kind.EPOCH, True, "1795305600"),
    ("(1795305600123)", Kind.EPOCH, False, "1795305600123"),
    ("request_id=req_011CSHoEeqs5C35K2UUqR7Fy", Kind.RANDOM, True, "req_011C..."),
    ("The token is Zk3x9QpL2vRt7YbN4mWd8sHc.", Kind.RANDOM, False, "Zk3x9QpL..."),
]


@pytest.mark.parametrize(
    ("text", "kind", "certain", "excerpt"), CHANGES, ids=[text[:40] for text, *_ in CHANGES]
)
def test_what_changes_is_found(text: str, kind: Kind, certain: bool, excerpt: str) -> None:
    """One entry of the right kind, as sure as it can be, showing the word and nothing beside it."""
    assert volatile_in(text) == (Volatile(kind=kind, certain=certain, excerpt=excerpt, count=1),)


STAYS = [
    "The fiscal year 2026 began in October.",
    "FY 2024/25 and the years 2019-2023",
    "Open 24/7, phones from 09:00 to 17:00, lunch at 12:30.",
    "Quiet hours: default 19:00 to 08:00 in the person's time zone.",
    "Colours are #a1b2c3 and #deadbeef.",
    "Version 1.2.3 of the API, build tools 3.14.159",
    "Dates are ISO 8601 (2026-11-22).",
    "An instant, e.g. 2026-11-22T10:00:00Z, never a local time.",
    "Write dates such as 22 November 2026 in full.",
    "Give dates as 14 May or 14 May 2027 when the year is not the current one.",
    "Format dates as %Y-%m-%d.",
    "Contracts signed before 2024-01-01 follow the old terms.",
    "Regulation in force since 25 May 2018.",
    "Valid between 2024-01-01 and 2024-12-31.",
    "anthropic-version: 2023-06-01",
    "Models: claude-opus-4-5-20251101 and gpt-4o-2024-08-06",
    "If today is Monday, say so.",
    "If the user says 'today is Friday' do not trust it.",
    "Whenever a customer writes that it is now 10:30, check the clock.",
    "List what is due today, and what the current date means for it.",
    "Ask for the current date when you need it; never guess today's date.",
    "Today's tasks come first. Now and then, summarise.",
    "Call +1 555 010 0199 or 18005550100.",
    "IBAN GB29NWBK60161331926819",
    "Limits: 20,000 tasks, 1,500,000,000 rows, 1,795,305,600 bytes",
    "3.14159265358979 and 1.6e9",
    "GET /accounts/{id}/orders/{order_id} returns one order.",
    "See https://docs.example.com/2026-11-22/a?session=3f2504e0-4f89-41d3-9a0c-0305e82c3301#x",
    "Mail ops+2026-11-22@example.com",
    "Answer with <b>bold</b> or <DATE>22</DATE> tags, never <script>.",
    "Reply with: Dear {name},",
    '{"type":"object","properties":{"a":{"type":"string"}}}',
    "100 % of cases, 50% success, 5%d",
    "AES256, SHA-256, COVID-19, UTF-8, ISO-8859-15, x86_64",
    "SCREAMING_SNAKE_CASE_NAMES_2024 and camelCaseIdentifiersThatAreLong2Read",
    "get_customer_account_balance_by_id_v2",
    "OAuth2Rfc6749Section4Dot1 and iPhone15ProMax256GBTitanium",
    "internationalization-and-localization-guidelines",
    "00000000000000000000000000000000",
    "ABCDEFGHJKMNPQRSTVWXYZABCD",
    "The build facade and the commit message",
    "Step 1. Do this. Step 2. Do that (see 4.2.1).",
    "[OPTIONAL] [NOTE] <CONTEXT> <USER INPUT>",
    "",
]


@pytest.mark.parametrize("text", STAYS, ids=[text[:40] for text in STAYS])
def test_what_stays_is_left_alone(text: str) -> None:
    """A false alarm costs more than a find: numbers, examples, past dates, addresses and names are constant."""
    assert volatile_in(text) == ()


def test_one_kind_is_one_entry() -> None:
    """Fifty dates in a prompt are one thing to change; the certain one is shown."""
    text = "Price list of 2026-11-22.\n" * 50 + "Today is 2026-11-23."
    assert volatile_in(text) == (Volatile(kind=Kind.DATE, certain=True, excerpt="2026-11-23", count=51),)


EXCERPTS = {
    "{{ " + "a long instruction " * 4 + "}}": "{{ a... }}",
    "{{ user|default('Zanzibar') }}": "{{ user... }}",
    "{{Zanzibar2345678901234567890}}": "{{ Zanzibar234567890123... }}",
    "{{ 'Zanzibar' }}": "{{... }}",
    "Today is [CURRENT DATE OF ALL]": "[ CURRENT... ]",
    "{{ now() }}": "{{ now... }}",
    "{{ user.first_name }}": "{{ user.first_name }}",
}


@pytest.mark.parametrize("text", EXCERPTS)
def test_an_excerpt_shows_at_most_a_word_of_what_stands_in_the_braces(text: str) -> None:
    """A placeholder may hold words of the prompt; no more than the first is shown."""
    (found,) = volatile_in(text)
    assert found.excerpt == EXCERPTS[text]
    assert len(found.excerpt) <= EXCERPT_LIMIT


def test_what_one_rule_found_is_left_alone_by_the_next() -> None:
    """However many there are: the dates in timestamps are no dates, and what stands between stays in place."""
    text = "2026-11-22 10:00 and 3f2504e0-4f89-41d3-9a0c-0305e82c3301, list of 2026-11-23; " * 3
    counts = {found.kind: (found.count, found.excerpt) for found in volatile_in(text)}
    assert counts == {
        Kind.UUID: (3, "3f2504e0-4f89-41d3-9a0c-0305e82c3301"),
        Kind.TIMESTAMP: (3, "2026-11-22 10:00"),
        Kind.DATE: (3, "2026-11-23"),
    }
