"""Settings: defaults, file, environment, in this order; nothing unknown, nothing secret shown."""

import contextlib
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.app import cascades_of
from router.config import Config, ConfigError, Secrets, load_config, load_secrets, show_config
from router.escalation import Cascade, Signal
from router.ledger import Server
from router.ledger_place import ledger_place, ledger_server


def write(path: Path, text: str) -> Path:
    """A settings file."""
    file = path / "router.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_defaults_are_whole():
    """Without file and environment there is a usable tree."""
    assert load_config(None, {}) == Config()


def test_the_environment_wins_over_the_file(tmp_path: Path):
    """Values are read as TOML where they are TOML, as text where not."""
    file = write(tmp_path, '[server]\nlisten = "127.0.0.1:1"\ndrain_s = 5\n[cache]\nstrategy = "a"')
    environ = {
        "HYBRID_ROUTER__SERVER__LISTEN": "127.0.0.1:2",
        "HYBRID_ROUTER__ROUTING__FALLBACK": "false",
        "HYBRID_ROUTER__ROUTING__THRESHOLD": "0.25",
        "HYBRID_ROUTER__TELEMETRY__TENANTS": '["acme", "bolt"]',
        "UNRELATED__SERVER__LISTEN": "x",
    }
    config = load_config(file, environ)
    assert (config.server.listen, config.server.drain_s, config.cache.strategy) == ("127.0.0.1:2", 5.0, "a")
    assert (config.routing.fallback, config.routing.threshold) == (False, 0.25)
    assert config.telemetry.tenants == ("acme", "bolt")


def test_a_servers_url_is_not_taken_for_a_directory():
    """The URL of a ledger's server under ledger.path is refused, by the name of where it belongs, and not repeated."""
    with pytest.raises(ConfigError, match=r"ledger\.path.*belongs in ledger\.url") as refused:
        load_config(None, {"HYBRID_ROUTER__LEDGER__PATH": "postgresql://router:5ecret@db/ledger"})
    assert "5ecret" not in str(refused.value)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"HYBRID_ROUTER__SERVER__LISSTEN": "x"}, "lissten"),
        ({"HYBRID_ROUTER__LISTEN": "x"}, "HYBRID_ROUTER__SERVER__LISTEN"),
        ({"HYBRID_ROUTER__SERVER____LISTEN": "x"}, "HYBRID_ROUTER__SERVER____LISTEN"),
        ({"HYBRID_ROUTER__SERVER__LISTEN__PORT": "1", "HYBRID_ROUTER__SERVER__LISTEN": "x"}, "listen"),
        ({"HYBRID_ROUTER__SERVER__IN_FLIGHT_LIMIT": "many"}, "in_flight_limit"),
        ({"HYBRID_ROUTER__TELEMETRY__SAMPLE_RATIO": "1.01"}, "sample_ratio"),
    ],
)
def test_a_wrong_variable_is_refused_by_name(environ, message):
    """A typo in the environment is as bad as one in the file."""
    with pytest.raises(ConfigError, match=message):
        load_config(None, environ)


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
            ),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_any_tree_is_settings_or_an_error(tree):
    """However wrong a variable's value is, the answer is a ConfigError."""
    environ = {
        f"HYBRID_ROUTER__{key.upper() or 'X'}__{index}": json.dumps(value)
        for index, (key, value) in enumerate(tree.items())
    }
    found = None
    with contextlib.suppress(ConfigError):
        found = load_config(None, environ)
    assert found is None or isinstance(found, Config)


def test_system_files_lie_beside_the_settings(tmp_path: Path):
    """A prompt kept in a file is one block after those in the text; the path is relative to the settings."""
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "desk.txt").write_text("From a file.", encoding="utf-8")
    file = write(tmp_path, '[applications.desk]\nsystem = ["Inline."]\nsystem_files = ["prompts/desk.txt"]')
    assert load_config(file, {}).applications["desk"].system == ("Inline.", "From a file.")


