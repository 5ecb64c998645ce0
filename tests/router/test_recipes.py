"""Requests kept to be warmed again: within their bound, the longest unused go, and nobody's words in a shared one."""

from cache.plan import Breakpoint
from cache.prompt import Layer
from classifier.route import Route
from router.applications import NO_APPLICATION, Application
from router.call import Effort, Text
from router.recipes import PLACEHOLDER, Recipe, Recipes, recipe_of, shared_recipe_of
from tests.router.rig import asked, said

POINT = Breakpoint(1, Layer.SYSTEM, 300, 2000, b"k", "", 0.0)


def recipe(key: bytes, byte_count: int = 100) -> Recipe:
    return Recipe(key, asked(), (POINT,), byte_count)


def test_recipes_stay_within_their_bytes_and_the_longest_unused_go_first():
    """A look counts as use; a newer one for the same prefix takes the older's place."""
    recipes = Recipes(300)
    for key in (b"a", b"b", b"c"):
        recipes.keep(recipe(key))
    assert recipes.find(b"a") is not None
    recipes.keep(recipe(b"d"))
    assert recipes.find(b"b") is None
    recipes.keep(recipe(b"a", 50))
    assert (len(recipes), recipes.byte_count) == (3, 250)
    recipes.keep(recipe(b"huge", 1000))
    assert (len(recipes), recipes.byte_count) == (0, 0)


def test_a_recipe_asks_opus_for_nothing_under_the_same_parameters():
    """Everything that enters the prefix is kept; what does not is dropped."""
    import msgspec.structs

    request = asked(said("Which tickets of Ann are overdue?"), system=("Be brief.",), context=("Ann.",))
    call = msgspec.structs.replace(request.call, effort=Effort.HIGH, stop_sequences=("x",))
    request = msgspec.structs.replace(request, call=call)
    kept = recipe_of(request, [POINT], 10).request
    assert (kept.call.max_output_tokens, kept.call.stop_sequences) == (0, ())
    assert kept.call.messages is call.messages
    assert (kept.call.effort, kept.call.context) == (Effort.HIGH, ("Ann.",))
    assert kept.demands.forced_route is Route.OPUS
    assert not kept.demands.fallback_allowed


def test_a_shared_recipe_holds_nobodys_words():
    """Tools, system and parameters; a placeholder for the conversation, no context, no user, no session."""
    request = asked(
        said("Which tickets of Ann are overdue?"), system=("Be brief.",), context=("Ann.",), session="s"
    )
    call = shared_recipe_of(request, [POINT], 10).request.call
    assert call.messages == PLACEHOLDER
    assert call.messages[0].parts == (Text("."),)
    assert (call.context, call.identity.session, call.identity.user) == ((), "", "")
    assert call.system == ("Be brief.",)


def test_a_shared_recipe_is_billed_to_a_tenant_only_where_the_layers_are_its_own():
    """The application's are kept for everybody; a system prompt that came with the request is its tenant's."""
    import msgspec.structs

    application = Application("desk", ("Be brief.",), (), 100, "", None)

    def payer(*system: str, named: Application = application) -> str:
        request = msgspec.structs.replace(asked(system=system), application=named)
        identity = msgspec.structs.replace(request.call.identity, tenant="acme", application=named.name)
        request = msgspec.structs.replace(
            request, call=msgspec.structs.replace(request.call, identity=identity)
        )
        return shared_recipe_of(request, [POINT], 10).request.call.identity.tenant

    assert payer("Be brief.") == ""
    assert payer("Be brief.", "Acme sells lamps.") == "acme"
    assert payer(named=NO_APPLICATION) == "acme"
