"""What an application's next request will begin with, as far as that can be known.

The rule: what is warmed ahead of a request is asked for with the parameters of the application's last requests; where
these differ among themselves the next one's cannot be known, and then it is not warmable. How they were to be cached is
that of the last one: it is no part of the bytes, but where nothing is cached nothing is read. It knows nothing of
sessions that are not held, nor whether warming pays.
"""

from collections import deque

from router.applications import Application, Applications
from router.call import Call, Effort, Identity, Message, Role, ToolChoice
from router.held_session import Held
from router.recipes import PLACEHOLDER, as_warm
from router.request import Demands, Request
from router.unwarmable import Reason, Unwarmable
from router.warm_worth import Worths

_MANNERS = 20
"""Last requests of an application whose parameters have to agree for the next one's to be known."""

Manner = tuple[ToolChoice, Effort | None, str, bool]
"""Parameters of a request that are part of its prefix, or forbid warming it."""


class NextRequests:
    """What was seen of each application's requests."""

    def __init__(self, applications: Applications, worths: Worths) -> None:
        """Keep references."""
        self._applications = applications
        self._worths = worths
        self._manners: dict[str, deque[Manner]] = {}
        # Name of the strategy of an application's last request, and whether it allowed any caching.
        self._cached: dict[str, tuple[str, bool]] = {}

    def note(self, request: Request) -> None:
        """Note how a request was asked."""
        call = request.call
        manners = self._manners.setdefault(call.identity.application, deque(maxlen=_MANNERS))
        manners.append(_manner(call))
        self._cached[call.identity.application] = request.strategy, call.cache_allowed

    def of_session(self, held: Held) -> Request | Unwarmable:
        """What a held session's next request will begin with; else why that cannot be known."""
        application = self._applications.get(held.application)
        if len(set(self._manners.get(application.name, ()))) > 1:
            return Unwarmable(
                Reason.VARIED_PARAMETERS,
                "its requests differ in tool choice, effort, thinking or output schema",
            )
        if held.messages and (held.messages[-1].role is not Role.ASSISTANT or held.open_calls()):
            return Unwarmable(Reason.OPEN_TOOL_CALLS, "its next turn brings results of tools")
        identity = Identity(
            request_id="",
            tenant=held.tenant,
            application=held.application,
            user=held.user,
            session=held.session,
        )
        return self._asked(application, self._call(application, identity, held.context, held.messages))

    def of_application(self, name: str) -> Request:
        """What every request of an application begins with: its tools and system prompt.

        Raises:
            NotFound: No such application.
        """
        application = self._applications.get(name)
        call = self._call(application, Identity(request_id="", application=name), (), ())
        return self._asked(application, call)

    def _asked(self, application: Application, call: Call) -> Request:
        bare = Request(call=call, application=application, demands=Demands())
        strategy, _ = self._cached.get(application.name, ("", True))
        return as_warm(bare, call, strategy, output_tokens=self._worths.output_tokens)

    def _call(
        self,
        application: Application,
        identity: Identity,
        context: tuple[str, ...],
        messages: tuple[Message, ...],
    ) -> Call:
        manners = self._manners.get(application.name)
        choice, effort, schema, thinking = manners[-1] if manners else (ToolChoice(), None, "", False)
        return Call(
            identity=identity,
            tools=application.tools,
            system=application.system,
            context=context,
            messages=(*messages, *PLACEHOLDER),
            tool_choice=choice,
            max_output_tokens=self._worths.output_tokens,
            effort=effort,
            output_schema_json=schema,
            include_thinking=thinking,
            cache_allowed=self._cached.get(application.name, ("", True))[1],
        )


def _manner(call: Call) -> Manner:
    return call.tool_choice, call.effort, call.output_schema_json, call.include_thinking
