"""`webhook-listener consume`: take deliveries from a queue until stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from rewards_core.cli.logs import LogFormatOption, LogLevelOption, LogSettings, log_to_stderr
from rewards_core.cli.output import JsonOption, Output, exit_on_errors
from webhooks.cli.consumer import Consumer
from webhooks.cli.errors import ERRORS
from webhooks.cli.options import (
    DEFAULT_STORE,
    AdminAllowHostOption,
    AdminHostOption,
    AdminPortOption,
    AdminTokenOption,
    ApiInsecureOption,
    DrainOption,
    EndpointInsecureOption,
    EndpointOption,
    ForwardAttemptsOption,
    ForwardForOption,
    ForwardInsecureOption,
    ForwardOption,
    ForwardTimeoutOption,
    KeepBodiesOption,
    KeepDaysOption,
    KeepDeadOption,
    KeysOption,
    PollFirstAfterOption,
    PollOption,
    PollScopeOption,
    PollsPerSecondOption,
    QueueArgument,
    RegionOption,
    SourceOption,
    StoreOption,
    admin_settings,
    forward_settings,
    poll_settings,
    source_specs,
)
from webhooks.cli.process_tuning import freeze_garbage_collection
from webhooks.cli.settings import ConsumerSettings, ListenerSettings
from webhooks.cli.signals import run_until_signalled
from webhooks.ingress.messages import MAX_CONCURRENCY, MAX_VISIBILITY
from webhooks.store.records import DEAD_DAYS

_LARGEST_MESSAGE = 1_048_576


def consume(
    queue: QueueArgument,
    region: RegionOption = None,
    endpoint: EndpointOption = None,
    endpoint_insecure: EndpointInsecureOption = False,
    concurrency: Annotated[int, typer.Option(help="Batches of up to ten messages in progress.", min=1, max=MAX_CONCURRENCY)] = 4,
    visibility: Annotated[
        int,
        typer.Option(
            help="Visibility timeout in seconds: how soon SQS redelivers a message if this process dies. Extended while the "
            "store is slow.",
            min=2,
            max=MAX_VISIBILITY,
        ),
    ] = 60,
    source: SourceOption = None,
    keys_file: KeysOption = None,
    store: StoreOption = DEFAULT_STORE,
    admin_host: AdminHostOption = "127.0.0.1",
    admin_port: AdminPortOption = 8481,
    admin_token_file: AdminTokenOption = None,
    admin_allow_host: AdminAllowHostOption = None,
    forward_to: ForwardOption = None,
    forward_insecure: ForwardInsecureOption = False,
    forward_attempts: ForwardAttemptsOption = None,
    forward_for: ForwardForOption = None,
    forward_timeout: ForwardTimeoutOption = 20.0,
    poll: PollOption = None,
    poll_scope: PollScopeOption = None,
    poll_first_after: PollFirstAfterOption = 15.0,
    polls_per_second: PollsPerSecondOption = 20.0,
    api_insecure: ApiInsecureOption = False,
    max_body: Annotated[int, typer.Option(help="Maximum size of a body in bytes.", min=1)] = _LARGEST_MESSAGE,
    drain: DrainOption = 20.0,
    keep_days: KeepDaysOption = 30.0,
    keep_bodies: KeepBodiesOption = None,
    keep_dead: KeepDeadOption = DEAD_DAYS,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = "text",
    as_json: JsonOption = None,
) -> None:
    """Take deliveries from a queue of Amazon SQS until stopped.

    A message is deleted once its event is durable in the store. An unsigned one is never deleted: the queue's redrive policy
    moves it to its dead-letter queue. While the store fails, messages are held and tried again.

    AWS credentials come from the environment, the AWS files or the role of the machine. SIGTERM or SIGINT: finish the messages
    in progress, give the others back, and exit; a second signal: exit now. SIGHUP: reload keys.

    Run it beside serve if the vendor delivers both ways: on one store, an event that comes twice counts once.

    For example:

      webhook-listener consume 'sqs://rewards?region=eu-west-1'

      webhook-listener consume https://sqs.eu-west-1.amazonaws.com/123456789012/q
    """
    log_to_stderr(LogSettings(level=log_level or "warning", format=log_format))
    sources = source_specs(source, keys_file)
    settings = ListenerSettings(
        sources=sources,
        store=store,
        admin=admin_settings(admin_host, admin_port, admin_token_file, admin_allow_host),
        forward=forward_settings(forward_to, forward_attempts, forward_for, forward_timeout, allow_insecure=forward_insecure),
        poll=poll_settings(sources, poll_scope, poll_first_after, polls_per_second, poll=poll, allow_insecure=api_insecure),
        max_body=max_body,
        drain_seconds=drain,
        keep_days=keep_days,
        keep_bodies_days=keep_bodies,
        keep_dead_days=keep_dead,
    )
    consumed = ConsumerSettings(
        url=queue,
        region=region,
        endpoint=endpoint,
        allow_insecure=endpoint_insecure,
        concurrency=concurrency,
        visibility=visibility,
    )
    output = Output(as_json)

    def started(where: Mapping[str, Any]) -> None:
        freeze_garbage_collection()
        text = f"consuming queue {where['queue']}; events go to {where['store']}"
        output.record({"consuming": True, **where}, text=text)

    async def work() -> int:
        return await run_until_signalled(Consumer(settings, consumed), started)

    with exit_on_errors(ERRORS):
        code = asyncio.run(work())
    raise typer.Exit(code)
