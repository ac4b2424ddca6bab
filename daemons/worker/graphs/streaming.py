"""Running a graph so that it tells what happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from daemons.worker.graphs.payload import GraphRequest

if TYPE_CHECKING:
    from daemons.worker.graphs.telling import Teller


class Output(NamedTuple):
    """What ``ainvoke`` would give."""

    value: Any
    interrupts: tuple[Any, ...]
    breakpoint: dict[str, Any] | None = None  # the question of a run that stands at one


async def stream(
    compiled: Any,
    given: Any,
    config: dict[str, Any],
    request: GraphRequest,
    teller: Teller,
    **options: Any,
) -> Output:
    """Run the graph; its output, as ``ainvoke`` gives it.

    ``values`` is always asked for, for the output; and ``custom``, since with it (or ``messages``) LangGraph hands out
    what a step told before it stores the step's checkpoint.
    """
    wanted = frozenset(request.stream_mode)
    value: Any = None
    interrupts: list[Any] = []
    parts = compiled.astream(
        given,
        config,
        stream_mode=[*wanted | {"values", "custom"}],
        subgraphs=request.stream_subgraphs,
        **options,
    )
    async for part in parts:
        type_, ns, data = part["type"], tuple(part["ns"]), part["data"]
        if type_ == "values" and not ns:
            value = data
            interrupts.extend(part["interrupts"])
        if type_ in wanted:
            teller.tell(type_, ns, data)
            await teller.room()
    return Output(_output(compiled, value), tuple(interrupts))


def _output(compiled: Any, value: Any) -> Any:
    """Of the state, what is the graph's output."""
    channels = compiled.output_channels
    if isinstance(value, dict) and not isinstance(channels, str):
        return {name: value[name] for name in channels if name in value}
    return value