def test_keys_come_from_environment_or_file_and_are_never_shown(tmp_path: Path):
    """The environment wins; a key file is read without its newline; no form of the tree prints a key."""
    (tmp_path / "key").write_text("from-file\n", encoding="utf-8")
    config = load_config(None, {"HYBRID_ROUTER__OPUS__API_KEY_FILE": str(tmp_path / "key")})
    assert load_secrets(config, {}).opus_api_key == "from-file"
    secrets = load_secrets(config, {"ANTHROPIC_API_KEY": "from-env", "GOOGLE_API_KEY": "google"})
    assert (secrets.opus_api_key, secrets.flash_api_key) == ("from-env", "google")
    assert "from-env" not in f"{secrets!r}{secrets}{show_config(config)}"
    assert repr(Secrets()) == "Secrets({'opus_api_key': 'missing', 'flash_api_key': 'missing'})"


def test_a_key_file_that_is_not_there_is_named(tmp_path: Path):
    """Better no start than a start without a key."""
    config = load_config(None, {"HYBRID_ROUTER__FLASH__API_KEY_FILE": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match=r"flash\.api_key_file"):
        load_secrets(config, {})


PASSWORD = "s3cret-w0rd"


def test_the_ledger_s_password_is_kept_out_of_files_and_shown_nowhere(tmp_path: Path):
    """A settings file may not hold it; the environment may, and `config show` does not repeat it."""
    for url in (f"postgresql://u:{PASSWORD}@db/x", f"postgresql://u@db/x?password={PASSWORD}"):
        file = write(tmp_path, f'[ledger]\nurl = "{url}"')
        with pytest.raises(ConfigError, match=r"ledger\.url: holds a password.*password_file") as caught:
            load_config(file, {})
        assert PASSWORD not in str(caught.value)
        config = load_config(None, {"HYBRID_ROUTER__LEDGER__URL": url})
        assert config.ledger.url == url
        assert PASSWORD not in show_config(config)
    plain = load_config(write(tmp_path, '[ledger]\nurl = "postgresql://u@db/x"'), {})
    assert json.loads(show_config(plain))["ledger"]["url"] == "postgresql://u@db/x"


def test_the_ledger_s_password_comes_from_its_file(tmp_path: Path):
    """And is part of the server the ledger is on, which does not show it."""
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    environ = {
        "HYBRID_ROUTER__LEDGER__URL": "postgresql://u@db/x",
        "HYBRID_ROUTER__LEDGER__PASSWORD_FILE": str(tmp_path / "password"),
    }
    server = ledger_server(load_config(None, environ))
    assert server == Server("postgresql://u@db/x", PASSWORD)
    assert PASSWORD not in repr(server)
    missing = load_config(None, environ | {"HYBRID_ROUTER__LEDGER__PASSWORD_FILE": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match=r"ledger\.password_file"):
        ledger_place(missing)
    assert ledger_place(Config()) == Path("var/ledger/ledger.sqlite3")
    assert ledger_server(Config()) is None


@pytest.mark.parametrize("url", ["mysql://u@db/x", "var/ledger", f"postgresql://u:{PASSWORD}@[db/x"])
def test_another_database_s_url_is_refused_unread(url: str):
    """It may hold a password, so it is not repeated."""
    with pytest.raises(ConfigError, match=r"ledger\.url: is no URL of a PostgreSQL database") as caught:
        load_config(None, {"HYBRID_ROUTER__LEDGER__URL": url})
    assert PASSWORD not in str(caught.value)


def test_the_shown_tree_reads_back():
    """What `config show` prints is the whole tree, in the words of the file."""
    shown = json.loads(show_config(Config()))
    assert msgspec.convert(shown, Config) == Config()


def test_a_cascade_is_off_and_its_failures_are_named():
    """It costs a second answer, so the operator chooses; applications may differ, unknown failures are refused."""
    assert not load_config(None, {}).cascade.enabled
    environ = {
        "HYBRID_ROUTER__CASCADE__ENABLED": "true",
        "HYBRID_ROUTER__CASCADE__NEEDED_S": "5.0",
        "HYBRID_ROUTER__APPLICATIONS__FORMS__CASCADE_ON": '["schema"]',
        "HYBRID_ROUTER__APPLICATIONS__CHAT__CASCADE": "false",
        "HYBRID_ROUTER__APPLICATIONS__DESK__PAD": "false",
    }
    cascades = cascades_of(load_config(None, environ))
    assert cascades.of("forms") == Cascade(frozenset({Signal.SCHEMA}), 5.0)
    assert cascades.of("chat") == Cascade(frozenset(), 5.0)
    assert cascades.of("desk") is cascades.of("") is cascades.default
    assert cascades.default.on == set(Signal) - {Signal.TRUNCATED}
    with pytest.raises(ConfigError, match=r"cascade\.on.*guess"):
        load_config(None, {"HYBRID_ROUTER__CASCADE__ON": '["guess"]'})


def test_attempts_are_bounded_by_silence_and_not_by_length():
    """Streams are, generously; a unary attempt has all the time unless a share is set."""
    attempts = load_config(None, {}).attempts
    assert (attempts.first_byte_timeout_s, attempts.idle_timeout_s, attempts.attempt_share) == (
        30.0,
        60.0,
        0.0,
    )
    assert load_config(None, {"HYBRID_ROUTER__ATTEMPTS__IDLE_TIMEOUT_S": "0"}).attempts.idle_timeout_s == 0
    for key, value in (("ATTEMPT_SHARE", "1.5"), ("IDLE_TIMEOUT_S", "-1")):
        with pytest.raises(ConfigError, match=rf"attempts\.{key.lower()}"):
            load_config(None, {f"HYBRID_ROUTER__ATTEMPTS__{key}": value})


def test_circuits_and_hedging_are_set_in_routing():
    """Every knob is a key of [routing], bounded; hedging names its routes."""
    environ = {
        "HYBRID_ROUTER__ROUTING__CIRCUIT": "false",
        "HYBRID_ROUTER__ROUTING__CIRCUIT_OPEN_S": "2.5",
        "HYBRID_ROUTER__ROUTING__HEDGE_AFTER_S": "1.5",
        "HYBRID_ROUTER__ROUTING__HEDGE_ROUTES": '["flash", "opus"]',
    }
    routing = load_config(None, environ).routing
    assert (routing.circuit, routing.circuit_open_s) == (False, 2.5)
    assert (routing.hedge_after_s, routing.hedge_routes) == (1.5, ("flash", "opus"))
    for key, value in (
        ("CIRCUIT_FAILURE_SHARE", "0"),
        ("CIRCUIT_PROBE_LIMIT", "0"),
        ("HEDGE_ROUTES", '["x"]'),
    ):
        with pytest.raises(ConfigError, match=key.lower()):
            load_config(None, {f"HYBRID_ROUTER__ROUTING__{key}": value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPUS__BASE_URL", "notaurl"),
        ("FLASH__BASE_URL", "https://"),
        ("ROUTING__CIRCUIT_OPEN_LIMIT_S", "1"),
        ("ROUTING__CIRCUIT_WINDOW_S", "1e-300"),
    ],
)
def test_what_would_fail_every_call_is_refused_before_the_first(name: str, value: str) -> None:
    """The key is named."""
    with pytest.raises(ConfigError, match=name.rpartition("__")[2].lower()):
        load_config(None, {f"HYBRID_ROUTER__{name}": value})
    assert load_config(None, {"HYBRID_ROUTER__OPUS__BASE_URL": "http://proxy:8080/claude"}).opus.base_url


def test_money_and_chance_are_set_in_routing():
    """Every limit is off until it is set, and refused where it allows nothing or means nothing."""
    plain = load_config(None, {}).routing
    assert (plain.answer_value_usd, plain.budget_usd_per_day, plain.opus_share_limit) == (None, None, None)
    assert (plain.quality_floor, plain.exploration_share, plain.exploration_band) == (None, 0.0, None)
    prefix = "HYBRID_ROUTER__ROUTING__"
    environ = {f"{prefix}BUDGET_USD_PER_DAY": "40.5", f"{prefix}EXPLORATION_SHARE": "0.01"}
    routing = load_config(None, environ).routing
    assert (routing.budget_usd_per_day, routing.exploration_share) == (40.5, 0.01)
    for key, value in (
        ("ANSWER_VALUE_USD", "0.0"),
        ("BUDGET_USD_PER_DAY", "-1.0"),
        ("OPUS_SHARE_LIMIT", "0.0"),
        ("QUALITY_FLOOR", "1.0"),
        ("EXPLORATION_SHARE", "0.6"),
        ("EXPLORATION_BAND", "1.5"),
    ):
        with pytest.raises(ConfigError, match=f"routing.{key.lower()}"):
            load_config(None, {f"{prefix}{key}": value})
